"""Values between Python and the machine's 64-bit slots.

A slot holds bits: an i32 or f32 in the low half with the high half zero; a reference is 0 for null,
otherwise an address (funcref) or an index of the store's host objects (externref) plus one. A v128
is an unsigned number of 128 bits and takes two slots, the low half first.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from wasmsr._ffi import lib
from wasmsr.interp.types import ValType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.store.interface import StoreInterface

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_F32, _F64 = struct.Struct("<f"), struct.Struct("<d")
_TOP32, _TOP64 = 1 << 31, 1 << 63
_LOW64, _ALL128 = (1 << 64) - 1, (1 << 128) - 1


def to_slot(store: StoreInterface, type_: ValType, value: Any) -> int:
    """Return the bits of a Python value.

    Integers may be given signed or unsigned. A number is rounded once to what a float type holds;
    a Python float that is too large for f32 becomes infinity, as by `f32.demote_f64`.

    Raises:
        TypeError: The value is of another kind than the type.
        OverflowError: An integer does not fit the type, or is larger than every f64.
    """
    if type_ in (ValType.I32, ValType.I64):
        if not isinstance(value, int):
            raise TypeError(f"{type_} takes an integer, not {type(value).__name__}")
        bits = 32 if type_ is ValType.I32 else 64
        if not -(1 << (bits - 1)) <= value < 1 << bits:
            raise OverflowError(f"{value} does not fit {type_}")
        return value & ((1 << bits) - 1)
    if type_ in (ValType.F32, ValType.F64):
        if not isinstance(value, (int, float)):
            raise TypeError(f"{type_} takes a number, not {type(value).__name__}")
        if type_ is ValType.F64:
            return int(_U64.unpack(_F64.pack(float(value)))[0])
        if isinstance(value, int):
            value = _odd(value)
        try:
            return int(_U32.unpack(_F32.pack(value))[0])
        except OverflowError:
            return 0x7F800000 if value > 0 else 0xFF800000  # rounding to nearest gives infinity
    if type_ is ValType.V128:
        if not isinstance(value, int):
            raise TypeError(f"v128 takes an integer, not {type(value).__name__}")
        if not 0 <= value <= _ALL128:
            raise OverflowError(f"{value} is no unsigned number of 128 bits")
        return value
    bits = store.reference_bits(type_, value)
    if type_ is not type_.code and not lib.wsr_value_fits(store.c, type_, bits):
        raise TypeError(f"{value!r} is no {type_}")
    return bits


def _odd(value: int) -> float:
    """Return a float that is rounded to f32 as the integer itself is.

    The last bit of the float tells whether the integer has bits that the float has no room for.

    Raises:
        OverflowError: The integer is larger than every f64.
    """
    excess = abs(value).bit_length() - 53
    if excess > 0:
        kept = abs(value) >> excess
        lost = abs(value) != kept << excess
        value = (kept | lost) << excess if value > 0 else -((kept | lost) << excess)
    return float(value)


def from_slot(store: StoreInterface, type_: ValType, bits: int) -> Any:
    """Return the Python value of a slot's bits; integers are signed."""
    if type_ is ValType.I32:
        return bits - (1 << 32) if bits & _TOP32 else bits
    if type_ is ValType.I64:
        return bits - (1 << 64) if bits & _TOP64 else bits
    if type_ is ValType.F32:
        return _F32.unpack(_U32.pack(bits))[0]
    if type_ is ValType.F64:
        return _F64.unpack(_U64.pack(bits))[0]
    if type_ is ValType.V128:
        return bits
    return store.referenced(type_, bits)


def slot_count(types: Sequence[ValType]) -> int:
    """Return how many slots values of these types take."""
    return len(types) + types.count(ValType.V128)


def values_to_slots(types: Sequence[ValType], bits: Sequence[int]) -> Sequence[int]:
    """Return the slots of values whose bits are given."""
    if ValType.V128 not in types:
        return bits
    slots: list[int] = []
    for type_, value in zip(types, bits, strict=True):
        slots += (value & _LOW64, value >> 64) if type_ is ValType.V128 else (value,)
    return slots


def slots_to_values(types: Sequence[ValType], slots: Sequence[int]) -> Sequence[int]:
    """Return the bits of values whose slots are given; the inverse of `values_to_slots`."""
    if ValType.V128 not in types:
        return slots
    source = iter(slots)
    bits: list[int] = []
    for type_ in types:
        low = next(source)
        bits.append(low | next(source) << 64 if type_ is ValType.V128 else low)
    return bits


def slot_readers(
    types: tuple[ValType, ...],
) -> Callable[[StoreInterface, Sequence[int]], list[Any]]:
    """Return a function from bits to Python values, for the arguments of host calls."""
    if all(t is ValType.I32 for t in types):
        return lambda store, slots: [v - (1 << 32) if v & _TOP32 else v for v in slots]
    return lambda store, slots: [
        from_slot(store, type_, bits) for type_, bits in zip(types, slots, strict=True)
    ]
