"""Restore, second part: the values in a store whose instances are allocated.

Globals, tables and memories get their content; then the frames are pushed. Each value is checked
against its type and the address spaces, each frame against the validated code.
"""

from __future__ import annotations

import sys
from array import array
from collections.abc import Callable, Sequence

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.interp.modules.module import Module
from wasmsr.interp.store.externs import Global, Tag
from wasmsr.interp.store.state import DeclaredSize, StateRefused
from wasmsr.interp.store.store import Store
from wasmsr.interp.types import ValType, codes_of, val_types
from wasmsr.interp.values import slot_count, slots_to_values, values_to_slots
from wasmsr.snapshot import state
from wasmsr.snapshot.references import RestoredExceptions
from wasmsr.snapshot.state import PAGE, SnapshotState

Buffer = bytes | bytearray | memoryview


def impossible(what: str) -> FormatError:
    """Return the error for a snapshot that contradicts its modules or itself."""
    return FormatError(f"the snapshot says what no machine can be in: {what}")


def _words(data: bytes | bytearray | memoryview) -> array[int]:
    words = array("Q")
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return words


class ValueRestorer:
    """Fills a store with the values of a snapshot.

    Args:
        store: A store whose instances are allocated.
        snapshot: The state.
        modules: The modules of the state, in its order.
        functions: How many functions the store has.
        lay: As for `restore`.
    """

    def __init__(
        self,
        store: Store,
        snapshot: SnapshotState,
        modules: list[Module],
        functions: int,
        lay: Callable[[Store, int], bool] | None = None,
    ) -> None:
        self.lay = lay
        self.store = store
        self.snapshot = snapshot
        self.modules = modules
        self.functions = functions
        self.exceptions: list[int] = [0]
        self.target = store.state

    def fill_functions(self) -> None:
        """Restore tables of functions; the others need exceptions and objects of the host.

        Raises:
            FormatError, SnapshotError: As `fill`.
        """
        for address, table in enumerate(self.snapshot.tables):
            if table.type == ValType.FUNCREF:
                self._fill_table(address, table)

    def fill(self, filled: Sequence[Buffer] = ()) -> None:
        """Restore exceptions, globals, tables and memories.

        Args:
            filled: The elements of each table when `fill_functions` was called.

        Raises:
            FormatError: A value does not fit its type, or refers to nothing.
            SnapshotError: A limit is too low.
        """
        for address, codes in enumerate(self.snapshot.tags):
            if codes_of(Tag(self.store, address).type.params) != codes:
                raise impossible(f"tag {address} of another type")
        try:
            self.exceptions = RestoredExceptions(self.store, self.snapshot.exceptions).bits
        except ValueError as error:
            raise impossible(str(error)) from None
        for address, item in enumerate(self.snapshot.globals):
            found = Global(self.store, address)
            type_ = found.type
            if (type_.value.code, type_.mutable) != (item.type, item.mutable):
                raise impossible(f"global {address} of another type")
            found.write(self._restored(type_.value, item.value))
        for address, table in enumerate(self.snapshot.tables):
            same = table.type == ValType.FUNCREF and filled and filled[address] == table.elements
            if not same:
                self._fill_table(address, table)
        for address, memory in enumerate(self.snapshot.memories):
            self._fill_memory(address, memory)

    def _fill_table(self, address: int, table: state.TableState) -> None:
        target = self.target
        found = target.table_size(address)
        _check_bounds("table", address, found, table)
        size = len(table.elements) // 8
        element = target.table_type(address)
        if element.code != table.type or size < found.size or len(table.elements) % 8:
            raise impossible(f"table {address} of another type or size")
        if not target.grow_table(address, size - found.size):
            raise SnapshotError(f"table {address} of {size} elements exceeds the limit")
        words = _words(table.elements)
        if element.code is ValType.FUNCREF:  # half a million in a Haskell program
            wrong = target.first_misfit(element, words)
            if wrong is not None:
                self._restored(element, words[wrong])  # raises
        else:
            restored = {bits: self._restored(element, bits) for bits in set(words)}
            if element.code is ValType.EXNREF:
                words = array("Q", [restored[bits] for bits in words])
        target.fill_table(address, words)

    def _fill_memory(self, address: int, memory: state.MemoryState) -> None:
        found = self.target.memory_size(address)
        _check_bounds("memory", address, found, memory)
        pages = len(memory.data) // PAGE
        if pages < found.size or len(memory.data) % PAGE:
            raise impossible(f"memory {address} of another size")
        if not self.target.grow_memory(address, pages - found.size):
            raise SnapshotError(
                f"memory {address} of {pages} pages exceeds the limit of "
                f"{self.store.limits.memory_pages} pages",
                hint="--max-memory sets the limit anew",
            )
        if self.lay is None or not self.lay(self.store, address):
            self.target.fill_memory(address, memory.data)

    def _restored(self, type_: ValType, bits: int) -> int:
        """Return the bits in the store of a value that was saved as `bits`."""
        if type_.code is ValType.EXTERNREF and bits > len(self.snapshot.externs):
            raise impossible("a reference to an unknown host object")
        if type_.code is ValType.FUNCREF and bits > self.functions:
            raise impossible("a reference to an unknown function")
        if type_.code is ValType.EXNREF:
            if bits >= len(self.exceptions):
                raise impossible("a reference to an unknown exception")
            bits = self.exceptions[bits]
        if not self.target.fits(type_, bits):
            what = "reference" if type_.reference else "value"
            raise impossible(f"a {what} that is no {type_}")
        return bits

    def push_thread(self) -> None:
        """Push the frames and queue the invocations.

        Raises:
            FormatError: A frame does not fit the code at its position.
        """
        store, thread = self.store, self.snapshot.thread
        addresses = [self._function_address(frame) for frame in thread.frames]
        tops = {*(number - 1 for number in thread.pushed), len(thread.frames) - 1}
        pushed = set(thread.pushed)
        for i, frame in enumerate(thread.frames):
            if i in pushed:
                self.target.push_call()
            operands = len(frame.values) - frame.locals
            if operands < 0 or len(frame.values) != len(frame.types):
                raise impossible("a frame with more locals than values")
            bits = [
                self._restored(ValType(code), value)
                if code in (ValType.EXTERNREF, ValType.EXNREF)
                else value
                for code, value in zip(frame.types, frame.values, strict=True)
            ]
            slots = values_to_slots(val_types(frame.types), bits)
            callee = None if i in tops else addresses[i + 1]
            try:
                self.target.push_frame(
                    addresses[i], frame.offset, frame.types, frame.locals, slots, callee
                )
            except StateRefused as refused:
                for module in self.modules:
                    if (invalid := module.invalid()) is not None:
                        raise invalid from None
                raise FormatError(str(refused)) from None
        if addresses:
            store.invoker.entry = store.function_type(addresses[0])
        for address, slots in thread.queue:
            if not 0 <= address < self.functions:
                raise impossible("an invocation of an unknown function")
            params = store.function_type(address).params
            if slot_count(params) != len(slots):
                raise impossible("an invocation with another number of arguments")
            bits = [
                self._restored(type_, value)
                for type_, value in zip(params, slots_to_values(params, slots), strict=True)
            ]
            self._keep(params, bits)
            store.queue.append((address, tuple(values_to_slots(params, bits))))
        store.executed = self.snapshot.executed

    def _keep(self, params: tuple[ValType, ...], bits: list[int]) -> None:
        """Keep exceptions among the arguments of an invocation alive until it begins."""
        for type_, value in zip(params, bits, strict=True):
            if type_.code is ValType.EXNREF:
                self.store.references.hold((self.store.referenced(type_, value),))

    def _function_address(self, frame: state.FrameState) -> int:
        if not 0 <= frame.instance < len(self.snapshot.instances):
            raise impossible("a frame of an unknown instance")
        instance = self.snapshot.instances[frame.instance]
        module = self.modules[instance.module]
        if not module.imported_functions <= frame.function < module.function_count:
            raise impossible("a frame of a function that its module does not define")
        return instance.function_base + frame.function - module.imported_functions


def _check_bounds(
    what: str, address: int, found: DeclaredSize, saved: state.TableState | state.MemoryState
) -> None:
    have = (found.minimum, found.maximum, found.address64)
    if have != (saved.minimum, saved.maximum, saved.address64):
        raise impossible(f"{what} {address} of other bounds")
