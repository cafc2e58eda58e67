"""What differs between two snapshots: frames, globals, descriptors, memories, and the rest.

The comparison is of what `inspect` shows, so that names and values read the same there. What
`inspect` sums up (elements of tables, host objects, files) is compared as it is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields
from typing import Any

from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.inspect.describe import describe
from wasmsr.snapshot.inspect.names import NamedModule
from wasmsr.snapshot.memory.page_engine import differences, page_map, runs_of
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.state import MemoryState, SnapshotState
from wasmsr.snapshot.tools.opened import OpenedSnapshot

Change = dict[str, Any]
"""What differs, by a path to it (`what`), and its value in `a` and in `b`, where it is there."""

_PLACES = {"thread": ("queue", "pushed_calls"), "externs": ("host_objects",)}
"""Fields of a state whose description has other names."""

_HANDLED = ("lineage", "memories", "globals")
"""Fields that are compared elsewhere, or say nothing of the program."""


def compare(
    a: OpenedSnapshot, b: OpenedSnapshot, modules: Iterable[NamedModule] = ()
) -> dict[str, Any]:
    """Return what differs between two snapshots, as data for JSON.

    Where a snapshot comes from (its lineage), its version and its form make no difference.

    Args:
        a, b: The snapshots.
        modules: Modules for names; embedded modules serve as well.
    """
    named = list(modules)
    digests = _contents(a, b)
    said_a, said_b = describe(a.state, named), describe(b.state, named)
    found: dict[str, Any] = {
        "same": digests[0] == digests[1],
        "a": _head(a, digests[0]),
        "b": _head(b, digests[1]),
        "frames": list(_frames(a.state, b.state, said_a, said_b)),
        "globals": list(_globals(a.state, b.state, said_a, said_b)),
        "descriptors": list(_descriptors(said_a, said_b)),
        "memories": list(_memories(a.state, b.state, said_a, said_b)),
    }
    found["other"] = list(_other(a.state, b.state, said_a, said_b, found))
    parts = ("frames", "globals", "descriptors", "memories", "other")
    if not found["same"] and not any(found[part] for part in parts):
        found["other"].append({"what": "something that has no description"})
    return found


def _contents(a: OpenedSnapshot, b: OpenedSnapshot) -> list[bytes]:
    """Return both content digests, in one version of the format."""
    if a.header.version == b.header.version:
        return [a.decoder.content, b.decoder.content]
    return [
        one.decoder.content if one.header.version > 1 else content_digest(one.state, version=2)
        for one in (a, b)
    ]


def _head(one: OpenedSnapshot, content: bytes) -> dict[str, Any]:
    return {
        "file": one.path,
        "version": one.header.version,
        "form": one.form,
        "root_digest": one.decoder.root.hex(),
        "content_digest": content.hex(),
    }


# ---- descriptions ----


def changes(what: str, one: Any, other: Any) -> Iterator[Change]:
    """Yield where two descriptions differ.

    A list of plain values is one value; so is a value of WebAssembly with its type.

    Args:
        what: The path to them.
        one: A description.
        other: Another one.
    """
    if type(one) is dict and type(other) is dict and "type" not in one:
        for key in [*one, *(key for key in other if key not in one)]:
            path = f"{what}.{key}" if what else str(key)
            yield from _in_place(path, key in one, one.get(key), key in other, other.get(key))
    elif type(one) is list and type(other) is list and _has_maps(one) | _has_maps(other):
        for at in range(max(len(one), len(other))):
            a, b = one[at : at + 1], other[at : at + 1]
            yield from _in_place(f"{what}[{at}]", bool(a), a and a[0], bool(b), b and b[0])
    elif not _equal(one, other):
        yield {"what": what, "a": one, "b": other}


def _in_place(what: str, in_a: bool, one: Any, in_b: bool, other: Any) -> Iterator[Change]:
    if in_a and in_b:
        yield from changes(what, one, other)
    else:
        yield {"what": what, "a": one} if in_a else {"what": what, "b": other}


def _has_maps(items: list[Any]) -> bool:
    return any(type(item) is dict for item in items)


def _equal(one: Any, other: Any) -> bool:
    try:
        return bool(one == other)
    except RecursionError:  # both are nested deeper than Python recurses
        return False


# ---- the parts ----


def _frames(
    a: SnapshotState, b: SnapshotState, said_a: Mapping[str, Any], said_b: Mapping[str, Any]
) -> Iterator[Change]:
    """Yield the frames that differ, outermost first.

    Frames of different functions are not compared value by value.
    """
    stacks = said_a["call_stack"][::-1], said_b["call_stack"][::-1]
    states = a.thread.frames, b.thread.frames
    for number in range(max(map(len, stacks))):
        one, other = (stack[number] if number < len(stack) else None for stack in stacks)
        if one is None or other is None:
            yield {"frame": number, **_sides("name", one, other)}
            continue
        if states[0][number] == states[1][number]:
            continue
        found: list[Change] = []
        if (one["instance"], one["function"]) == (other["instance"], other["function"]):
            found = list(changes("", one, other))
            found = found or [{"what": "the bits of its values"}]
        yield {"frame": number, **_sides("name", one, other), "changes": found}


def _sides(key: str, one: Any, other: Any) -> dict[str, Any]:
    """Return the values of a key on both sides, where they are there."""
    found = {} if one is None else {"a": one[key]}
    return found if other is None else {**found, "b": other[key]}


def _globals(
    a: SnapshotState, b: SnapshotState, said_a: Mapping[str, Any], said_b: Mapping[str, Any]
) -> Iterator[Change]:
    one, other = said_a["globals"], said_b["globals"]
    for number in range(max(len(one), len(other))):
        if a.globals[number : number + 1] == b.globals[number : number + 1]:
            continue
        sides = {
            side: {key: said[number][key] for key in ("type", "value", "mutable")}
            for side, said in (("a", one), ("b", other))
            if number < len(said)
        }
        name = (one if number < len(one) else other)[number]["name"]
        yield {"global": number, "name": name, **sides}


def _descriptors(said_a: Mapping[str, Any], said_b: Mapping[str, Any]) -> Iterator[Change]:
    one, other = _by_fd(said_a), _by_fd(said_b)
    for fd in sorted(one.keys() | other.keys(), key=str):
        if fd in one and fd in other:
            found = list(changes("", one[fd], other[fd]))
            if found:
                yield {"fd": fd, "changes": found}
        else:
            yield {"fd": fd, **({"a": one[fd]} if fd in one else {"b": other[fd]})}


def _by_fd(said: Mapping[str, Any]) -> dict[Any, Any]:
    """Return the descriptors by number; hostile ones are left to the comparison of the rest."""
    wasi = said.get("wasi")
    found = wasi.get("descriptors") if isinstance(wasi, dict) else None
    if not isinstance(found, list):
        return {}
    return {one["fd"]: one for one in found if isinstance(one, dict) and type(one.get("fd")) is int}


def _memories(
    a: SnapshotState, b: SnapshotState, said_a: Mapping[str, Any], said_b: Mapping[str, Any]
) -> Iterator[Change]:
    one, other = a.memories, b.memories
    for number in range(max(len(one), len(other))):
        mine, theirs = (side[number] if number < len(side) else None for side in (one, other))
        if mine is None or theirs is None:
            only = {"a": len(mine.data)} if mine is not None else {}
            only |= {"b": len(theirs.data)} if theirs is not None else {}
            yield {"memory": number, **only}
            continue
        said = [{**s["memories"][number], "nonzero_bytes": 0} for s in (said_a, said_b)]
        found = list(changes("", *said))
        regions = list(_regions(mine, theirs))
        if found or regions:
            yield {
                "memory": number,
                "pages": sum(region["pages"] for region in regions),
                "changes": found,
                "regions": regions,
            }


def _regions(one: MemoryState, other: MemoryState) -> Iterator[dict[str, int]]:
    """Yield the runs of pages that differ, each from its first to its last byte that differs.

    What only the longer memory has is compared with zeros.
    """
    views = [memoryview(side.data).cast("B") for side in (one, other)]
    common = min(map(len, views))
    longer = max(views, key=len)
    flags = differences(views[0][:common], views[1][:common]) + page_map(longer[common:])
    runs = runs_of(flags)
    for first, count in zip(runs[::2], runs[1::2], strict=True):
        begin, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
        head, tail = _xor(views, begin), _xor(views, end - PAGE_SIZE)
        start = begin + ((head & -head).bit_length() - 1) // 8
        stop = end - PAGE_SIZE + (tail.bit_length() + 7) // 8
        yield {"offset": start, "length": stop - start, "pages": count}


def _xor(views: list[memoryview], at: int) -> int:
    """Return the bits of a page that differ, lowest address first."""
    one, other = (int.from_bytes(view[at : at + PAGE_SIZE], "little") for view in views)
    return one ^ other


def _other(
    a: SnapshotState,
    b: SnapshotState,
    said_a: Mapping[str, Any],
    said_b: Mapping[str, Any],
    found: Mapping[str, Any],
) -> Iterator[Change]:
    """Yield what differs in everything else."""
    seen = {"lineage", "memories", "globals", "call_stack"}
    touched = set()
    for key in [*said_a, *(key for key in said_b if key not in said_a)]:
        if key in seen:
            continue
        one, other = said_a.get(key), said_b.get(key)
        if key == "wasi" and isinstance(one, dict) and isinstance(other, dict):
            one, other = ({k: v for k, v in s.items() if k != "descriptors"} for s in (one, other))
        for change in _in_place(key, key in said_a, one, key in said_b, other):
            touched.add(key)
            yield change
    for number, (mine, theirs) in enumerate(zip(a.tables, b.tables, strict=False)):
        if (count := _unequal(mine.elements, theirs.elements)) > 0:
            touched.add("tables")
            yield {"what": f"tables[{number}].elements", "count": count}
    for field in fields(SnapshotState):
        name = field.name
        if name in _HANDLED or touched.intersection(_PLACES.get(name, (name,))):
            continue
        if name == "wasi" and found["descriptors"]:
            continue
        one, other = getattr(a, name), getattr(b, name)
        if name == "thread":
            one, other = (one.queue, one.pushed), (other.queue, other.pushed)
        elif name == "files":
            one, other = (sorted(side) if side else [] for side in (one, other))
        if not _equal(one, other):
            yield {"what": name}


def _unequal(one: bytes | bytearray | memoryview, other: bytes | bytearray | memoryview) -> int:
    """Return how many elements of two tables differ, as far as both go."""
    if bytes(one) == bytes(other):
        return 0
    mine, theirs = (memoryview(side).cast("B") for side in (one, other))
    most = min(len(mine), len(theirs)) // 8 * 8
    pairs = zip(mine[:most].cast("Q"), theirs[:most].cast("Q"), strict=True)
    return sum(a != b for a, b in pairs)
