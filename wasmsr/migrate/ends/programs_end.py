"""An end that has many programs at a time.

Each method can be called by any thread. Moves run in the threads that call `move`; programs arrive
in the threads of the server. One thread, which `serve` starts, asks about whatever is open.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from functools import partial

from wasmsr.errors import MigrationError, WasmsrError
from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.ends.away import AwayPrograms
from wasmsr.migrate.ends.endpoint import ASK_SECONDS, PARK_SECONDS, SETTLE_SECONDS, ask_source
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.answers import Answers
from wasmsr.migrate.handover.arrivals import OFFERS, EndLimits
from wasmsr.migrate.handover.attempt import Moved
from wasmsr.migrate.handover.destination import MoveDestination
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, Peer, ProgramHost
from wasmsr.migrate.protocol import (
    LEASE_LOST,
    Ending,
    HandedAway,
    InDoubt,
    JournalError,
    Move,
    OwnershipState,
    PeerLost,
    PeerRefused,
)
from wasmsr.migrate.rounds.convergence import MovePolicy

STEP_SECONDS = 0.25
"""Seconds between two looks at what is open."""

CLOSE_SECONDS = 30.0
"""How long `close` waits for the threads of the end."""


class ProgramsEnd:
    """One end of many programs.

    Args:
        journal: Its journal.
        modules: The modules that came from elsewhere.
        host: Runs the programs.
        peers: The ends to which programs can go, and from which they can come.
        announce: Gets the events.
        limits: How many programs it takes.
        arrived: Is called with each program that has come and runs here.
        ended: Is called when a program that was here has ended at a peer: its id, and how.
        software: The version of wasmsr, for people at the peers.
        policy: How programs move.
        decisions: Who decides the moves; None: the journals.
        outlives: Whether programs outlive this process. Then what it left is not lost, and nobody
            asks about programs that are elsewhere.
        settled: Is called with the id of each program whose move, which an earlier process has
            left, is settled.

    Attributes:
        answers: What this end answers to its peers.
        source: Moves programs away.
        destination: Takes programs in.
        stop: Is set when the end is to end; every wait then ends.
    """

    def __init__(
        self,
        journal: Journal,
        modules: Modules,
        host: ProgramHost,
        peers: Peers,
        announce: Announce,
        *,
        limits: EndLimits,
        arrived: Callable[[MovableProgram], None],
        ended: Callable[[bytes, Ending], None] = lambda program, ending: None,
        software: str = "",
        policy: MovePolicy | None = None,
        decisions: Decisions | None = None,
        outlives: bool = False,
        settled: Callable[[bytes], None] = lambda program: None,
    ) -> None:
        self.journal = journal
        self.peers = peers
        self.announce = announce
        self.stop = threading.Event()
        decisions = decisions or JournalDecisions(journal)
        self.source = MoveSource(
            journal, peers, announce, self.stop,
            software=software, policy=policy, decisions=decisions, outlives=outlives,
        )  # fmt: skip
        self._outlives = outlives
        self._settled = settled
        self.destination = MoveDestination(
            journal, host, modules, announce, self._arrive,
            peers=peers, limits=limits, decisions=decisions, busy=self._is_here,
        )  # fmt: skip
        self.answers = Answers(journal, self.destination, self, announce)
        self.away = AwayPrograms(journal, peers, {}, announce, self.answers.ended, decisions)
        self._arrived = arrived
        self._ended = ended
        self._lock = threading.Lock()
        self._here: dict[bytes, MovableProgram] = {}
        self._expected: dict[bytes, str] = {}
        """The programs that peers have prepared to send, with the peers' addresses."""
        self._owning = threading.Lock()
        self._threads: list[threading.Thread] = []
        self._asked = time.monotonic()
        self._silent: set[bytes] = set()

    # ---- programs --------------------------------------------------------------------------------

    def programs(self) -> list[MovableProgram]:
        """Return the programs that are here."""
        with self._lock:
            return list(self._here.values())

    def get(self, program: bytes) -> MovableProgram | None:
        """Return a program that is here, or None."""
        with self._lock:
            return self._here.get(program)

    def start(self, program: MovableProgram, peer: Peer | None = None) -> None:
        """Own a program that begins here, and start it.

        Args:
            program: The program, before its first instruction.
            peer: The peer to which it goes if nobody says another one; None takes the only peer.

        Raises:
            PeerRefused: This end has as many programs as it takes.
            WasmsrError: The program cannot be owned or started.
        """
        with self._owning:
            self.destination.arrivals.check_room(Move(program.id, 1, b""))
            self.source.own(program, peer)
        self._add(program)
        program.start()

    def enter(self, program: MovableProgram) -> None:
        """Take a program that is here already, and that the journal knows."""
        self._add(program)

    def leave(self, program: bytes) -> None:
        """Forget a program that `enter` took; the journal stays as it is."""
        self._remove(program)

    def _is_here(self, program: bytes) -> bool:
        """Return whether something of a program is here that is not released yet."""
        with self._lock:
            return program in self._here

    def _add(self, program: MovableProgram) -> None:
        with self._lock:
            self._here[program.id] = program

    def _remove(self, program: bytes) -> None:
        with self._lock:
            self._here.pop(program, None)

    def move(
        self, program: bytes, peer: Peer | None = None, policy: MovePolicy | None = None
    ) -> Moved | None:
        """Move a program that is here; several threads can move several programs.

        Args:
            program: The program's id.
            peer: Where it goes; None takes the peer that the journal names.
            policy: How it moves; None takes the policy of this end.

        Returns:
            The move, or None if the program did not move: then it runs here, or has ended.

        Raises:
            HandedAway, InDoubt: `stop` was set before it was known who owns the program.
            MigrationError: The program is not here, or is being moved already.
        """
        found = self.get(program)
        if found is None:
            raise MigrationError(
                f"program {program.hex()[:8]} is not here", phase="prepare", owner="unknown"
            )
        moved = self.source.move(found, peer, policy)
        if moved is not None:
            found.close()
            self.source.forget(program)
            self._remove(program)  # last: it may come back from now on
        return moved

    def finish(self, program: bytes, ending: Ending) -> None:
        """Note that a program has ended here, tell its peer, and release it."""
        found, record = self.get(program), self.journal.get(program)
        if ending.kind == LEASE_LOST:
            self._lose(found, record, ending)
            return
        self.source.decisions.of(program).end()
        if record is not None:
            try:
                self.journal.put(replace(record, standing=OwnershipState.ENDED, ending=ending))
                self._tell_end(record, ending)
            except JournalError as error:
                self.announce(Event("trouble", error.message))
        if found is not None:
            found.close()
        self.destination.host.forget(program, here=True)
        self._remove(program)

    def _lose(self, found: MovableProgram | None, record: Record | None, ending: Ending) -> None:
        """Release a leased program that another end has taken over."""
        if record is not None:
            self.journal.put(replace(record, standing=OwnershipState.LOST))
            self.source.decisions.of(record.program).forget()
            text = f"program {record.program.hex()[:8]} goes on elsewhere: {ending.sentence}"
            self.announce(Event("lost", text, {"program": record.program.hex()}))
        if found is not None:
            found.close()
            self._remove(found.id)

    def _tell_end(self, record: Record, ending: Ending) -> bool:
        """Tell a peer once that a program has ended; return whether it has heard."""
        try:
            peer = self.peers.of(record.toward_origin)
            peer.ended(record.program, record.epoch, ending)
            self.journal.forget(record.program)
        except (PeerLost, PeerRefused, JournalError):
            return False  # the settling thread tells it again
        return True

    # ---- what the server's threads say -----------------------------------------------------------

    def _arrive(self, program: MovableProgram) -> None:
        """Start a program that has come."""
        self._add(program)
        try:
            program.start()
        except (WasmsrError, RuntimeError, OSError) as error:
            self._remove(program.id)
            record = self.journal.get(program.id)
            if record is not None:
                self.journal.put(replace(record, standing=OwnershipState.LOST))
            text = f"program {program.id.hex()[:8]} has come and cannot be started: {error}"
            self.announce(Event("lost", text, {"program": program.id.hex()}))
            return
        self._arrived(program)

    def prepared(self, program: bytes, peer: str) -> None:
        """Hear that a peer has prepared to send a program."""
        with self._lock:
            self._expected.pop(program, None)
            self._expected[program] = peer
            while len(self._expected) > max(OFFERS, self.destination.arrivals.limits.programs):
                del self._expected[next(iter(self._expected))]

    def ended(self, program: bytes, ending: Ending, peer: str) -> None:
        """Hear that a program has ended at a peer; of a stranger's program nothing is said."""
        with self._lock:
            expected = self._expected.pop(program, None)
        if peer or expected is not None:
            self._ended(program, ending)

    # ---- what is open ----------------------------------------------------------------------------

    def recover(self) -> None:
        """Take up what an earlier process left in the journal, before any peer can ask."""
        if not self._outlives:
            self.away.recover()
        self.destination.recover(strict=False)

    def serve(self) -> None:
        """Begin to settle what is open, on threads of this end."""
        for record in self.journal.records():
            unconfirmed = record.standing is OwnershipState.HANDED and not record.confirmed
            if record.standing is OwnershipState.OFFERED or unconfirmed:
                # A thread each: one silent peer must not keep the others' programs.
                self._thread(partial(self._settle_old, record))
        self._thread(self._settle)

    def _thread(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, name="wasmsr-settle", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _settle_old(self, record: Record) -> None:
        try:
            self.away.settle_record(record, self.source)
            self._settled(record.program)
        except (HandedAway, InDoubt):
            return  # a later process asks again
        except WasmsrError as error:
            self.announce(Event("trouble", str(error)))

    def _settle(self) -> None:
        while not self.stop.wait(STEP_SECONDS):
            try:
                self.settle_once()
            except WasmsrError as error:
                self.announce(Event("trouble", str(error)))

    def settle_once(self) -> None:
        """Ask the peers about whatever is open and due."""
        now = time.monotonic()
        for ready in self.destination.all_ready():
            if now - ready.since > SETTLE_SECONDS:
                ask_source(self.destination, ready, self.announce)
                ready.since = time.monotonic()
                if ready.since - ready.came > PARK_SECONDS:
                    self.destination.park(ready.move.program)
        if now - self._asked < ASK_SECONDS:
            return
        self._asked = now
        for move, source in self.destination.parked():
            with suppress(PeerLost, PeerRefused):
                self.destination.settle(move, self.peers.at(source).status(move))
        moving = {attempt.move.program for attempt in self.source.moving()}
        for record in self.journal.records():
            if record.program in moving:
                continue
            if record.standing is OwnershipState.HANDED and record.confirmed:
                if not self._outlives:
                    self._ask_about(record)
            elif record.standing is OwnershipState.ENDED and record.ending:
                self._tell_end(record, record.ending)

    def _ask_about(self, record: Record) -> None:
        """Ask what became of a program that is at a peer."""
        silent = self.away.ask_about(record, silent=record.program in self._silent)
        (self._silent.add if silent else self._silent.discard)(record.program)

    def interrupt(self) -> None:
        """End all waits, those for peers too."""
        self.stop.set()
        for peer in self.peers:
            peer.interrupt()

    def close(self) -> None:
        """End the threads. Programs that are here stay as they are."""
        self.interrupt()
        for thread in self._threads:
            thread.join(CLOSE_SECONDS)


__all__ = ["STEP_SECONDS", "ProgramsEnd"]
