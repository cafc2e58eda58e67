"""A snapshot for people: what is in it, as plain data for JSON and as text.

Reads what `format` decodes and changes nothing; names come from `names`.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from wasmsr.interp.literals import plain
from wasmsr.interp.types import ValType
from wasmsr.snapshot import inspect_wasi
from wasmsr.snapshot.check import EXNREF, EXTERNREF, F32, F64, FUNCREF, I32, I64, V128
from wasmsr.snapshot.container import VERSION, section_title
from wasmsr.snapshot.format import Decoder, Path, read_file
from wasmsr.snapshot.names import NamedModule, SnapshotNames
from wasmsr.snapshot.pages import PAGE_SIZE, page_map
from wasmsr.snapshot.state import PAGE, Snapshot
from wasmsr.snapshot.tables import Block, lines, moment, size, text

if TYPE_CHECKING:
    from rich.console import Console

TYPE_NAMES = {
    I32: "i32",
    I64: "i64",
    F32: "f32",
    F64: "f64",
    V128: "v128",
    FUNCREF: "funcref",
    EXTERNREF: "externref",
    EXNREF: "exnref",
}
TABLE_KEYS = ("name", "type", "size", "minimum", "maximum", "address", "null")


def describe_file(path: Path, modules: Iterable[NamedModule] = ()) -> dict[str, Any]:
    """Describe a snapshot file, handed over or not; raises what `format.load` raises."""
    decoder = read_file(path, Decoder())
    return describe(decoder.finish(), modules, decoder)


def describe(
    snapshot: Snapshot, modules: Iterable[NamedModule] = (), decoder: Decoder | None = None
) -> dict[str, Any]:
    """A snapshot as data that `json` can write.

    Args:
        modules: for names; embedded modules serve as well.
        decoder: what read it, for the sizes in the file.
    """
    names = SnapshotNames(snapshot, modules)
    description: dict[str, Any] = {}
    if decoder is not None and decoder.header is not None:
        description["file"] = _describe_file(decoder)
    description |= {
        "lineage": _describe_lineage(snapshot),
        "executed": snapshot.executed,
        "limits": {
            "memory_pages": snapshot.limits.memory_pages,
            "table_elements": snapshot.limits.table_elements,
            "stack_slots": snapshot.limits.stack_slots,
            "stack_frames": snapshot.limits.stack_frames,
            "fuel": snapshot.limits.fuel,
            "deterministic": snapshot.limits.deterministic,
            "features": snapshot.limits.features,
        },
        "modules": [
            {
                "name": module.name,
                "sha256": module.digest.hex(),
                "size": module.size,
                "embedded": module.binary is not None,
            }
            for module in snapshot.modules
        ],
        "instances": [
            {
                "name": instance.name,
                "module": instance.module,
                "imported_functions": instance.functions,
                "function_base": instance.function_base,
                "defined_functions": instance.defined,
                "tables": instance.tables,
                "memories": instance.memories,
                "globals": instance.globals,
                "dropped_elements": instance.dropped_elements,
                "dropped_data": instance.dropped_data,
            }
            for instance in snapshot.instances
        ],
        "host_functions": [
            {
                "address": function.address,
                "name": f"{function.module}.{function.name}",
                "identity": function.identity,
                "type": f"({_types(function.params)}) -> ({_types(function.results)})",
            }
            for function in snapshot.host_functions
        ],
        "call_stack": [_describe_frame(snapshot, names, i) for i in _innermost_first(snapshot)],
        "queue": [
            {"function": names.of_address(address), "arguments": [f"{slot:#x}" for slot in slots]}
            for address, slots in snapshot.thread.queue
        ],
        "memories": [
            {
                "name": names.memories.get(address),
                "pages": len(memory.data) // PAGE,
                "minimum": memory.minimum,
                "maximum": memory.maximum,
                "address": "i64" if memory.address64 else "i32",
                "bytes": len(memory.data),
                "nonzero_bytes": sum(page_map(memoryview(memory.data))) * PAGE_SIZE,
            }
            for address, memory in enumerate(snapshot.memories)
        ],
        "tables": [
            {"name": names.tables.get(address), **_describe_table(table)}
            for address, table in enumerate(snapshot.tables)
        ],
        "globals": [
            {
                "name": names.globals.get(address),
                "mutable": cell.mutable,
                **_value(cell.type, cell.value, names),
            }
            for address, cell in enumerate(snapshot.globals)
        ],
        "host_objects": [type(value).__name__ for value in snapshot.externs],
        "exceptions": [
            {
                "tag": exception.tag,
                "name": names.tags.get(exception.tag),
                "fields": [
                    _value(code, bits, names)
                    for code, bits in zip(
                        snapshot.tags[exception.tag], exception.fields, strict=True
                    )
                ],
            }
            for exception in snapshot.exceptions
        ],
        "wasi": _plain(snapshot.wasi),
    }
    return description


def _describe_file(decoder: Decoder) -> dict[str, Any]:
    header = decoder.header
    assert header is not None
    stored = 64 + sum(section.stored for section in decoder.sections)
    return {
        "version": VERSION,
        "handed_over": header.handed,
        "root_digest": header.root.hex(),
        "content_digest": decoder.content.hex(),
        "bytes": stored,
        "sections": [
            {"kind": section_title(s.kind), "plain": s.plain, "stored": s.stored}
            for s in decoder.sections
        ],
    }


def _describe_lineage(snapshot: Snapshot) -> dict[str, Any]:
    lineage = snapshot.lineage
    return {
        "id": lineage.id.hex(),
        "parent": None if lineage.parent is None else lineage.parent.hex(),
        "created": moment(lineage.created),
        "host": lineage.host,
        "engine": lineage.engine,
    }


def _innermost_first(snapshot: Snapshot) -> Iterator[int]:
    return reversed(range(len(snapshot.thread.frames)))


def _describe_frame(snapshot: Snapshot, names: SnapshotNames, number: int) -> dict[str, Any]:
    frame = snapshot.thread.frames[number]
    values = [_value(t, v, names) for t, v in zip(frame.types, frame.values, strict=True)]
    for index, name in names.of_locals(frame.instance, frame.function).items():
        if index < frame.locals:
            values[index]["name"] = name
    return {
        "frame": number,
        "instance": frame.instance,
        "function": frame.function,
        "name": names.of_index(frame.instance, frame.function),
        "offset": frame.offset,
        "locals": values[: frame.locals],
        "operands": values[frame.locals :],
    }


def _describe_table(table: Any) -> dict[str, Any]:
    size = len(table.elements) // 8
    elements = struct.unpack(f"<{size}Q", table.elements)
    return {
        "type": TYPE_NAMES[table.type],
        "size": size,
        "minimum": table.minimum,
        "maximum": table.maximum,
        "address": "i64" if table.address64 else "i32",
        "null": elements.count(0),
    }


def _types(codes: bytes) -> str:
    return ", ".join(TYPE_NAMES[code] for code in codes)


def _value(code: int, bits: int, names: SnapshotNames) -> dict[str, Any]:
    """A value as a reader expects it: signed numbers, floats, references by name."""
    named = code == FUNCREF and bits
    value = names.of_address(bits - 1) if named else plain(ValType(code), bits)
    return {"type": TYPE_NAMES[code], "value": value}


def _plain(value: Any, depth: int = 0) -> Any:
    """WASI's state with its byte strings as text where they are, else in hexadecimal; what is
    nested deeper than any such state is left out."""
    if isinstance(value, (dict, list)) and depth == DEEPEST:
        return "\u2026"
    if isinstance(value, dict):
        below = value.items()
        return {str(_plain(key, depth + 1)): _plain(item, depth + 1) for key, item in below}
    if isinstance(value, list):
        return [_plain(item, depth + 1) for item in value]
    if isinstance(value, bytes):
        text = value.decode("utf-8", "replace")
        return text if text.isprintable() and "\ufffd" not in text else f"hex:{value.hex()}"
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


DEEPEST = 50
"""Levels of a state that are shown."""

# Text --------------------------------------------------------------------------------------------


def render(description: Mapping[str, Any], *, values: bool = False) -> str:
    """A description as plain text; with `values`, locals and operands as well."""
    return "".join(f"{line}\n" for line in lines(_all_blocks(description, values)))


def show(description: Mapping[str, Any], console: Console, *, values: bool = False) -> None:
    """The same on a rich console, with bold titles."""
    from rich.text import Text

    for line in lines(_all_blocks(description, values)):
        style = "" if line.startswith(" ") else "bold"
        console.print(Text(line, style=style), soft_wrap=True)


def _all_blocks(d: Mapping[str, Any], values: bool) -> Iterator[Block]:
    if "file" in d:
        yield from _file_blocks(d["file"])
    lineage: list[tuple[str, ...]] = [(key, text(v)) for key, v in d["lineage"].items()]
    yield "Lineage", (), [*lineage, ("instructions executed", text(d["executed"]))]
    yield "Limits", (), [(key.replace("_", " "), text(item)) for key, item in d["limits"].items()]
    yield (
        "Modules",
        ("", "name", "size", "SHA-256", ""),
        [
            (str(n), text(m["name"]), size(m["size"]), m["sha256"], "embedded" * m["embedded"])
            for n, m in enumerate(d["modules"])
        ],
    )
    yield (
        "Instances",
        ("", "name", "module", "functions", "tables", "memories", "globals"),
        [
            (
                str(n),
                text(i["name"]),
                str(i["module"]),
                f"{len(i['imported_functions'])} + {i['defined_functions']}",
                *(text(i[key]) for key in ("tables", "memories")),
                str(len(i["globals"])),
            )
            for n, i in enumerate(d["instances"])
        ],
    )
    yield _stack_block(d["call_stack"], values)
    yield (
        "Invocations to come",
        ("function", "arguments"),
        [(call["function"], ", ".join(call["arguments"])) for call in d["queue"]],
    )
    yield (
        "Memories",
        ("", "name", "pages", "minimum", "maximum", "address", "bytes", "not zero"),
        [
            (
                str(n),
                *(text(m[key]) for key in ("name", "pages", "minimum", "maximum", "address")),
                size(m["bytes"]),
                size(m["nonzero_bytes"]),
            )
            for n, m in enumerate(d["memories"])
        ],
    )
    yield (
        "Tables",
        ("", *TABLE_KEYS),
        [(str(n), *(text(t[key]) for key in TABLE_KEYS)) for n, t in enumerate(d["tables"])],
    )
    yield (
        "Globals",
        ("", "name", "type", "", "value"),
        [
            (
                str(n),
                text(g["name"]),
                g["type"],
                "mutable" if g["mutable"] else "",
                text(g["value"]),
            )
            for n, g in enumerate(d["globals"])
        ],
    )
    if d["wasi"] is not None:
        yield from inspect_wasi.blocks(d["wasi"])


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
    if file["handed_over"]:
        rows.append(("owner", "another host: this program was handed over"))
    yield "Snapshot", (), rows
    yield (
        "Sections",
        ("", "plain", "stored"),
        [(s["kind"], size(s["plain"]), size(s["stored"])) for s in file["sections"]],
    )


def _stack_block(frames: Sequence[Mapping[str, Any]], values: bool) -> Block:
    rows: list[tuple[str, ...]] = []
    for frame in frames:
        rows.append(
            (
                str(frame["frame"]),
                frame["name"],
                str(frame["function"]),
                f"{frame['offset']:#x}",
                str(frame["instance"]),
                str(len(frame["locals"])),
                str(len(frame["operands"])),
            )
        )
        if values:
            for what in ("locals", "operands"):
                text = " ".join(map(_typed, frame[what]))
                if text:
                    rows.append(("", f"  {what} {text}", "", "", "", "", ""))
    headings = ("", "function", "index", "byte", "instance", "locals", "operands")
    return "Call stack, innermost first", headings, rows


def _typed(value: Mapping[str, Any]) -> str:
    name = f"{value['name']}=" if "name" in value else ""
    return f"{name}{value['type']}:{text(value['value'])}"
