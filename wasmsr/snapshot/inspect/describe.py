"""A snapshot for people: what is in it, as plain data for JSON and as text.

The sections (`encoding.registry`) describe their parts; names come from `names`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.registry import SECTIONS, section_name
from wasmsr.snapshot.encoding.section import Section
from wasmsr.snapshot.format import Decoder, Path, read_file
from wasmsr.snapshot.inspect.names import NamedModule, SnapshotNames
from wasmsr.snapshot.inspect.text_tables import Block, lines, size
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from rich.console import Console


def describe_file(path: Path, modules: Iterable[NamedModule] = ()) -> dict[str, Any]:
    """Describe a snapshot file, handed over or not; raises what `format.load` raises."""
    decoder = read_file(path, Decoder())
    return describe(decoder.finish(), modules, decoder)


def describe(
    state: SnapshotState, modules: Iterable[NamedModule] = (), decoder: Decoder | None = None
) -> dict[str, Any]:
    """Return a snapshot as data that `json` can write.

    Args:
        state: The snapshot.
        modules: Modules for names; embedded modules serve as well.
        decoder: What read the snapshot, for the sizes in the file.
    """
    names = SnapshotNames(state, modules)
    description: dict[str, Any] = {}
    if decoder is not None and decoder.header is not None:
        description["file"] = _describe_file(decoder)
    for section in _in_place():
        description |= section.describe(state, names)
    return description


def _in_place() -> list[Section]:
    """Return the sections in the order in which they are shown."""
    return sorted(SECTIONS, key=lambda section: section.place)


def _describe_file(decoder: Decoder) -> dict[str, Any]:
    header = decoder.header
    assert header is not None
    return {
        "version": header.version,
        "handed_over": header.handed,
        "root_digest": decoder.root.hex(),
        "content_digest": decoder.content.hex(),
        "encrypted": header.encrypted,
        "signed_by": [one.key.hex() for one in decoder.signatures],
        "bytes": decoder.stored,
        "sections": [
            {"kind": section_name(s.kind), "plain": s.plain, "stored": s.stored}
            for s in decoder.sections
        ],
    }


def render(description: Mapping[str, Any], *, values: bool = False) -> str:
    """Return a description as plain text; with `values`, locals and operands as well."""
    return "".join(f"{line}\n" for line in lines(blocks_of(description, values)))


def show(description: Mapping[str, Any], console: Console, *, values: bool = False) -> None:
    """Print a description on a rich console, with bold titles."""
    from rich.text import Text

    for line in lines(blocks_of(description, values)):
        style = "" if line.startswith(" ") else "bold"
        console.print(Text(line, style=style), soft_wrap=True)


def blocks_of(description: Mapping[str, Any], values: bool = False) -> Iterator[Block]:
    """Yield what a description says as tables; with `values`, locals and operands as well."""
    if "file" in description:
        yield from _file_blocks(description["file"])
    for section in _in_place():
        yield from section.blocks(description, values=values)


def _file_blocks(file: Mapping[str, Any]) -> Iterator[Block]:
    plain = sum(section["plain"] for section in file["sections"])
    smaller = plain / file["bytes"]
    ratio = f", {smaller:.2f} times smaller than its content" if smaller > 1 else ""
    rows: list[tuple[str, ...]] = [
        ("format version", str(file["version"])),
        ("size", size(file["bytes"]) + ratio),
        ("root digest", file["root_digest"]),
        ("content digest", file["content_digest"]),
    ]
    if file["encrypted"]:
        rows.append(("encrypted", "yes"))
    rows += [("signed by", f"{key} (not checked)") for key in file["signed_by"]]
    if file["handed_over"]:
        rows.append(("owner", "another host: this program was handed over"))
    yield "Snapshot", (), rows
    yield (
        "Sections",
        ("", "plain", "stored"),
        [(s["kind"], size(s["plain"]), size(s["stored"])) for s in file["sections"]],
    )
