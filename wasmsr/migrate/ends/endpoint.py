"""One end of `wasmsr remote`: runs a program, sends it on and waits for it, until it ends.

The end has both halves of the hand-over, on one journal. `run` is its loop, on a thread of its own.
Meanwhile the server's threads call `answers`, and the main thread calls `interrupt`.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace

from wasmsr.errors import EXIT_INTERRUPTED, WasmsrError
from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.ends.away import AwayPrograms
from wasmsr.migrate.ends.contact import contact
from wasmsr.migrate.ends.news import News, Told
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover.answers import Answers
from wasmsr.migrate.handover.arrivals import ReadyProgram
from wasmsr.migrate.handover.destination import MoveDestination
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, ProgramHost
from wasmsr.migrate.protocol import (
    LEASE_LOST,
    Ending,
    InDoubt,
    JournalError,
    OwnershipState,
    PeerLost,
    PeerRefused,
)
from wasmsr.migrate.rounds.convergence import MovePolicy

SLICE = 0.02
"""Seconds between two checks whether somebody interrupted."""

SETTLE_SECONDS = 1.0
"""How long a READY end waits for the decision before it asks."""

ASK_SECONDS = 5.0
"""Seconds between two questions to the peer that has the program."""

PARK_SECONDS = 60.0
"""How long a READY state keeps this end from taking other programs."""

LONGEST_WAIT = 60.0
"""Most seconds between two tries of a move that is refused again and again."""

PATIENCE = 0.05
"""Seconds that an interrupted program has to pause; a longer host call is abandoned."""

FAREWELL_SECONDS = 5.0
"""How long this end tries to tell a silent peer that a program has ended."""


@dataclass(frozen=True)
class Finish:
    """How the loop ended.

    Attributes:
        ending: How the program ended.
        here: Whether the program ended at this end.
        abandoned: Whether the interrupted program did not pause in time. The process must not wait
            for it.
    """

    ending: Ending
    here: bool
    abandoned: bool = False


class Endpoint:
    """One end, which runs one program at a time.

    A program that came from a peer goes back to that peer. A program that begins here goes to the
    only peer.

    Attributes:
        answers: What this end answers to its peers.
        every: Seconds that a program runs here before this end sends it on.
        stop: Is set when the user interrupts.
    """

    def __init__(
        self,
        journal: Journal,
        modules: Modules,
        host: ProgramHost,
        peers: Peers,
        announce: Announce,
        *,
        every: float,
        software: str = "",
        policy: MovePolicy | None = None,
        decisions: Decisions | None = None,
    ) -> None:
        self.journal = journal
        self.peers = peers
        self.announce = announce
        self.every = every
        self.stop = threading.Event()
        self.news = News()
        decisions = decisions or JournalDecisions(journal)
        self.source = MoveSource(
            journal,
            peers,
            announce,
            self.stop,
            software=software,
            policy=policy,
            decisions=decisions,
        )
        self.destination = MoveDestination(
            journal, host, modules, announce, self.news.arrive, peers=peers, decisions=decisions
        )
        self.answers = Answers(journal, self.destination, self.news, announce)
        self.away = AwayPrograms(
            journal, peers, self.news.session, announce, self.answers.ended, decisions
        )
        self._refused = 0
        """How often in sequence the program's move was refused."""
        self._interrupted = Ending("interrupted", EXIT_INTERRUPTED)

    # What the user does.

    def interrupt(self, ending: Ending) -> None:
        """End `run` soon; `ending` says why. Any thread may call this."""
        self._interrupted = ending
        self.stop.set()
        for peer in self.peers:
            peer.interrupt()
        self.news.wake()

    def recover(self) -> None:
        """Take up what an earlier process left in the journal, before any peer can ask.

        Raises:
            WasmsrError: A program that is READY here can no longer be restored.
        """
        self.away.recover()
        self.destination.recover()

    def run(self, launch: Callable[[], MovableProgram] | None = None) -> Finish:
        """Run programs until one has ended, here or at a peer.

        Args:
            launch: Makes the program that begins here; None if none begins here.

        Raises:
            HandedAway: Interrupted before the peer had confirmed a decided move.
            InDoubt: Interrupted while this end held a program of an undecided move.
            MigrationError: Something else failed.
        """
        try:
            return self._run(launch)
        finally:
            self.destination.retire()

    def _run(self, launch: Callable[[], MovableProgram] | None) -> Finish:
        self.away.settle(self.source)
        program: MovableProgram | None = None
        # A program of an earlier session comes first, even if only its end is left.
        old = launch and (self.away.may_come_back(self.stop) or self.news.told)
        if launch and not old and not self.destination.ready:
            program = self._begin(launch())
            if program is None:
                return Finish(self._interrupted, here=True)
            # An end that was told before this program began is that of another program.
            self.news.forget()
        while True:
            if program is None:
                news = self._await()
                if isinstance(news, Finish):
                    return news
                program = news
            self.news.session[program.id] = self.source.peer_of(program.id).address
            ending = self._watch(program)
            if ending is None and not self.stop.is_set():
                if self.source.move(program):
                    self._refused = 0
                    program.close()
                    program = None
                    continue
                if not self.stop.is_set():
                    self._refused = (
                        self._refused + 1 if self.source.tries(program.id).refused else 0
                    )
                    continue
            return self._finish(program, ending or self._interrupted)

    # While the program is here.

    def _begin(self, program: MovableProgram) -> MovableProgram | None:
        """Start a new program when its peer has said that it would take the program.

        Returns None if the user interrupts before that.
        """
        peer = self.source.peer_of(program.id)
        decision = self.source.decisions.of(program.id)
        try:
            decision.begin()
            move = self.source.next_move(program.id)
            contact(
                peer,
                lambda: self.source.prepare(program, move, peer),
                self.stop,
                self.announce,
            )
            if self.stop.is_set():
                decision.end()
                program.close()
                return None
            self.source.own(program, peer)
        except WasmsrError:
            decision.end()
            program.close()
            raise
        values: dict[str, object] = {"program": program.id.hex(), "epoch": 1}
        text = f"started here; moves to {peer.address} in {self.every:g} s"
        self.announce(Event("started", text, values))
        program.start()
        return program

    def _watch(self, program: MovableProgram) -> Ending | None:
        """Let the program run for `every` seconds, or longer if its moves are refused.

        Returns how it ended, or None if it has not ended.
        """
        wait = self.every
        if self._refused:
            wait = max(wait, min(LONGEST_WAIT, wait * 2 ** min(self._refused, 16)))
            peer = self.source.peer_of(program.id).address
            text = f"the next try to move it is in {wait:.0f} s"
            self.announce(Event("retry", text, {"peer": peer, "left": wait}))
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
        decision = self.source.decisions.of(program.id)
        if ending.kind == LEASE_LOST:
            decision.forget()
            if record:
                self.journal.put(replace(record, standing=OwnershipState.LOST))
        else:
            decision.end()
            if record:
                self._tell_end(record, ending)
        if not abandoned:
            program.close()
            self.destination.host.forget(program.id, here=True)
        values: dict[str, object] = {"code": ending.code, "kind": ending.kind, "here": True}
        self.announce(Event("ended", _ended("here", ending), values))
        return Finish(ending, here=True, abandoned=abandoned)

    def _tell_end(self, record: Record, ending: Ending) -> None:
        try:
            self.journal.put(replace(record, standing=OwnershipState.ENDED, ending=ending))
        except JournalError as error:
            self.announce(Event("trouble", error.message))
        peer = self.peers.of(record)
        deadline = time.monotonic() + FAREWELL_SECONDS
        while True:
            try:
                peer.ended(record.program, record.epoch, ending)
                break
            except (PeerLost, PeerRefused) as error:
                late = time.monotonic() > deadline
                if late or self.stop.is_set() or isinstance(error, PeerRefused):
                    text = f"cannot tell the other end that the program has ended: {error}"
                    self.announce(Event("silent", text))
                    return
            self.stop.wait(0.2)
        try:
            self.journal.forget(record.program)
        except JournalError as error:
            self.announce(Event("trouble", error.message))

    # While no program is here.

    def _await(self) -> MovableProgram | Finish:
        """Wait until a program comes, or until this end's program has ended at a peer."""
        asked = time.monotonic()
        silent = False
        while True:
            program = self.news.wait(0.25, self.stop.is_set)
            if program:
                return program
            told = self.news.told
            ready = self.destination.ready
            if self.stop.is_set() or told:
                if self.destination.retire():
                    return self._ended_there(told) if told else Finish(self._interrupted, here=True)
                if self.stop.is_set() and ready:
                    raise self._in_doubt(ready)
                # Otherwise a program has come at this very moment.
            if ready and time.monotonic() - ready.since > SETTLE_SECONDS:
                self._ask_source(ready)
                ready.since = time.monotonic()
                if ready.since - ready.came > PARK_SECONDS:
                    self.destination.park()
                continue
            outstanding = self.away.outstanding()
            if self.away.lost and self.destination.retire():
                raise self.away.lost
            if time.monotonic() - asked > ASK_SECONDS:
                asked = time.monotonic()
                if outstanding:
                    silent = self.away.ask_about(outstanding, silent=silent)
                for move, source in self.destination.parked():
                    with suppress(PeerLost, PeerRefused):
                        self.destination.settle(move, self.peers.at(source).status(move))

    def _ask_source(self, ready: ReadyProgram) -> None:
        """Ask the source of a READY program what it has decided, and do that."""
        ask_source(self.destination, ready, self.announce)

    def _ended_there(self, told: Told) -> Finish:
        ending = told.ending
        text = _ended(f"at {told.peer}", ending)
        values: dict[str, object] = {"code": ending.code, "kind": ending.kind, "here": False}
        self.announce(Event("ended", text, values))
        return Finish(ending, here=False)

    def _in_doubt(self, ready: ReadyProgram) -> InDoubt:
        return InDoubt(
            f"interrupted while this end held a program that {ready.source} may have handed over",
            hint="start the same command again: it asks the other end and continues",
        )


def ask_source(destination: MoveDestination, ready: ReadyProgram, announce: Announce) -> None:
    """Ask the source of a READY program what it has decided, and do that."""
    peer = destination.peers.at(ready.source)
    try:
        try:
            answer = peer.status(ready.move)
        except (PeerLost, PeerRefused):
            destination.settle(ready.move, None)  # the register of a leased program can tell
            raise
        destination.settle(ready.move, answer)
    except (PeerLost, PeerRefused) as error:
        text = f"holds a program until {peer.address} says who owns it: {error}"
        announce(Event("asking", text, {"peer": peer.address}))


def _ended(where: str, ending: Ending) -> str:
    """Return a line that says where and how a program ended."""
    if ending.sentence.startswith("ended with "):
        return ending.sentence.replace("ended", f"ended {where}", 1)
    why = f": {ending.sentence}" if ending.sentence else ""
    return f"ended {where} with code {ending.code}{why}"
