"""The supervisor of a node: takes programs, keeps them, and says what has become of them.

It never runs a program and has no network: `wasmsr.rpc.control` brings the calls.
"""

from __future__ import annotations

import os
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError, printable
from wasmsr.executor.port import ID_BYTES, ExecutorError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.events import Event
from wasmsr.migrate.protocol import Ending
from wasmsr.node.failures import NodeError, SubmissionRefused, WrongState
from wasmsr.node.kept_snapshots import KeptSnapshots
from wasmsr.node.leases.lease_notes import RunNote
from wasmsr.node.leases.lease_terms import EVERY, LeaseTerms
from wasmsr.node.leases.node_leases import NodeLeases
from wasmsr.node.leases.takeovers import Takeovers
from wasmsr.node.moving.node_host import ComingProgram
from wasmsr.node.moving.node_moves import NodeMoves
from wasmsr.node.supervision.found_programs import FoundPrograms
from wasmsr.node.supervision.node_folder import NodeFolder, ProgramFolder
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.noted_program import ProgramRules
from wasmsr.node.supervision.program_record import (
    ProgramRecord,
    ProgramStanding,
)
from wasmsr.node.supervision.program_table import ProgramTable
from wasmsr.node.supervision.submissions import (
    all_modules,
    checked_run,
    linked_modules,
    placed,
)
from wasmsr.node.workers.confinement import Confinement, HostAccess
from wasmsr.node.workers.warm_parents import WarmParents
from wasmsr.node.workers.warm_snapshot import WarmSnapshot
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.snapshot.memory.parts import cores

ADOPT_SECONDS = 30.0
"""How long an adoption by force may take to be heard of."""


class NodeSupervisor:
    """A node without its network. Any thread may call its methods."""

    def __init__(self, folder: Path, rules: NodeRules, node: bytes = b"") -> None:
        """Open the node's folder, and find out what has become of its programs.

        Args:
            folder: The folder.
            rules: How the node treats its programs.
            node: The id that the node has by its certificate; b"" if it has none.

        Raises:
            NodeError: Another process has the folder, it cannot be used, or it is of another
                node.
            ExecutorError: An old worker does not end.
        """
        self.rules = rules
        self.folder = NodeFolder(folder.absolute(), node)
        self.started = time.time()
        self._parents = WarmParents()
        self._table = ProgramTable(self._arriving, lambda program: self.moves.forget(program))
        self._stopping = False
        self._snapshots = KeptSnapshots(
            self.folder, lambda: {one.record.snapshot for one in self._table.all()}
        )
        try:
            self.moves = NodeMoves(self, rules.peer, rules.register)
        except BaseException:
            self.folder.close()
            raise
        self.leases: NodeLeases | None = None
        if self.moves.decisions is not None and rules.store:
            self.leases = NodeLeases(
                self.moves, self.moves.decisions, rules.store, rules.advertised
            )
        self._kept = ProgramRules(
            rules.keep, rules.note, self._table.note_change, self._admit_again, rules.leave,
            self._note_end, self.moves.shown, self.moves.received, self.leases, rules.streams,
            rules.settle,
        )  # fmt: skip
        self._takeovers: Takeovers | None = None
        try:
            found = FoundPrograms(self.folder, self.moves, self._kept, self.worker)
            self._table.fill(found.programs, found.unreadable)
            found.recover()
            self.moves.recover()
            if self.leases is not None:
                self._takeovers = Takeovers(self, self.leases, rules.note)
                self._takeovers.start()
        except BaseException:
            self.close()
            raise

    @property
    def node(self) -> bytes:
        """The node's id."""
        return self.folder.node

    def _admit_again(self, record: ProgramRecord) -> None:
        """Admit a program that is resumed."""
        run = RunSpec.read(record.spec)
        self.rules.admit(record.program, record.submitter, record.digest, run)

    def _note_end(self, program: bytes, ending: str, code: int, sentence: str) -> None:
        self.moves.ended_here(program, Ending(ending, code, sentence))

    # ---- programs --------------------------------------------------------------------------------

    # What moves need; see `NodePlace` and `MovingNode`.

    def worker(self, record: ProgramRecord, folder: ProgramFolder) -> ProcessExecutor:
        """Return a new worker. Raises WasmsrError."""
        spec = RunSpec.read(record.spec)
        self.rules.check(record.digest, spec)
        folder.own_carried.mkdir(parents=True, exist_ok=True, mode=0o700)
        access = HostAccess.of(spec, folder.path)
        linked = [os.fspath(self.folder.module(one)) for _, one in linked_modules(spec)]
        access = replace(
            access, readable=(*access.readable, *linked),
            writable=(*access.writable, os.fspath(folder.own_carried)),
        )  # fmt: skip
        begins = record.standing is ProgramStanding.STARTING
        return self._parents.worker(
            self.folder.module(record.digest), record.digest, spec.features, folder.place,
            Confinement(self.rules.limits, access), ring=self.rules.ring, wait=self.rules.adopt,
            snapshot=self._warm(record.snapshot if begins else "", spec),
        )  # fmt: skip

    @property
    def ring(self) -> int:
        """Bytes that are kept of each stream of output."""
        return self.rules.ring

    def check(self, digest: str, run: RunSpec) -> None:
        """Check a program by the node's rules. Raises WasmsrError."""
        if self._stopping:
            raise NodeError("the node is being stopped and takes no programs")
        self.rules.check(digest, run)

    def admit(self, program: str, caller: str, digest: str, run: RunSpec) -> None:
        """Count a program that comes. Raises WasmsrError."""
        self.rules.admit(program, caller, digest, run)

    def release(self, program: str) -> None:
        """Count a program no more that has come in vain."""
        self.rules.leave(program)
        self._table.note_change()

    def load(self, digest: str, features: str | None) -> None:
        """Have a warm parent load a module. Raises WasmsrError."""
        self._parents.load(self.folder.module(digest), digest, features)

    def note(self, event: str, **values: Any) -> None:
        """Write an event to the log."""
        self.rules.note(event, **values)

    def trace(self, event: Event) -> None:
        """Take an event of a move, for spans."""
        self.rules.trace(event)

    def named(self, program: bytes) -> NodeProgram | None:
        """Return the program with this id, or None."""
        return self._table.named(program)

    def take_over(self, coming: ComingProgram, leased: LeasedMovable | None) -> None:
        """Make a program that has come one of this node's, in place of an older stay."""
        made = NodeProgram(coming.record, coming.folder, self._kept, self.worker)
        made.take(coming.executor, leased)
        self._table.replace(made)

    # What leases need; see `TakingNode`.

    @property
    def leases_programs(self) -> bool:
        """Whether leased programs may be here."""
        return self.leases is not None

    def may_take(self, note: RunNote) -> None:
        """Check a program of another node by the node's rules. Raises WasmsrError."""
        self.check(note.run.digest, note.run.run)

    def takes(self, program: bytes) -> bool:
        """Return whether a leased program is to be here now, by the node's rules."""
        return self.rules.takes(program)

    def take_stay(self, note: RunNote, module: Callable[[str], bytes], epoch: int) -> NodeProgram:
        """Make a program of another node one of this node's, without a worker yet.

        Args:
            note: What its owner has noted.
            module: Returns a module of it by digest.
            epoch: The epoch in which this node owns it.

        Raises:
            WasmsrError, OSError: It cannot be here.
        """
        found = note.run
        self.may_take(note)
        for digest in all_modules(found.digest, found.run):
            if self.folder.module(digest).exists():
                continue
            if self.folder.take_module([module(digest)]) != digest:
                raise SubmissionRefused(f"the module in the store is not {digest[:12]}")
        self.load(found.digest, found.run.features)
        place = self.folder.program(found.program, epoch, taken=True)
        record = ProgramRecord(
            found.program, found.name, found.digest,
            placed(found.digest, found.run, self.folder.module),
            found.submitted, found.submitter, standing=ProgramStanding.RESUMABLE,
            changed=time.time(), life=found.life, begins=[list(one) for one in found.begins],
            every=found.every, epoch=epoch, lease=found.lease, stands=found.paused,
        )  # fmt: skip
        record.write(place.record)
        made = NodeProgram(record, place, self._kept, self.worker)
        self._table.replace(made)
        return made

    def drop_arrival(self, program: bytes) -> None:
        """Forget a state of a program that waits here for a decision: it is over."""
        self.moves.drop_arrival(program)

    def _warm(self, digest: str, run: RunSpec) -> WarmSnapshot | None:
        """Return what a warm parent holds for programs that begin in a snapshot."""
        if not digest:
            return None
        return WarmSnapshot(os.fspath(self.folder.snapshot(digest)), digest, run.max_pages)

    def _check_here(self, what: str, digest: str, place: Callable[[str], Path]) -> None:
        """Refuse what the node does not have."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not place(digest).exists():
            raise SubmissionRefused(f"the node has no {what} {printable(digest)[:64]}")

    def _take_modules(
        self, module: Iterable[bytes] | str, run: RunSpec, more: Iterable[tuple[str, bytes]]
    ) -> str:
        """Take the modules of a program that come, and return the digest of its own.

        Raises:
            SubmissionRefused: One that is named neither comes nor is here, or others come.
            OSError: One cannot be written.
        """
        if isinstance(module, str):
            own = module
            self._check_here("module", own, self.folder.module)
        else:
            own = self.folder.take_module(module)
        named = {digest for _, digest in linked_modules(run)}
        for digest, group in groupby(more, itemgetter(0)):
            if digest not in named:
                raise SubmissionRefused("a module comes that the program does not name")
            if self.folder.take_module(piece for _, piece in group) != digest:
                raise SubmissionRefused("the module that came is another one than was named")
        for digest in named:
            self._check_here("module", digest, self.folder.module)
        return own

    def submit(
        self,
        module: Iterable[bytes] | str,
        spec: Mapping[str, Any],
        *,
        more: Iterable[tuple[str, bytes]] = (),
        snapshot: str = "",
        state: Iterable[bytes] = (),
        name: str = "",
        caller: str = "",
        every: float | None = None,
        lease: LeaseTerms | None = None,
        program: str = "",
        fork: int | None = None,
        wanted: Callable[[], bool] = lambda: True,
    ) -> str:
        """Take a program, start it, and return its id in hexadecimal digits.

        Args:
            module: The module's bytes in pieces, or the digest of one that the node has.
            spec: The run, as `RunSpec.as_dict` gives it; the fields of `TAKEN`.
            more: Pieces of other modules that the run names, each with the module's digest; nothing
                of those that the node has.
            snapshot: The digest of the snapshot in which the program begins; "" for none.
            state: The bytes of this snapshot in pieces; nothing if the node has it.
            name: What people call it.
            caller: Who brings it.
            every: Seconds between checkpoints; None takes the node's.
            lease: The terms of its lease; None for none.
            program: Its id; "" makes one.
            fork: With a snapshot: it goes on as it was, and calls `wasmsr_forked` with this number
                first unless it is 0. None: it is a fork like all that begin in this snapshot.
            wanted: Whether the caller still waits. It is asked when the program is in the list and
                does not run yet: a caller that has given up and does not find it there may have
                another node run it.

        Raises:
            WasmsrError: The node does not take it, or it cannot be started.
        """
        run = checked_run(spec)
        every = every if every is not None else self.rules.every
        if lease is not None:
            self._check_lease(lease, run, snapshot)
            every = every or EVERY
        self._check_begin(run, snapshot, fork)
        program = program or secrets.token_hex(ID_BYTES)
        with self._snapshots.using(snapshot):
            digest = self._take_modules(module, run, more)
            if snapshot:
                self._snapshots.take(snapshot, state)
                self._check_here("snapshot", snapshot, self.folder.snapshot)
            self.rules.admit(program, caller, digest, run)
            try:
                # One that goes on is alone in its snapshot: nothing is held for others.
                begins = "" if fork is not None else snapshot
                warm = self._warm(begins, run)
                self._parents.load(self.folder.module(digest), digest, run.features, warm)
                # A restored program gets its module here, so `program` is only a name.
                record = ProgramRecord(
                    program, name or digest[:12], digest, placed(digest, run, self.folder.module),
                    time.time(), caller, every=every, snapshot=begins, lease=lease,
                )  # fmt: skip
                place = self.folder.program(program)
                record.changed = record.submitted
                record.write(place.record)
                made = NodeProgram(record, place, self._kept, self.worker)
                saved = None if fork is None else self.folder.snapshot(snapshot)
                self._begin(made, saved, fork or 0, wanted)
            except BaseException:
                self.rules.leave(program)
                raise
        self._table.forget_old()
        return program

    def _check_begin(self, run: RunSpec, snapshot: str, fork: int | None) -> None:
        """Check that a program can begin as it is to. Raises NodeError."""
        if fork is not None and not snapshot:
            raise SubmissionRefused("a program goes on in a snapshot, and none is named")
        if snapshot and fork is None and run.preload:
            raise SubmissionRefused(
                "a program of several modules goes on in a snapshot, and is no fork of it",
                hint="`--goes-on` lets it go on",
            )
        if self._stopping:
            raise NodeError("the node is being stopped and takes no programs")

    def _begin(
        self, made: NodeProgram, saved: Path | None, fork: int, wanted: Callable[[], bool]
    ) -> None:
        """Have a program in the list, and then start it. Nothing is left of one that cannot."""
        made.shown()  # the list has that while its start holds the program
        self._table.put(made)
        try:
            if not wanted():
                raise NodeError("nobody waits for the program any more: it was not started")
            made.start(saved, fork)
        except BaseException:
            self._table.drop(made)
            made.folder.remove()
            made.folder.remove_carried()
            raise

    def _check_lease(self, lease: LeaseTerms, run: RunSpec, snapshot: str) -> None:
        """Check that a program can have a lease here. Raises SubmissionRefused."""
        if self.leases is None:
            raise SubmissionRefused(
                "this node leases no programs: it has no register, or no store of checkpoints",
                hint="start it with --ownership-register and --checkpoints-store",
            )
        if snapshot and lease.policy == "restart":
            raise SubmissionRefused(
                "a program that begins in a snapshot is restored elsewhere, and not restarted",
                hint="leave --policy out",
            )
        lease.check(run)

    def _arriving(self) -> list[NodeProgram]:
        arriving = []
        for coming in self.moves.host.coming():
            one = NodeProgram(coming.record, coming.folder, self._kept, self.worker)
            one.arrives = True
            arriving.append(one)
        return arriving

    def find(self, text: str) -> NodeProgram:
        """Return the program whose id begins with these digits, or that has this name.

        Raises:
            NoSuchProgram: There is none, or more than one.
        """
        return self._table.find(text)

    def programs(self) -> list[NodeProgram]:
        """Return all programs, oldest first."""
        return self._table.all()

    def adopt(self, text: str) -> NodeProgram:
        """Resume a program here whose owner cannot be asked, and return it.

        It is one whose move is not decided, or that is at a node that is gone. Whoever asks for it
        says that it does not run elsewhere.

        Raises:
            WrongState: The program is this node's anyway, or nothing is left of it here.
            WasmsrError: It cannot be resumed.
        """
        program = self.find(text)
        name = program.record.program[:8]
        if program.record.lease is not None:
            raise WrongState(
                f"program {name} has a lease: the register says who owns it, and no operator",
            )
        if not program.arrives and not program.can_be_adopted:
            raise WrongState(f"nothing is left here from which program {name} could go on")
        moving = self.moves.is_moving(program.id)
        epoch = self.moves.adopt(program.id)
        self.rules.note("adopted", program=name, epoch=epoch)
        if moving:
            program.wait_still(ADOPT_SECONDS)
        elif not program.arrives:
            program.adopt(epoch)
        return self.find(program.record.program)

    # ---- the whole node --------------------------------------------------------------------------

    def shown(self) -> dict[str, Any]:
        """Return what is known of the node, as plain data."""
        counts: dict[str, int] = {}
        for program in self.programs():
            counts[program.standing.value] = counts.get(program.standing.value, 0) + 1
        return {
            "node": self.node.hex(),
            "process": os.getpid(),
            "started": self.started,
            "programs": counts,
            "stopping": self._stopping,
            "cpus": float(cores()),
        }

    def wait_for_change(self, seconds: float) -> None:
        """Return when a program has changed, or after so many seconds."""
        self._table.wait_for_change(seconds)

    def resume_all(self) -> None:
        """Resume every program that can be resumed; those that cannot are noted."""
        found = [one for one in self.programs() if one.standing is ProgramStanding.RESUMABLE]

        def resume(program: NodeProgram) -> None:
            if program.lent_seconds > 0:  # a browser may run it, and perhaps nobody hears of it
                later = threading.Timer(program.lent_seconds, resume, (program,))
                later.daemon = True
                later.start()
                return
            try:
                program.resume()
            except (WasmsrError, OSError) as error:
                self.rules.note("not-resumed", program=program.record.program[:8], error=str(error))

        with ThreadPoolExecutor(cores(), thread_name_prefix="wasmsr-resume") as pool:
            list(pool.map(resume, found))

    def refuse_programs(self) -> None:
        """Take no programs any more: the node is about to end."""
        self._stopping = True

    def stop(self, *, save: bool, seconds: float) -> list[str]:
        """End all workers, and give the folder up.

        Args:
            save: Save each program first.
            seconds: How long that may take; then the rest of the workers is killed.

        Returns:
            The programs of which nothing is left, by id.
        """
        self._stopping = True
        if self._takeovers is not None:
            self._takeovers.close()
        self.moves.interrupt()
        end = time.monotonic() + seconds
        # One that can be resumed is told too: it may be about to come home from a browser.
        alive = [one for one in self.programs() if not one.standing.is_final]
        kept: dict[str, bool] = {}

        def leave(program: NodeProgram) -> None:
            in_time = time.monotonic() < end
            with suppress(OSError):
                kept[program.record.program] = program.leave(save and in_time)

        pool = ThreadPoolExecutor(8, thread_name_prefix="wasmsr-stop")
        waiting = [pool.submit(leave, program) for program in alive]
        for one in waiting:
            with suppress(TimeoutError, ExecutorError):
                one.result(max(0.0, end + 1.0 - time.monotonic()))
        pool.shutdown(wait=False, cancel_futures=True)
        for program in alive:
            if program.record.program not in kept:  # it takes too long
                with suppress(OSError):
                    kept[program.record.program] = program.leave(False)
        for coming in self.moves.host.coming():
            coming.executor.kill()  # what has come of it whole is in the journal's folder
        for program in self.programs():
            program.settle(max(0.1, end + 1.0 - time.monotonic()))
        self.close()
        return [id for id in (one.record.program for one in alive) if not kept.get(id)]

    def close(self) -> None:
        """Give the folder up; the workers stay, and wait for another supervisor."""
        if self._takeovers is not None:
            self._takeovers.close()
        if self.leases is not None:
            self.leases.close()
        self.moves.close()
        self._parents.close()
        self.folder.close()


__all__ = ["NodeRules", "NodeSupervisor", "checked_run"]
