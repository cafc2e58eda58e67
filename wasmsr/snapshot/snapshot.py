"""`Snapshot`: a paused program as users of the library hold it.

The state itself is plain data (`state.SnapshotState`, the attribute `state`).
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from wasmsr.errors import UnportableState
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    import socket
    from typing import Any

    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.outcomes import Limits
    from wasmsr.interp.store.instance import Imports
    from wasmsr.interp.store.interface import StoreInterface
    from wasmsr.interp.store.store import Store
    from wasmsr.snapshot.moments.moment import Moment
    from wasmsr.snapshot.restore import StoreTemplate
    from wasmsr.wasi.facade import Stdin, Stdout, Wasi
    from wasmsr.wasi.filesystem.mounts import Mount
    from wasmsr.wasi.state.tree_restore import OnChanged

_WASI = ("wasi_snapshot_preview1", "wasi_unstable")


class Snapshot:
    """A paused program.

    Args:
        state: The program's state.

    Attributes:
        state: The program's state as plain data: modules, memories, frames and so on.
    """

    __slots__ = ("state",)

    def __init__(self, state: SnapshotState) -> None:
        self.state = state

    def __repr__(self) -> str:
        return repr(self.state).replace("SnapshotState", "Snapshot", 1)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Snapshot) and self.state == other.state

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(
        cls,
        store: StoreInterface,
        *,
        wasi: Wasi | None = None,
        fuel: int | None = None,
        embed: bool = False,
        parent: Snapshot | None = None,
        views: bool = False,
    ) -> Snapshot:
        """Return the state of a paused or idle store.

        The snapshot is a copy: the program can run on, change or be closed, and the snapshot stays
        the same.

        Args:
            store: An idle store, or one that is paused in the middle of a call.
            wasi: The `Wasi` that serves the program; default is `store.wasi`.
            fuel: Instructions that remain to a program that runs on a budget, noted in the
                snapshot.
            embed: Put the modules' binaries into the snapshot.
            parent: The snapshot that this program was restored from, for the record.
            views: Do not copy the memories. Then the snapshot is right only until the program
                runs, changes or is closed.

        Raises:
            UnportableState: The store is running, holds something that no snapshot can carry, or
                uses a WASI that is not given.
        """
        from wasmsr.snapshot.capture import capture
        from wasmsr.snapshot.memory.page_engine import copied
        from wasmsr.wasi.state.contents import Contents

        wasi = wasi or store.wasi
        if wasi is None and any(module in _WASI for _, module, _ in store.hosts.values()):
            raise UnportableState(
                "the program uses WASI, and its Wasi is not given",
                hint="say `store.wasi = wasi` when it is made, or Snapshot.of(store, wasi=wasi)",
            )
        files = Contents()
        found = capture(
            store,
            wasi=None if wasi is None else wasi.capture(files),
            files=files,
            fuel=fuel,
            embed=embed,
            parent=None if parent is None else parent.state.lineage.id,
        )
        files.keep()
        if views:
            return cls(found)
        copies = [replace(memory, data=copied(memory.data)) for memory in found.memories]
        return cls(replace(found, memories=copies))

    def save(
        self,
        path: str | os.PathLike[str],
        *,
        compress: bool = True,
        sign_with: str | None = None,
        encrypt_with: str | None = None,
    ) -> int:
        """Write `snapshot.bin`, which appears complete or not at all.

        Args:
            path: Name of the file.
            compress: Store memory pages in zstd where that is smaller.
            sign_with: Source of a private key: the name of a file, `env:NAME` for an environment
                variable, or `fd:N` for an open descriptor. `wasmsr snapshot keygen` makes keys.
            encrypt_with: Source of an encryption key.

        Returns:
            The number of bytes written.

        Raises:
            KeySourceError: A key cannot be read.
            SnapshotError: See `wasmsr.snapshot.format.save`.
        """
        from wasmsr.snapshot.format import save
        from wasmsr.snapshot.trust.policy import WriteTrust

        trust = WriteTrust.read(sign_with, encrypt_with)
        return save(self.state, path, compress=compress, trust=trust)

    @classmethod
    def load(
        cls,
        path: str | os.PathLike[str],
        *,
        adopt: bool = False,
        limits: Limits | None = None,
        decrypt_with: str | None = None,
        require_signature: str | None = None,
    ) -> Snapshot:
        """Read `snapshot.bin`.

        Args:
            path: Name of the file.
            adopt: Read it even if it was handed over to another host.
            limits: What its memories, tables and stack may have at most, where the program ran
                with larger limits than the default ones.
            decrypt_with: Source of the key of an encrypted snapshot, as for `save`.
            require_signature: Source of public keys, one of which must have signed the snapshot.

        Raises:
            KeySourceError: A key cannot be read.
            SnapshotError: See `wasmsr.snapshot.format.load`.
        """
        from wasmsr.snapshot.format import load
        from wasmsr.snapshot.trust.policy import ReadTrust

        accepted = () if require_signature is None else (require_signature,)
        trust = ReadTrust.read((decrypt_with,), accepted)
        return cls(load(path, adopt=adopt, limits=limits, trust=trust))

    def restore(
        self,
        *,
        modules: Iterable[Module] = (),
        imports: Imports | None = None,
        mounts: Sequence[Mount] = (),
        stdin: Stdin = None,
        stdout: Stdout = 1,
        stderr: Stdout = 2,
        sockets: Sequence[socket.socket] = (),
        limits: Limits | None = None,
        features: str | Iterable[str] | None = None,
        live: bool = False,
        on_changed: OnChanged | None = None,
        carry_limit: int | None = None,
        lay: Callable[[Store, int], bool] | None = None,
        template: StoreTemplate | None = None,
    ) -> Store:
        """Return a new store in this state; its `run` continues the program.

        A snapshot can be restored any number of times; each store is a fork with a life of its own.
        The host grants anew what the program may use: a snapshot grants nothing.

        Args:
            modules: The modules that the snapshot names; embedded ones need not be given.
            imports: The host functions that the program uses, as for `Store.instantiate`. One with
                an identity is found by it, under whatever names it is given.
            mounts: As for `Wasi.restore`, like the next ones up to `sockets`, `live` and
                `on_changed`; for a program that uses WASI. The store's `wasi` is the new `Wasi`,
                which `Store.close` closes.
            stdin: Standard input.
            stdout: Standard output.
            stderr: Standard error.
            sockets: Listening sockets.
            limits: Limits in place of those of the snapshot.
            features: What embedded modules may need, as for `Module`.
            live: The state comes from a move.
            on_changed: What to do about files of the host that have changed.
            carry_limit: Bytes that each tree of carried files may hold; default 1 GiB.
            lay: Gives memories their bytes in another way; see `restore.restore`. By default, large
                memories that were read from a file are mapped, and others are copied.
            template: A template of the program with the same limits, in place of `modules`, for a
                state that was read from bytes.

        Raises:
            ModuleMismatch: A module is missing, or another one was given.
            ModuleError: An embedded one is invalid, or needs a feature that it may not need.
            FormatError: The snapshot contradicts its modules or itself.
            WasiConfigError: A mount is missing; the hint says which option names it.
            SnapshotError: A host function is missing or ambiguous, a file is gone, or a limit is
                too low.
        """
        from wasmsr.snapshot.restore import restore

        state = self.state
        if lay is None:
            from wasmsr.snapshot.memory.adoption import adopt

            lay = adopt(state.memories, take=False)

        def serve() -> Wasi:
            return _serve(
                state, carry_limit, mounts=mounts, stdin=stdin, stdout=stdout, stderr=stderr,
                sockets=sockets, live=live, on_changed=on_changed,
            )  # fmt: skip

        if template is not None:
            return template.restore(self._limited(limits), imports or {}, serve, lay)
        return restore(
            self._limited(limits),
            modules=modules,
            imports=imports,
            features=features,
            wasi=serve,
            lay=lay,
        )

    def moment(
        self,
        *,
        modules: Iterable[Module] = (),
        imports: Imports | None = None,
        limits: Limits | None = None,
        features: str | Iterable[str] | None = None,
    ) -> Moment:
        """Return this state as a `Moment`, from which forks come in less than 1 ms each.

        The state is checked once, and its memories are copied once, into files in memory.

        Args:
            modules: As for `restore`, like the next three.
            imports: The host functions that the program uses, besides those of WASI.
            limits: Limits in place of those of the snapshot.
            features: What embedded modules may need.

        Raises:
            SnapshotError, ModuleError: As for `restore`; or the host has no room.
        """
        from wasmsr.snapshot.moments.moment import Moment

        state = self._limited(limits)
        return Moment.of_state(state, modules=modules, imports=imports, features=features)

    def fork(
        self,
        count: int,
        *,
        first: int = 1,
        imports: Imports | None = None,
        modules: Iterable[Module] = (),
        limits: Limits | None = None,
        features: str | Iterable[str] | None = None,
        own: Callable[[int], Mapping[str, Any]] | None = None,
        **grants: Any,
    ) -> list[Store]:
        """Return new stores in this state that share the memory which they do not write.

        Each fork has pages, descriptors, streams and files of its own. What the program holds in
        memory is equal in all of them, random state and keys included. So a fork can ask for its
        number (the import `wasmsr.fork_number`, an i64), and if the program exports
        `wasmsr_forked(number, seed_low, seed_high)`, three i64, the fork calls it first, with 128
        fresh random bits. Like a signal handler, it may come between any two instructions. The
        host's random bytes are never shared; a deterministic program gets a stream of its own by
        its number. Folders that are only read are shared. What is written to an overlay, a
        tree in memory or a carried tree stays with the fork; the carried folder itself does not
        change. A folder of mode `host` is the same for all.

        Args:
            count: How many.
            first: The number of the first fork; the others follow. Numbers that were given before
                are for the caller to avoid.
            imports: As for `restore`, like `modules`, `limits` and `features`.
            modules: The modules that the snapshot names; embedded ones need not be given.
            limits: Limits in place of those of the snapshot.
            features: What embedded modules may need.
            own: Gives what one fork gets in place of what all get, by its number: standard
                streams, for example.
            grants: The arguments of `restore` from `mounts` to `carry_limit`, for all forks.

        Raises:
            ValueError: A number is less than 1.
            SnapshotError: The host has no room; or as for `restore`. No fork is left then.
        """
        with self.moment(
            modules=modules, imports=imports, limits=limits, features=features
        ) as moment:
            return moment.fork(count, first=first, imports=imports, own=own, **grants)

    def _limited(self, limits: Limits | None) -> SnapshotState:
        """Return the state with other limits."""
        state = self.state
        if limits is None:
            return state
        return replace(state, limits=replace(state.limits, **vars(limits)))

    def content_digest(self) -> bytes:
        """Return a digest (32 bytes) of everything but the lineage.

        It is equal for two snapshots exactly if their states are.
        """
        from wasmsr.snapshot.format import content_digest

        return content_digest(self.state)


def _serve(state: SnapshotState, carry_limit: int | None, **options: Any) -> Wasi:
    """Return the WASI of a state, with the options of `Wasi.restore`."""
    from wasmsr.wasi.facade import Wasi
    from wasmsr.wasi.filesystem.mounts import CARRY_LIMIT
    from wasmsr.wasi.state.contents import Contents
    from wasmsr.wasi.state.origin import trusted_time
    from wasmsr.wasi.state.restore import CarriedFiles

    assert state.wasi is not None
    carried = CarriedFiles(
        state.files or Contents(),
        carry_limit or CARRY_LIMIT,
        trusted_time(state.wasi, state.lineage.created),
    )
    return Wasi.restore(state.wasi, carried=carried, **options)


__all__ = ["Snapshot"]
