"""Exceptions as the host sees them: those of a program, and those of the host.

Source: WebAssembly specification, section 4.2.13 (Exception Instances).
"""

from __future__ import annotations

from wasmsr._ffi import ffi, lib
from wasmsr.errors import UncaughtException
from wasmsr.interp.store.externs import Tag
from wasmsr.interp.types import ValType
from wasmsr.interp.values import from_slot, slots_to_values

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from wasmsr.interp.store.interface import StoreInterface


class ThrownException:
    """An exception in a store, which lives for as long as this object does.

    Attributes:
        store: The store that the exception is in.
        bits: The bits of a reference to it.
    """

    def __init__(self, store: StoreInterface, bits: int) -> None:
        self.store = store
        self.bits = bits
        store.keep_exception(bits)

    def __del__(self) -> None:
        # The collector may call this on any thread, while the core runs: the store does the rest.
        self.store.release_exception(self.bits)

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, ThrownException)
            and other.store is self.store
            and other.bits == self.bits
        )

    def __hash__(self) -> int:
        return hash((id(self.store), self.bits))

    def __repr__(self) -> str:
        if self.store.closed:
            return "<ThrownException of a closed store>"
        return f"<ThrownException of tag {self.tag.address}: {self.fields!r}>"

    @property
    def tag(self) -> Tag:
        """Its tag."""
        view = ffi.new("wsr_exception_fields *")
        lib.wsr_exception_view(self.store.c, self.bits, view)
        return Tag(self.store, view.tag)

    @property
    def fields(self) -> tuple[Any, ...]:
        """The values that it carries."""
        tag, slots = view_exception(self.store, self.bits)
        params = Tag(self.store, tag).type.params
        values = slots_to_values(params, slots)
        return tuple(from_slot(self.store, t, v) for t, v in zip(params, values, strict=True))

    def error(self) -> UncaughtException:
        """Return it as a Python exception, without a backtrace yet."""
        return UncaughtException(self, self.tag, self.fields)


def view_exception(store: StoreInterface, bits: int) -> tuple[int, list[int]]:
    """Return the address of an exception's tag, and the slots of its fields."""
    view = ffi.new("wsr_exception_fields *")
    lib.wsr_exception_view(store.c, bits, view)
    return view.tag, ffi.unpack(view.slots, view.n_slots) if view.n_slots else []


def is_exception(type_: ValType) -> bool:
    """Return whether a type's values are references to exceptions."""
    return type_.code is ValType.EXNREF


__all__ = ["ThrownException", "is_exception", "view_exception"]
