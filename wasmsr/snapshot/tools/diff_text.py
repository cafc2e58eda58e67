"""What differs between two snapshots as tables of text."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from wasmsr.snapshot.inspect.text_tables import Block, short, size, typed

MOST = 40
"""Rows of a table that are shown."""


def blocks(found: Mapping[str, Any]) -> Iterator[Block]:
    """Yield what `diff.compare` returned; long tables are cut."""
    sides = [found["a"], found["b"]]
    yield (
        "Compared",
        ("", "", "version", "form", "content digest"),
        [
            (name, side["file"], str(side["version"]), side["form"], side["content_digest"])
            for name, side in zip("AB", sides, strict=True)
        ],
    )
    if found["same"]:
        yield "The same", (), [("state", "both are the same program in the same state")]
        return
    yield "Frames", ("frame", "", "A", "B"), _cut(_frames(found["frames"]))
    yield (
        "Globals",
        ("", "name", "A", "B"),
        _cut((str(one["global"]), short(one["name"]), *_values(one)) for one in found["globals"]),
    )
    yield "Descriptors", ("fd", "", "A", "B"), _cut(_parts("fd", found["descriptors"]))
    yield (
        "Memories",
        ("", "", "A", "B"),
        _cut(_memories(found["memories"])),
    )
    yield (
        "Regions of memories",
        ("memory", "offset", "length", "pages"),
        _cut(
            (str(one["memory"]), f"{r['offset']:#x}", size(r["length"]), str(r["pages"]))
            for one in found["memories"]
            for r in one.get("regions", ())
        ),
    )
    yield "Everything else", ("", "A", "B"), _cut(_rest(found["other"]))


def _cut(rows: Iterator[tuple[str, ...]]) -> Sequence[Sequence[str]]:
    """Return the first rows, and how many more there are."""
    found = list(rows)
    more = len(found) - MOST
    if more <= 0:
        return found
    return [*found[:MOST], (f"and {more} more", *[""] * (len(found[0]) - 1))]


def _values(change: Mapping[str, Any]) -> tuple[str, str]:
    """Return the values of both sides; a side without one has nothing."""
    a, b = (_value(change[side]) if side in change else "" for side in "ab")
    return a, b


def _value(value: object) -> str:
    if isinstance(value, dict) and value.keys() >= {"type", "value"} and len(value) <= 4:
        return short(typed(value | {"value": short(value["value"])}))
    return short(value)


def _frames(frames: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for frame in frames:
        number = str(frame["frame"])
        names = _values(frame)
        if not frame.get("changes"):
            yield number, "function", *names
        for change in frame.get("changes", ()):
            yield number, f"{names[0]}: {change['what']}", *_values(change)


def _parts(key: str, items: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for item in items:
        if "changes" not in item:
            yield str(item[key]), "", *_values(item)
        for change in item.get("changes", ()):
            yield str(item[key]), change["what"], *_values(change)


def _memories(memories: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    yield from _parts("memory", memories)
    for one in memories:
        if "pages" in one:
            yield str(one["memory"]), f"{one['pages']} pages of 4,096 bytes differ", "", ""


def _rest(changes: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, ...]]:
    for change in changes:
        count = f" ({change['count']} differ)" if "count" in change else ""
        yield f"{change['what']}{count}", *_values(change)
