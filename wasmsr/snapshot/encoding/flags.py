"""The flags of a table or memory: whether it has a maximum, and 64-bit addresses."""

from __future__ import annotations

from wasmsr.snapshot.encoding.section import Section
from wasmsr.snapshot.state import MemoryState, TableState

HAS_MAXIMUM, ADDRESS_64 = 1, 2


def bounds_flags(part: TableState | MemoryState) -> int:
    """Return the flags of a table or memory."""
    return HAS_MAXIMUM * (part.maximum is not None) | ADDRESS_64 * part.address64


def read_bounds(section: Section, flags: int, maximum: int) -> tuple[int | None, bool]:
    """Return the declared maximum, and whether addresses have 64 bits.

    Raises:
        FormatError: There are unknown flags, or a maximum without its flag.
    """
    if flags & ~(HAS_MAXIMUM | ADDRESS_64) or (maximum and not flags & HAS_MAXIMUM):
        raise section.malformed(f"flags {flags:#x} with a maximum of {maximum}")
    return int(maximum) if flags & HAS_MAXIMUM else None, flags & ADDRESS_64 != 0
