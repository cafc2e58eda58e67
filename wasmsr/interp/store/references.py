"""References between Python and a store: functions, objects of the host, exceptions.

The half of `machine.Store` that knows what the bits of a reference stand for.
"""

from __future__ import annotations

from wasmsr._ffi import lib
from wasmsr.interp.store.exceptions import ThrownException
from wasmsr.interp.store.externs import Function

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any


class References:
    """What a store's references refer to.

    Attributes:
        externs: host objects behind externrefs: reference minus one is the index.
        released: references to exceptions for which Python objects stood; see `release`.
    """

    c: Any

    def __init__(self) -> None:
        self.externs: list[Any] = []
        self._extern_index: dict[int, int] = {}
        self.released: list[int] = []
        self._held: list[Sequence[Any]] = []
        """Arguments with exceptions, until the program has them."""

    def reference_to_function(self, value: Any) -> int:
        """Bits of a funcref: 0 for None, else the function's address plus one."""
        if value is None:
            return 0
        if not isinstance(value, Function) or value.store is not self:
            raise TypeError(f"funcref takes a function of this store or None, not {value!r}")
        return value.address + 1

    def function_of_reference(self, bits: int) -> Function | None:
        """The function behind a funcref, None for null."""
        store: Any = self  # which it is the half of
        return Function(store, bits - 1) if bits else None

    def reference_to_object(self, value: Any) -> int:
        """Bits of an externref: 0 for None, else the object's index in `externs` plus one."""
        if value is None:
            return 0
        known = self._extern_index.get(id(value))
        if known is None:
            self.externs.append(value)
            known = self._extern_index[id(value)] = len(self.externs)
        return known

    def object_of_reference(self, bits: int) -> Any:
        """The object behind an externref, None for null."""
        return self.externs[bits - 1] if bits else None

    def reference_to_exception(self, value: Any) -> int:
        """Bits of an exnref: 0 for None."""
        if value is None:
            return 0
        if not isinstance(value, ThrownException) or value.store is not self:
            raise TypeError(f"exnref takes an exception of this store or None, not {value!r}")
        return value.bits

    def exception_of_reference(self, bits: int) -> ThrownException | None:
        """The exception behind an exnref, None for null."""
        store: Any = self
        return ThrownException(store, bits) if bits else None

    def release(self) -> None:
        """Let go of the exceptions that no Python object stands for any more."""
        while self.released:
            lib.wsr_keep_exception(self.c, self.released.pop(), -1)
