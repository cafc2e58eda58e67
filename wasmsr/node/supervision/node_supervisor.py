"""The supervisor of a node: takes programs, keeps them, and says what has become of them.

It never runs a program and has no network: `wasmsr.rpc.control` brings the calls.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

from wasmsr.errors import WasmsrError, printable
from wasmsr.executor.old_workers import kill, living
from wasmsr.executor.port import ID_BYTES, ExecutorError
from wasmsr.executor.process import ProcessExecutor, old_executors
from wasmsr.executor.rings import read_ring, ring_bounds
from wasmsr.migrate.ports import Peer
from wasmsr.migrate.protocol import Ending, OwnershipState
from wasmsr.node.failures import NodeError, NoSuchProgram, SubmissionRefused, WrongState
from wasmsr.node.moving.node_host import ComingProgram
from wasmsr.node.moving.node_moves import NodeMoves
from wasmsr.node.moving.node_peers import MakePeer
from wasmsr.node.supervision.node_folder import NodeFolder, ProgramFolder
from wasmsr.node.supervision.node_program import NodeProgram, Note, ProgramRules
from wasmsr.node.supervision.program_record import (
    STREAMS,
    MovedTo,
    ProgramRecord,
    ProgramStanding,
)
from wasmsr.node.supervision.submissions import checked_run
from wasmsr.node.workers.confinement import Confinement, HostAccess, WorkerLimits
from wasmsr.node.workers.warm_parents import WarmParents
from wasmsr.node.workers.warm_snapshot import WarmSnapshot
from wasmsr.runspec.run_spec import RunSpec
from wasmsr.snapshot.memory.parts import cores

FINISHED = 1000
"""Programs that have ended and are still known; the oldest are forgotten."""

ADOPT_SECONDS = 10.0
"""How long an old worker may take to say hello; it pauses its program first."""

PIECE = 1 << 16
"""Bytes of output that are given at a time."""

FOLLOW_SECONDS = 0.05
"""Seconds between two looks for more output."""


def _ignore(event: str, **values: Any) -> None:
    """Do nothing with an event."""


def _take_all(program: str, caller: str, digest: str, spec: RunSpec) -> None:
    """Admit every program."""


def _check_nothing(digest: str, spec: RunSpec) -> None:
    """Find nothing wrong with a program."""


def _no_peer(address: str, node: bytes, ours: bytes) -> Peer:
    """Refuse to speak to other nodes."""
    raise NodeError("this node speaks to no other nodes")


@dataclass(frozen=True)
class NodeRules:
    """How a node treats its programs.

    Attributes:
        limits: What each worker may have.
        ring: Bytes of output that are kept of each stream.
        every: Seconds between checkpoints, if the submission does not say; None for none.
        keep: Checkpoints that stay of each program.
        adopt: How many seconds workers wait for a supervisor that is started again.
        admit: Gets id, caller, digest of the module, and the run of each program that comes; it
            raises an error to refuse it.
        check: Gets digest and run before each start of a worker; it raises an error to refuse it.
        leave: Gets the id of each program that no worker has any more.
        peer: Makes another node, by address and node id.
        note: Gets events, for the log.
    """

    limits: WorkerLimits = field(default_factory=WorkerLimits)
    ring: int = 16 << 20
    every: float | None = None
    keep: int = 3
    adopt: float = 30.0
    admit: Callable[[str, str, str, RunSpec], None] = _take_all
    check: Callable[[str, RunSpec], None] = _check_nothing
    leave: Callable[[str], None] = lambda program: None
    peer: MakePeer = _no_peer
    note: Note = _ignore


class OutputPiece(NamedTuple):
    """Output of a program.

    Attributes:
        stream: "stdout" or "stderr".
        offset: Offset in the stream of the first byte.
        data: The bytes.
        life: The life of the program that a reader names when it asks again.
        rewound: The stream was cut to `offset`: what the reader had beyond is written again.
        dropped: Bytes before `offset` that the reader has not had and that are kept no more.
    """

    stream: str
    offset: int
    data: bytes
    life: int
    rewound: bool = False
    dropped: int = 0


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
        self._lock = threading.Lock()
        self._programs: dict[str, NodeProgram] = {}
        self._unreadable: set[str] = set()
        self._changes = threading.Condition()
        self._stopping = False
        try:
            self.moves = NodeMoves(self, rules.peer)
        except BaseException:
            self.folder.close()
            raise
        self._kept = ProgramRules(
            rules.keep, rules.note, self._note_change, self._admit_again, rules.leave,
            self._note_end, self.moves.shown, self.moves.received,
        )  # fmt: skip
        try:
            self._recover()
            self.moves.recover()
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

    def _note_change(self) -> None:
        with self._changes:
            self._changes.notify_all()

    def _note_end(self, program: bytes, ending: str, code: int, sentence: str) -> None:
        self.moves.ended_here(program, Ending(ending, code, sentence))

    # ---- after a crash ---------------------------------------------------------------------------

    def _recover(self) -> None:
        """Say of each program of the folder what has become of it."""
        stays: dict[str, list[tuple[ProgramRecord, ProgramFolder]]] = {}
        for place in self.folder.programs():
            if not place.record.exists():
                place.remove()  # nobody was told of it
                continue
            try:
                record = ProgramRecord.read(place.record)
            except (NodeError, OSError) as error:
                self._show_unreadable(place, str(error))
                continue
            stays.setdefault(record.program, []).append((record, place))
        found: list[NodeProgram] = []
        for program, all_stays in stays.items():
            chosen = self._choose_stay(bytes.fromhex(program), all_stays)
            if chosen is None:
                continue
            made = NodeProgram(*chosen, self._kept, self._worker)
            self._programs[program] = made
            if made.standing.is_alive:
                found.append(made)
        # Each worker is adopted within its waiting time, however many there are.
        with ThreadPoolExecutor(8, thread_name_prefix="wasmsr-recover") as pool:
            list(pool.map(self._recover_one, found))
        if not self._unreadable:  # their modules are not known
            records = [one.record for one in self._programs.values()]
            self.folder.remove_modules(
                {one.digest for one in records}
                | {one.snapshot for one in records}
                | self.moves.waiting_modules()
            )

    def _show_unreadable(self, place: ProgramFolder, error: str) -> None:
        """Show a program whose record cannot be read as lost, and leave its folder alone."""
        name = place.program
        self.rules.note("unreadable", program=name[:8], error=error)
        changed = place.record.stat().st_mtime
        record = ProgramRecord(
            name, "", "", {}, changed, standing=ProgramStanding.LOST, reason=error, changed=changed
        )
        self._unreadable.add(name)
        self._programs[name] = NodeProgram(record, place, self._kept, self._worker)

    def _choose_stay(
        self, program: bytes, stays: list[tuple[ProgramRecord, ProgramFolder]]
    ) -> tuple[ProgramRecord, ProgramFolder] | None:
        """Return the stay of a program that counts: the last in which the journal has it here.

        A stay whose state has come, and which is not decided, waits for the hand-over. The others
        are removed.
        """
        noted = self.moves.record_of(program)
        kept: list[tuple[ProgramRecord, ProgramFolder]] = []
        for record, place in stays:
            here = noted is not None and noted.epoch >= record.epoch
            if not record.attempt or record.standing.is_final or here:
                kept.append((record, place))
                continue
            for name, process in living(place.workers) if place.workers.is_dir() else ():
                kill(place.workers, name, process)  # it has the state, and may not run it
            incoming = noted.incoming if noted else None
            if incoming is None or incoming.attempt.hex() != record.attempt:
                place.remove()
        kept.sort(key=lambda stay: stay[0].epoch)
        for _, place in kept[:-1]:
            place.remove()
        return kept[-1] if kept else None

    def _recover_one(self, program: NodeProgram) -> None:
        try:
            workers = program.folder.workers
            old = old_executors(workers, ADOPT_SECONDS) if workers.is_dir() else []
            noted = self.moves.record_of(program.id)
            if noted is None or noted.standing in (OwnershipState.OWNED, OwnershipState.UNKNOWN):
                program.recover(old)
            elif noted.standing is OwnershipState.OFFERED:
                program.wait_for_owner(noted.peer, old)
            elif noted.standing is OwnershipState.HANDED:
                for one in old:
                    one.kill()
                went = MovedTo(noted.peer, noted.node.hex(), noted.epoch, noted.confirmed)
                program.moved(went)
            else:
                program.recover(old)
        except (WasmsrError, OSError) as error:
            self.rules.note("trouble", program=program.record.program[:8], error=str(error))
            raise

    # ---- programs --------------------------------------------------------------------------------

    def _worker(self, program: NodeProgram) -> ProcessExecutor:
        """Return a worker for a program."""
        return self.worker(program.record, program.folder)

    # What moves need; see `NodePlace` and `MovingNode`.

    def worker(self, record: ProgramRecord, folder: ProgramFolder) -> ProcessExecutor:
        """Return a new worker. Raises WasmsrError."""
        spec = RunSpec.read(record.spec)
        self.rules.check(record.digest, spec)
        folder.own_carried.mkdir(parents=True, exist_ok=True, mode=0o700)
        access = HostAccess.of(spec, folder.path)
        carried = os.fspath(folder.own_carried)
        access = replace(access, writable=(*access.writable, carried))
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
        self._note_change()

    def load(self, digest: str, features: str | None) -> None:
        """Have a warm parent load a module. Raises WasmsrError."""
        self._parents.load(self.folder.module(digest), digest, features)

    def note(self, event: str, **values: Any) -> None:
        """Write an event to the log."""
        self.rules.note(event, **values)

    def named(self, program: bytes) -> NodeProgram | None:
        """Return the program with this id, or None."""
        with self._lock:
            return self._programs.get(program.hex())

    def take_over(self, coming: ComingProgram) -> None:
        """Make a program that has come one of this node's, in place of an older stay."""
        made = NodeProgram(coming.record, coming.folder, self._kept, self._worker)
        with self._lock:
            before = self._programs.get(coming.record.program)
            self._programs[coming.record.program] = made
        made.take(coming.executor)
        if before is not None:
            before.folder.remove()
        self._forget_old()

    def _warm(self, digest: str, run: RunSpec) -> WarmSnapshot | None:
        """Return what a warm parent holds for programs that begin in a snapshot."""
        if not digest:
            return None
        return WarmSnapshot(os.fspath(self.folder.snapshot(digest)), digest, run.max_pages)

    def _check_here(self, what: str, digest: str, place: Callable[[str], Path]) -> None:
        """Refuse what the node does not have."""
        if not re.fullmatch(r"[0-9a-f]{64}", digest) or not place(digest).exists():
            raise SubmissionRefused(f"the node has no {what} {printable(digest)[:64]}")

    def _take_snapshot(self, digest: str, pieces: Iterable[bytes]) -> None:
        """Take the snapshot that was named, unless nothing of it comes and the node has it."""
        pieces = iter(pieces)
        first = next(pieces, None)
        if first is not None and self.folder.take_snapshot(chain([first], pieces)) != digest:
            raise SubmissionRefused("the snapshot that came is another one than was named")
        self._check_here("snapshot", digest, self.folder.snapshot)

    def submit(
        self,
        module: Iterable[bytes] | str,
        spec: Mapping[str, Any],
        *,
        snapshot: str = "",
        state: Iterable[bytes] = (),
        name: str = "",
        caller: str = "",
        every: float | None = None,
    ) -> str:
        """Take a program, start it, and return its id in hexadecimal digits.

        Args:
            module: The module's bytes in pieces, or the digest of one that the node has.
            spec: The run, as `RunSpec.as_dict` gives it; the fields of `TAKEN`.
            snapshot: The digest of the snapshot in which the program begins; "" for none.
            state: The bytes of this snapshot in pieces; nothing if the node has it.
            name: What people call it.
            caller: Who brings it.
            every: Seconds between checkpoints; None takes the node's.

        Raises:
            WasmsrError: The node does not take it, or it cannot be started.
        """
        run = checked_run(spec)
        if self._stopping:
            raise NodeError("the node is being stopped and takes no programs")
        if isinstance(module, str):
            digest = module
            self._check_here("module", digest, self.folder.module)
        else:
            digest = self.folder.take_module(module)
        if snapshot:
            self._take_snapshot(snapshot, state)
        path = self.folder.module(digest)
        program = secrets.token_hex(ID_BYTES)
        self.rules.admit(program, caller, digest, run)
        try:
            self._parents.load(path, digest, run.features, self._warm(snapshot, run))
            # A restored program gets its module here, so `program` is only a name.
            values = {**run.as_dict(), "program": os.fspath(path)}
            record = ProgramRecord(
                program, name or digest[:12], digest, values, time.time(), caller,
                every=every if every is not None else self.rules.every, snapshot=snapshot,
            )  # fmt: skip
            place = self.folder.program(program)
            record.changed = record.submitted
            record.write(place.record)
            made = NodeProgram(record, place, self._kept, self._worker)
            with self._lock:
                self._programs[program] = made
            try:
                made.start()
            except BaseException:
                with self._lock:
                    self._programs.pop(program, None)
                place.remove()
                raise
        except BaseException:
            self.rules.leave(program)
            raise
        self._forget_old()
        return program

    def _forget_old(self) -> None:
        with self._lock:
            ended = [
                one for id, one in self._programs.items()
                if one.standing.is_final and id not in self._unreadable
            ]  # fmt: skip
            ended.sort(key=lambda one: one.record.changed)
            gone = ended[: max(0, len(ended) - FINISHED)]
            for one in gone:
                del self._programs[one.record.program]
        for one in gone:
            self.moves.forget(one.id)
            one.folder.remove()
            shutil.rmtree(one.folder.own_carried, ignore_errors=True)

    def find(self, text: str) -> NodeProgram:
        """Return the program whose id begins with these digits, or that has this name.

        Raises:
            NoSuchProgram: There is none, or more than one.
        """
        digits = text.strip().lower()
        known = {one.record.program: one for one in self.programs()}
        if digits in known:
            return known[digits]
        found = [one for id, one in known.items() if digits and id.startswith(digits)]
        found = found or [one for one in known.values() if one.record.name == text]
        if len(found) == 1:
            return found[0]
        many = "several programs have" if found else "there is no program with"
        raise NoSuchProgram(
            f"{many} the name or the first digits {printable(text, 40)!r} on this node",
            hint="`wasmsr ps` lists them",
        )

    def programs(self) -> list[NodeProgram]:
        """Return all programs, oldest first."""
        arriving = []
        for coming in self.moves.host.coming():
            one = NodeProgram(coming.record, coming.folder, self._kept, self._worker)
            one.arrives = True
            arriving.append(one)
        with self._lock:
            shown = {**self._programs, **{one.record.program: one for one in arriving}}
        found = list(shown.values())
        return sorted(found, key=lambda one: one.record.submitted)

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
        if not program.arrives and not program.can_be_adopted:
            raise WrongState(f"nothing is left here from which program {name} could go on")
        moving = self.moves.is_moving(program.id)
        epoch = self.moves.adopt(program.id)
        self.rules.note("adopted", program=name, epoch=epoch)
        if moving:
            program.wait_still(ADOPT_SECONDS * 3)
        elif not program.arrives:
            program.adopt(epoch)
        return self.find(program.record.program)

    # ---- output ----------------------------------------------------------------------------------

    def output(
        self,
        program: NodeProgram,
        streams: Iterable[str] = STREAMS,
        *,
        follow: bool = False,
        had: Mapping[str, tuple[int, int]] | None = None,
        gone: Callable[[], bool] = lambda: False,
    ) -> Iterator[OutputPiece]:
        """Yield output of a program in pieces.

        Args:
            program: The program.
            streams: The streams.
            follow: Wait for more until the program has ended.
            had: What the reader has: of each stream, the offset after its last piece, and the life
                of that (0 for none).
            gone: Returns whether the reader is gone.

        Raises:
            OSError: The output cannot be read.
        """
        places = {stream: (had or {}).get(stream, (0, 0))[0] for stream in streams}
        lives = {stream: (had or {}).get(stream, (0, 0))[1] for stream in places}
        lives = {stream: life or program.record.life for stream, life in lives.items()}
        while not gone():
            last = not follow or not _may_write(program)
            some = False
            for stream in places:
                while not gone():
                    piece = _next_piece(program, stream, places[stream], lives[stream])
                    if piece is None:
                        break
                    some = True
                    places[stream], lives[stream] = piece.offset + len(piece.data), piece.life
                    yield piece
            if last and not some:
                return
            if not some:
                time.sleep(FOLLOW_SECONDS)

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
        }

    def wait_for_change(self, seconds: float) -> None:
        """Return when a program has changed, or after so many seconds."""
        with self._changes:
            self._changes.wait(seconds)

    def resume_all(self) -> None:
        """Resume every program that can be resumed; those that cannot are noted."""
        found = [one for one in self.programs() if one.standing is ProgramStanding.RESUMABLE]

        def resume(program: NodeProgram) -> None:
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
        self.moves.interrupt()
        end = time.monotonic() + seconds
        alive = [one for one in self.programs() if one.standing.is_alive]
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
        self.moves.close()
        self._parents.close()
        self.folder.close()


def _may_write(program: NodeProgram) -> bool:
    return not program.standing.is_final


def _next_piece(program: NodeProgram, stream: str, offset: int, life: int) -> OutputPiece | None:
    """Return what a reader gets next, or None if there is nothing now."""
    record, folder = program.record, program.folder.output
    now = record.life
    cut = record.rewound(life, stream, offset) if life < now else None
    if cut is not None:
        return OutputPiece(stream, cut, b"", now, rewound=True)
    if offset > ring_bounds(folder, stream)[1]:
        return None  # it asks for what is not written yet
    start, data = read_ring(folder, stream, offset, PIECE)
    if record.life != now or not data:
        return None  # the stream may have been cut while it was read
    return OutputPiece(stream, start, data, now, dropped=start - offset)


__all__ = ["NodeRules", "NodeSupervisor", "OutputPiece", "checked_run"]
