"""References in a snapshot: reachable host objects and exceptions, by number.

Capture meets references in tables, globals, frames and invocations, in this order, and asks here
what to save for each. An exception's number comes after those of the exceptions that its fields
refer to, so that a reader can make them one after the other.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wasmsr.interp.store.exceptions import view_exception
from wasmsr.interp.store.externs import Tag
from wasmsr.interp.types import ValType, codes_of
from wasmsr.interp.values import slots_to_values, values_to_slots
from wasmsr.snapshot.state import ExceptionState

if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface

EXTERNREF, EXNREF = int(ValType.EXTERNREF), int(ValType.EXNREF)


class ReferenceNumbering:
    """Numbers host objects and exceptions by first appearance.

    Args:
        store: The store whose references are numbered.

    Attributes:
        externs: The host objects met so far.
        exceptions: The exceptions met so far. References to exceptions in their fields have their
            saved form; references to host objects are still those of the store.
        tags: By address, the type codes of the tag's fields.
    """

    def __init__(self, store: StoreInterface) -> None:
        self.store = store
        self.externs: list[Any] = []
        self.exceptions: list[ExceptionState] = []
        tags = range(store.state.counts.tags)
        self._params = [Tag(store, address).type.params for address in tags]
        self.tags = [codes_of(params) for params in self._params]
        self._extern: dict[int, int] = {}
        self._exception: dict[int, int] = {}

    def saved(self, code: int, bits: int) -> int:
        """Return the saved bits of a value with this type code and these bits in the store."""
        if code == EXTERNREF:
            return self._extern_number(bits)
        if code == EXNREF:
            return self._exception_number(bits)
        return bits

    def parameters(self, address: int) -> bytes:
        """Return the type codes of the parameters of the function at an address."""
        return codes_of(self.store.function_type(address).params)

    def _extern_number(self, bits: int) -> int:
        if not bits:
            return 0
        if bits not in self._extern:
            self.externs.append(self.store.externs[bits - 1])
            self._extern[bits] = len(self.externs)
        return self._extern[bits]

    def _exception_number(self, bits: int) -> int:
        if not bits:
            return 0
        waiting = [bits]  # some more than once, where several refer to one
        while waiting:
            one = waiting[-1]
            if one in self._exception:
                waiting.pop()
                continue
            tag, slots = view_exception(self.store, one)
            params = self._params[tag]
            fields = list(slots_to_values(params, slots))
            inner = {
                value: None
                for type_, value in zip(params, fields, strict=True)
                if type_.code is ValType.EXNREF and value and value not in self._exception
            }
            if inner:
                waiting += reversed(inner)
                continue
            waiting.pop()
            for i, type_ in enumerate(params):
                if type_.code is ValType.EXNREF and fields[i]:
                    fields[i] = self._exception[fields[i]]
            self.exceptions.append(ExceptionState(tag, fields))
            self._exception[one] = len(self.exceptions)
        return self._exception[bits]


class RestoredExceptions:
    """The exceptions of a snapshot in a store whose tags are restored.

    Attributes:
        bits: References in the store, by the saved reference; `bits[0]` is null.
    """

    def __init__(self, store: StoreInterface, exceptions: list[ExceptionState]) -> None:
        self.bits = [0]
        target = store.state
        for exception in exceptions:
            params = Tag(store, exception.tag).type.params
            fields = [
                self.bits[value] if type_.code is ValType.EXNREF else value
                for type_, value in zip(params, exception.fields, strict=True)
            ]
            for type_, value in zip(params, fields, strict=True):
                if not target.fits(type_, value):
                    raise ValueError(f"a field of an exception is no {type_}")
            slots = values_to_slots(params, fields)
            self.bits.append(target.add_exception(exception.tag, slots))


__all__ = ["ReferenceNumbering", "RestoredExceptions"]
