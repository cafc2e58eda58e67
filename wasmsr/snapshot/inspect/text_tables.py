"""Tables of text: titles, headings and cells in columns. THE printer of `inspect` and `cache`.

Cells may be names that others chose: `printable` is applied to each.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from wasmsr.errors import printable

Block = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""A title, headings of columns (none: names and values), and rows of cells."""

WIDEST = 76
"""Characters of a line in the last column."""

LONGEST = 4000
"""Characters of a cell that are shown."""


def lines(blocks: Iterable[Block]) -> Iterator[str]:
    """Yield blocks as lines, with an empty line after each block.

    A block without rows is left out. A column is as wide as its widest cell; a long text in the
    last column continues on the next line.
    """
    for title, headings, rows in blocks:
        if not rows:
            continue
        table = [list(headings)] if headings else []
        for row in rows:
            table += _wrapped([printable(cell, LONGEST) for cell in row])
        widths = [max(map(len, column)) for column in zip(*table, strict=True)]
        yield title
        for row in table:
            cells = [cell.ljust(width) for cell, width in zip(row, widths, strict=True)]
            yield "  " + "  ".join(cells).rstrip()
        yield ""


def _wrapped(row: list[str]) -> Iterator[list[str]]:
    """Yield a row, as several where its last cell is long and has spaces."""
    if not row or len(row[-1]) <= WIDEST or " " not in row[-1]:
        yield row
        return
    import textwrap

    pieces = textwrap.wrap(row[-1], WIDEST, break_long_words=False, break_on_hyphens=False)
    for number, piece in enumerate(pieces):
        yield [*([""] * (len(row) - 1) if number else row[:-1]), piece]


def text(value: object) -> str:
    """Return a value in a cell."""
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        return ", ".join(f"{key} {text(item)}" for key, item in value.items()) or "-"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(text, value)) or "-"
    return str(value)


def typed(value: Mapping[str, Any]) -> str:
    """Return a value of WebAssembly with its type: `i32:5`, `i32:dead`.

    A zero of which is not known whether it is a dead local is `i32:0-or-dead`.
    """
    shown = text(value["value"])
    if "dead" in value:
        shown = "dead" if value["dead"] else f"{shown}-or-dead"
    return f"{value['type']}:{shown}"


def short(value: object) -> str:
    """Return the same of at most 100 characters."""
    found = text(value)
    return found if len(found) <= 100 else found[:97] + "..."


def size(count: int) -> str:
    """Return a number of bytes in words."""
    if count < 10_240:
        return f"{count} B"
    in_unit = float(count)
    for unit in ("KiB", "MiB"):
        in_unit /= 1024
        if in_unit < 10_240:
            return f"{in_unit:.1f} {unit}"
    return f"{in_unit / 1024:.1f} GiB"


def seconds(nanoseconds: int) -> str:
    """Return a span of time in words."""
    return f"{nanoseconds / 1e9:.9f}".rstrip("0").rstrip(".") + " s"


def moment(nanoseconds: int) -> str:
    """Return a point in time, from nanoseconds since 1970, as ISO 8601 has it."""
    from datetime import datetime, timezone

    whole, rest = divmod(nanoseconds, 1_000_000_000)
    try:
        found = datetime.fromtimestamp(whole, timezone.utc).strftime("%Y-%m-%dT%H:%M:%S")
    except (ValueError, OverflowError, OSError):
        return f"{whole} s after 1970"
    return f"{found}.{rest:09}Z"
