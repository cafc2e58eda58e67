"""Calls of host functions: from slots to Python values and back.

A program can make a million host calls a second, and most have few arguments. So the way from slots
to values is chosen once, by the signature, when the host function is made.
"""

from __future__ import annotations

from collections.abc import Callable

from wasmsr._ffi import ffi
from wasmsr.interp.types import FuncType, ValType
from wasmsr.interp.values import slot_count, slot_readers, slots_to_values, to_slot, values_to_slots

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    Perform = Callable[[Any, Any], None]

_unpack = ffi.unpack
_TOP, _ALL = 1 << 31, (1 << 32) - 1


def slot_caller(type_: FuncType, call: Callable[..., Any], *, raw: bool) -> Perform:
    """Return a function that calls `call` with a caller and the values in the slots.

    The results take the arguments' place in the slots.

    Args:
        type_: The type of the host function.
        call: The Python function.
        raw: Values are their bits.
    """
    if raw and ValType.V128 not in type_.params and type_.results == (ValType.I32,):
        return _raw_to_number(call, len(type_.params))
    if not raw and type_ == FuncType((ValType.I32,) * len(type_.params), (ValType.I32,)):
        return _numbers_to_number(call, len(type_.params))
    return _general(type_, call, raw=raw)


def _raw_to_number(call: Callable[..., Any], count: int) -> Perform:
    """Return what `slot_caller` does, for the form that nearly all functions of WASI have."""

    def without_arguments(caller: Any, slots: Any) -> None:
        slots[0] = call(caller)

    def perform(caller: Any, slots: Any) -> None:
        slots[0] = call(caller, *_unpack(slots, count))

    return perform if count else without_arguments


def _numbers_to_number(call: Callable[..., Any], count: int) -> Perform:
    """Return what `slot_caller` does, from any number of i32 to one."""

    def perform(caller: Any, slots: Any) -> None:
        given = _unpack(slots, count) if count else ()
        result = call(caller, *[v - _ALL - 1 if v & _TOP else v for v in given])
        if type(result) is int and -_TOP <= result <= _ALL:
            slots[0] = result & _ALL
        else:
            slots[0] = to_slot(caller.store, ValType.I32, result)

    return perform


def _general(type_: FuncType, call: Callable[..., Any], *, raw: bool) -> Perform:
    params, results = type_.params, type_.results
    taken, read = slot_count(params), slot_readers(params)

    def perform(caller: Any, slots: Any) -> None:
        arguments = slots_to_values(params, _unpack(slots, taken)) if params else ()
        if raw or not params:
            result = call(caller, *arguments)
        else:
            result = call(caller, *read(caller.store, arguments))
        if not results:
            if result is not None:
                raise TypeError(f"a host function without results gave {result!r}")
            return
        if len(results) == 1:
            result = (result,)
        elif not isinstance(result, (tuple, list)) or len(result) != len(results):
            raise TypeError(f"a host function must give {len(results)} results, not {result!r}")
        if not raw:
            store = caller.store
            result = [to_slot(store, t, v) for t, v in zip(results, result, strict=True)]
        for i, bits in enumerate(values_to_slots(results, result)):
            slots[i] = bits

    return perform
