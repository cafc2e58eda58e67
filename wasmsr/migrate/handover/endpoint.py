"""One end of `wasmsr remote`: runs a program, sends it on, waits for it, until it ends.

Both halves of the hand-over on one journal. `run` is the loop, on a thread of its own; the methods
under "What the peer asks" are called by `wasmsr.rpc.server` from its threads meanwhile, and
`interrupt` from the main thread.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import TypeVar

from wasmsr.errors import EXIT_INTERRUPTED, MigrationError, WasmsrError
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.destination import MoveDestination, Reception, Upload, refused
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, Peer, ProgramHost
from wasmsr.migrate.protocol import (
    Answer,
    Ending,
    InDoubt,
    JournalError,
    ModuleName,
    Move,
    Offer,
    OwnershipState,
    PeerLost,
    PeerRefused,
    PeerUnknown,
    Reason,
    Report,
)

T = TypeVar("T")

CONTACT_SECONDS = 10.0
"""How long a peer may be absent at the start."""

SLICE = 0.02
"""Seconds between two looks at whether somebody interrupted."""

SETTLE_SECONDS = 1.0
"""How long a READY end waits for the decision before it asks."""

LOOK_SECONDS = 5.0
"""Seconds between two questions to the end that has the program."""

PARK_SECONDS = 60.0
"""How long a READY state keeps this end from taking other programs."""

LONGEST_WAIT = 60.0
"""Seconds between two tries of a move that is refused again and again, at most."""

STRANGER_SECONDS = 60.0
"""Seconds between two lines about callers who are refused."""

PATIENCE = 0.05
"""Seconds that an interrupted program gets to stand; a host call that does not yield is left."""

FAREWELL_SECONDS = 5.0
"""How long the end of a program is told to a peer that does not answer."""


@dataclass(frozen=True)
class Finish:
    """How it all ended, whether that was on this end, and whether the interrupted program did not
    stand still in time, so that the process must not wait for it."""

    ending: Ending
    here: bool
    abandoned: bool = False


class Endpoint:
    """One end. `every` is the seconds that a program runs here before it is sent on."""

    def __init__(
        self,
        journal: Journal,
        modules: Modules,
        host: ProgramHost,
        peer: Peer,
        announce: Announce,
        *,
        every: float,
        software: str = "",
    ) -> None:
        self.journal = journal
        self.peer = peer
        self.announce = announce
        self.every = every
        self.stop = threading.Event()
        self.peers = Peers(peer)
        self.source = MoveSource(journal, self.peers, announce, self.stop, software=software)
        self.destination = MoveDestination(
            journal,
            host,
            modules,
            announce,
            self._arrive,
            peers=self.peers,
            software=software,
        )
        self._news = threading.Condition()
        self._arrived: MovableProgram | None = None
        self._failure: Exception | None = None
        self._told: Ending | None = None
        self._refused = 0
        """How often the program's move was refused in sequence."""
        self._strangers: dict[str, tuple[float, int]] = {}
        """What was said last of refused callers, by kind: when, and how many came since."""
        self._gaps: set[tuple[bytes, str]] = set()
        self._lost: MigrationError | None = None
        self._interrupted = Ending("interrupted", EXIT_INTERRUPTED)
        self._session: set[bytes] = set()
        """Programs whose end is this node's end: that ran here, or that the peer has prepared to
        send. Others are what older sessions left in the journal, cleared away when the peer says
        what became of them."""

    # What the user does.

    def interrupt(self, ending: Ending) -> None:
        """End `run` soon; `ending` says why. From any thread."""
        self._interrupted = ending
        self.stop.set()
        self.peer.interrupt()
        with self._news:
            self._news.notify_all()

    def recover(self) -> None:
        """Take up what an earlier process left in the journal, before anybody can ask.

        Raises WasmsrError if a program that is READY here cannot be restored any more.
        """
        for record in self.journal.records():
            if record.standing is OwnershipState.OWNED:
                # Its process ran it and is gone; what came after `received` went with it.
                self.journal.put(replace(record, standing=OwnershipState.LOST))
                self._announce_lost(record)
        self.destination.recover()

    def run(self, launch: Callable[[], MovableProgram] | None = None) -> Finish:
        """Run programs to the end; `launch` makes the one that begins here, if any does.

        Raises MigrationError: HandedAway and InDoubt say what an interrupt left open.
        """
        try:
            return self._run(launch)
        finally:
            self.destination.retire()

    def _run(self, launch: Callable[[], MovableProgram] | None) -> Finish:
        self._settle_old()
        program: MovableProgram | None = None
        # What an earlier session began comes first, even if all that is left of it is its end.
        if launch and not self._elsewhere() and not self._told and not self.destination.ready:
            program = self._begin(launch())
            if program is None:
                return Finish(self._interrupted, here=True)
            self._told = None  # while it was not begun, only another's end can have been told
        while True:
            if program is None:
                news = self._await()
                if isinstance(news, Finish):
                    return news
                program = news
            self._session.add(program.id)
            ending = self._watch(program)
            if ending is None and not self.stop.is_set():
                if self.source.move(program):
                    self._refused = 0
                    program.close()
                    program = None
                    continue
                if not self.stop.is_set():
                    self._refused = self._refused + 1 if self.source.refused else 0
                    continue
            return self._finish(program, ending or self._interrupted)

    # The loop's parts.

    def _begin(self, program: MovableProgram) -> MovableProgram | None:
        """Start a new program when the peer has said that it would take it; None if interrupted
        before that."""
        try:
            move = self.source.next_move(program.id)
            self._contact(lambda: self.source.prepare(program, move))
            if self.stop.is_set():
                program.close()
                return None
            self.source.own(program)
        except WasmsrError:
            program.close()
            raise
        values: dict[str, object] = {"program": program.id.hex(), "epoch": 1}
        self.announce(Event("started", "started here", values))
        program.start()
        return program

    def _contact(self, ask: Callable[[], T]) -> T | None:
        """Repeat `ask` until the peer answers it; None if the user interrupts before that.

        Raises MigrationError after `CONTACT_SECONDS`, PeerRefused if the peer says no.
        """
        deadline = time.monotonic() + CONTACT_SECONDS
        told = 0.0
        while not self.stop.is_set():
            try:
                return ask()
            except PeerUnknown:
                raise
            except PeerLost as error:
                trouble: MigrationError = error
            except PeerRefused as error:
                if error.reason is not Reason.BUSY:
                    raise
                trouble = error
            left = deadline - time.monotonic()
            if left <= 0:
                raise MigrationError(
                    f"gave up after {CONTACT_SECONDS:.0f} s: {trouble}",
                    phase="prepare",
                    owner="source",
                    hint="start the other end first, and check --peer",
                )
            if time.monotonic() - told >= 1:
                told = time.monotonic()
                text = f"waiting for {self.peer.address}, {left:.0f} s more ({trouble})"
                self.announce(Event("retry", text, {"peer": self.peer.address, "left": left}))
            self.stop.wait(0.2)
        return None

    def _watch(self, program: MovableProgram) -> Ending | None:
        """Let it run for `every` seconds, longer where its moves are refused; how it ended, or
        None if it did not."""
        wait = self.every
        if self._refused:
            wait = max(wait, min(LONGEST_WAIT, wait * 2 ** min(self._refused, 16)))
            text = f"the next try to move it is in {wait:.0f} s"
            self.announce(Event("retry", text, {"peer": self.peer.address, "left": wait}))
        deadline = time.monotonic() + wait
        while not self.stop.is_set():
            left = deadline - time.monotonic()
            ending = program.wait(max(0.0, min(SLICE, left)))
            if ending or left <= 0:
                return ending
        return None

    def _finish(self, program: MovableProgram, ending: Ending) -> Finish:
        abandoned = ending is self._interrupted and not program.pause(PATIENCE)
        self.destination.retire(program.id)
        record = self.journal.get(program.id)
        if record:
            self._tell_end(record, ending)
        if not abandoned:
            program.close()
            self.destination.host.forget(program.id, here=True)
        values: dict[str, object] = {"code": ending.code, "kind": ending.kind, "here": True}
        text = ending.sentence or f"ended here with code {ending.code}"
        self.announce(Event("ended", text, values))
        return Finish(ending, here=True, abandoned=abandoned)

    def _tell_end(self, record: Record, ending: Ending) -> None:
        try:
            self.journal.put(replace(record, standing=OwnershipState.ENDED, ending=ending))
        except JournalError as error:
            self.announce(Event("trouble", error.message))
        deadline = time.monotonic() + FAREWELL_SECONDS
        while True:
            try:
                self.peer.ended(record.program, record.epoch, ending)
                break
            except (PeerLost, PeerRefused) as error:
                late = time.monotonic() > deadline
                if late or self.stop.is_set() or isinstance(error, PeerRefused):
                    text = f"{self.peer.address} was not told that the program ended: {error}"
                    self.announce(Event("silent", text))
                    return
            self.stop.wait(0.2)
        try:
            self.journal.forget(record.program)
        except JournalError as error:
            self.announce(Event("trouble", error.message))

    def _await(self) -> MovableProgram | Finish:
        """Wait for a program to arrive, or to end on the other end."""
        looked = time.monotonic()
        silent = False
        while True:
            with self._news:
                self._news.wait_for(self._has_news, 0.25)
                if self._failure:
                    raise self._failure
                if self._arrived:
                    program, self._arrived = self._arrived, None
                    return program
                told = self._told
            ready = self.destination.ready
            if self.stop.is_set() or told:
                if self.destination.retire():
                    return self._ended_there(told) if told else Finish(self._interrupted, here=True)
                if self.stop.is_set() and ready:
                    raise self._in_doubt()
                # Otherwise a program has come at this very moment.
            if ready and time.monotonic() - ready.since > SETTLE_SECONDS:
                self._ask_about(ready.move)
                ready.since = time.monotonic()
                if ready.since - ready.came > PARK_SECONDS:
                    self.destination.park()
                continue
            outstanding = self._outstanding()
            if self._lost and self.destination.retire():
                raise self._lost
            if time.monotonic() - looked > LOOK_SECONDS:
                looked = time.monotonic()
                if outstanding:
                    silent = self._look(outstanding, silent)
                for move in self.destination.parked():
                    with suppress(PeerLost, PeerRefused):
                        self.destination.settle(move, self.peer.status(move))

    def _has_news(self) -> bool:
        return bool(self._arrived or self._told or self._failure or self.stop.is_set())

    def _ask_about(self, move: Move) -> None:
        """Ask the source what it has decided, and do that."""
        try:
            self.destination.settle(move, self.peer.status(move))
        except (PeerLost, PeerRefused) as error:
            text = f"holds a program and waits for {self.peer.address} to decide: {error}"
            self.announce(Event("asking", text, {"peer": self.peer.address}))

    def _look(self, record: Record, silent: bool) -> bool:
        """Ask after the program that was handed away; whether the peer has been silent."""
        move = Move(record.program, record.epoch, record.attempt)
        try:
            answer = self.peer.status(move)
        except (PeerLost, PeerRefused) as error:
            if not silent:
                path = self.journal.path(record.file)
                text = f"{self.peer.address}, which has the program, does not answer ({error})"
                self.announce(
                    Event("silent", f"{text}; its last state that left here is in {path}")
                )
            return True
        if answer.standing is OwnershipState.ENDED and answer.ending:
            self.ended(record.program, answer.epoch, answer.ending)
        elif not self._write_off(record, answer):
            self._session.add(record.program)
        elif record.program not in self._session:
            self._announce_lost(record)
        else:
            self._lost = MigrationError(
                f"the program was lost with the process on {self.peer.address}; the last state "
                f"that left here is in {self.journal.path(record.file)}",
                phase="commit",
                owner="destination",
                hint="`wasmsr run --adopt --from-snapshot FILE` goes on from it",
            )
        return False

    def _write_off(self, record: Record, answer: Report) -> bool:
        """Return whether the peer, which has confirmed that it owns the program, has lost it."""
        lost = answer.standing in (OwnershipState.LOST, OwnershipState.UNKNOWN)
        if lost:
            # The epoch in which it was ours, so that it may still come back from where it is.
            self.journal.put(replace(record, standing=OwnershipState.LOST, epoch=record.epoch - 1))
        return lost

    def _elsewhere(self) -> bool:
        """Return whether a program of an earlier session still runs on the peer and may come
        back."""
        for record in self.journal.records():
            if record.standing is OwnershipState.HANDED:
                move = Move(record.program, record.epoch, record.attempt)
                answer = self._contact(partial(self.peer.status, move))
                if answer is None:
                    return True
                if answer.standing is OwnershipState.ENDED and answer.ending:
                    self.ended(record.program, answer.epoch, answer.ending)
                elif self._write_off(record, answer):
                    self._announce_lost(record)
                else:
                    self._session.add(record.program)
                    return True
        return False

    def _ended_there(self, ending: Ending) -> Finish:
        text = f"at {self.peer.address}: {ending.sentence or 'the program ended'}"
        text = f"{text} (code {ending.code})"
        values: dict[str, object] = {"code": ending.code, "kind": ending.kind, "here": False}
        self.announce(Event("ended", text, values))
        return Finish(ending, here=False)

    def _in_doubt(self) -> InDoubt:
        return InDoubt(
            f"interrupted while holding a program that {self.peer.address} may have handed over",
            hint="start the same command again: it asks the other end and goes on",
        )

    def _outstanding(self) -> Record | None:
        """Return the program that this end handed away last and that may still run."""
        handed = [r for r in self.journal.records() if r.standing is OwnershipState.HANDED]
        return max(handed, key=lambda record: record.updated, default=None)

    def _settle_old(self) -> None:
        """End the moves that an earlier process left open, and report ends that it did not."""
        for record in self.journal.records():
            unheard = record.standing is OwnershipState.HANDED and not record.confirmed
            if record.standing is OwnershipState.OFFERED or unheard:
                self._session.add(record.program)
                self.source.settle(record)
                after = self.journal.get(record.program)
                if after and after.standing is OwnershipState.LOST:
                    self._announce_lost(after)
            elif record.standing is OwnershipState.ENDED and record.ending:
                try:
                    self.peer.ended(record.program, record.epoch, record.ending)
                    self.journal.forget(record.program)
                except (PeerLost, PeerRefused, JournalError):
                    continue

    def _announce_lost(self, record: Record) -> None:
        name = record.file or record.received
        text = f"program {record.program.hex()[:8]} was lost when this end was killed"
        if name:
            text += f"; its last state on disk is {self.journal.path(name)}"
        self.announce(Event("lost", text, {"program": record.program.hex()}))

    def _arrive(self, program: MovableProgram) -> None:
        try:
            program.start()
        except (WasmsrError, RuntimeError, OSError) as error:
            self._failure = error
        with self._news:
            self._arrived = program
            self._news.notify_all()

    # What the peer asks. All raise PeerRefused to refuse.

    def prepare(self, offer: Offer) -> Answer:
        """Answer the offer of a program."""
        try:
            answer = self.destination.prepare(offer)
        except PeerRefused as error:
            if error.reason is Reason.VERSION:
                self.stranger(f"version {offer.protocol}", offer.software)
            elif error.reason is not Reason.BUSY:
                self.destination.say_refused(error)
            raise
        self._session.add(offer.move.program)
        return answer

    def stranger(self, version: str, software: str) -> None:
        """Report that a caller of another version was refused."""
        whose = f" (wasmsr {software})" if software else ""
        self._say_refused(
            "version",
            f"a peer of another version called and was refused: {version}{whose}; install the same "
            "version of wasmsr on both ends",
        )

    def rebuff(self, who: str) -> None:
        """Report that a caller without this end's key was refused before anything was read."""
        self._say_refused(
            "key",
            f"a call from {who} was refused: it has not this end's key. If that is the other end: "
            "two ends of one user have the key by themselves; otherwise give both the same "
            "--token-file FILE",
        )

    def _say_refused(self, reason: str, text: str) -> None:
        """Anybody can make us say this, so it is said once in a while, with the number of calls."""
        with self._news:
            said, count = self._strangers.get(reason, (-STRANGER_SECONDS, 0))
            now = time.monotonic()
            if now - said < STRANGER_SECONDS:
                self._strangers[reason] = said, count + 1
                return
            self._strangers[reason] = now, 0
        if count:
            text += f" ({count} more calls were refused since the last such line)"
        self.announce(Event("refused", text, {"reason": reason, "calls": count + 1}))

    def upload(self, module: ModuleName) -> Upload:
        """Begin to receive a module."""
        return self.destination.upload(module)

    def begin(self, move: Move) -> Reception:
        """Begin to receive the state of a program."""
        return self.destination.begin(move)

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        """Carry out the source's decision and return what the journal then says."""
        return self.destination.commit(move, stopped)

    def abort(self, move: Move) -> OwnershipState:
        """Forget an attempt that the source has given up; return what the journal then says."""
        return self.destination.abort(move)

    def status(self, move: Move) -> Report:
        """Return what the journal says about `move`."""
        answer = ownership.report(self.journal.get(move.program), move)
        if answer.standing is not OwnershipState.READY and self.destination.receiving(move):
            return Report(OwnershipState.RECEIVING, move.epoch, move.attempt)
        return answer

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Show a piece of output of a program that started here; bytes before it, since that move,
        that this process has not shown, because an earlier one was to."""
        record = self.journal.get(move.program)
        if record is None or record.attempt != move.attempt:
            self._say_refused(
                "output",
                f"output of a program at {self.peer.address} was refused, of which the journal of "
                "this end knows nothing (was this end started with another --state-dir?)",
            )
            raise refused(Reason.OWNERSHIP, "no program of that move is shown there")
        try:
            unseen = self.destination.host.show(move, stream, offset, data)
        except (OSError, ValueError) as error:
            self._say_refused("output", f"{stream} of the program cannot be shown: {error}")
            raise refused(Reason.STORAGE, f"its output cannot be shown there: {error}") from error
        if unseen and (move.attempt, stream) not in self._gaps:
            self._gaps.add((move.attempt, stream))
            self._say_gap(move, stream, unseen)
        return unseen

    def _say_gap(self, move: Move, stream: str, unseen: int) -> None:
        self.announce(
            Event(
                "output-gap",
                f"{stream} of program {move.program.hex()[:8]} is shown here from byte {unseen} "
                f"on: the {unseen} bytes before, from byte 0 after it left this end, were for the "
                "process that was killed here, and what that has not shown is lost",
                {
                    "program": move.program.hex(),
                    "stream": stream,
                    "from": 0,
                    "bytes": unseen,
                    "peer": self.peer.address,
                },
            )
        )

    def input(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input of this end for a program that went by `move`; waits a while for some."""
        record = self.journal.get(move.program)
        if (
            record is None
            or record.standing is not OwnershipState.HANDED
            or (record.epoch, record.attempt) != (move.epoch, move.attempt)
        ):
            raise refused(Reason.OWNERSHIP, "no program of that move has its input there")
        try:
            return self.destination.host.feed(move, position, most)
        except (OSError, ValueError) as error:
            raise refused(Reason.STORAGE, f"its input cannot be had there: {error}") from error

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        """Take note that a program has ended on the other end, which owned it in `epoch`. It may
        have ended before it was ever sent."""
        record = self.journal.get(program)
        if record and record.incoming:
            self.destination.abort(record.incoming.move(program))
            record = self.journal.get(program)
        if record and record.standing is OwnershipState.HANDED and record.epoch > epoch:
            return
        if record and record.standing in (OwnershipState.OWNED, OwnershipState.OFFERED):
            raise refused(Reason.OWNERSHIP, "the program is owned by this end")
        if record:
            try:
                self.journal.forget(program)
            except JournalError as error:
                raise refused(Reason.STORAGE, error.message) from error
            self.destination.host.forget(program, here=False)
        if program in self._session:
            with self._news:
                self._told = ending
                self._news.notify_all()
