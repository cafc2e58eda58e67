"""Answers for which no sandbox is needed: what the kernel is, and which cells there were."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

from wasmsr import __version__

PROTOCOL = "5.3"
"""The version of Jupyter's messaging protocol."""
Cell = tuple[int, str, "str | None"]
"""A cell of the history: its number, its code, and the text of its value."""
MOST_CELLS = 10_000
MOST_TEXT = 16 << 20
"""Characters of all cells of the history."""
LONGEST_VALUE = 10_000
"""Characters of a value that are kept in the history."""


def forget_old(history: list[Cell]) -> None:
    """Remove the oldest cells of a history that has too many, or too much text; one stays."""
    text = sum(len(code) + len(value or "") for _, code, value in history)
    gone = 0
    while gone < len(history) - 1 and (text > MOST_TEXT or len(history) - gone > MOST_CELLS):
        text -= len(history[gone][1]) + len(history[gone][2] or "")
        gone += 1
    del history[:gone]


def past_cells(history: Sequence[Cell], content: Mapping[str, Any]) -> list[Any]:
    """Return earlier cells, as a history request selects them."""
    found = list(history)
    kind, n = content.get("hist_access_type", "tail"), content.get("n")
    if kind == "range":
        first, stop = content.get("start"), content.get("stop")
        first = first if type(first) is int else 0
        stop = stop if type(stop) is int else len(found) + 1
        found = [one for one in found if first <= one[0] < stop]
    elif kind == "search":
        pattern = str(content.get("pattern", "*"))
        found = [one for one in found if fnmatchcase(one[1], pattern)]
    if kind != "range" and type(n) is int:
        found = found[-n:] if n > 0 else []
    wants = bool(content.get("output"))
    return [(0, at, (code, value) if wants else code) for at, code, value in found]


def kernel_info() -> dict[str, Any]:
    """Return what the kernel says of itself."""
    return {
        "status": "ok",
        "protocol_version": PROTOCOL,
        "implementation": "wasmsr",
        "implementation_version": __version__,
        "language_info": {
            "name": "python",
            "version": "3.15",
            "mimetype": "text/x-python",
            "file_extension": ".py",
            "pygments_lexer": "ipython3",
            "codemirror_mode": {"name": "ipython", "version": 3},
            "nbconvert_exporter": "python",
        },
        "banner": f"Python in a sandbox of wasmsr {__version__}",
        "help_links": [],
        "debugger": False,
    }
