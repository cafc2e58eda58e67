"""The state of a store as plain data: what a snapshot reads from a store, and puts into one.

The way into the core for captures and restores. Numbers are addresses and indices; values are bits.

Source: WebAssembly specification, section 4.2 (Runtime Structure).
"""

from __future__ import annotations

from array import array
from itertools import compress

from wasmsr._ffi import ffi, lib
from wasmsr.interp.modules.module import Import, Module
from wasmsr.interp.store.externs import c_bounds
from wasmsr.interp.types import MemoryType, TableType, ValType
from wasmsr.interp.values import values_to_slots
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import Any

    from wasmsr.interp.store.interface import StoreInterface

FUNCTION, TABLE, MEMORY, GLOBAL, TAG = range(5)
"""The kinds of externs, by their numbers in the binary format."""
ELEMENTS, DATA = range(2)
"""The kinds of segments."""

_NONE = 2**32 - 1
_FAILED = 2**64 - 1


class StateRefused(Exception):
    """The core does not take a part of a state. The message says why."""


@record(frozen=True)
class StoreCounts:
    """How many things of each kind a store has."""

    functions: int
    tables: int
    memories: int
    globals: int
    tags: int


@record(frozen=True)
class DeclaredSize:
    """The declared bounds and the present size of a memory or table.

    Attributes:
        minimum: The declared minimum, in pages or elements.
        maximum: The declared maximum, or None.
        address64: Whether its addresses are i64.
        size: The present size, in pages or elements.
    """

    minimum: int
    maximum: int | None
    address64: bool
    size: int


@record(frozen=True)
class MemoryPlace:
    """Where the bytes of a memory are in this process.

    Attributes:
        start: The address of the first byte, which never changes.
        size: Bytes in use.
        reserved: Bytes of address space, up to which the memory can grow.
        base: Bytes from the start that are a private mapping of a file; the rest is anonymous.
    """

    start: int
    size: int
    reserved: int
    base: int


class StoreState:
    """The part of a store that gives its state as plain data, and takes a saved state.

    Args:
        store: The store. No thread runs it.
    """

    def __init__(self, store: StoreInterface) -> None:
        self._store = store
        self._error = ffi.new("wsr_error *")

    # ---- what there is ----

    @property
    def counts(self) -> StoreCounts:
        """How many things of each kind there are."""
        view = ffi.new("wsr_store_counts *")
        lib.wsr_store_count(self._store.c, view)
        return StoreCounts(view.functions, view.tables, view.memories, view.globals, view.tags)

    def addresses(self, instance: int, kind: int, count: int, *, first: int = 0) -> list[int]:
        """Return the addresses of an instance's things of a kind.

        Args:
            instance: Index of the instance.
            kind: The kind of externs.
            count: How many; at most as many as the module's index space has after `first`.
            first: The index of the first.
        """
        if not count:
            return []
        found = lib.wsr_instance_addresses(self._store.c, instance, kind)
        addresses: list[int] = ffi.unpack(found + first, count)
        return addresses

    def dropped(self, instance: int, kind: int) -> list[int]:
        """Return the indices of an instance's dropped segments, in ascending order.

        Args:
            instance: Index of the instance.
            kind: `ELEMENTS` or `DATA`.
        """
        flags = bytearray(self._segments(instance, kind))
        if flags:
            lib.wsr_get_dropped(self._store.c, instance, kind == DATA, ffi.from_buffer(flags))
        known = self._store.instances[instance].dropped
        before = known.get(kind)
        if before is None or before[0] != flags:
            # A large program has 24,000, and drops them at its start: later captures copy.
            before = known[kind] = flags, list(compress(range(len(flags)), flags))
        found: list[int] = before[1].copy()
        return found

    def set_dropped(self, instance: int, kind: int, segments: Sequence[int]) -> None:
        """Drop the segments with these indices, and no others.

        Args:
            instance: Index of the instance.
            kind: `ELEMENTS` or `DATA`.
            segments: The indices, in ascending order.

        Raises:
            StateRefused: The instance has no such segment.
        """
        count = self._segments(instance, kind)
        if segments and not 0 <= segments[0] <= segments[-1] < count:
            raise StateRefused("a segment that the module does not have")
        if len(segments) == count:  # of 24,000 segments all, after the start of a large program
            dropped = bytearray(b"\1" * count)
        else:
            dropped = bytearray(count)
            for segment in segments:
                dropped[segment] = 1
        if dropped:
            lib.wsr_set_dropped(self._store.c, instance, kind == DATA, ffi.from_buffer(dropped))

    def _segments(self, instance: int, kind: int) -> int:
        """Return how many segments of a kind an instance has."""
        counts = self._store.instances[instance].module.counts
        return int(counts.data if kind == DATA else counts.elements)

    # ---- tables and memories ----

    def table_type(self, address: int) -> ValType:
        """Return the exact type of a table's elements."""
        return ValType(self._table(address).bounds.type)

    def table_size(self, address: int) -> DeclaredSize:
        """Return bounds and size of a table."""
        view = self._table(address)
        return _declared(view.bounds, view.size)

    def table_elements(self, address: int) -> array[int]:
        """Return the bits of a table's elements."""
        view = self._table(address)
        words = array("Q")
        if view.size:
            words.frombytes(ffi.buffer(view.elements, view.size * 8))
        return words

    def fill_table(self, address: int, elements: array[int]) -> None:
        """Set the elements of a table, which is as large as `elements`; they must fit its type."""
        view = self._table(address)
        if view.size != len(elements):
            raise ValueError(f"table {address} has {view.size} elements, not {len(elements)}")
        if elements:
            ffi.buffer(view.elements, view.size * 8)[:] = elements.tobytes()

    def grow_table(self, address: int, count: int) -> bool:
        """Add null elements to a table; False if the limits do not allow it."""
        return bool(lib.wsr_grow_table(self._store.c, address, count, 0) != _FAILED)

    def _table(self, address: int) -> Any:
        view = ffi.new("wsr_table_view *")
        lib.wsr_table(self._store.c, address, view)
        return view

    def memory_size(self, address: int) -> DeclaredSize:
        """Return bounds and size of a memory."""
        view = ffi.new("wsr_memory_view *")
        lib.wsr_memory(self._store.c, address, view)
        return _declared(view.bounds, view.size // 65536)

    def fill_memory(self, address: int, data: bytes | bytearray | memoryview) -> None:
        """Write bytes to the start of a new memory. Zero pages stay uncommitted."""
        if len(data) > self.memory_size(address).size * 65536:
            raise ValueError(f"memory {address} is smaller than {len(data)} bytes")
        if data:
            lib.wsr_fill_memory(
                self._store.c, address, ffi.from_buffer("uint8_t[]", data), len(data)
            )

    def grow_memory(self, address: int, pages: int) -> bool:
        """Add zero pages to a memory; False if the limits do not allow it."""
        return bool(lib.wsr_grow_memory(self._store.c, address, pages) != _FAILED)

    def memory_place(self, address: int) -> MemoryPlace:
        """Return where the bytes of a memory are."""
        view = ffi.new("wsr_memory_view *")
        lib.wsr_memory(self._store.c, address, view)
        start = int(ffi.cast("uintptr_t", view.data))
        return MemoryPlace(start, view.size, view.reserved, view.base)

    def lay_memory(
        self, address: int, file: int, offset: int, length: int, *, first: int = 0
    ) -> None:
        """Map a file to the start of a memory, privately: pages become private when written.

        Args:
            address: The memory's.
            file: A descriptor of a file that has the bytes, and must keep its length.
            offset: Where they begin in the file; a multiple of 64 KiB.
            length: How many bytes; a multiple of 64 KiB.
            first: Bytes from the start that are mapped already, from the same file and place. What
                was private after them is lost.

        Raises:
            StateRefused: The memory is smaller, or has a longer base, or the host refuses.
        """
        if not lib.wsr_lay_memory(self._store.c, address, file, offset, first, length):
            raise StateRefused(f"memory {address} cannot be laid over {length} bytes of a file")

    def drop_pages(self, address: int, runs: array[int]) -> None:
        """Give up private pages of a memory: they have the bytes of the base again, or zeros.

        Args:
            address: The memory's.
            runs: First page of 4 KiB and number of pages, in turn.

        Raises:
            StateRefused: A run is out of bounds, or the host cannot do it.
        """
        pointer = ffi.from_buffer("wsr_page_run *", runs)
        if not lib.wsr_drop_pages(self._store.c, address, pointer, len(runs) // 2):
            raise StateRefused(f"pages of memory {address} cannot be given up")

    def clear_memory(self, address: int, pages: int) -> None:
        """Give a memory this size in pages of 64 KiB, all zeros, and no base.

        Raises:
            StateRefused: Its limits do not allow it, or the host refuses.
        """
        if not lib.wsr_clear_memory(self._store.c, address, pages):
            raise StateRefused(f"memory {address} cannot have {pages} pages")

    # ---- externs that the host made ----

    def import_matches(self, module: Module, item: Import, address: int) -> bool:
        """Return whether the thing at an address has the type of an import, sizes apart."""
        return bool(lib.wsr_import_matches(self._store.c, module.c, item.number, address))

    def narrowed(self, module: Module, item: Import, type_: int) -> int:
        """Return the narrower of a type and the type that an import of the same value asks for."""
        return int(lib.wsr_narrowed(self._store.c, module.c, item.number, type_))

    def add_table(self, type_: TableType) -> None:
        """Add a table of null references. Raises StateRefused."""
        minimum = type_.bounds.minimum
        self._added(lib.wsr_add_table(self._store.c, c_bounds(type_), minimum, self._error))

    def add_memory(self, type_: MemoryType) -> None:
        """Add a memory of zeros. Raises StateRefused."""
        minimum = type_.bounds.minimum
        self._added(lib.wsr_add_memory(self._store.c, c_bounds(type_), minimum, self._error))

    def add_global(self, type_: int, mutable: bool, bits: int) -> None:
        """Add a global with the bits of its value. Raises StateRefused."""
        slots = values_to_slots((ValType(type_),), (bits,))
        self._added(lib.wsr_add_global(self._store.c, type_, mutable, slots, self._error))

    def add_tag(self, codes: bytes, importer: tuple[Module, Import] | None) -> None:
        """Add a tag.

        Args:
            codes: Type codes of its fields.
            importer: A module and its import of the tag, which have the exact types.

        Raises:
            StateRefused: There is no room for it.
        """
        c = self._store.c
        if importer is None:
            made = lib.wsr_add_tag(c, list(codes), len(codes), self._error)
        else:
            made = lib.wsr_add_tag_import(c, importer[0].c, importer[1].index, self._error)
        self._added(made)

    def _added(self, address: int) -> None:
        if address == _NONE:
            raise StateRefused(ffi.string(self._error.message).decode())

    # ---- values ----

    def fits(self, type_: ValType, bits: int) -> bool:
        """Return whether bits are those of a value of a type in this store; a v128 has all."""
        return type_ is ValType.V128 or bool(lib.wsr_value_fits(self._store.c, type_, bits))

    def first_misfit(self, type_: ValType, values: array[int]) -> int | None:
        """Return the place of the first value that is none of a type, or None."""
        pointer = ffi.from_buffer("uint64_t[]", values)
        place = lib.wsr_values_fit(self._store.c, type_, pointer, len(values))
        return None if place == len(values) else int(place)

    def add_exception(self, tag: int, slots: Sequence[int]) -> int:
        """Add an exception and return the bits of a reference to it.

        Raises:
            MemoryError: The host has no memory left for it.
        """
        made = lib.wsr_add_exception(self._store.c, tag, list(slots) or [0])
        if not made:
            raise MemoryError("no memory left for the snapshot's exceptions")
        return int(made)

    # ---- the thread ----

    @property
    def pushed_calls(self) -> list[int]:
        """The number of the outermost frame of each pushed call, lowest first."""
        c = self._store.c
        return [lib.wsr_pushed_frame(c, call) for call in range(lib.wsr_pushed_count(c))]

    def push_call(self) -> None:
        """Make the next frame that is pushed the outermost one of a pushed call.

        Raises:
            MemoryError: The host has no memory left.
        """
        if not lib.wsr_restore_pushed_call(self._store.c):
            raise MemoryError("no memory left for the snapshot's calls")

    def push_frame(
        self,
        function: int,
        offset: int,
        types: bytes,
        n_locals: int,
        slots: Sequence[int],
        callee: int | None,
    ) -> None:
        """Push a frame. The core checks it against the code at its position.

        Args:
            function: Address of its function.
            offset: Its position.
            types: Type codes of its locals, then of its operands.
            n_locals: How many of the values are locals.
            slots: The slots of all values.
            callee: Address of the function of the frame that comes next; None if none comes, or
                that of a pushed call.

        Raises:
            StateRefused: The code at that position has other locals or operands.
        """
        codes = ffi.from_buffer("uint8_t[]", types or b"\0")
        values = ffi.new("uint64_t[]", list(slots) or [0])
        view = ffi.new(
            "wsr_frame_view *",
            {
                "function": function,
                "offset": offset,
                "n_locals": n_locals,
                "n_operands": len(types) - n_locals,
                "n_slots": len(slots),
                "types": codes,
                "values": values,
            },
        )
        innermost, after = callee is None, _NONE if callee is None else callee
        if not lib.wsr_restore_frame(self._store.c, view, innermost, after, self._error):
            raise StateRefused(ffi.string(self._error.message).decode())


def _declared(bounds: Any, size: int) -> DeclaredSize:
    maximum = bounds.maximum if bounds.has_maximum else None
    return DeclaredSize(bounds.minimum, maximum, bool(bounds.address64), size)


__all__ = [
    "DATA",
    "ELEMENTS",
    "FUNCTION",
    "GLOBAL",
    "MEMORY",
    "TABLE",
    "TAG",
    "DeclaredSize",
    "StateRefused",
    "StoreCounts",
    "StoreState",
]
