"""What the references in a store refer to: functions, host objects and exceptions."""

from __future__ import annotations

from wasmsr._ffi import lib
from wasmsr.interp.store.exceptions import ThrownException
from wasmsr.interp.store.externs import Function
from wasmsr.interp.types import ValType

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import Any

    from wasmsr.interp.store.interface import StoreInterface


class ReferenceTable:
    """The part of a store that translates references to Python objects and back.

    Args:
        store: The store.

    Attributes:
        externs: Host objects that externrefs name; the bits of a reference are the index plus one.
        released: References to exceptions whose Python objects are gone; see `release`.
    """

    def __init__(self, store: StoreInterface) -> None:
        self._store = store
        self.externs: list[Any] = []
        self._extern_bits: dict[int, int] = {}
        self.released: list[int] = []
        self._held: list[Sequence[Any]] = []

    def bits(self, type_: ValType, value: Any) -> int:
        """Return the bits of a reference; 0 for None.

        A host object that is not yet in `externs` is added.

        Raises:
            TypeError: The value is no function or exception of this store.
        """
        if value is None:
            return 0
        if type_.code is ValType.FUNCREF:
            if not isinstance(value, Function) or value.store is not self._store:
                raise TypeError(f"funcref takes a function of this store or None, not {value!r}")
            return value.address + 1
        if type_.code is ValType.EXNREF:
            if not isinstance(value, ThrownException) or value.store is not self._store:
                raise TypeError(f"exnref takes an exception of this store or None, not {value!r}")
            return value.bits
        known = self._extern_bits.get(id(value))
        if known is None:
            self.externs.append(value)
            known = self._extern_bits[id(value)] = len(self.externs)
        return known

    def referenced(self, type_: ValType, bits: int) -> Any:
        """Return the function, exception or host object of a reference; None for null."""
        if not bits:
            return None
        if type_.code is ValType.FUNCREF:
            return Function(self._store, bits - 1)
        if type_.code is ValType.EXNREF:
            return ThrownException(self._store, bits)
        return self.externs[bits - 1]

    def set_externs(self, objects: Iterable[Any]) -> None:
        """Set the host objects of a store that is restored, in the order of their numbers."""
        self.externs = list(objects)
        self._extern_bits = {id(one): i + 1 for i, one in enumerate(self.externs)}

    def hold(self, arguments: Sequence[Any]) -> None:
        """Keep arguments with exceptions alive until the program has them."""
        self._held.append(arguments)

    def let_go(self) -> None:
        """Forget all arguments that were held."""
        self._held.clear()

    def release(self) -> None:
        """Tell the core which exceptions no Python object refers to any more."""
        while self.released:
            lib.wsr_keep_exception(self._store.c, self.released.pop(), -1)

    def clear(self) -> None:
        """Forget all host objects: the store is closed."""
        self.externs.clear()
        self._extern_bits.clear()
