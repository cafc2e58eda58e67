"""From a snapshot to the store and the WASI of a program. Imported when a program is restored."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from wasmsr.errors import FormatError, ModuleMismatch, SnapshotError
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Limits
from wasmsr.interp.store.store import Store
from wasmsr.program.exports import own_imports, remote_memory_of
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.memory.adoption import adopt
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.state import MemoryState, ModuleRef, SnapshotState

if TYPE_CHECKING:
    from wasmsr.channels.functions import Channels
    from wasmsr.interp.store.instance import Imports
    from wasmsr.mem.guest_memory import MemoryFunctions
    from wasmsr.wasi.facade import Wasi


def excessive(limits: Any) -> str | None:
    """Return how limits go beyond what programs may have on this host.

    Args:
        limits: The limits of a snapshot, or of a program that another host offers.

    Returns:
        The rest of a sentence about the first such limit. None if there is none.
    """
    ours = Limits()
    for name in ("memory_pages", "table_elements", "stack_slots", "stack_frames"):
        most, wanted = getattr(ours, name), getattr(limits, name)
        if wanted > most:
            return f"with a limit of {wanted} {name.replace('_', ' ')}, and {most} is the most here"
    return None


def permitted(snapshot: SnapshotState, max_pages: int | None) -> SnapshotState:
    """Return a snapshot with the limits that its program has on this host.

    Args:
        snapshot: The program's state.
        max_pages: Limit of each memory in pages of 64 KiB; None takes the snapshot's.

    Raises:
        SnapshotError: A limit is above what programs may have here.
    """
    if max_pages is not None:
        limits = replace(snapshot.limits, memory_pages=max_pages)
        snapshot = replace(snapshot, limits=limits)
    if (sentence := excessive(snapshot.limits)) is not None:
        raise SnapshotError(
            f"the program was saved {sentence}",
            hint="the library restores it: Snapshot.restore(limits=...)",
        )
    return snapshot


def module_of(snapshot: SnapshotState, module: Module | None, features: str | None) -> Module:
    """Return the module of a program: that of the snapshot's last instance.

    What a module imports from is instantiated before it.

    Args:
        snapshot: The program's state.
        module: The module if it is known; None takes the one that the snapshot embeds.
        features: What an embedded module may need, as for `Module`.

    Raises:
        SnapshotError: The snapshot has no program, or is not valid.
        ModuleMismatch: The module is another one, or the snapshot embeds none.
    """
    if not snapshot.modules or not snapshot.instances:
        raise SnapshotError(
            "the snapshot holds no program: it is of a store without a module",
            hint="the library reads it: wasmsr.Snapshot.load(FILE).restore()",
        )
    reference = reference_of(snapshot)
    if module is not None:
        if module.digest != reference.digest:
            raise ModuleMismatch(
                f"the snapshot is of another module: it is of "
                f"{_named(reference.name, reference.digest)}, "
                f"and {_named(module.name, module.digest)} was given"
            )
        return module
    if reference.binary is None:
        raise ModuleMismatch(
            f"the snapshot does not embed its module, {_named(reference.name, reference.digest)}, "
            "and none was given",
            hint="name the module: wasmsr run PROGRAM --from-snapshot FILE",
        )
    return Module(reference.binary, name=reference.name, features=features)


def reference_of(snapshot: SnapshotState) -> ModuleRef:
    """Return what a snapshot notes of the module of its last instance; it has an instance.

    Raises:
        FormatError: There is no such module.
    """
    index = snapshot.instances[-1].module
    if not 0 <= index < len(snapshot.modules):
        raise FormatError(f"the snapshot is not valid: its last instance is of module {index}")
    return snapshot.modules[index]


def _named(name: str | None, digest: bytes) -> str:
    return f"{name or 'one'} (SHA-256 {digest.hex()[:16]}...)"


def restore_store(
    snapshot: SnapshotState,
    module: Module,
    grants: HostGrants,
    *,
    live: bool,
    deferred: bool = False,
    adopted: bool = False,
    others: Sequence[Module] = (),
) -> tuple[Store, Wasi | None]:
    """Return a store and its WASI in the snapshot's state.

    Args:
        snapshot: The program's state.
        module: Its module.
        grants: What this host gives to the program.
        live: Whether the time since the snapshot counts for the program's monotonic clock.
        deferred: Whether carried files reach their folders when the program starts, not now.
        adopted: Whether the store takes over memories that were read into files for one store.
        others: The other modules of a program of several.

    Raises:
        SnapshotError: The state cannot be restored.
        WasiConfigError: A mount that the program needs is not given, or cannot be used.
    """

    def serve() -> Wasi:
        from wasmsr.wasi.facade import Wasi

        wasi = Wasi.waiting()
        _enter(wasi, snapshot, grants, live=live, deferred=deferred)
        return wasi

    channels = waiting_channels(module, *others)
    _check_channels([module, *others], grants)
    memories = remote_memory_of([module, *others], grants)
    store = restore(
        snapshot,
        modules=[module, *others],
        imports={**own_imports(module, *others), **_given(channels, [module, *others], memories)},
        features=module.allowed_features,
        wasi=serve,
        lay=adopt(snapshot.memories, take=adopted),
    )
    try:
        _enter_channels(store, channels, snapshot, grants)
        _enter_memories(store, memories, snapshot, grants)
    except BaseException:
        store.close()
        raise
    return store, store.wasi


def waiting_channels(*modules: Module) -> Channels | None:
    """Return the channels of a program whose state comes later; None if it uses none."""
    if all(item.module != "env" for module in modules for item in module.imports):
        return None
    from wasmsr.channels.functions import Channels, wanted

    return Channels() if wanted(modules) else None


def waiting_memory(*modules: Module) -> MemoryFunctions | None:
    """Return the remote memories of a program whose state comes later; None if it uses none."""
    if all(item.module != "env" for module in modules for item in module.imports):
        return None
    from wasmsr.mem.guest_memory import MemoryFunctions, wanted_memory

    return MemoryFunctions() if wanted_memory(modules) else None


def _given(
    channels: Channels | None, modules: Sequence[Module], memories: MemoryFunctions | None
) -> Imports:
    """Return the functions of `env`; none, not even the name, if the program uses none of them."""
    found = {} if channels is None else channels.imports(modules)
    found |= {} if memories is None else memories.imports(modules)
    return {"env": found} if found else {}


def _check_channels(modules: Sequence[Module], grants: HostGrants) -> None:
    """Check that a program that uses channels gets some. Raises ChannelsNotGranted."""
    if any(item.module == "env" for module in modules for item in module.imports):
        from wasmsr.channels.functions import check_granted

        check_granted(modules, grants.channels)


def _enter_channels(
    store: Store, channels: Channels | None, snapshot: SnapshotState, grants: HostGrants
) -> None:
    """Put a snapshot's state into channels that wait for it."""
    if channels is None:
        return
    from wasmsr.channels.table import OWNER

    assert grants.channels is not None
    kept = snapshot.extra.get("host state", {})
    if OWNER in kept:
        channels.enter(kept[OWNER], grants.channels)
    else:  # it was saved by something that knew no channels
        channels.begin(grants.channels)
    store.owners[OWNER] = channels


def _enter_memories(
    store: Store, memories: MemoryFunctions | None, snapshot: SnapshotState, grants: HostGrants
) -> None:
    """Put a snapshot's state into the remote memories that wait for it."""
    if memories is None:
        return
    from wasmsr.mem.guest_state import OWNER

    assert grants.memories is not None
    kept = snapshot.extra.get("host state", {})
    if OWNER in kept:
        memories.enter(kept[OWNER], grants.memories)
    else:
        memories.begin(grants.memories)
    store.owners[OWNER] = memories


def _enter(
    wasi: Wasi, snapshot: SnapshotState, grants: HostGrants, *, live: bool, deferred: bool
) -> None:
    """Put a snapshot's state into a WASI that waits for it; see `restore_store`."""
    from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT
    from wasmsr.wasi.state.contents import Contents
    from wasmsr.wasi.state.origin import trusted_time
    from wasmsr.wasi.state.restore import CarriedFiles

    assert snapshot.wasi is not None
    wasi.enter(
        snapshot.wasi,
        mounts=grants.mounts,
        stdin=grants.stdin,
        stdout=grants.stdout,
        stderr=grants.stderr,
        sockets=grants.sockets,
        live=live,
        on_changed=grants.on_changed,
        carried=CarriedFiles(
            snapshot.files or Contents(),
            CARRY_LIMIT if grants.carry_limit is None else grants.carry_limit,
            since=None if deferred else trusted_time(snapshot.wasi, snapshot.lineage.created),
            folder=grants.folder,
            bases=grants.bases or {},
            deferred=deferred,
            staged=grants.staged or {},
        ),
    )


class PreparedStore:
    """The store of a program that arrives, made from a state that the program had before.

    What stays the same while a program runs is in it. Globals, tables that have changed, memories,
    the thread and WASI come from the last state. A store is restored whole on trial first, and
    closed: so what cannot be restored is found before the program is paused, and the code that
    restores is in use.

    Args:
        snapshot: The earlier state, as a decoder gives it; of its memories only the sizes count.
        module: Its module.
        max_pages: As for `permitted`.
        others: The other modules of a program of several.

    Raises:
        SnapshotError: The state cannot be restored.
    """

    def __init__(
        self,
        snapshot: SnapshotState,
        module: Module,
        max_pages: int | None,
        others: Sequence[Module] = (),
    ) -> None:
        from wasmsr.snapshot.restore import StoreRestorer, modules_of

        snapshot = permitted(snapshot, max_pages)

        self._given = False
        self._memories: list[MemoryState] = []
        self.wasi: Wasi | None = None
        imports = own_imports(module, *others)
        if snapshot.wasi is not None:
            from wasmsr.wasi.facade import Wasi
            from wasmsr.wasi.state import restore
            from wasmsr.wasi.state.checked_state import read

            assert restore
            read(snapshot.wasi)
            self.wasi = Wasi.waiting()
            imports = {**self.wasi.imports, **imports}
        self._modules = [module, *others]
        self._channels = waiting_channels(*self._modules)
        self._memory_functions = waiting_memory(*self._modules)
        imports = {**imports, **_given(self._channels, self._modules, self._memory_functions)}
        modules = modules_of(snapshot, [module, *others], module.allowed_features)
        StoreRestorer(snapshot, modules, imports, lambda *_: True).run().close()
        self._restorer = StoreRestorer(snapshot, modules, imports, self._lay)
        self._restorer.allocate()

    def _lay(self, store: Store, address: int) -> bool:
        return adopt(self._memories)(store, address)

    def fill(
        self, snapshot: SnapshotState, grants: HostGrants, *, live: bool, deferred: bool
    ) -> tuple[Store, Wasi | None]:
        """Return the store, which takes over the memories of the last state, and its WASI; once.

        Args:
            snapshot: The state, as a decoder gives it.
            grants: What this host gives to the program.
            live: As for `restore_store`.
            deferred: As for `restore_store`.

        Raises:
            SnapshotError: The state cannot be restored, or is one of another program.
            WasiConfigError: A mount that the program needs is not given, or cannot be used.
        """
        try:
            _check_channels(self._modules, grants)
            remote_memory_of(self._modules, grants)
            self._memories = snapshot.memories
            store = self._restorer.fill(snapshot)
            _enter_channels(store, self._channels, snapshot, grants)
            _enter_memories(store, self._memory_functions, snapshot, grants)
            if self.wasi is not None:
                _enter(self.wasi, snapshot, grants, live=live, deferred=deferred)
                store.wasi = self.wasi
        except BaseException:
            self.close()
            raise
        self._given = True
        return store, self.wasi

    def close(self) -> None:
        """Release what was made, unless `fill` has returned it."""
        if self._given:
            return
        store = self._restorer.store
        if not store.closed:
            store.close()
        if self.wasi is not None:
            self.wasi.close()
