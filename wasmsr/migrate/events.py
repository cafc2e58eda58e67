"""What a move reports: one event at a time, for people and for programs.

The wing `handover` makes the events; `wasmsr remote` shows them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Event:
    """Something that happened.

    Attributes:
        kind: "prepared", "started", "sending", "progress", "moved", "arrived", "not-moved",
            "taken-back" (this end owns a program again that it had handed over),
            "asking", "silent", "settled", "lost", "refused", "retry", "parked", "input-cut",
            "output-waits", "output-gap", "output-cut", "leased" (this end owns a leased program),
            "lease" (trouble with a lease) or "ended".
        text: One line for people, or "" for an event without a line (progress).
        values: For programs; numbers are bytes and seconds.
    """

    kind: str
    text: str
    values: dict[str, object] = field(default_factory=dict)


Announce = Callable[[Event], None]


def size(count: float) -> str:
    """Return a number of bytes in words: "11.2 MiB"."""
    for unit in ("B", "KiB", "MiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} GiB"


def seconds(span: float) -> str:
    """Return a span of time in words: "0.31 s"."""
    return f"{span:.2f} s" if span < 10 else f"{span:.1f} s"
