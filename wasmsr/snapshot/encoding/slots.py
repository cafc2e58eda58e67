"""Values as slots of 64 bits: a `v128` takes two, its low half first."""

from __future__ import annotations

from collections.abc import Sequence

from wasmsr.snapshot.rules import LOW64, V128


def to_slots(codes: bytes, values: list[int]) -> list[int]:
    """Return the slots of values of these types; a `v128` takes two."""
    if V128 not in codes:
        return values
    slots: list[int] = []
    for code, value in zip(codes, values, strict=True):
        slots += (value & LOW64, value >> 64) if code == V128 else (value,)
    return slots


def from_slots(codes: bytes, slots: Sequence[int]) -> list[int]:
    """Return the values of these types that the slots hold."""
    if V128 not in codes:
        return list(slots)
    values: list[int] = []
    source = iter(slots)
    for code in codes:
        low = next(source)
        values.append(low | next(source) << 64 if code == V128 else low)
    return values
