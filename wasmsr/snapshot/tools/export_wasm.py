"""Makes a plain module that starts from a saved state, for any engine.

The code of the module stays byte for byte. Memories become data segments, tables element segments,
globals constants. What a module cannot say is refused by name.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from wasmsr.errors import UnportableState, printable
from wasmsr.snapshot.state import InstanceState, SnapshotState, TableState
from wasmsr.snapshot.tools import module_binary as wasm
from wasmsr.snapshot.tools.module_binary import BinaryCursor

_FUNCREF, _EXTERNREF = 0x70, 0x6F
_STANDARD = {"stdin", "stdout"}
"""Kinds of descriptors that another host gives by itself."""


def export_wasm(state: SnapshotState, binary: bytes) -> bytes:
    """Return a module whose instances begin in the saved state.

    Args:
        state: A program between two calls.
        binary: The module of its one instance.

    Raises:
        UnportableState: The state has something that a module cannot have; the message names it.
    """
    _refuse(state)
    return wasm.joined(_Exported(state, binary).parts())


def _refuse(state: SnapshotState) -> None:
    """Refuse what no module can have."""
    frames = state.thread.frames
    if frames:
        raise _cannot(
            f"a call of function {frames[0].function} is in progress, {len(frames)} frames deep",
            "save the program between two calls: --interactive and the key s, or "
            "--snapshot-at when it is idle",
        )
    if state.thread.queue:
        raise _cannot("a call has not begun yet", "save the program when it has returned")
    if len(state.instances) != 1:
        raise _cannot(f"the program has {len(state.instances)} instances, not one")
    if state.exceptions:
        raise _cannot("something refers to an exception")
    if state.externs:
        raise _cannot("something refers to an object of the host")
    for descriptor in (state.wasi or {}).get("descriptors", ()):
        kind, number = str(descriptor.get("kind")), descriptor.get("fd")
        if kind not in _STANDARD:
            raise _cannot(f"descriptor {number}, a {kind}, is open", "close it before you save")
        if descriptor.get("unread"):
            raise _cannot(f"descriptor {number} has input that the program has not read")
    if (state.wasi or {}).get("unlinked"):
        raise _cannot("a file without a name is open")


def _cannot(what: str, hint: str | None = None) -> UnportableState:
    return UnportableState(f"the state is no plain module: {what}", hint=hint)


class _Exported:
    """One export."""

    def __init__(self, state: SnapshotState, binary: bytes) -> None:
        self.state = state
        self.instance: InstanceState = state.instances[0]
        self.binary = binary
        self.imported = self._imports()
        self.data_count = 0

    def parts(self) -> Iterator[tuple[int, bytes]]:
        """Yield the sections of the new module."""
        old: dict[int, bytes] = {}
        for kind, payload in wasm.sections(self.binary):
            if kind != wasm.CUSTOM:
                old[kind] = payload
        new: dict[int, Callable[[bytes], bytes]] = {
            wasm.TABLE: self._tables,
            wasm.MEMORY: self._memories,
            wasm.GLOBAL: self._globals,
            wasm.ELEMENT: self._elements,
            wasm.DATA: self._data,
        }
        made = {kind: make(old.get(kind, b"\0")) for kind, make in new.items()}
        made[wasm.DATA_COUNT] = wasm.unsigned(self.data_count)
        order = [wasm.TYPE, wasm.IMPORT, wasm.FUNCTION, wasm.TABLE, wasm.MEMORY, wasm.TAG,
                 wasm.GLOBAL, wasm.EXPORT, wasm.ELEMENT, wasm.DATA_COUNT, wasm.CODE,
                 wasm.DATA]  # fmt: skip
        for kind in order:
            found = made.get(kind, old.get(kind, b"\0"))
            if kind in old or (found != b"\0" and kind != wasm.DATA_COUNT):
                yield kind, found
        for kind, payload in wasm.sections(self.binary):
            if kind == wasm.CUSTOM:
                yield kind, payload

    def _imports(self) -> int:
        """Return the number of imported functions; refuse other imports."""
        for kind, payload in wasm.sections(self.binary):
            if kind != wasm.IMPORT:
                continue
            cursor = BinaryCursor(payload)
            count = cursor.number()
            for _ in range(count):
                names = [cursor.take(cursor.number()) for _ in range(2)]
                what = cursor.byte()
                if what != 0:
                    kinds = ("function", "table", "memory", "global", "tag")
                    said = ".".join(printable(one) for one in names)
                    raise _cannot(f"the {kinds[what]} {said} is imported")
                cursor.number()
            return count
        return 0

    def _function(self, reference: int) -> int:
        """Return the index of the function of a reference that is not null."""
        address, one = reference - 1, self.instance
        if one.function_base <= address < one.function_base + one.defined:
            return self.imported + address - one.function_base
        if address in one.functions:
            return one.functions.index(address)
        raise _cannot("something refers to a function that the module does not have")

    def _expression(self, code: int, bits: int, kind: bytes) -> bytes:
        """Return an expression with a value; `kind` is the type as the module has it."""
        if code not in (_FUNCREF, _EXTERNREF):
            if code in (0x7F, 0x7E, 0x7D, 0x7C, 0x7B):
                return wasm.constant(code, bits)
            raise _cannot("a value has a type that a module cannot write")
        if bits and code == _FUNCREF:
            return b"\xd2" + wasm.unsigned(self._function(bits)) + b"\x0b"
        if bits:
            raise _cannot("something refers to an object of the host")
        heap = kind[1:] if kind[0] in (0x63, 0x64) else kind
        return b"\xd0" + heap + b"\x0b"

    def _tables(self, payload: bytes) -> bytes:
        cursor = BinaryCursor(payload)
        found = []
        for address in self.instance.tables[: cursor.number()]:
            table = self.state.tables[address]
            size = len(table.elements) // 8
            start = b""
            if cursor.data[cursor.at] == 0x40:  # a table with an expression for all elements
                start = cursor.take(2)
            kind = cursor.value_type()
            flags, _, most = cursor.limits()
            end = b""
            if start:
                cursor.expression()
                first = int.from_bytes(bytes(table.elements[:8]), "little") if size else 0
                if not first and kind[0] == 0x64:
                    raise _cannot("a table has elements that cannot be null, and has none")
                end = self._expression(table.type, first, kind)
            found.append(start + kind + wasm.limits(flags, size, most) + end)
        return wasm.vector(found)

    def _memories(self, payload: bytes) -> bytes:
        cursor = BinaryCursor(payload)
        found = []
        for address in self.instance.memories[: cursor.number()]:
            flags, _, most = cursor.limits()
            size = len(self.state.memories[address].data) // 65536
            found.append(wasm.limits(flags, size, most))
        return wasm.vector(found)

    def _globals(self, payload: bytes) -> bytes:
        cursor = BinaryCursor(payload)
        found = []
        for address in self.instance.globals[: cursor.number()]:
            kind = cursor.value_type()
            mutable = cursor.take(1)
            cursor.expression()
            one = self.state.globals[address]
            found.append(kind + mutable + self._expression(one.type, one.value, kind))
        return wasm.vector(found)

    # -- segments ----------------------------------------------------------------------------------

    def _elements(self, payload: bytes) -> bytes:
        cursor = BinaryCursor(payload)
        dropped = set(self.instance.dropped_elements)
        found = [self._element(cursor, at in dropped) for at in range(cursor.number())]
        for number, address in enumerate(self.instance.tables):
            found += self._filled(number, self.state.tables[address])
        return wasm.vector(found)

    def _element(self, cursor: BinaryCursor, dropped: bool) -> bytes:
        """Return a segment at its old index: as it was, or as one that is dropped.

        A declarative segment is dropped at instantiation, and its functions stay declared: code may
        have `ref.func` of them.
        """
        start = cursor.at
        flags = cursor.number()
        if not flags & 1:  # active
            if flags & 2:
                cursor.number()
            cursor.expression()
        typed = bool(flags & 3)  # else all are of functions
        if flags & 4:
            reftype = cursor.value_type() if typed else b"\x70"
            items = [cursor.expression() for _ in range(cursor.number())]
            as_dropped = b"\7" + reftype + wasm.vector(items)
        else:
            if typed:
                cursor.byte()
            indices = [wasm.unsigned(cursor.number()) for _ in range(cursor.number())]
            as_dropped = b"\3\0" + wasm.vector(indices)
        return as_dropped if dropped or not flags & 1 else cursor.data[start : cursor.at]

    def _filled(self, number: int, table: TableState) -> Iterator[bytes]:
        """Yield active segments with the elements of a table that are not null."""
        if table.type != _FUNCREF:
            if any(bytes(table.elements)):
                raise _cannot(f"table {number} has objects of the host")
            return
        view = memoryview(bytes(table.elements)).cast("Q")
        opcode = b"\x42" if table.address64 else b"\x41"
        at = 0
        while at < len(view):
            if not view[at]:
                at += 1
                continue
            end = at
            while end < len(view) and view[end]:
                end += 1
            indices = [wasm.unsigned(self._function(view[place])) for place in range(at, end)]
            place = opcode + wasm.signed(at) + b"\x0b"
            if number:
                yield b"\2" + wasm.unsigned(number) + place + b"\0" + wasm.vector(indices)
            else:
                yield b"\0" + place + wasm.vector(indices)
            at = end

    def _data(self, payload: bytes) -> bytes:
        cursor = BinaryCursor(payload)
        dropped = set(self.instance.dropped_data)
        found = [self._data_segment(cursor, at in dropped) for at in range(cursor.number())]
        for number, address in enumerate(self.instance.memories):
            memory = self.state.memories[address]
            view = memoryview(memory.data).cast("B")
            found += wasm.data_segments(number, view, memory.address64)
        self.data_count = len(found)
        return wasm.vector(found)

    def _data_segment(self, cursor: BinaryCursor, dropped: bool) -> bytes:
        """Return a segment at its old index; one that is dropped is empty."""
        start = cursor.at
        flags = cursor.number()
        if flags == 2:
            cursor.number()
        if flags != 1:
            cursor.expression()
        cursor.take(cursor.number())
        if dropped or flags != 1:
            return b"\1\0"
        return cursor.data[start : cursor.at]
