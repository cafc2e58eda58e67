"""Values between Python and the machine's 64-bit slots.

A slot holds bits: an i32 or f32 in the low half with the high half zero; a reference is 0 for null,
otherwise an address (funcref) or an index of the store's host objects (externref) plus one.
"""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from wasmsr.interp.types import ValType

if TYPE_CHECKING:
    from wasmsr.interp.machine import Store

_U32, _U64 = struct.Struct("<I"), struct.Struct("<Q")
_F32, _F64 = struct.Struct("<f"), struct.Struct("<d")
_TOP32, _TOP64 = 1 << 31, 1 << 63


def to_slot(store: Store, type_: ValType, value: Any) -> int:
    """The bits of a Python value.

    Integers may be given signed or unsigned; a float is rounded to f32 where that is asked for.

    Raises:
        TypeError: the value is of another kind than the type.
        OverflowError: an integer does not fit the type.
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
            return int(_U64.unpack(_F64.pack(value))[0])
        try:
            return int(_U32.unpack(_F32.pack(value))[0])
        except OverflowError:
            return 0x7F800000 if value > 0 else 0xFF800000  # rounding to nearest gives infinity
    if type_ is ValType.FUNCREF:
        return store.reference_to_function(value)
    return store.reference_to_object(value)


def from_slot(store: Store, type_: ValType, bits: int) -> Any:
    """The Python value of a slot's bits; integers are signed."""
    if type_ is ValType.I32:
        return bits - (1 << 32) if bits & _TOP32 else bits
    if type_ is ValType.I64:
        return bits - (1 << 64) if bits & _TOP64 else bits
    if type_ is ValType.F32:
        return _F32.unpack(_U32.pack(bits))[0]
    if type_ is ValType.F64:
        return _F64.unpack(_U64.pack(bits))[0]
    if type_ is ValType.FUNCREF:
        return store.function_of_reference(bits)
    return store.object_of_reference(bits)


def readers(types: tuple[ValType, ...]) -> Callable[[Store, list[int]], list[Any]]:
    """A function from slots to Python values of these types, for the arguments of host calls."""
    if all(t is ValType.I32 for t in types):
        return lambda store, slots: [v - (1 << 32) if v & _TOP32 else v for v in slots]
    return lambda store, slots: [
        from_slot(store, type_, bits) for type_, bits in zip(types, slots, strict=True)
    ]
