"""Between the machine and the snapshot as a value: `capture` reads a store, `restore` builds one.

Restoring trusts nothing: modules are checked by digest, imports and bounds by type, positions and
operands against the validated code, references against the address spaces, before an instruction
runs. Source: WebAssembly specification, section 4.2 (Runtime Structure).
"""

from __future__ import annotations

import os
import socket
import sys
from array import array
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from wasmsr import realtime
from wasmsr._ffi import ffi, lib
from wasmsr.errors import FormatError, ModuleError, ModuleMismatch, SnapshotError, UnportableState
from wasmsr.interp import machine
from wasmsr.interp.externs import Function, Global, HostFunction, Tag, c_bounds
from wasmsr.interp.machine import Imports, Instance, Store
from wasmsr.interp.module import Import, Module
from wasmsr.interp.types import (
    Bounds,
    FuncType,
    MemoryType,
    TableType,
    TagType,
    ValType,
    codes_of,
    val_types,
)
from wasmsr.interp.values import gather, slot_count, spread
from wasmsr.snapshot import state
from wasmsr.snapshot.references import References, Restored
from wasmsr.snapshot.state import PAGE, Snapshot

if TYPE_CHECKING:
    from wasmsr.wasi.contents import Contents

ENGINE = "wasmsr"
_MOST_EXECUTED = 2**64 - 1
"""The count that a snapshot has room for."""


def _engine() -> str:
    from wasmsr import __version__

    return f"{ENGINE} {__version__}"


# ---- capture ----


def _little(words: array[int]) -> bytes:
    if sys.byteorder == "big":
        words = array("Q", words)
        words.byteswap()
    return words.tobytes()


def _words(data: bytes | bytearray | memoryview) -> array[int]:
    words = array("Q")
    words.frombytes(data)
    if sys.byteorder == "big":
        words.byteswap()
    return words


def _table(store: Store, address: int, references: References) -> state.TableState:
    view = ffi.new("wsr_table_view *")
    lib.wsr_table(store.c, address, view)
    words = array("Q")
    if view.size:
        words.frombytes(ffi.buffer(view.elements, view.size * 8))
    bounds, code = view.bounds, ValType(view.bounds.type).code
    if code in (ValType.EXTERNREF, ValType.EXNREF):
        words = array("Q", [references.saved(code, bits) for bits in words])
    maximum = bounds.maximum if bounds.has_maximum else None
    elements = _little(words)
    return state.TableState(int(code), bounds.minimum, maximum, elements, bool(bounds.address64))


def _memory(store: Store, address: int) -> state.MemoryState:
    view = ffi.new("wsr_memory_view *")
    lib.wsr_memory(store.c, address, view)
    bounds = view.bounds
    maximum = bounds.maximum if bounds.has_maximum else None
    data = store.memory_view(address)
    return state.MemoryState(bounds.minimum, maximum, data, bool(bounds.address64))


def _global(store: Store, address: int, references: References) -> state.GlobalState:
    found = Global(store, address)
    type_, bits = found.type, found.bits
    code = type_.value.code
    bits = references.saved(code, bits)
    return state.GlobalState(int(code), type_.mutable, bits)


def _instance(store: Store, instance: Instance, module: int) -> state.InstanceState:
    counts = instance.module.counts

    def addresses(kind: int, n: int) -> list[int]:
        return [lib.wsr_instance_address(store.c, instance.index, kind, i) for i in range(n)]

    index = instance.index
    base = (
        lib.wsr_instance_address(store.c, index, lib.WSR_FUNCTION, counts.imported_functions)
        if counts.functions > counts.imported_functions
        else 0
    )
    return state.InstanceState(
        module=module,
        function_base=base,
        defined=counts.functions - counts.imported_functions,
        functions=addresses(lib.WSR_FUNCTION, counts.imported_functions),
        tables=addresses(lib.WSR_TABLE, counts.tables),
        memories=addresses(lib.WSR_MEMORY_KIND, counts.memories),
        globals=addresses(lib.WSR_GLOBAL, counts.globals),
        dropped_elements=[
            i for i in range(counts.elements) if lib.wsr_element_dropped(store.c, index, i)
        ],
        dropped_data=[i for i in range(counts.data) if lib.wsr_data_dropped(store.c, index, i)],
        name=instance.name,
        tags=addresses(lib.WSR_TAG, counts.tags),
    )


def _frames(store: Store, references: References) -> list[state.FrameState]:
    frames = []
    for view in store.frames(dead_locals=False):
        values = [*view.locals, *view.operands]
        if ValType.EXTERNREF in view.types or ValType.EXNREF in view.types:
            values = [
                references.saved(code, bits) for code, bits in zip(view.types, values, strict=True)
            ]
        frames.append(
            state.FrameState(
                view.instance, view.index, view.offset, len(view.locals), view.types, values
            )
        )
    return frames


def _queue(store: Store, references: References) -> list[tuple[int, list[int]]]:
    queue = []
    for address, slots in store.queue:
        params = store.function_type(address).params
        bits = [
            references.saved(type_.code, value)
            for type_, value in zip(params, gather(params, slots), strict=True)
        ]
        queue.append((address, list(spread(params, bits))))
    return queue


def capture(
    store: Store,
    *,
    wasi: Mapping[str, Any] | None = None,
    files: Contents | None = None,
    fuel: int | None = None,
    embed: bool = False,
    parent: bytes | None = None,
) -> Snapshot:
    """The state of a paused (or idle) store as a value.

    The value's memories are views of the store's own bytes: encode or copy it before the program
    runs on.

    Args:
        wasi: what `Wasi.capture` gave; files: what it put there.
        fuel: instructions that remain, for a program that runs on a budget.
        embed: put the modules' binaries into the snapshot.
        parent: id of the snapshot from which this program was restored.

    Raises:
        UnportableState: the store is running, or a host function that called back into the program
            is being performed.
    """
    if store.nested:
        raise UnportableState(
            "a host function that called back into the program is being performed",
            hint="pause again when it has returned",
        )
    if store.running:
        raise UnportableState(
            "the program is running", hint="pause it and wait until it stands, or capture it later"
        )
    modules: list[state.ModuleRef] = []
    module_index: dict[bytes, int] = {}
    for instance in store.instances:
        module = instance.module
        if module.digest not in module_index:
            module_index[module.digest] = len(modules)
            binary = module.binary if embed else None
            modules.append(state.ModuleRef(module.digest, len(module.binary), module.name, binary))
    counts = ffi.new("wsr_store_counts *")
    lib.wsr_store_count(store.c, counts)
    references = References(store)
    limits = store.limits
    return Snapshot(
        modules=modules,
        host_functions=[
            state.HostFunction(
                address, module_name, name, codes_of(f.type.params), codes_of(f.type.results)
            )
            for address, (f, module_name, name) in sorted(store.hosts.items())
        ],
        instances=[
            _instance(store, instance, module_index[instance.module.digest])
            for instance in store.instances
        ],
        tables=[_table(store, a, references) for a in range(counts.tables)],
        memories=[_memory(store, a) for a in range(counts.memories)],
        globals=[_global(store, a, references) for a in range(counts.globals)],
        thread=state.ThreadState(_frames(store, references), _queue(store, references)),
        limits=state.Limits(
            limits.memory_pages,
            limits.table_elements,
            limits.stack_slots,
            limits.stack_frames,
            fuel,
            store.deterministic,
            sorted(store.features),
        ),
        lineage=state.Lineage(
            os.urandom(16), parent, realtime.now(), socket.gethostname(), _engine()
        ),
        externs=references.externs,
        wasi=dict(wasi) if wasi is not None else None,
        files=files if files else None,
        executed=None if store.executed is None else min(store.executed, _MOST_EXECUTED),
        tags=references.tags,
        exceptions=references.finish(),
    )


# ---- restore ----


def _bad(what: str) -> FormatError:
    return FormatError(f"the snapshot says what no machine can be in: {what}")


def _check_modules(snapshot: Snapshot, modules: Iterable[Module]) -> list[Module]:
    given = {module.digest: module for module in modules}
    found = []
    for reference in snapshot.modules:
        module = given.get(reference.digest)
        if module is None and reference.binary is not None:
            module = Module(reference.binary, name=reference.name)
            if module.digest != reference.digest:
                raise _bad("an embedded module has another digest than its entry")
        if module is None:
            name = f" ({reference.name})" if reference.name else ""
            other = "; another module was given" if given else ""
            raise ModuleMismatch(
                f"the snapshot belongs to the module{name} with SHA-256 "
                f"{reference.digest.hex()}, which was not given{other}",
                hint="name the same module, or take the snapshot with --embed-module",
            )
        found.append(module)
    return found


def _limits(saved: state.Limits) -> machine.Limits:
    """The limits of the store that is made; no store has ever had larger ones."""
    try:
        return machine.Limits(
            saved.memory_pages, saved.table_elements, saved.stack_slots, saved.stack_frames
        )
    except ValueError as error:
        raise _bad(f"the limit {error}") from None


class _Restoring:
    """One restore: address spaces are filled in ascending order, host-made things in the gaps."""

    def __init__(self, snapshot: Snapshot, modules: list[Module], imports: Imports) -> None:
        self.snapshot = snapshot
        self.modules = modules
        self.imports = imports
        self.store = Store(
            limits=_limits(snapshot.limits), deterministic=snapshot.limits.deterministic
        )
        # Kept as they are, with names that this engine may not know: what counts is what modules
        # need, and that was looked at when they were read.
        self.store.features = frozenset(snapshot.limits.features)
        for module in modules:
            features = self.store.features
            off = () if module.features <= features else module.needs - features
            for feature in sorted(off):
                raise _bad(f"a module that needs the feature {feature}, which was not in force")
        self.hosts = {h.address: h for h in snapshot.host_functions}
        self.next_function = 0
        self.next = [0, 0, 0, 0]  # tables, memories, globals, tags
        self.error = ffi.new("wsr_error *")

    def run(self) -> Store:
        store = self.store
        owned: list[set[int]] = [set(), set(), set(), set()]
        defined = []
        for instance in self.snapshot.instances:
            if not 0 <= instance.module < len(self.modules):
                raise _bad("an instance of an unknown module")
            own = self._defined(instance)
            defined.append(own)
            for space, addresses in zip(owned, own, strict=True):
                space.update(addresses)
        for instance, own in zip(self.snapshot.instances, defined, strict=True):
            self._add_instance(instance, own, owned)
        while self.next_function in self.hosts:
            self._add_host_function()
        sizes = (
            len(self.snapshot.tables),
            len(self.snapshot.memories),
            len(self.snapshot.globals),
            len(self.snapshot.tags),
        )
        for kind, size in enumerate(sizes):
            while self.next[kind] < size and self.next[kind] not in owned[kind]:
                self._add_host_extern(kind)
            if self.next[kind] != size:
                raise _bad("an address space with holes")
        store.externs = list(self.snapshot.externs)
        store._extern_index = {id(o): i + 1 for i, o in enumerate(store.externs)}
        self._fill()
        self._thread()
        return store

    def _defined(self, instance: state.InstanceState) -> tuple[list[int], ...]:
        counts = self.modules[instance.module].counts
        if (
            len(instance.functions) != counts.imported_functions
            or instance.defined != counts.functions - counts.imported_functions
            or len(instance.tables) != counts.tables
            or len(instance.memories) != counts.memories
            or len(instance.globals) != counts.globals
            or len(instance.tags) != counts.tags
        ):
            raise _bad("an instance with other index spaces than its module")
        return (
            instance.tables[counts.imported_tables :],
            instance.memories[counts.imported_memories :],
            instance.globals[counts.imported_globals :],
            instance.tags[counts.imported_tags :],
        )

    def _add_instance(
        self,
        instance: state.InstanceState,
        own: tuple[list[int], ...],
        owned: list[set[int]],
    ) -> None:
        store, module = self.store, self.modules[instance.module]
        has_functions = module.function_count > module.imported_functions
        lowest = instance.function_base if has_functions else max([-1, *instance.functions]) + 1
        while self.next_function < lowest and self.next_function in self.hosts:
            self._add_host_function()
        used = (instance.tables, instance.memories, instance.globals, instance.tags)
        for space in range(len(used)):
            lowest = min(own[space], default=max([-1, *used[space]]) + 1)
            while self.next[space] < lowest and self.next[space] not in owned[space]:
                self._add_host_extern(space)
        imported = (
            instance.functions,
            instance.tables[: len(instance.tables) - len(own[0])],
            instance.memories[: len(instance.memories) - len(own[1])],
            instance.globals[: len(instance.globals) - len(own[2])],
            instance.tags[: len(instance.tags) - len(own[3])],
        )
        self._check_imports(module, imported)
        try:
            made = store.allocate(module, imported, instance.name)
        except ModuleError as error:
            hint = "--max-memory sets the limit anew" if "memory" in error.message else None
            raise SnapshotError(error.message, hint=hint) from None
        made.name = instance.name
        index = made.index
        if has_functions:
            base = lib.wsr_instance_address(
                store.c, index, lib.WSR_FUNCTION, module.imported_functions
            )
            if base != instance.function_base:
                raise _bad("an instance whose functions have other addresses")
            self.next_function = base + module.function_count - module.imported_functions
        kinds = (lib.WSR_TABLE, lib.WSR_MEMORY_KIND, lib.WSR_GLOBAL, lib.WSR_TAG)
        for space, (kind, addresses) in enumerate(zip(kinds, used, strict=True)):
            for i, address in enumerate(addresses):
                if lib.wsr_instance_address(store.c, index, kind, i) != address:
                    raise _bad("an instance whose parts have other addresses")
            self.next[space] += len(own[space])
        self._drop_segments(module, instance, index)

    def _drop_segments(self, module: Module, instance: state.InstanceState, index: int) -> None:
        counts = module.counts
        for segment in instance.dropped_elements:
            if not 0 <= segment < counts.elements:
                raise _bad("an unknown element segment")
            lib.wsr_drop_element(self.store.c, index, segment)
        for segment in instance.dropped_data:
            if not 0 <= segment < counts.data:
                raise _bad("an unknown data segment")
            lib.wsr_drop_data(self.store.c, index, segment)

    def _check_imports(self, module: Module, imported: tuple[list[int], ...]) -> None:
        limits = (self.next_function, *self.next)
        position = [0, 0, 0, 0, 0]
        for item in module.imports:
            address = imported[item.kind][position[item.kind]]
            position[item.kind] += 1
            if not 0 <= address < limits[item.kind]:
                raise _bad(f"the import {item.module}.{item.name} of an unknown address")
            right = lib.wsr_import_matches(self.store.c, module._c, item.number, address)
            if right and item.kind in (lib.WSR_TABLE, lib.WSR_MEMORY_KIND):
                # Their sizes are restored later; what cannot change is compared here.
                right = _same_but_size(item.type, self._saved_type(item.kind, address))
            if not right:
                raise _bad(f"the import {item.module}.{item.name} of another type")

    def _saved_type(self, kind: int, address: int) -> tuple[int, int, int | None]:
        if kind == lib.WSR_TABLE:
            table = self.snapshot.tables[address]
            return table.type, len(table.elements) // 8, table.maximum
        memory = self.snapshot.memories[address]
        return 0, len(memory.data) // PAGE, memory.maximum

    def _add_host_function(self) -> None:
        wanted = self.hosts[self.next_function]
        type_, importer = self._host_type(wanted)
        found = self.imports.get(wanted.module, {}).get(wanted.name)
        function: HostFunction
        if isinstance(found, HostFunction):
            function = found
        elif callable(found) and not isinstance(found, Function):
            function = HostFunction.of(type_, found, f"{wanted.module}.{wanted.name}")
        else:
            raise SnapshotError(
                f"the program uses the host function {wanted.module}.{wanted.name}, "
                "which is not given",
                hint="give the imports that the program was started with",
            )
        if function.type != type_:
            raise SnapshotError(
                f"the host function {wanted.module}.{wanted.name} must be {type_}, "
                f"and {function.type} is given"
            )
        if (id(function), wanted.module, wanted.name) in self.store._host_address:
            # One import, two addresses: it was given as two functions then.
            function = HostFunction(function.type, function.call, raw=function.raw)
        address = self.store.add_host_function(function, wanted.module, wanted.name, importer)
        if address != self.next_function:
            raise _bad("a host function with two addresses")
        self.next_function += 1

    def _host_type(
        self, wanted: state.HostFunction
    ) -> tuple[FuncType, tuple[Module, Import] | None]:
        """A host function's type: as it is saved, or, as exact as it was, from who imports it."""
        saved = FuncType(val_types(wanted.params), val_types(wanted.results))
        if not any(t.reference for t in (*saved.params, *saved.results)):
            return saved, None
        for instance in self.snapshot.instances:
            if wanted.address not in instance.functions:
                continue
            module = self.modules[instance.module]
            imports = [item for item in module.imports if item.kind == lib.WSR_FUNCTION]
            item = imports[instance.functions.index(wanted.address)]
            type_ = item.type
            if isinstance(type_, FuncType) and (wanted.params, wanted.results) == (
                codes_of(type_.params),
                codes_of(type_.results),
            ):
                return type_, (module, item)
        return saved, None

    def _add_host_extern(self, space: int) -> None:
        c, address = self.store.c, self.next[space]
        snapshot = self.snapshot
        if space == 0 and address < len(snapshot.tables):
            table = snapshot.tables[address]
            bounds = c_bounds(_table_type(table))
            bounds.type = self._narrowed(lib.WSR_TABLE, address, table.type)
            made = lib.wsr_add_table(c, bounds, table.minimum, self.error)
        elif space == 1 and address < len(snapshot.memories):
            memory = snapshot.memories[address]
            bounds = c_bounds(_memory_type(memory))
            made = lib.wsr_add_memory(c, bounds, memory.minimum, self.error)
        elif space == 2 and address < len(snapshot.globals):
            item = snapshot.globals[address]
            value = spread((ValType(item.type),), (item.value,))
            type_ = self._narrowed(lib.WSR_GLOBAL, address, item.type)
            made = lib.wsr_add_global(c, type_, item.mutable, value, self.error)
        elif space == 3 and address < len(snapshot.tags):
            made = self._add_tag(address)
        else:
            raise _bad("an unknown address")
        if made == 2**32 - 1:
            raise SnapshotError(ffi.string(self.error.message).decode())
        self.next[space] += 1

    def _narrowed(self, kind: int, address: int, code: int) -> int:
        """The type of the elements or the value of something of the host's: saved is only the code,
        who imports it knows more."""
        type_ = code
        for instance in self.snapshot.instances:
            module = self.modules[instance.module]
            addresses = instance.tables if kind == lib.WSR_TABLE else instance.globals
            for item in module.imports:
                if item.kind == kind and addresses[item.index] == address:
                    type_ = lib.wsr_narrowed(self.store.c, module._c, item.number, type_)
        return type_

    def _add_tag(self, address: int) -> Any:
        """A tag of the host's, of the type that it had: who imports it knows it exactly."""
        c, codes = self.store.c, self.snapshot.tags[address]
        for instance in self.snapshot.instances:
            module = self.modules[instance.module]
            imports = [item for item in module.imports if item.kind == lib.WSR_TAG]
            for item in imports:
                type_ = item.type
                right = isinstance(type_, TagType) and codes_of(type_.params) == codes
                if right and instance.tags[item.index] == address:
                    return lib.wsr_add_tag_import(c, module._c, item.index, self.error)
        return lib.wsr_add_tag(c, list(codes), len(codes), self.error)

    def _fill(self) -> None:
        for address, codes in enumerate(self.snapshot.tags):
            if codes_of(Tag(self.store, address).type.params) != codes:
                raise _bad(f"tag {address} of another type")
        try:
            self.exceptions = Restored(self.store, self.snapshot.exceptions).bits
        except ValueError as error:
            raise _bad(str(error)) from None
        for address, item in enumerate(self.snapshot.globals):
            found = Global(self.store, address)
            type_ = found.type
            if (type_.value.code, type_.mutable) != (item.type, item.mutable):
                raise _bad(f"global {address} of another type")
            found.write(self._restored(type_.value, item.value))
        for address, table in enumerate(self.snapshot.tables):
            self._fill_table(address, table)
        for address, memory in enumerate(self.snapshot.memories):
            self._fill_memory(address, memory)

    def _fill_table(self, address: int, table: state.TableState) -> None:
        view = ffi.new("wsr_table_view *")
        lib.wsr_table(self.store.c, address, view)
        _check_bounds("table", address, view.bounds, table)
        size = len(table.elements) // 8
        element = ValType(view.bounds.type)
        if element.code != table.type or size < view.size or len(table.elements) % 8:
            raise _bad(f"table {address} of another type or size")
        if lib.wsr_grow_table(self.store.c, address, size - view.size, 0) == 2**64 - 1:
            raise SnapshotError(f"table {address} of {size} elements exceeds the limit")
        words = _words(table.elements)
        if element.code is ValType.FUNCREF:  # half a million in a Haskell program
            wrong = lib.wsr_values_fit(
                self.store.c, element, ffi.from_buffer("uint64_t[]", words), len(words)
            )
            if wrong < len(words):
                self._restored(element, words[wrong])  # raises
        else:
            restored = {bits: self._restored(element, bits) for bits in set(words)}
            if element.code is ValType.EXNREF:
                words = array("Q", [restored[bits] for bits in words])
        lib.wsr_table(self.store.c, address, view)
        if size:
            ffi.buffer(view.elements, size * 8)[:] = words.tobytes()

    def _fill_memory(self, address: int, memory: state.MemoryState) -> None:
        view = ffi.new("wsr_memory_view *")
        lib.wsr_memory(self.store.c, address, view)
        _check_bounds("memory", address, view.bounds, memory)
        pages, have = len(memory.data) // PAGE, view.size // PAGE
        if pages < have or len(memory.data) % PAGE:
            raise _bad(f"memory {address} of another size")
        if lib.wsr_grow_memory(self.store.c, address, pages - have) == 2**64 - 1:
            raise SnapshotError(
                f"memory {address} of {pages} pages exceeds the limit of "
                f"{self.store.limits.memory_pages} pages",
                hint="--max-memory sets the limit anew",
            )
        if pages:
            data = ffi.from_buffer("uint8_t[]", memory.data)
            lib.wsr_fill_memory(self.store.c, address, data, len(data))

    def _restored(self, type_: ValType, bits: int) -> int:
        """The bits in the store of a value that was saved as `bits`."""
        if type_.code is ValType.EXTERNREF and bits > len(self.snapshot.externs):
            raise _bad("a reference to an unknown host object")
        if type_.code is ValType.FUNCREF and bits > self.next_function:
            raise _bad("a reference to an unknown function")
        if type_.code is ValType.EXNREF:
            if bits >= len(self.exceptions):
                raise _bad("a reference to an unknown exception")
            bits = self.exceptions[bits]
        if type_ is not ValType.V128 and not lib.wsr_value_fits(self.store.c, type_, bits):
            what = "reference" if type_.reference else "value"
            raise _bad(f"a {what} that is no {type_}")
        return bits

    def _thread(self) -> None:
        store, thread = self.store, self.snapshot.thread
        addresses = [self._function_address(frame) for frame in thread.frames]
        for i, frame in enumerate(thread.frames):
            innermost = i + 1 == len(thread.frames)
            operands = len(frame.values) - frame.locals
            if operands < 0 or len(frame.values) != len(frame.types):
                raise _bad("a frame with more locals than values")
            bits = [
                self._restored(ValType(code), value)
                if code in (ValType.EXTERNREF, ValType.EXNREF)
                else value
                for code, value in zip(frame.types, frame.values, strict=True)
            ]
            slots = spread(val_types(frame.types), bits)
            types = ffi.from_buffer("uint8_t[]", frame.types or b"\0")
            values = ffi.new("uint64_t[]", list(slots) or [0])
            view = ffi.new(
                "wsr_frame_view *",
                {
                    "function": addresses[i],
                    "offset": frame.offset,
                    "n_locals": frame.locals,
                    "n_operands": operands,
                    "n_slots": len(slots),
                    "types": types,
                    "values": values,
                },
            )
            callee = 2**32 - 1 if innermost else addresses[i + 1]
            good = lib.wsr_restore_frame(store.c, view, innermost, callee, self.error)
            if not good:
                for module in self.modules:
                    if (invalid := module.invalid()) is not None:
                        raise invalid
                raise FormatError(ffi.string(self.error.message).decode())
        if addresses:
            store._entry = store.function_type(addresses[0])
        for address, slots in thread.queue:
            if not 0 <= address < self.next_function:
                raise _bad("an invocation of an unknown function")
            params = store.function_type(address).params
            if slot_count(params) != len(slots):
                raise _bad("an invocation with another number of arguments")
            bits = [
                self._restored(type_, value)
                for type_, value in zip(params, gather(params, slots), strict=True)
            ]
            self._keep(params, bits)
            store.queue.append((address, tuple(spread(params, bits))))
        store.executed = self.snapshot.executed

    def _keep(self, params: tuple[ValType, ...], bits: list[int]) -> None:
        """Until an invocation begins, the store must know of the exceptions among its arguments."""
        for type_, value in zip(params, bits, strict=True):
            if type_.code is ValType.EXNREF:
                self.store._held.append((self.store.exception_of_reference(value),))

    def _function_address(self, frame: state.FrameState) -> int:
        if not 0 <= frame.instance < len(self.snapshot.instances):
            raise _bad("a frame of an unknown instance")
        instance = self.snapshot.instances[frame.instance]
        module = self.modules[instance.module]
        if not module.imported_functions <= frame.function < module.function_count:
            raise _bad("a frame of a function that its module does not define")
        return instance.function_base + frame.function - module.imported_functions


def _check_bounds(
    what: str, address: int, bounds: Any, saved: state.TableState | state.MemoryState
) -> None:
    have = (bounds.minimum, bounds.maximum if bounds.has_maximum else None, bounds.address64)
    if have != (saved.minimum, saved.maximum, saved.address64):
        raise _bad(f"{what} {address} of other bounds")


def _same_but_size(wanted: Any, saved: tuple[int, int, int | None]) -> bool:
    type_, size, maximum = saved
    element = getattr(wanted, "element", None)
    return (0 if element is None else element.code) == type_ and wanted.bounds.admits(size, maximum)


def _address(saved: state.TableState | state.MemoryState) -> ValType:
    return ValType.I64 if saved.address64 else ValType.I32


def _table_type(table: state.TableState) -> TableType:
    bounds = Bounds(table.minimum, table.maximum)
    return TableType(ValType(table.type), bounds, _address(table))


def _memory_type(memory: state.MemoryState) -> MemoryType:
    return MemoryType(Bounds(memory.minimum, memory.maximum), _address(memory))


def restore(
    snapshot: Snapshot, *, modules: Iterable[Module] = (), imports: Imports | None = None
) -> Store:
    """A new store in the state of the snapshot, standing where the program stood.

    Args:
        modules: those that the snapshot names; embedded ones need not be given.
        imports: the host functions that the program uses, as for `Store.instantiate`.

    Raises:
        ModuleMismatch: a module is missing.
        FormatError: the snapshot contradicts its modules or itself.
        SnapshotError: a host function is missing, or a limit is too low.
    """
    found = _check_modules(snapshot, modules)
    return _Restoring(snapshot, found, imports or {}).run()
