"""A program of this host, as the rest of the room sees it (`ports.MovableProgram`)."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from wasmsr.errors import ModuleMismatch, printable
from wasmsr.executor.guards import LeaseGate
from wasmsr.executor.local import LocalExecutor
from wasmsr.migrate.files.carried_trees import CarriedTrees
from wasmsr.migrate.files.known_pages import KnownPages
from wasmsr.migrate.files.results import deliver
from wasmsr.migrate.hosting.arriving_files import ArrivingFiles
from wasmsr.migrate.hosting.leaving import LeavingProgram
from wasmsr.migrate.hosting.outgoing_files import OutgoingFiles
from wasmsr.migrate.ports import Buffer
from wasmsr.migrate.protocol import (
    SNAPSHOT_FORMAT,
    Description,
    Ending,
    ModuleName,
    MountName,
    ProgramLimits,
)
from wasmsr.migrate.streams.relays import Relay, StdinAfterMove, input_along
from wasmsr.program.program import Program
from wasmsr.snapshot import format as snapshot_format
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.streams.relayed_input import RelayedInput
from wasmsr.wasi.streams.standard import InputStream

STAYING = frozenset(("host", "ro", "archive"))
"""Modes of mounts whose files are not captured; to capture others can take long."""


class HostedProgram:
    """A program of the executor, with its files and streams.

    Attributes:
        id: The program's id, the same on every host.
    """

    def __init__(
        self,
        program: Program,
        mounts: tuple[MountName, ...],
        belongings: CarriedTrees,
        id: bytes = b"",
        places: Mapping[str, Path] | None = None,
        shown: bytes = b"",
        fed: bytes = b"",
        relays: Sequence[Relay | InputStream] = (),
        after: StdinAfterMove = "relay",
        results: Mapping[str, tuple[Path, str]] | None = None,
        executor: LocalExecutor | None = None,
        known: KnownPages | None = None,
        enrolled: bool = False,
        ahead: ArrivingFiles | None = None,
    ) -> None:
        """Enter the program into the registry of the executor.

        Args:
            program: The program.
            mounts: Its mounts by guest path.
            belongings: The carried trees of all programs.
            id: Its id; b"" takes a new one.
            places: Its carried trees that are in folders of `belongings`, by guest path.
            shown: Node id of the end that shows its output; b"" for the end where it runs.
            fed: Node id of the end that has its input; b"" if the input goes along.
            relays: Its streams to other ends, which `close` closes.
            after: What it reads after it has left.
            results: Where its files go when it has ended here; see `Hosting`.
            executor: The executor that runs it; None takes a new one.
            known: What this end has of programs that are elsewhere.
            enrolled: Whether it is in that registry already.
            ahead: Its carried files that were made ahead, if they are not in their place yet.
        """
        self._ahead = ahead
        self._known = known or KnownPages()
        self._leaving: LeavingProgram | None = None
        self._executor = executor or LocalExecutor()
        self.id = id if enrolled else self._executor.enroll(program, id)
        self._program: Program | None = program
        self._mounts = mounts
        self._belongings = belongings
        self._places = dict(places or {})
        self._shown = shown
        self._fed = fed
        self._relays = relays
        self._after = after
        self._results = results or {}
        self._sentence: str | None = None

    @property
    def program(self) -> Program:
        """The program, until `close`."""
        assert self._program is not None, "the program was closed"
        return self._program

    def describe(self) -> Description:
        """Return what a destination must have for the program."""
        modules, store = self.program.modules, self.program.store
        limits = store.limits
        return Description(
            modules=tuple(
                ModuleName(module.digest, len(module.binary), module.name or "")
                for module in modules
            ),
            snapshot_format=SNAPSHOT_FORMAT,
            features=tuple(sorted({name for module in modules for name in module.needed_features})),
            mounts=self._mounts,
            shown=self._shown,
            fed=self._fed if self._reads_elsewhere() else b"",
            limits=ProgramLimits(
                limits.memory_pages,
                limits.table_elements,
                limits.stack_slots,
                limits.stack_frames,
                store.deterministic,
            ),
        )

    def _reads_elsewhere(self) -> bool:
        """Return whether the program still has an input that does not go along.

        The program may be running.
        """
        wasi = self.program.wasi
        streams = list(wasi.process.descriptors.values()) if wasi is not None else []
        return any(isinstance(s, RelayedInput) and not s.ended for s in streams)

    def module(self, digest: bytes) -> Buffer:
        """Return the binary of a module by digest."""
        for module in self.program.modules:
            if module.digest == digest:
                return module.binary
        raise ModuleMismatch(f"the program has no module {digest.hex()[:16]}")

    def start(self) -> None:
        """Start the program, or continue it."""
        self._executor.resume(self.id)

    def pause(self, timeout: float) -> bool:
        """Pause the program; return False if it did not pause within `timeout` seconds."""
        return self._executor.pause(self.id, timeout)

    def wait(self, timeout: float | None) -> Ending | None:
        """Return how the program ended, or None if it has not after `timeout` seconds."""
        status = self._executor.wait(self.id, timeout)
        if not status.ending:
            return None
        sentence = status.sentence
        if status.ending in ("finished", "exited"):
            sentence = self._left(f"ended with code {status.code}")
        return Ending(status.ending, status.code, sentence)

    def _left(self, sentence: str) -> str:
        """Return `sentence` and where the program's files are, or "" if its user has said where."""
        if self._sentence is None:
            self._sentence = self.deliver(sentence) if self._places else ""
        return self._sentence

    def deliver(self, sentence: str = "") -> str:
        """Move the files of a program that has ended here to where its user wants them.

        Returns `sentence` and where the files are.
        """
        for guest in self._places.keys() & self._results.keys():
            folder, replaces = self._results[guest]
            moved, left = deliver(self._places[guest], folder, replaces)
            if moved:
                names = ", ".join(map(printable, moved))
                sentence = f"{sentence}; {names} is in {printable(folder)}"
            if not left:
                del self._places[guest]
        if self._places:
            places = self._places.items()
            where = ", ".join(f"{printable(guest)} is {printable(path)}" for guest, path in places)
            sentence = f"{sentence}; the program's folder {where}"
        return sentence

    def guard(self, may: Callable[[], bool]) -> None:
        """Let host calls with an effect outside pass only while `may` returns True."""
        self.program.store.gate = LeaseGate(may)

    def lease(self, pause_at: int, end_at: int) -> None:
        """Note nothing: its host calls ask whether the lease lasts."""

    def leave(self, held: Collection[bytes] = (), known: int = 0, files: int = 0) -> LeavingProgram:
        """Begin to send the program away; see `ports.MovableProgram`."""
        wasi = self.program.wasi
        trees = [] if wasi is None else wasi.process.trees.values()
        carries = any(tree.mode not in STAYING for tree in trees)
        image = self._known.sent(self.id, known)
        outgoing = None
        if wasi is not None and carries and files:
            outgoing = OutgoingFiles(wasi.process, held, files)
        self._leaving = LeavingProgram(
            self.program, self._captured, held, trial=not carries, known=image, files=outgoing
        )
        return self._leaving

    def left(self, epoch: int, received: Path | None) -> None:
        """Take note that the program has left; see `ports.MovableProgram`."""
        if self._leaving is not None:
            self._known.left(self.id, epoch, self._leaving.trees, received)
            self._leaving = None

    def pieces(self) -> Iterator[Buffer]:
        """Return the paused program's whole snapshot."""
        return snapshot_format.encode(self._captured(()))

    def _captured(self, held: Collection[bytes]) -> SnapshotState:
        """Return the state without the pieces of files that the destination holds."""
        snapshot = self.program.snapshot()
        wasi = self.program.wasi
        if wasi is not None:
            trees = wasi.process.trees.items()
            known = {os.fsdecode(guest): tree.known for guest, tree in trees}
            self._belongings.note(self.id, snapshot, known)
            assert snapshot.wasi is not None
            snapshot = replace(snapshot, wasi=input_along(self.program, snapshot.wasi, self._after))
        if held and snapshot.files:
            snapshot = replace(snapshot, files=snapshot.files.without(held))
        return snapshot

    def close(self) -> None:
        """Release everything."""
        for relay in self._relays:
            relay.close()
        if self._ahead is not None:
            self._ahead.close()
        if self._program is not None:
            self._executor.remove(self.id)
            self._program.close()
            # Frees the program's memory, which can be most of this host's. Python alone would do
            # that much later: a store and its views refer to each other.
            self._program.store.close()
            self._program = None
