"""The leases of a node's programs: begin, count checkpoints, end, and give back.

The keeper, the table of transitions and the counting of checkpoints are those of `ownership`, and a
program runs as `migrate.decisions` lets it. This file connects them with the programs of a node.
"""

from __future__ import annotations

import os
import threading
import time
from contextlib import suppress
from dataclasses import replace
from typing import Protocol

from wasmsr.errors import WasmsrError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.decisions.register_decision import RegisterDecisions
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.protocol import OwnershipState
from wasmsr.node.failures import NodeError
from wasmsr.node.leases.lease_notes import LeaseNotes
from wasmsr.node.leases.program_leases import LeasedStayView
from wasmsr.node.moving.worker_program import WorkerProgram
from wasmsr.node.supervision.program_record import ProgramRecord, SavePoint
from wasmsr.node.supervision.submissions import SUFFIX
from wasmsr.ownership.failures import RegisterAway, SwapRefused
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.lease import Lease
from wasmsr.ownership.owner_record import FailoverPolicy, LastCheckpoint, OwnerRecord, Standing
from wasmsr.ownership.supervision.counting import CheckpointCounter
from wasmsr.ownership.supervision.stored import PREFIX, fetch_checkpoint, is_stored, remove_others
from wasmsr.ownership.transitions import OwnerState
from wasmsr.snapshot.trust.policy import READ_ANY, WRITE_PLAIN

GIVE_BACK_SECONDS = 3.0
"""How long a register that does not answer is asked, when a program is given back or killed."""

LOOK_SECONDS = 0.1
"""Seconds between two looks at a lease that is being renewed."""

OWNS = (OwnerState.RUNNING, OwnerState.HELD, OwnerState.OFFERING)
"""The states in which a record can be ended or given back."""


class LeasingNode(Protocol):
    """What leases need of the node's moves."""

    @property
    def journal(self) -> Journal:
        """The journal."""

    def worker_program(self, program: LeasedStayView, executor: ProcessExecutor) -> WorkerProgram:
        """Return a program as the hand-over sees it."""


class NodeLeases:
    """The leases of all programs of one node. Any thread may call its methods.

    Attributes:
        decisions: What decides moves, which has every leased program of this node.
        notes: What other nodes need, in the store.
        store: The address of the store, as records name it.
    """

    def __init__(
        self, node: LeasingNode, decisions: RegisterDecisions, store: str, advertised: str = ""
    ) -> None:
        """Make it of the parts of one node.

        Args:
            node: The node's moves.
            decisions: Who decides moves.
            store: The address of the store of checkpoints.
            advertised: Where other nodes call this one, or "".
        """
        address = store if "://" in store else os.path.abspath(store)
        self.decisions = decisions
        self.notes = LeaseNotes(address, advertised)
        self.store = f"{PREFIX}{address}"
        self._node = node
        self._lock = threading.Lock()
        self._counters: dict[bytes, CheckpointCounter] = {}
        self._stop = threading.Event()

    # ---- begin -----------------------------------------------------------------------------------

    def begin(self, program: LeasedStayView, executor: ProcessExecutor) -> LeasedMovable:
        """Become the first owner of a program, which does not run yet.

        Args:
            program: The program.
            executor: Its worker.

        Raises:
            WasmsrError, OSError: The register or the store does not take it.
        """
        record, terms = program.record, program.record.lease
        assert terms is not None
        own = self._node.worker_program(program, executor).path
        self.notes.write_modules(record, lambda digest: own.with_name(digest + SUFFIX))
        self.notes.write(record)
        try:
            leased = self.hold(program, executor)  # it may have to open the register first
            taken = leased.keeper.create(FailoverPolicy(terms.policy), terms.nodes)
        except BaseException:
            self.forget(program.id)
            raise
        if not taken:
            self.forget(program.id)  # if the register takes the record late, nobody can run it
            raise RegisterAway(
                "the register does not take its first record",
                program=program.id,
                hint="check ownership.register of the node",
            )
        leased.keeper.start()
        self._note_owned(record)
        return leased

    def hold(
        self,
        program: LeasedStayView,
        executor: ProcessExecutor,
        keeper: LeaseKeeper | None = None,
    ) -> LeasedMovable:
        """Return a program that runs only as its lease lets it.

        Args:
            program: The program, paused in its worker.
            executor: The worker.
            keeper: The keeper by which this node owns it; None makes one, which owns nothing.
        """
        terms = program.record.lease
        assert terms is not None
        inner = self._node.worker_program(program, executor)
        return self.decisions.hold(inner, Lease(terms.seconds), keeper)

    def own(self, program: LeasedStayView) -> None:
        """Note in the journal that this node owns a program by the register."""
        self._note_owned(program.record)

    def _note_owned(self, record: ProgramRecord) -> None:
        assert record.lease is not None
        journal, program = self._node.journal, bytes.fromhex(record.program)
        with journal.locked(program):
            journal.put(
                Record(program, OwnershipState.OWNED, record.epoch, lease=record.lease.milliseconds)
            )

    def drop(self, program: bytes) -> None:
        """Forget a program: its lease is kept here no more."""
        self.decisions.remove(program)
        with self._lock:
            self._counters.pop(program, None)

    def lost(self, record: ProgramRecord) -> None:
        """Note in the journal that another owns a program, so that it may come back."""
        journal, program = self._node.journal, bytes.fromhex(record.program)
        self.drop(program)
        with journal.locked(program):
            noted = journal.get(program)
            if noted is None or noted.standing is OwnershipState.HANDED:
                return
            journal.put(replace(noted, standing=OwnershipState.LOST))

    # ---- meanwhile -------------------------------------------------------------------------------

    def count(self, program: LeasedStayView, saved: SavePoint) -> None:
        """Make a checkpoint count: it goes to the store, and the record names it.

        Raises:
            WasmsrError: It does not count.
        """
        leased = program.leased
        if leased is None:
            raise NodeError("this node does not own the program")
        keeper = leased.keeper
        with self._lock:
            counter = self._counters.get(program.id)
            fresh = counter is None
            if counter is None:
                counter = self._counters[program.id] = CheckpointCounter(keeper)
        with keeper.lock:
            owned = keeper.program.record
        last = LastCheckpoint(
            bytes.fromhex(saved.root), self.store, owned.epoch if owned else 0,
            saved.output, saved.errors,
        )  # fmt: skip
        counter.put(last, os.fspath(program.folder.saved), READ_ANY)
        if fresh:
            self.notes.write(program.record)
        if counter.count() is None:
            raise NodeError(
                f"the register does not name checkpoint {saved.number}, so it does not count"
            )

    def restore(
        self,
        program: LeasedStayView,
        executor: ProcessExecutor,
        last: LastCheckpoint,
        streams: tuple[int, ...],
    ) -> None:
        """Make a paused program of the checkpoint that counts.

        Args:
            program: The program.
            executor: Its worker.
            last: The checkpoint.
            streams: As for `Executor.restore`.

        Raises:
            WasmsrError, OSError: It cannot be restored.
        """
        record, folder = program.record, program.folder
        saved = record.saved
        if saved is not None and saved.number and saved.root == last.root.hex():
            executor.restore(
                os.fspath(folder.saved), last.root, record.spec, program=program.id,
                streams=streams,
            )  # fmt: skip
            return
        if not is_stored(last):
            raise NodeError(f"the checkpoint is in {last.store}, which is no store")
        place = folder.path / "taken.snapshot"
        try:
            fetch_checkpoint(program.id, last, place, READ_ANY, WRITE_PLAIN)
            with open(place, "rb") as file:
                executor.adopt(file.fileno(), record.spec, program=program.id, streams=streams)
        finally:
            place.unlink(missing_ok=True)

    def write_note(self, record: ProgramRecord) -> None:
        """Note in the store what another node needs. Raises SnapshotError."""
        self.notes.write(record)

    def address_of(self, record: ProgramRecord, found: OwnerRecord) -> str:
        """Return where the owner that a record of the register names is called, or "".

        Raises:
            SnapshotError: The store cannot be read.
        """
        return self.notes.read(record.program, found.epoch).address

    # ---- the end ---------------------------------------------------------------------------------

    def end(self, leased: LeasedMovable, seconds: float = 1e9) -> bool:
        """End the record: nobody may run the program again.

        Args:
            leased: The program.
            seconds: How long to wait for the register.

        Returns:
            Whether the register took it. Otherwise another owns the program, or nobody can tell.
        """
        return self._release(leased, Standing.ENDED, seconds)

    def give_back(self, leased: LeasedMovable) -> bool:
        """Give a paused program back, so that another node takes it at once."""
        return self._release(leased, Standing.RELEASED, GIVE_BACK_SECONDS)

    def _release(self, leased: LeasedMovable, standing: Standing, seconds: float) -> bool:
        keeper, end = leased.keeper, time.monotonic() + seconds
        while not self._stop.is_set():
            with keeper.lock:
                state = keeper.program.state
            if state in OWNS:
                try:
                    return keeper.release(standing=standing, seconds=end - time.monotonic())
                except SwapRefused as error:
                    with keeper.lock:
                        if error.record is not None:
                            keeper.lost, keeper.program.record = error, error.record
                    return False
            if state is OwnerState.NONE or time.monotonic() >= end:
                return False
            self._stop.wait(LOOK_SECONDS)
        return False

    def forget(self, program: bytes) -> None:
        """Remove what the store has of a program that has ended."""
        self.drop(program)
        last = LastCheckpoint(b"", self.store, 1 << 62)
        with suppress(WasmsrError, OSError):
            remove_others(program, last)
            self.notes.remove(program.hex())

    def close(self) -> None:
        """End all waits, and the keepers."""
        self._stop.set()
        self.decisions.close()


__all__ = ["NodeLeases"]
