"""What is in a module, and whether it runs here: `wasmsr inspect` of a .wasm or .wat file.

`describe` makes plain data of bytes, and `blocks` makes text of that data. A refused module is
described as far as it can be read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wasmsr.cli.programs import PROGRAMS
from wasmsr.errors import LinkError, MalformedError, ModuleError, WasmsrError, listed, printable
from wasmsr.interp.instruction_set import features
from wasmsr.interp.modules import foreign_files as foreign
from wasmsr.interp.modules.custom_sections import read_unsigned
from wasmsr.interp.modules.module import MAGIC, Module, assemble
from wasmsr.interp.types import FuncType, GlobalType, MemoryType, TableType, TagType
from wasmsr.program.exports import COMMAND, REACTOR
from wasmsr.snapshot.inspect.text_tables import Block, size, text

KINDS = {
    FuncType: "function",
    TableType: "table",
    MemoryType: "memory",
    GlobalType: "global",
    TagType: "tag",
}
ALL = ",".join(f"+{name}" for name in features.SWITCHABLE)
"""All features that this engine has."""


def describe(data: bytes, name: str, switches: str | None = None) -> dict[str, Any]:
    """Return a module's bytes, in the binary or the text format, as data that `json` can write.

    Args:
        name: Name of the file, for messages.
        switches: The features that are on, as for `Module`.

    Raises:
        MalformedError: It is text that is no module.
    """
    binary = data if data.startswith(MAGIC) else assemble(data, name)
    component = binary[6:8] == foreign.LAYER
    found: dict[str, Any] = {
        "file": name,
        "format": "component" if component else "module",
        "size": len(binary),
        "sha256": hashlib.sha256(binary).hexdigest(),
    }
    if component:
        found |= {"wasi": foreign.wasi_versions(binary), "core_modules": _cores(binary)}
    else:
        found |= _contents(binary)
    found["sections"] = list(_sections(binary, foreign.PARTS if component else foreign.SECTIONS))
    error = _why_not(binary, switches)
    found["runs_here"] = error is None
    found["because"] = None if error is None else str(error)
    found["hint"] = _how(found) if error is None else error.hint
    return found


def _contents(binary: bytes) -> dict[str, Any]:
    """Return what is in a module; nothing if it cannot be decoded."""
    try:
        module = Module(binary, features=ALL, lazy=True)
    except ModuleError:
        return {}
    try:
        needed: list[str] | None = sorted(module.needed_features)
    except ModuleError:
        needed = None  # it is not valid
    return {
        "name": module.name,
        "functions": {
            "imported": module.imported_functions,
            "defined": module.function_count - module.imported_functions,
        },
        "imports": [{"module": i.module, "name": i.name, **_typed(i.type)} for i in module.imports],
        "exports": [{"name": e.name, **_typed(e.type)} for e in module.exports],
        "memories": [
            {
                "minimum": type_.bounds.minimum,
                "maximum": type_.bounds.maximum,
                "address": str(type_.address),
            }
            for type_ in module.memory_types
        ],
        "start": None if module.start is None else module.function_name(module.start),
        "features": needed,
    }


def _typed(type_: Any) -> dict[str, str]:
    """Return kind and type of an import or export."""
    kind = KINDS[type(type_)]
    return {"kind": kind, "type": str(type_).removeprefix("func").removeprefix(f"{kind} ")}


def _sections(binary: bytes, names: tuple[str, ...]) -> Iterator[dict[str, Any]]:
    """Return the sections with their sizes, as far as they can be read."""
    try:
        for section in foreign.sections(binary):
            known = section.id < len(names)
            kind = names[section.id] if known else f"unknown ({section.id})"
            row: dict[str, Any] = {"kind": kind, "size": section.end - section.begin}
            if section.id == 0:
                row["name"] = _custom_name(binary, section)
            if section.end > len(binary):
                row["there"] = len(binary) - section.begin
            yield row
    except (IndexError, ValueError):
        return


def _custom_name(binary: bytes, section: foreign.BinarySection) -> str | None:
    try:
        length, at = read_unsigned(binary, section.begin)
    except (IndexError, ValueError):
        return None
    return printable(binary[at : min(at + length, section.end)])


def _cores(binary: bytes) -> list[dict[str, Any]]:
    """Return the core modules in a component, each with the modules of its imports."""
    found = []
    for begin, end in foreign.core_modules(binary):
        row: dict[str, Any] = {"offset": begin, "size": end - begin, "imports_from": None}
        try:
            module = Module(binary[begin:end], features=ALL, lazy=True)
        except ModuleError as error:
            row["error"] = str(error)
        else:
            row["imports_from"] = list(dict.fromkeys(item.module for item in module.imports))
            row["exports"] = len(module.exports)
        found.append(row)
    return found


def _why_not(binary: bytes, switches: str | None) -> WasmsrError | None:
    """Return what keeps a module from running by `wasmsr run`; None if nothing does."""
    from wasmsr.interp.store.store import Store
    from wasmsr.wasi.facade import Wasi

    try:
        module = Module(binary, features=switches)
    except ModuleError as error:
        return error
    other = foreign.refusal(module)
    if other is not None:
        return other
    what = foreign.unlinked(module)
    if what is not None:
        return LinkError(f"it is {what}")
    with Store(features=module.allowed_features) as store, Wasi() as wasi:
        try:
            for item in module.imports:
                store.resolve(module, item, wasi.imports)
        except WasmsrError as error:
            return error
    if not _functions(module):
        return LinkError("it exports no function that could be called")
    return None


def _functions(module: Module) -> list[str]:
    return [e.name for e in module.exports if isinstance(e.type, FuncType)]


def _how(found: Mapping[str, Any]) -> str:
    """Return how the user runs a module that runs here."""
    functions = [e["name"] for e in found["exports"] if e["kind"] == "function"]
    file = printable(found["file"], 100)
    if COMMAND in functions or found["file"] in PROGRAMS:
        return f"wasmsr run {file}"
    callable_ = [name for name in functions if name != REACTOR]
    return f"wasmsr run {file} --invoke NAME: {listed(callable_, 8)}"


def malformed(found: Mapping[str, Any]) -> MalformedError | None:
    """Return the error of a description that says only that the file is no module."""
    if found["format"] == "component" or found["sections"] or found["runs_here"]:
        return None
    return MalformedError(f"{found['file']}: {found['because']}", hint=found["hint"])


# Text --------------------------------------------------------------------------------------------


def blocks(found: Mapping[str, Any]) -> Iterator[Block]:
    """Return a description as text."""
    head = [("file", found["file"]), ("format", found["format"])]
    if found.get("name"):
        head.append(("name", found["name"]))
    head += [("size", size(found["size"])), ("SHA-256", found["sha256"])]
    if found["format"] == "component":
        head.append(("WASI", text(found["wasi"])))
    if "functions" in found:
        counts = found["functions"]
        head.append(("functions", f"{counts['imported']} imported, {counts['defined']} defined"))
        head.append(("start function", text(found["start"])))
        needed = found["features"]
        head.append(("needs", "-" if needed is None else ", ".join(needed) or "nothing special"))
    yield found["format"].capitalize(), (), head
    answer = "yes" if found["runs_here"] else f"no, because {found['because']}"
    yield "Runs here", (), [(answer,), *([(found["hint"],)] if found["hint"] else [])]
    yield from _content_blocks(found)
    yield (
        "Sections",
        ("", "size", "name"),
        [
            (
                row["kind"],
                size(row["size"])
                + (f", {size(row['there'])} of it are there" if "there" in row else ""),
                row.get("name") or "",
            )
            for row in _summed(found["sections"])
        ],
    )


MANY = 40
"""Sections that are listed one by one; components have hundreds of small ones."""


def _summed(sections: Sequence[Mapping[str, Any]]) -> Sequence[Mapping[str, Any]]:
    """Return the sections, or their sums by kind if there are many."""
    if len(sections) <= MANY:
        return sections
    sums: dict[str, dict[str, Any]] = {}
    for row in sections:
        if "there" in row or row.get("name"):
            sums[f"{row['kind']} {len(sums)}"] = dict(row)
            continue
        mine = sums.setdefault(row["kind"], {"kind": row["kind"], "size": 0, "count": 0})
        mine["size"] += row["size"]
        mine["count"] += 1
        mine["name"] = f"in {mine['count']} sections" if mine["count"] > 1 else ""
    return list(sums.values())


def _content_blocks(found: Mapping[str, Any]) -> Iterator[Block]:
    yield (
        "Core modules",
        ("", "byte", "size", "exports", "imports from"),
        [
            (
                str(number),
                f"{row['offset']:#x}",
                size(row["size"]),
                text(row.get("exports")),
                row.get("error") or text(row["imports_from"]),
            )
            for number, row in enumerate(found.get("core_modules", ()))
        ],
    )
    yield (
        "Imports",
        ("module", "name", "kind", "type"),
        [(i["module"], i["name"], i["kind"], i["type"]) for i in found.get("imports", ())],
    )
    yield (
        "Exports",
        ("name", "kind", "type"),
        [(e["name"], e["kind"], e["type"]) for e in found.get("exports", ())],
    )
    yield (
        "Memories, in pages of 64 KiB",
        ("", "minimum", "maximum", "address"),
        [
            (str(n), text(m["minimum"]), text(m["maximum"]), m["address"])
            for n, m in enumerate(found.get("memories", ()))
        ],
    )
