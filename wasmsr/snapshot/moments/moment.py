"""`Moment`: a state of a program in the memory of this process, from which forks come.

A moment has what changes of a store, apart from the memories, in a copy of the store without
memories; it shares the rest. It has the memories as files, which forks map privately. So a fork
copies nothing but the small things, and gets pages of its own where it writes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from wasmsr import realtime
from wasmsr.errors import SnapshotError, WasmsrError
from wasmsr.snapshot.memory.adoption import base_of
from wasmsr.snapshot.memory.bases import MemoryBases
from wasmsr.snapshot.moments.forks import call_hooks, fork_imports, hooks_of
from wasmsr.snapshot.moments.images import MemoryImage

if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.store.instance import Imports
    from wasmsr.interp.store.store import Store
    from wasmsr.snapshot.state import MemoryState, SnapshotState
    from wasmsr.wasi.facade import Wasi
    from wasmsr.wasi.filesystem.mounts import Mount
    from wasmsr.wasi.filesystem.trees import MountTree
    from wasmsr.wasi.state.checked_state import WasiState
    from wasmsr.wasi.state.contents import Contents

Grants = Mapping[str, Any]
"""What the host gives to a fork, by the names in `GRANTS`."""
GRANTS = frozenset(
    ("mounts", "stdin", "stdout", "stderr", "sockets", "live", "on_changed", "carry_limit")
)
"""The arguments of `Snapshot.restore` that a fork can be given."""


@dataclass
class SavedWasi:
    """The part of a moment that WASI has.

    Attributes:
        state: Everything that the program can observe, checked.
        files: The content of carried files.
        since: When the state was taken, ns of realtime, if the state was taken on this host.
    """

    state: WasiState
    files: Contents
    since: int | None = None
    trees: dict[bytes, MountTree] = field(default_factory=dict)

    @classmethod
    def of(cls, wasi: Wasi, before: Contents | None = None) -> SavedWasi:
        """Return the present state of a paused program's WASI.

        Args:
            wasi: The WASI.
            before: What files consisted of in an earlier moment; equal chunks are shared.

        Raises:
            UnportableState: It holds something that no snapshot can carry.
            SnapshotError: A file cannot be read, or there is no room for a copy.
        """
        from wasmsr.wasi.state.checked_state import read
        from wasmsr.wasi.state.contents import Contents
        from wasmsr.wasi.state.origin import trusted_time

        files = Contents()
        state = wasi.capture(files)
        files.keep(before)
        return cls(read(state), files, trusted_time(state, realtime.now()))

    def put_back(self, wasi: Wasi) -> None:
        """Put a program's WASI back into this state. Raises SnapshotError."""
        wasi.go_back(self.state, self.files, self.since)

    def seed(self, number: int) -> bytes | None:
        """Return the seed of a fork of a deterministic program, None of another program."""
        seed = self.state.seed
        if seed is None:
            return None
        return blake2b(seed + number.to_bytes(8, "little"), digest_size=32).digest()

    def open(self, mounts: Sequence[Mount], limit: int | None) -> None:
        """Open what forks share of the trees of mounts. Raises WasiConfigError."""
        from wasmsr.wasi.filesystem.mount_trees import open_shared
        from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT

        used = {mount.guest for mount in self.state.mounts}
        for mount in mounts:
            name = os.fsencode(mount.guest)
            tree = open_shared(mount, limit or CARRY_LIMIT) if name in used else None
            if tree is not None:
                self.trees[name] = tree

    def close(self) -> None:
        """Let go of these trees; forks keep them as long as they need them."""
        while self.trees:
            self.trees.popitem()[1].close()

    def fork(self, number: int, grants: Grants) -> Wasi:
        """Return the WASI of a fork; a carried tree is a private copy.

        Raises:
            WasiConfigError, SnapshotError: As `Wasi.restore`.
        """
        from wasmsr.wasi.facade import Wasi
        from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT
        from wasmsr.wasi.state.restore import CarriedFiles

        given = dict(grants)
        limit = given.pop("carry_limit", None) or CARRY_LIMIT
        mounts = [mount for mount in given.pop("mounts", ()) if mount.mode != "carry"]
        state, seed = self.state, self.seed(number)
        if seed is not None:
            state = replace(state, seed=seed, position=0)
        carried = CarriedFiles(self.files, limit, self.since)
        return Wasi.restore(state, mounts=mounts, carried=carried, shared=self.trees, **given)


class Moment:
    """A state of a program in memory.

    `Snapshot.moment` makes one of a snapshot, and `History.take` of a running program. It stays as
    it is while forks run. `close` gives its memory back; forks keep what they share.
    """

    def __init__(self, held: Store, images: Sequence[MemoryImage], wasi: SavedWasi | None) -> None:
        self.held = held
        self.images = list(images)
        self.wasi = wasi
        self.since: list[bytearray] | None = None
        """For each memory, flags of the pages that may differ from the moment with which the
        moment's history began; None if it began with none."""
        self.foreign = False
        """Whether it comes from a snapshot, and not from a running store with its functions."""
        self._hooks = hooks_of(held)

    @classmethod
    def of_state(
        cls,
        state: SnapshotState,
        *,
        modules: Iterable[Module] = (),
        imports: Imports | None = None,
        features: str | Iterable[str] | None = None,
    ) -> Moment:
        """Return the moment of a snapshot's state, which is checked once here.

        Args:
            state: The state.
            modules: The modules that the snapshot names; embedded ones need not be given.
            imports: The host functions that the program uses, besides those of WASI.
            features: What embedded modules may need, as for `Module`.

        Raises:
            SnapshotError, ModuleError: As `Snapshot.restore`; or the host has no room.
        """
        from wasmsr.snapshot.restore import restore

        if "host state" in state.extra:
            raise SnapshotError(
                "a program with channels or remote memory cannot be forked: it is one peer"
            )
        given = {**fork_imports(0), **(imports or {})}
        if state.wasi is not None:
            from wasmsr.wasi.facade import Wasi

            given = {**Wasi().imports, **given}
        made = restore(
            state, modules=modules, imports=given, features=features, lay=lambda *_: True
        )
        try:
            held = made.copied(memories=False)
        finally:
            made.close()
        moment = cls(held, images_of(state.memories), _wasi_of(state))
        moment.foreign = True
        return moment

    def fork(
        self,
        count: int,
        *,
        first: int = 1,
        imports: Imports | None = None,
        own: Callable[[int], Grants] | None = None,
        **grants: Any,
    ) -> list[Store]:
        """Return new stores in this state that share the memory which they do not write.

        See `Snapshot.fork` for what a fork has of its own.

        Args:
            count: How many.
            first: The number of the first fork; the others follow.
            imports: The host functions that the program uses, as for `Snapshot.restore`.
            own: Gives what one fork gets in place of what all get, by its number: standard
                streams, for example.
            grants: The arguments of `Snapshot.restore` from `mounts` to `carry_limit`, for all.

        Raises:
            ValueError: A number is less than 1.
            LinkError: A host function is missing, or has another type.
            SnapshotError, WasiConfigError: As for `Snapshot.restore`. No fork is left then.
        """
        if count < 0 or first < 1:
            raise ValueError("forks have the numbers 1 and up")
        if self.held.closed:
            raise WasmsrError("the moment is closed")
        unknown = grants.keys() - GRANTS
        if unknown:
            raise TypeError(f"a fork is not given {', '.join(sorted(unknown))}")
        made: list[Store] = []
        try:
            if self.wasi is not None:
                self.wasi.open(grants.get("mounts", ()), grants.get("carry_limit"))
            for number in range(first, first + count):
                given = {**grants, **own(number)} if own is not None else grants
                made.append(self._fork(number, imports, given))
        except BaseException:
            for store in made:
                store.close()
            raise
        finally:
            if self.wasi is not None:
                self.wasi.close()
        return made

    def is_of(self, store: Store) -> bool:
        """Return whether the moment can be that of a store: its first instance has the same
        module, and one from a snapshot has the same host functions at the same addresses."""
        if self.held.closed:
            return False
        mine, others = (
            [one.module.digest for one in of.instances[:1]] for of in (self.held, store)
        )
        if mine != others or (self.wasi is None) != (store.wasi is None):
            return False
        if not self.foreign:
            return True
        known = {at: (one.type, *names) for at, (one, *names) in store.hosts.items()}
        return all(
            known.get(at) == (one.type, *names) for at, (one, *names) in self.held.hosts.items()
        )

    def close(self) -> None:
        """Give back its memory. Forks are not concerned. Again does nothing."""
        self.held.close()
        self.images.clear()

    def __enter__(self) -> Moment:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _fork(self, number: int, imports: Imports | None, grants: Grants) -> Store:
        wasi = None if self.wasi is None else self.wasi.fork(number, grants)
        store = None
        try:
            given: Imports = {
                **({} if wasi is None else wasi.imports),
                **fork_imports(number),
                **(imports or {}),
            }
            store = self.held.copied(given)
            store.bases = MemoryBases(store)
            for address, image in enumerate(self.images):
                image.lay(store, address, store.bases)
            self._call_hooks(store, number)
        except BaseException:
            if store is not None:
                store.close()
            if wasi is not None:
                wasi.close()
            raise
        store.wasi = wasi
        return store

    def _call_hooks(self, store: Store, number: int) -> None:
        if self._hooks:
            call_hooks(store, self._hooks, number, self.fresh(number))

    def fresh(self, number: int) -> bytes:
        """Return 16 random bytes for a fork; those of a deterministic program follow from its
        seed and the number."""
        seed = None if self.wasi is None else self.wasi.seed(number)
        if seed is not None:
            return blake2b(seed, digest_size=16, person=b"wasmsr fork").digest()
        return os.urandom(16)


def _wasi_of(state: SnapshotState) -> SavedWasi | None:
    if state.wasi is None:
        return None
    from wasmsr.wasi.state.checked_state import read
    from wasmsr.wasi.state.contents import Contents
    from wasmsr.wasi.state.origin import trusted_time

    since = trusted_time(state.wasi, state.lineage.created)
    return SavedWasi(read(state.wasi), state.files or Contents(), since)


def images_of(memories: Sequence[MemoryState]) -> list[MemoryImage]:
    """Return memories of a state that was read; those of a mapped file are not copied.

    Raises:
        SnapshotError: The host has no room.
    """
    try:
        return [_image_of(memory) for memory in memories]
    except (OSError, AttributeError) as error:
        raise SnapshotError(
            f"there is no room for the memories that forks share: {error}"
        ) from error


def _image_of(memory: MemoryState) -> MemoryImage:
    base = base_of(memory.data)
    if base is not None and not base.own:  # of a mapped snapshot: forks map it too
        return MemoryImage(len(memory.data), base=base)
    return MemoryImage.of_bytes(memoryview(memory.data))


__all__ = ["Moment", "SavedWasi", "images_of"]
