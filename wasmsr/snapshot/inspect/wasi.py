"""A program's files, clocks and streams in a snapshot, as blocks of text.

The state is plain data and can hold anything: a value of a wrong type is shown as it is.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wasmsr.snapshot.inspect.text_tables import Block, moment, seconds, short, text
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, FdFlag, Right

RIGHTS = {value: name.lower() for name, value in vars(Right).items() if isinstance(value, int)}
"""Names of rights by their bit."""
FLAGS = {value: name.lower() for name, value in vars(FdFlag).items() if isinstance(value, int)}
"""Names of the flags of descriptors by their bit."""
ACCESS = ("read", "write", "read, write")
TIMES = ("atim", "mtim", "ctim", "started", "stopped_at")
"""Keys whose values are nanoseconds."""
COLUMNS = ("fd", "kind", "mount", "path", "access", "offset", "size", "flags", "")


def bits(value: object, names: Mapping[int, str]) -> str:
    """Return the names of the bits of a number."""
    if type(value) is not int:
        return text(value)
    found = [name for bit, name in names.items() if value & bit]
    rest = value & ~sum(names)
    return " ".join([*found, *([f"{rest:#x}"] if rest else [])]) or "-"


def rights(value: object) -> str:
    """Rights by name."""
    return f"all {len(RIGHTS)}" if value == ALL_RIGHTS else bits(value, RIGHTS)


def blocks(wasi: Mapping[str, Any]) -> Iterator[Block]:
    """Yield the state of WASI."""
    rows = [(key.replace("_", " "), value) for key, value in _facts(wasi)]
    yield "WASI", (), rows
    yield "Mounts", ("name", "mode", "holds"), [_mount(item) for item in _maps(wasi, "mounts")]
    descriptors = list(_maps(wasi, "descriptors"))
    yield "Descriptors", *_columns(map(_descriptor, descriptors))
    yield (
        "Rights of descriptors, and those that they pass on",
        ("fd", "passed on", "rights"),
        [
            (text(item.get("fd")), rights(item.get("inheriting")), rights(item.get("rights")))
            for item in descriptors
            if "rights" in item
        ],
    )
    yield (
        "Open files without a name",
        ("", "content", "", "times"),
        [_unlinked(number, item) for number, item in enumerate(_maps(wasi, "unlinked"))],
    )
    yield (
        "Open files of the host, as they were",
        ("fd", "device", "inode", "generation", "changed"),
        [_mark(row) for row in _rows(wasi.get("origin"), "files", 7)],
    )
    yield (
        "Folders of the mounts",
        ("mount", "device", "inode"),
        [[text(part) for part in row] for row in _rows(wasi.get("origin"), "roots", 3)],
    )


def _rows(value: object, key: str, length: int) -> list[list[Any]]:
    """Return the rows of that length below a key of a map, where it is one."""
    found = value.get(key) if isinstance(value, dict) else None
    if not isinstance(found, list):
        return []
    return [row for row in found if isinstance(row, list) and len(row) == length]


def _mark(row: Sequence[Any]) -> list[str]:
    """How an open file was known: the descriptor, three numbers, and a time."""
    return [*(text(part) for part in row[:4]), _time("mtim", row[4])]


def _maps(wasi: Mapping[str, Any], key: str) -> Iterator[Mapping[str, Any]]:
    found = wasi.get(key)
    return (
        (item for item in found if isinstance(item, dict)) if isinstance(found, list) else iter(())
    )


def _facts(wasi: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield what takes one line each."""
    for key, value in wasi.items():
        if key in ("mounts", "descriptors", "unlinked") or not value:
            continue
        if key == "origin" and isinstance(value, dict):
            yield "machine", short(value.get("machine"))
            continue
        if key == "clocks" and isinstance(value, dict):
            for name, time in value.items():
                yield f"{name} clock" if name != "stopped_at" else name, _time(name, time)
        elif key == "random" and isinstance(value, dict):
            yield key, f"seed {text(value.get('seed'))}, {text(value.get('position'))} bytes taken"
        elif key == "pending" and isinstance(value, dict):
            yield key, f"a wait that began at {_time('', value.get('started'))} (monotonic clock)"
        else:
            yield key, short(value)


def _time(name: str, value: object) -> str:
    """Nanoseconds, as a point in time where they count from 1970."""
    if type(value) is not int:
        return text(value)
    return moment(value) if name in ("stopped_at", "atim", "mtim", "ctim") else seconds(value)


def _mount(mount: Mapping[str, Any]) -> tuple[str, ...]:
    """One mount, with the number of entries of what it brings along."""
    tree = mount.get("tree")
    holds = [f"{len(tree)} entries"] if isinstance(tree, list) else []
    for key, value in mount.items():
        if key not in ("guest", "mode", "tree") and value not in (None, "", [], False):
            holds.append(f"{key} {short(value)}")
    return text(mount.get("guest")), text(mount.get("mode")), ", ".join(holds) or "-"


def _descriptor(item: Mapping[str, Any]) -> tuple[str, ...]:
    """One descriptor. A stream's kind is its name: standard error is saved as a `stdout` too."""
    kind = item.get("stream") if item.get("kind") == "stdout" else item.get("kind")
    access = item.get("access")
    if type(access) is int and 0 <= access < len(ACCESS):
        access = ACCESS[access]
    shown = ("fd", "kind", "rights", "inheriting", "stream", "flags", "mount", "path", "access",
             "offset", "size")  # fmt: skip
    rest = [
        "preopen" if key == "preopen" else f"{key} {short(_times(value))}"
        for key, value in item.items()
        if key not in shown and value not in (None, "", [], False)
    ]
    return (
        text(item.get("fd")),
        text(kind or item.get("kind")),
        *(text(item.get(key)) for key in ("mount", "path")),
        text(access),
        *(text(item.get(key)) for key in ("offset", "size")),
        bits(item.get("flags", 0), FLAGS),
        ", ".join(rest),
    )


def _columns(rows: Iterator[tuple[str, ...]]) -> tuple[Sequence[str], list[Sequence[str]]]:
    """Return headings and rows without the columns that are empty."""
    found = list(rows)
    kept = [
        at for at in range(len(COLUMNS)) if at < 2 or any(row[at] not in ("-", "") for row in found)
    ]
    return [COLUMNS[at] for at in kept], [[row[at] for at in kept] for row in found]


def _times(value: object) -> object:
    """Return a value with the times in it in words."""
    if isinstance(value, dict):
        return {k: _time(k, v) if k in TIMES else _times(v) for k, v in value.items()}
    return value


def _unlinked(number: int, item: Mapping[str, Any]) -> tuple[str, ...]:
    """One open file that has no name any more."""
    content = item.get("content")
    held = item.get("size", len(content) if isinstance(content, str) else None)
    times = [f"{key} {_time(key, item[key])}" for key in ("atim", "mtim") if key in item]
    what = "a directory" if content is None and "size" not in item else f"{text(held)} B"
    return str(number), what, "in chunks" if item.get("chunks") else "", ", ".join(times)
