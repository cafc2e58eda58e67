"""Finds what is wrong with a variant: in small bounds first, by walks and then by the search."""

from __future__ import annotations

from tests.ownership.model.broken import BROKEN, LATE_SWAPS
from tests.ownership.model.explore import Model, Search, Violation
from tests.ownership.model.node import Bounds

SMALL = (
    Bounds(nodes=2, epochs=4, attempts=5, faults=0, moves=0),
    Bounds(nodes=2, epochs=4, attempts=5, faults=1, moves=0),
    Bounds(nodes=2, epochs=4, attempts=5, faults=0, moves=1),
    Bounds(nodes=2, epochs=4, attempts=5, faults=2, moves=2),
)
"""Where a variant is looked at, if it has no bounds of its own."""

DEEP: dict[str, tuple[Bounds, int]] = {
    "Commit of any attempt counts": (Bounds(2, 4, 4, 0, 3, effects=False), 3_000_000),
    "a destination that was started again does not ask": (
        Bounds(2, 3, 3, 1, 1, effects=False), 3_000_000
    ),
    **dict.fromkeys(LATE_SWAPS, (Bounds(2, 2, 2, 1, 1, effects=False), 300_000)),
}  # fmt: skip
"""Variants whose violations are deep: their bounds, and how many states to search."""


def caught(name: str) -> str | None:
    """What is wrong with a variant, in one line, or None if nothing was found."""
    rules = BROKEN[name]
    try:
        if name in DEEP:
            bounds, states = DEEP[name]
            Search(Model(bounds, rules)).run(states)
            return None
        for bounds in SMALL:
            for seed in (0, 1):
                Search(Model(bounds, rules)).walk(40_000, seed, 60)
        for bounds in SMALL[:3]:
            Search(Model(bounds, rules)).run(300_000)
    except Violation as violation:
        return str(violation).partition("\n")[0]
    return None
