"""One attempt to move one program: a state machine, from Prepare to the answer to Commit.

The decision is made once (`decisions`). Before it, this end owns the program: after a failure it
first journals that it has given the attempt up (OWNED, with the attempt's id), and then resumes the
program. After it, this end never runs the program in this epoch; it only repeats Commit.
"""

from __future__ import annotations

import threading
import time
from contextlib import closing
from dataclasses import dataclass, replace
from enum import Enum
from typing import Protocol

from wasmsr.errors import MigrationError, WasmsrError
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.handover.commitment import Commitment, NeverOwned
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, Peer
from wasmsr.migrate.protocol import (
    Answer,
    HandedAway,
    InDoubt,
    JournalError,
    Move,
    OwnershipState,
    PeerLost,
    PeerRefused,
    Reason,
)
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.migrate.rounds.departure import Departure, EndedMeanwhile, MoveFigures
from wasmsr.migrate.rounds.speeds import LineSpeed


class MoveState(Enum):
    """What a source has done of one attempt."""

    NEW = "new"
    """Nothing is journaled, and the program runs."""
    OFFERED = "offered"
    """The attempt is journaled, and the program's state is on its way."""
    READY = "ready"
    """The program is paused, and the destination has all of it."""
    HANDED = "handed"
    """The destination is the owner."""
    MOVED = "moved"
    """The destination has said that it is."""
    GIVEN_UP = "given up"
    """This end owns the program as before."""
    TAKEN_BACK = "taken back"
    """The destination had it in memory only and is gone: this end owns it in a further epoch."""


STEPS: dict[MoveState, frozenset[MoveState]] = {
    MoveState.NEW: frozenset({MoveState.OFFERED, MoveState.GIVEN_UP}),
    MoveState.OFFERED: frozenset({MoveState.READY, MoveState.GIVEN_UP}),
    MoveState.READY: frozenset({MoveState.HANDED, MoveState.GIVEN_UP}),
    MoveState.HANDED: frozenset({MoveState.MOVED, MoveState.TAKEN_BACK}),
    MoveState.MOVED: frozenset(),
    MoveState.GIVEN_UP: frozenset(),
    MoveState.TAKEN_BACK: frozenset(),
}
"""The states that can follow each state. Any other step is a bug."""


@dataclass(frozen=True)
class Moved:
    """A move that was decided and confirmed.

    Attributes:
        move: The move.
        figures: What it cost.
        duration: Seconds from the first round until the peer was READY.
        downtime: Seconds from the pause of the program until its start at the peer was heard of.
    """

    move: Move
    figures: MoveFigures
    duration: float
    downtime: float


@dataclass
class Tries:
    """What earlier attempts to move a program have left.

    Attributes:
        refused: Whether the peer refused the last one for a reason that stays.
        reason: That reason as it was said, or "".
        unheard: An attempt that was given up, with the peer that has not heard so; or None.
    """

    refused: bool = False
    reason: str = ""
    unheard: tuple[Move, Peer] | None = None


class MovingEnd(Protocol):
    """What an attempt needs of the source (`source.MoveSource`) that makes it."""

    journal: Journal
    peers: Peers
    decisions: Decisions
    announce: Announce
    stop: threading.Event
    policy: MovePolicy
    lines: dict[str, LineSpeed]

    def tries(self, program: bytes) -> Tries:
        """Return what earlier attempts have left."""

    def prepare(
        self,
        program: MovableProgram,
        move: Move,
        to: Peer | None = None,
        policy: MovePolicy | None = None,
    ) -> Answer:
        """Ask a peer to take a program. Raises PeerLost or PeerRefused."""

    def commitment(self, move: Move) -> Commitment:
        """Return what carries a decided move out."""


class MoveAttempt:
    """One attempt of a source. One thread calls it.

    Attributes:
        move: The attempt.
        state: What is done of it.
    """

    def __init__(
        self,
        source: MovingEnd,
        program: MovableProgram,
        move: Move,
        peer: Peer,
        policy: MovePolicy | None = None,
    ) -> None:
        self.move = move
        self._policy = policy or source.policy
        self.state = MoveState.NEW
        self._source = source
        self._journal = source.journal
        self._program = program
        self._peer = peer
        self._tries = source.tries(move.program)
        self._memory = False

    def _step(self, state: MoveState) -> None:
        if state not in STEPS[self.state]:
            raise AssertionError(f"a move is {self.state.value}, and cannot be {state.value} next")
        self.state = state

    def run(self) -> Moved | None:
        """Move the program; see `MoveSource.move`."""
        self._tries.refused = False
        try:
            answer = self._source.prepare(self._program, self.move, self._peer, self._policy)
            began = time.monotonic()
            self.offer(self._memory_of(answer))
            sync = time.monotonic() - began
        except MigrationError as error:
            self._step(MoveState.GIVEN_UP)
            self._not_moved(error)
            return None
        with closing(self.departure(sync, answer.restore)) as departure:
            return self._decide(departure, answer)

    def _memory_of(self, answer: Answer) -> bytes:
        """Return the id of the peer's journal if the peer may be READY in memory only; else b"".

        The program of a lease goes by the register, which cannot take it back.
        """
        decision = self._source.decisions.of(self.move.program)
        wanted = self._source.policy.durable == "none" and not decision.lease
        return answer.journal if wanted else b""

    def offer(self, journal: bytes = b"") -> None:
        """Journal OFFERED.

        Args:
            journal: The id of the peer's journal if the peer may be READY in memory only.

        Raises:
            MigrationError: It cannot be written, or this end does not own the program.
        """
        self._memory = bool(journal)
        with self._journal.locked(self.move.program):
            record = self._journal.get(self.move.program)
            # It is still OFFERED if the peer, but not the disk, took the last attempt back.
            if record is None or record.standing not in (
                OwnershipState.OWNED,
                OwnershipState.OFFERED,
            ):
                raise MigrationError(
                    "the journal does not say that this end owns the program",
                    phase="prepare",
                    owner="unknown",
                )
            self._journal.put(
                replace(
                    record,
                    standing=OwnershipState.OFFERED,
                    epoch=self.move.epoch - 1,
                    attempt=self.move.attempt,
                    peer=self._peer.address,
                    node=self._source.peers.node_of(self._peer),
                    journal=journal,
                )
            )
        self._step(MoveState.OFFERED)

    def departure(self, sync: float = 0.0, restore: float = 0.0) -> Departure:
        """Return what sends the program.

        Args:
            sync: Seconds of one sync at this end.
            restore: Seconds that restoring it takes at the peer; 0.0 if nobody knows.
        """
        source = self._source
        return Departure(
            self._program,
            self.move,
            self._peer,
            self._policy,
            source.lines.setdefault(self._peer.address, LineSpeed()),
            sync=sync,
            restore=restore,
            announce=source.announce,
            stop=source.stop,
            memory=self._memory,
        )

    def _decide(self, departure: Departure, answer: Answer) -> Moved | None:
        """Send the program, and decide."""
        figures = departure.figures
        record = self._journal.get(self.move.program)
        received = record.received if record else ""
        try:
            departure.send(answer)
            decided = time.monotonic()
            if not self.hand(answer.node):
                raise MigrationError(
                    "the register has not made the other end the owner",
                    phase="hand-over",
                    owner="source",
                )
        except EndedMeanwhile:
            self._give_up(None, departure.stands)
            return None
        except InDoubt:
            raise
        except (WasmsrError, OSError, MemoryError) as error:
            self._give_up(error, departure.stands)
            return None
        except BaseException:
            # A fault of this code, or Ctrl-C: it is raised, and the program is not in doubt.
            if self._is_open():
                self._give_up(None, departure.stands)
            raise
        # It is decided. This end never runs the program in this epoch again.
        figures.parts["syncs"] += time.monotonic() - decided
        self._tries.reason = ""
        asked = time.monotonic()
        commitment = self._source.commitment(self.move)
        try:
            downtime = commitment.carry_out(figures.stopped, figures.round_trip)
        except HandedAway:
            commitment.keep(self._program)
            raise commitment.handed_away() from None
        except NeverOwned:
            self._take_back(commitment, received)
            return None
        self._step(MoveState.MOVED)
        if downtime is None:  # the peer's own messages have shown that it has the program
            downtime = time.monotonic() - figures.stopped
        figures.parts["commit"] = max(0.0, downtime - (asked - figures.stopped))
        moved = Moved(self.move, figures, decided - figures.began, downtime)
        self._say_moved(moved)
        self._program.left(self.move.epoch, self._journal.path(received) if received else None)
        # Not before: to remove a large file takes long.
        self._journal.discard(received)
        return moved

    def _is_open(self) -> bool:
        """Return whether it is sure that nothing is decided, whatever has failed."""
        if self.state is MoveState.OFFERED:
            return True
        record = self._journal.get(self.move.program)
        # A register may have got the swap.
        return record is not None and record.standing is OwnershipState.OFFERED and not record.lease

    def hand(self, destination: bytes) -> bool:
        """Make the destination, which is READY, the owner; see `decisions.port.Decision.hand`."""
        self._step(MoveState.READY)
        decision = self._source.decisions.of(self.move.program)
        if not decision.hand(self.move, destination, self._source.stop):
            return False
        self._step(MoveState.HANDED)
        return True

    def _take_back(self, commitment: Commitment, received: str) -> None:
        """Own the program again, in a further epoch, on disk before it runs.

        Args:
            commitment: What has heard that the peer never owned it and has forgotten it.
            received: The state from which it was started here, or "".

        Raises:
            HandedAway: The disk does not take the record, and the user interrupts.
        """
        source, move = self._source, self.move
        while not self._owned_again(received):
            if source.stop.wait(1.0):
                commitment.keep(self._program)
                raise commitment.handed_away()
        self._step(MoveState.TAKEN_BACK)
        if self._program.wait(0) is None:
            self._program.start()
        text = (
            f"{self._peer.address} was started again before it owned the program, which runs on "
            "here: it had the state in memory only (--durable none)"
        )
        values: dict[str, object] = {
            "peer": self._peer.address,
            "program": move.program.hex(),
            "epoch": move.epoch + 1,
        }
        source.announce(Event("taken-back", text, values))

    def _owned_again(self, received: str) -> bool:
        with self._journal.locked(self.move.program):
            record = self._journal.get(self.move.program)
            assert record is not None
            try:
                self._journal.put(
                    replace(
                        record,
                        standing=OwnershipState.OWNED,
                        epoch=self.move.epoch + 1,
                        received=received,
                        journal=b"",
                    )
                )
            except JournalError as error:
                self._source.announce(Event("trouble", f"{error.message}; trying again"))
                return False
        return True

    def _give_up(self, error: Exception | None, stands: bool) -> None:
        """Take an undecided attempt back, on disk first, and continue the program.

        If the disk fails, it is enough that the peer says that it has forgotten the attempt.
        Otherwise the program stays paused: the peer may be READY, and this process may be killed.
        """
        source, peer, told = self._source, self._peer, False
        while not self._journal_given_up():
            try:
                told = peer.abort(self.move) in (OwnershipState.UNKNOWN, OwnershipState.HANDED)
            except (PeerLost, PeerRefused):
                told = False
            if told or source.stop.is_set():
                break
            text = f"neither the journal nor {peer.address} can take the move back"
            source.announce(Event("trouble", f"{text}; the program stays paused; trying again"))
            source.stop.wait(1.0)
        self._step(MoveState.GIVEN_UP)
        if stands and not source.stop.is_set() and self._program.wait(0) is None:
            self._program.start()
        if error:
            self._not_moved(error)
        if not told:
            try:
                peer.abort(self.move)
            except (PeerLost, PeerRefused):
                self._tries.unheard = self.move, peer

    def _journal_given_up(self) -> bool:
        with self._journal.locked(self.move.program):
            record = self._journal.get(self.move.program)
            if record is None or record.attempt != self.move.attempt:
                return True
            try:
                self._journal.put(replace(record, standing=OwnershipState.OWNED))
            except JournalError:
                return False
        return True

    def _not_moved(self, error: Exception) -> None:
        say_not_moved(self._source, self.move, error, self._peer)

    def _say_moved(self, moved: Moved) -> None:
        figures, peer = moved.figures, self._peer
        rounds = f" in {figures.rounds} rounds" if figures.rounds > 1 else ""
        if figures.files:
            rounds += f" with {size(figures.files)} of files ({size(figures.last_files)} paused)"
        values: dict[str, object] = {
            "peer": peer.address,
            "program": moved.move.program.hex(),
            "epoch": moved.move.epoch,
            "seconds": moved.duration,
            "downtime": moved.downtime,
            **figures.values(),
        }
        text = (
            f"moved to {peer.address}: {size(figures.sent)} in {seconds(moved.duration)}{rounds}, "
            f"downtime {seconds(moved.downtime)}"
        )
        self._source.announce(Event("moved", text, values))


def say_not_moved(source: MovingEnd, move: Move, error: Exception, peer: Peer) -> None:
    """Say why a program was not moved, and note whether the reason stays."""
    tries = source.tries(move.program)
    reason = error.reason.name.lower() if isinstance(error, PeerRefused) else "failed"
    tries.refused = isinstance(error, PeerRefused) and error.reason is not Reason.BUSY
    message = str(error)
    hint = getattr(error, "hint", None)
    text = f"not moved, the program runs on here: {message}" + (f"; hint: {hint}" if hint else "")
    if tries.refused and message == tries.reason:
        text = "not moved, for the same reason as before; the program runs on here"
    tries.reason = message if tries.refused else ""
    source.announce(
        Event(
            "not-moved",
            text,
            {
                "peer": peer.address,
                "program": move.program.hex(),
                "reason": reason,
                "message": message,
                "hint": hint or "",
            },
        )
    )


__all__ = ["STEPS", "MoveAttempt", "MoveState", "Moved", "Tries"]
