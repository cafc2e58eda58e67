"""From the snapshot as a value to a store.

All states enter a store here, and none is trusted: `check` comes first. Then modules are checked by
digest, imports and bounds by type, positions and operands against the validated code, references
against the address spaces. All of this is done before an instruction runs.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wasmsr.errors import FormatError, ModuleError, ModuleMismatch, SnapshotError, printable
from wasmsr.interp.modules.module import Import, Module
from wasmsr.interp.outcomes import Limits
from wasmsr.interp.store.externs import Function, HostFunction
from wasmsr.interp.store.instance import Imports
from wasmsr.interp.store.state import (
    DATA,
    ELEMENTS,
    FUNCTION,
    GLOBAL,
    MEMORY,
    TABLE,
    TAG,
    StateRefused,
)
from wasmsr.interp.store.store import Store
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
from wasmsr.snapshot import state
from wasmsr.snapshot.check import check
from wasmsr.snapshot.encoding.registry import SECTIONS
from wasmsr.snapshot.restore_values import ValueRestorer, impossible
from wasmsr.snapshot.rules import MAX_FUNCTIONS
from wasmsr.snapshot.state import PAGE, SnapshotState

if TYPE_CHECKING:
    from wasmsr.wasi.facade import Wasi

_KINDS = (TABLE, MEMORY, GLOBAL, TAG)
"""The kinds of the address spaces besides that of functions, in the order used here."""


def modules_of(
    snapshot: SnapshotState, modules: Iterable[Module], features: str | Iterable[str] | None
) -> list[Module]:
    """Return the modules of a snapshot, in its order.

    Args:
        snapshot: The state.
        modules: The modules that are given.
        features: What embedded modules may need, as for `Module`.

    Raises:
        ModuleMismatch: A module is missing.
        ModuleError: An embedded one is invalid.
    """
    given = {module.digest: module for module in modules}
    found = []
    for reference in snapshot.modules:
        module = given.get(reference.digest)
        if module is None and reference.binary is not None:
            module = Module(reference.binary, name=reference.name, features=features)
            if module.digest != reference.digest:
                raise impossible("an embedded module has another digest than its entry")
        if module is None:
            name = f" ({printable(reference.name, 100)})" if reference.name else ""
            other = "; another module was given" if given else ""
            raise ModuleMismatch(
                f"the snapshot belongs to the module{name} with SHA-256 "
                f"{reference.digest.hex()}, which was not given{other}",
                hint="name the same modules, also those of --preload, or take the snapshot with "
                "--embed-module",
            )
        found.append(module)
    return found


def _limits(saved: state.SavedLimits) -> Limits:
    """Return the limits of the store that is made; no store has ever had larger ones."""
    try:
        return Limits(
            saved.memory_pages, saved.table_elements, saved.stack_slots, saved.stack_frames
        )
    except ValueError as error:
        raise impossible(f"the limit {error}") from None


def _named(module: str, name: str) -> str:
    """Return an import for a message."""
    return f"{printable(module, 100)}.{printable(name, 100)}"


def _check_ambiguous(functions: Iterable[state.HostFunctionState]) -> None:
    """Refuse host functions that nothing tells apart.

    Without an identity a host function has only the names of its import and its type.

    Raises:
        SnapshotError: Two host functions have the same.
    """
    seen: dict[tuple[str, str, bytes, bytes], int] = {}
    for one in functions:
        if one.identity is not None:
            continue
        key = (one.module, one.name, one.params, one.results)
        if key in seen:
            name = _named(one.module, one.name)
            raise SnapshotError(
                f"the snapshot has two host functions for the import {name}, "
                f"at the addresses {seen[key]} and {one.address}, and nothing tells them apart",
                hint="give each an identity, HostFunction(..., identity=...), before the snapshot "
                "is taken; in this one, `identity` of its host_functions can be set",
            )
        seen[key] = one.address


class StoreRestorer:
    """One restore: address spaces are filled in ascending order, host-made things in the gaps.

    `allocate` makes what stays the same while a program runs, `fill` the rest. A program that
    arrives is allocated from a state that it had before, and filled with its last one.

    Args:
        snapshot: The state, which is checked.
        modules: Its modules, in its order.
        imports: The host functions.
        lay: As for `restore`.
    """

    def __init__(
        self,
        snapshot: SnapshotState,
        modules: list[Module],
        imports: Imports,
        lay: Callable[[Store, int], bool] | None,
    ) -> None:
        self.lay = lay
        self.snapshot = snapshot
        self.modules = modules
        self.imports = imports
        features = frozenset(snapshot.limits.features)
        for module in modules:
            for feature in sorted(module.lacking(features)):
                raise impossible(
                    f"a module that needs the feature {feature}, which was not in force"
                )
        self.hosts = {h.address: h for h in snapshot.host_functions}
        self.identified: dict[str, HostFunction] = {}
        if any(one.identity is not None for one in snapshot.host_functions):
            # Asking for all of them binds all of WASI's, of which a program uses a part.
            self.identified = {
                one.identity: one
                for items in imports.values()
                for one in items.values()
                if isinstance(one, HostFunction) and one.identity is not None
            }
        _check_ambiguous(snapshot.host_functions)
        self.store = Store.from_state(
            limits=_limits(snapshot.limits),
            deterministic=snapshot.limits.deterministic,
            features=features,
        )
        self.next_function = 0
        self.next = [0, 0, 0, 0]  # tables, memories, globals, tags
        self.target = self.store.state

    def run(self) -> Store:
        """Return the store; it is closed if it cannot be restored."""
        self.allocate()
        return self.fill(self.snapshot)

    def allocate(self) -> None:
        """Make instances, host functions and tables; the store is closed if that fails.

        Raises:
            FormatError, SnapshotError: As `restore`.
        """
        try:
            self._allocate()
        except BaseException:
            self.store.close()
            raise

    def fill(self, snapshot: SnapshotState) -> Store:
        """Put the values of a state into the store, once; it is closed if that fails.

        Args:
            snapshot: A state of the same program, of the same moment or a later one, which is
                checked.

        Returns:
            The store.

        Raises:
            FormatError: The state is one of another program, or contradicts its modules.
            SnapshotError: A limit is too low.
        """
        try:
            if snapshot is not self.snapshot:
                _check_later(self.snapshot, snapshot)
            return self._fill(snapshot)
        except BaseException:
            self.store.close()
            raise

    def _allocate(self) -> None:
        owned: list[set[int]] = [set(), set(), set(), set()]
        defined = []
        segments = 0
        for instance in self.snapshot.instances:
            if not 0 <= instance.module < len(self.modules):
                raise impossible("an instance of an unknown module")
            own = self._defined(instance)
            counts = self.modules[instance.module].counts
            segments += counts.elements + counts.data
            if segments > MAX_FUNCTIONS:
                raise impossible(f"instances with more than {MAX_FUNCTIONS} segments")
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
                raise impossible("an address space with holes")
        ValueRestorer(self.store, self.snapshot, self.modules, self.next_function).fill_functions()

    def _fill(self, snapshot: SnapshotState) -> Store:
        store = self.store
        for index, instance in enumerate(snapshot.instances):
            try:
                self.target.set_dropped(index, ELEMENTS, instance.dropped_elements)
                self.target.set_dropped(index, DATA, instance.dropped_data)
            except StateRefused as refused:
                raise impossible(str(refused)) from None
        store.references.set_externs(snapshot.externs)
        values = ValueRestorer(store, snapshot, self.modules, self.next_function, self.lay)
        filled = [table.elements for table in self.snapshot.tables]
        values.fill(filled)
        values.push_thread()
        for section in SECTIONS:
            if section.name in snapshot.extra:
                section.restore(store, snapshot.extra[section.name])
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
            raise impossible("an instance with other index spaces than its module")
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
            n_imported = module.imported_functions
            [base] = self.target.addresses(index, FUNCTION, 1, first=n_imported)
            if base != instance.function_base:
                raise impossible("an instance whose functions have other addresses")
            self.next_function = base + module.function_count - n_imported
        for space, (kind, addresses) in enumerate(zip(_KINDS, used, strict=True)):
            if self.target.addresses(index, kind, len(addresses)) != addresses:
                raise impossible("an instance whose parts have other addresses")
            self.next[space] += len(own[space])

    def _check_imports(self, module: Module, imported: tuple[list[int], ...]) -> None:
        limits = (self.next_function, *self.next)
        position = [0, 0, 0, 0, 0]
        for item in module.imports:
            address = imported[item.kind][position[item.kind]]
            position[item.kind] += 1
            if not 0 <= address < limits[item.kind]:
                raise impossible(
                    f"the import {_named(item.module, item.name)} of an unknown address"
                )
            right = self.target.import_matches(module, item, address)
            if right and item.kind in (TABLE, MEMORY):
                # Their sizes are restored later; what cannot change is compared here.
                right = _same_but_size(item.type, self._saved_type(item.kind, address))
            if not right:
                raise impossible(f"the import {_named(item.module, item.name)} of another type")

    def _saved_type(self, kind: int, address: int) -> tuple[int, int, int | None]:
        if kind == TABLE:
            table = self.snapshot.tables[address]
            return table.type, len(table.elements) // 8, table.maximum
        memory = self.snapshot.memories[address]
        return 0, len(memory.data) // PAGE, memory.maximum

    def _add_host_function(self) -> None:
        wanted = self.hosts[self.next_function]
        type_, importer = self._host_type(wanted)
        name = _named(wanted.module, wanted.name)
        found: Any
        if wanted.identity is None:
            found = self.imports.get(wanted.module, {}).get(wanted.name)
        else:
            name = f"with the identity {printable(wanted.identity, 100)!r}"
            found = self.identified.get(wanted.identity)
        if isinstance(found, HostFunction):
            function = found
        elif callable(found) and not isinstance(found, Function):
            function = self.store.wrap(type_, found, name)
        else:
            raise SnapshotError(
                f"the program uses the host function {name}, which is not given",
                hint="give the imports that the program was started with",
            )
        if function.type != type_:
            raise SnapshotError(
                f"the host function {name} must be {type_}, and {function.type} is given"
            )
        address = self.store.add_host_function(function, wanted.module, wanted.name, importer)
        if address != self.next_function:
            raise impossible("a host function with two addresses")
        self.next_function += 1

    def _host_type(
        self, wanted: state.HostFunctionState
    ) -> tuple[FuncType, tuple[Module, Import] | None]:
        """Return a host function's type, and the module and import that know it exactly.

        The saved type has only top types of references; the import has the exact ones.
        """
        saved = FuncType(val_types(wanted.params), val_types(wanted.results))
        if not any(t.reference for t in (*saved.params, *saved.results)):
            return saved, None
        for instance in self.snapshot.instances:
            if wanted.address not in instance.functions:
                continue
            module = self.modules[instance.module]
            imports = [item for item in module.imports if item.kind == FUNCTION]
            item = imports[instance.functions.index(wanted.address)]
            type_ = item.type
            if isinstance(type_, FuncType) and (wanted.params, wanted.results) == (
                codes_of(type_.params),
                codes_of(type_.results),
            ):
                return type_, (module, item)
        return saved, None

    def _add_host_extern(self, space: int) -> None:
        target, address, snapshot = self.target, self.next[space], self.snapshot
        try:
            if space == 0 and address < len(snapshot.tables):
                table = snapshot.tables[address]
                type_ = self._narrowed(TABLE, address, table.type)
                target.add_table(_table_type(table, type_))
            elif space == 1 and address < len(snapshot.memories):
                target.add_memory(_memory_type(snapshot.memories[address]))
            elif space == 2 and address < len(snapshot.globals):
                item = snapshot.globals[address]
                type_ = self._narrowed(GLOBAL, address, item.type)
                target.add_global(type_, item.mutable, item.value)
            elif space == 3 and address < len(snapshot.tags):
                target.add_tag(snapshot.tags[address], self._tag_importer(address))
            else:
                raise impossible("an unknown address")
        except StateRefused as refused:
            raise SnapshotError(str(refused)) from None
        self.next[space] += 1

    def _narrowed(self, kind: int, address: int, code: int) -> int:
        """Return the exact type of a table's elements or a global's value that the host made.

        The saved type is only a code; the importing module has the exact type.
        """
        type_ = code
        for instance in self.snapshot.instances:
            module = self.modules[instance.module]
            addresses = instance.tables if kind == TABLE else instance.globals
            for item in module.imports:
                if item.kind == kind and addresses[item.index] == address:
                    type_ = self.target.narrowed(module, item, type_)
        return type_

    def _tag_importer(self, address: int) -> tuple[Module, Import] | None:
        """Return a module and import that have the exact type of a tag that the host made."""
        codes = self.snapshot.tags[address]
        for instance in self.snapshot.instances:
            module = self.modules[instance.module]
            for item in module.imports:
                type_ = item.type
                right = isinstance(type_, TagType) and codes_of(type_.params) == codes
                if right and item.kind == TAG and instance.tags[item.index] == address:
                    return module, item
        return None


class StoreTemplate:
    """An allocated store of a program, for states of it that are restored one after the other.

    To allocate takes most of the time of a restore: each import is compared and bound. A copy of a
    store takes a fraction of that.

    Args:
        snapshot: A state of the program, which is checked.
        modules: Its modules, in any order.
        imports: The host functions that it uses.

    Raises:
        SnapshotError, ModuleError: As `restore`.
    """

    def __init__(
        self, snapshot: SnapshotState, modules: Iterable[Module], imports: Imports
    ) -> None:
        found = modules_of(snapshot, modules, None)
        self._restorer = StoreRestorer(snapshot, found, imports, None)
        self._restorer.allocate()
        made = self._restorer.store
        try:
            self._held = made.copied(memories=False)
        finally:
            made.close()

    def restore(
        self,
        snapshot: SnapshotState,
        imports: Imports,
        wasi: Callable[[], Wasi],
        lay: Callable[[Store, int], bool] | None,
    ) -> Store:
        """Return a new store in a state of the program.

        Args:
            snapshot: The state, of the template's moment or a later one, which a reader has
                checked.
            imports: As for the constructor.
            wasi: As for `restore`, like the next one.
            lay: Gives memories their bytes.

        Raises:
            FormatError: The state is one of another program, or contradicts its modules.
            SnapshotError, LinkError, WasiConfigError: As for `restore`.
        """
        served = None if snapshot.wasi is None else wasi()
        try:
            restorer = copy.copy(self._restorer)
            restorer.lay = lay
            own = {} if served is None else served.imports
            restorer.store = self._held.copied({**own, **imports})
            restorer.target = restorer.store.state
            store = restorer.fill(snapshot)
        except BaseException:
            if served is not None:
                served.close()
            raise
        store.wasi = served
        return store


def _check_later(before: SnapshotState, now: SnapshotState) -> None:
    """Check that a store which was allocated for one state can have another.

    A running program changes none of what is compared here, and no table or memory of it shrinks.

    Raises:
        FormatError: It is one of another program, or of an earlier moment.
    """
    if _lasting(before) != _lasting(now):
        raise FormatError("the state is not of the program that was announced")
    tables = zip(before.tables, now.tables, strict=True)
    memories = zip(before.memories, now.memories, strict=True)
    if any(len(new.elements) < len(old.elements) for old, new in tables) or any(
        len(new.data) < len(old.data) for old, new in memories
    ):
        raise FormatError("a table or memory of the program has become smaller")


def _lasting(snapshot: SnapshotState) -> tuple[object, ...]:
    """Return what stays the same while a program runs."""
    return (
        snapshot.modules,
        snapshot.host_functions,
        [
            replace(instance, dropped_elements=[], dropped_data=[])
            for instance in snapshot.instances
        ],
        [(one.type, one.minimum, one.maximum, one.address64) for one in snapshot.tables],
        [(one.minimum, one.maximum, one.address64) for one in snapshot.memories],
        [(one.type, one.mutable) for one in snapshot.globals],
        snapshot.tags,
        replace(snapshot.limits, fuel=None),
        snapshot.wasi is None,
    )


def _same_but_size(wanted: Any, saved: tuple[int, int, int | None]) -> bool:
    type_, size, maximum = saved
    element = getattr(wanted, "element", None)
    return (0 if element is None else element.code) == type_ and wanted.bounds.admits(size, maximum)


def _address(saved: state.TableState | state.MemoryState) -> ValType:
    return ValType.I64 if saved.address64 else ValType.I32


def _table_type(table: state.TableState, element: int) -> TableType:
    bounds = Bounds(table.minimum, table.maximum)
    return TableType(ValType(element), bounds, _address(table))


def _memory_type(memory: state.MemoryState) -> MemoryType:
    return MemoryType(Bounds(memory.minimum, memory.maximum), _address(memory))


def restore(
    snapshot: SnapshotState,
    *,
    modules: Iterable[Module] = (),
    imports: Imports | None = None,
    features: str | Iterable[str] | None = None,
    wasi: Callable[[], Wasi] | None = None,
    lay: Callable[[Store, int], bool] | None = None,
) -> Store:
    """Return a new store in the state of a snapshot.

    Args:
        snapshot: The state.
        modules: The modules that the snapshot names; embedded ones need not be given.
        imports: The host functions that the program uses, as for `Store.instantiate`. One with an
            identity is found by it, under whatever names it is given.
        features: What embedded modules may need, as for `Module`.
        wasi: Makes the WASI that serves a program that has one; it becomes the store's. It is
            called after all checks that need no store.
        lay: Called for each memory, with the new store and the address, when the memory has its
            size. It may give the memory its bytes and return True; otherwise they are copied.

    Raises:
        ModuleMismatch: A module is missing.
        ModuleError: An embedded one is invalid, or needs a feature that is not among `features`.
        FormatError: The snapshot contradicts its modules or itself.
        SnapshotError: A host function is missing or ambiguous, or a limit is too low.
        WasiConfigError: As `wasi` raises.
    """
    check(snapshot)
    found = modules_of(snapshot, modules, features)
    if snapshot.wasi is None or wasi is None:
        return StoreRestorer(snapshot, found, imports or {}, lay).run()
    served = wasi()
    try:
        given = {**served.imports, **(imports or {})}
        store = StoreRestorer(snapshot, found, given, lay).run()
    except BaseException:
        served.close()
        raise
    store.wasi = served
    return store
