"""The source's half of the hand-over: prepare, send (`departure`), decide, commit.

The record HANDED is the one decision. Before HANDED is on disk, this end owns the program: after a
failure it first journals that it has given the attempt up (OWNED, with the attempt's id), and then
resumes the program. After HANDED is on disk, this end never runs the program; it only repeats
Commit. `endpoint` calls this half.
"""

from __future__ import annotations

import secrets
import threading
import time
from contextlib import closing, suppress
from dataclasses import dataclass, replace

from wasmsr.errors import MigrationError, WasmsrError
from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Journal, Record, state_name
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import MovableProgram, Peer
from wasmsr.migrate.protocol import (
    ID_BYTES,
    INPUT,
    Answer,
    HandedAway,
    InDoubt,
    JournalError,
    Move,
    Offer,
    OwnershipState,
    PeerLost,
    PeerRefused,
    Reason,
    Refusal,
    Report,
)
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.migrate.rounds.departure import Departure, EndedMeanwhile, Line, MoveFigures
from wasmsr.migrate.rounds.regroup import regroup

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between two questions to a silent peer, at first and at most."""


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


class MoveSource:
    """Moves programs away from this end, one at a time, in the thread that calls.

    Attributes:
        peers: The ends to which programs can go.
        stop: Is set when the user interrupts; every wait then ends.
        policy: How programs move.
        refused: Whether the peer refused the last move for a reason that stays.
    """

    def __init__(
        self,
        journal: Journal,
        peers: Peers | Peer,
        announce: Announce,
        stop: threading.Event,
        *,
        software: str = "",
        policy: MovePolicy | None = None,
    ) -> None:
        self.journal = journal
        self.peers = peers if isinstance(peers, Peers) else Peers(peers)
        self.announce = announce
        self.stop = stop
        self.software = software
        self.policy = policy or MovePolicy()
        self.refused = False
        self._lines: dict[str, Line] = {}
        self._unheard: tuple[Move, Peer] | None = None
        """An attempt that was given up, and the peer that has not heard so."""
        self._reason = ""

    def peer_of(self, program: bytes) -> Peer:
        """Return the only peer, or of several the one that the journal names for a program."""
        return self.peers.only if len(self.peers) == 1 else self.peers.of(self.journal.get(program))

    def own(self, program: MovableProgram, to: Peer | None = None) -> None:
        """Journal that this end owns a program that begins here. Raises JournalError."""
        peer = to or self.peer_of(program.id)
        node = self.peers.node_of(peer)
        self.journal.put(
            Record(program.id, OwnershipState.OWNED, epoch=1, peer=peer.address, node=node)
        )

    def prepare(self, program: MovableProgram, move: Move, to: Peer | None = None) -> Answer:
        """Ask a peer to take `program`, and upload the modules that the peer lacks.

        This journals nothing.

        Args:
            program: The program.
            move: The attempt.
            to: The peer; None takes the program's peer.

        Returns:
            The peer's consent.

        Raises:
            PeerLost: The peer did not answer.
            PeerRefused: The peer does not take the program.
        """
        peer = to or self.peer_of(program.id)
        if self._unheard:
            # The peer may still be READY for the attempt before; see `_give_up`.
            self._unheard[1].abort(self._unheard[0])
            self._unheard = None
        description = program.describe()
        rounds = 1 if self.policy.stop_and_copy else self.policy.max_rounds
        offer = Offer(self.journal.node, move, description, software=self.software, rounds=rounds)
        answer = peer.prepare(offer)
        self.peers.learn(answer.node, peer)
        if description.fed not in (b"", answer.node) and INPUT not in answer.abilities:
            raise PeerRefused(
                Refusal(
                    Reason.VERSION,
                    f"{peer.address} cannot have the program's input relayed to it: it runs "
                    "an older version",
                    "install the same version of wasmsr on both ends, or start the program with "
                    "--stdin-after-move eof",
                )
            )
        if answer.missing:
            for module in description.modules:
                if module.digest in answer.missing:
                    peer.upload(program.module(module.digest), module.digest)
            answer = peer.prepare(offer)
        if answer.missing:
            raise PeerLost(f"{peer.address} asks again for a module that it was sent")
        self.announce(
            Event(
                "prepared",
                "",
                {"peer": peer.address, "program": move.program.hex(), "epoch": move.epoch},
            )
        )
        return answer

    def next_move(self, program: bytes) -> Move:
        """Return a new attempt at moving `program`, in the epoch after the journal's."""
        record = self.journal.get(program)
        epoch = record.epoch if record else 1
        return Move(program, epoch + 1, secrets.token_bytes(ID_BYTES))

    def move(self, program: MovableProgram, to: Peer | None = None) -> Moved | None:
        """Move `program` to a peer.

        Args:
            program: The program.
            to: The peer; None takes the program's peer.

        Returns:
            The move. None if the program did not move: then it runs here, or has ended; if `stop`
            is set, it may be paused.

        Raises:
            HandedAway: `stop` was set after the decision.
        """
        peer = to or self.peer_of(program.id)
        move = self.next_move(program.id)
        self.refused = False
        try:
            answer = self.prepare(program, move, peer)
            began = time.monotonic()
            self._journal_offer(move, peer)
            sync = time.monotonic() - began
        except MigrationError as error:
            self._not_moved(move, error, peer)
            return None
        with closing(self.departure(program, move, peer, sync, answer.restore)) as departure:
            return self._decide(departure, program, move, peer, answer)

    def departure(
        self,
        program: MovableProgram,
        move: Move,
        peer: Peer,
        sync: float = 0.0,
        restore: float = 0.0,
    ) -> Departure:
        """Return what sends a program that was offered.

        Args:
            program: The program.
            move: The attempt.
            peer: Where it goes.
            sync: Seconds of one sync at this end.
            restore: Seconds that restoring it takes at the peer; 0.0 if nobody knows.
        """
        return Departure(
            program,
            move,
            peer,
            self.policy,
            self._lines.setdefault(peer.address, Line()),
            sync=sync,
            restore=restore,
            announce=self.announce,
            stop=self.stop,
        )

    def _decide(
        self,
        departure: Departure,
        program: MovableProgram,
        move: Move,
        peer: Peer,
        answer: Answer,
    ) -> Moved | None:
        """Send a program and decide; see `move`."""
        figures = departure.figures
        try:
            departure.send(frozenset(answer.held))
            decided = time.monotonic()
            received = self._journal_handed(move)
        except EndedMeanwhile:
            self._give_up(move, program, None, departure.stands)
            return None
        except (WasmsrError, OSError, MemoryError) as error:
            self._give_up(move, program, error, departure.stands)
            return None
        # The decision is on disk. This end never runs the program in this epoch again.
        figures.parts["syncs"] += time.monotonic() - decided
        self._reason = ""
        asked = time.monotonic()
        try:
            downtime = self.commit(move, figures.stopped, figures.round_trip)
        except HandedAway:
            self._keep(program, move)
            raise self._handed_away(move) from None
        if downtime is None:  # the peer's own messages have shown that it has the program
            downtime = time.monotonic() - figures.stopped
        figures.parts["commit"] = max(0.0, downtime - (asked - figures.stopped))
        moved = Moved(move, figures, decided - figures.began, downtime)
        self._say_moved(moved, peer)
        # Not before: to remove a large file takes long.
        self.journal.discard(received)
        return moved

    def _say_moved(self, moved: Moved, peer: Peer) -> None:
        figures = moved.figures
        rounds = f" in {figures.rounds} rounds" if figures.rounds > 1 else ""
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
        self.announce(Event("moved", text, values))

    def _keep(self, program: MovableProgram, move: Move) -> None:
        """Write the state of a program that was handed over to a file, for an operator."""
        file = self.journal.state(move, "handed")
        try:
            for piece in regroup(program.pieces()):
                file.write(piece)
            file.commit()
            with self.journal.lock:
                record = self.journal.get(move.program)
                if record and record.standing is OwnershipState.HANDED:
                    self.journal.put(replace(record, file=file.name))
        except (WasmsrError, OSError, MemoryError) as error:
            with suppress(OSError):
                file.discard()
            self.announce(Event("trouble", f"its state could not be written here: {error}"))

    def commit(
        self, move: Move, stopped: float | None = None, round_trip: float = 0.0
    ) -> float | None:
        """Tell the peer the decision until the peer confirms it; then journal that.

        Args:
            move: The decided move.
            stopped: When the program was paused (`time.monotonic`); None if an earlier process
                paused it.
            round_trip: Seconds of a question to the peer and its answer.

        Returns:
            Seconds from `stopped` until the program ran at the peer; None if that is not known.

        Raises:
            HandedAway: `stop` was set before the peer confirmed.
        """
        downtime: float | None = None
        peer = self.peer_of(move.program)
        delay = FIRST_DELAY
        complained = ""
        while not self._confirmed(move):
            arrives = time.monotonic() + round_trip / 2
            trouble, started = self._ask_to_run(move, stopped, round_trip)
            if not trouble:
                if stopped is not None:
                    downtime = arrives + started - stopped
                break
            if trouble != complained:
                complained = trouble
                self.announce(Event("asking", f"{trouble}; asking again", {"peer": peer.address}))
            if self.stop.wait(delay):
                raise self._handed_away(move)
            delay = min(delay * 2, LAST_DELAY)
        with self.journal.lock:
            record = self.journal.get(move.program)
            if record and record.standing is OwnershipState.HANDED and record.epoch == move.epoch:
                try:
                    self.journal.put(replace(record, confirmed=True))
                except JournalError as error:
                    # The only effect is one more question after a restart.
                    self.announce(Event("trouble", error.message))
        return downtime

    def _ask_to_run(
        self, move: Move, stopped: float | None, round_trip: float
    ) -> tuple[str, float]:
        """Send one Commit.

        Returns:
            What is wrong, or "" if the peer owns the program; and the seconds that the peer needed.
        """
        peer = self.peer_of(move.program)
        try:
            span = time.monotonic() + round_trip / 2 - stopped if stopped is not None else 0.0
            answer = peer.commit(move, span)
        except (PeerLost, PeerRefused) as error:
            return f"{peer.address} has not confirmed that it owns the program ({error})", 0.0
        return self._trouble(peer, answer.standing), answer.started

    def _trouble(self, peer: Peer, standing: OwnershipState) -> str:
        """Return what an answer to Commit says against the move, or ""."""
        if standing in (
            OwnershipState.OWNED,
            OwnershipState.OFFERED,
            OwnershipState.HANDED,
            OwnershipState.ENDED,
        ):
            return ""
        if standing is OwnershipState.LOST:
            return ""
        if standing is OwnershipState.READY:
            return f"{peer.address} is getting the program ready"
        return (
            f"{peer.address} does not have the program that this end handed to it "
            "(was it started again with another --state-dir or --port?)"
        )

    def settle(self, record: Record) -> None:
        """End a move that an earlier process began.

        Args:
            record: The program's record: OFFERED, or HANDED and not confirmed.

        Raises:
            InDoubt: `stop` was set before the peer said whether it has the program.
            HandedAway: `stop` was set before the peer confirmed.
        """
        peer = self.peers.of(record)
        move = Move(record.program, record.epoch + 1, record.attempt)
        if record.standing is OwnershipState.HANDED:
            self.commit(Move(record.program, record.epoch, record.attempt))
            return
        verdict = ownership.settle_offered(self._ask_until_answered(move), move)
        file = state_name(move, "handed")
        if not self.journal.path(file).exists():
            file = ""
        if verdict is SettleVerdict.GIVE_UP:
            self.journal.put(replace(record, standing=OwnershipState.LOST, file=file))
            self._unheard = move, peer
            return
        self.journal.put(
            replace(
                record,
                standing=OwnershipState.HANDED,
                epoch=move.epoch,
                file=file,
                received="",
                confirmed=verdict is SettleVerdict.CONFIRM,
            )
        )
        if verdict is SettleVerdict.DECIDE:
            self.commit(move)

    def _ask_until_answered(self, move: Move) -> Report:
        peer = self.peer_of(move.program)
        delay = FIRST_DELAY
        told = False
        while True:
            try:
                answer = peer.status(move)
                if ownership.settle_offered(answer, move) is not SettleVerdict.WAIT:
                    return answer
            except (PeerLost, PeerRefused) as error:
                if not told:
                    told = True
                    text = f"cannot ask {peer.address} whether it has a program: {error}"
                    self.announce(Event("asking", f"{text}; asking again"))
            if self.stop.wait(delay):
                raise InDoubt(
                    f"program {move.program.hex()[:8]} was being moved when this end was killed, "
                    f"and {peer.address} has not said whether it has the program",
                    hint="start the same command again when the other end can be reached",
                )
            delay = min(delay * 2, LAST_DELAY)

    def _confirmed(self, move: Move) -> bool:
        """Return whether the peer's own messages have shown that the program reached it."""
        record = self.journal.get(move.program)
        return (
            record is None
            or record.confirmed
            or record.epoch != move.epoch
            or record.standing is not OwnershipState.HANDED
        )

    def _handed_away(self, move: Move) -> HandedAway:
        peer = self.peer_of(move.program)
        record = self.journal.get(move.program)
        file = str(self.journal.path(record.file)) if record and record.file else ""
        text = f"the program was handed to {peer.address}, which has not confirmed that"
        hint = "start the same command again to ask again"
        if file:
            text += f"; its last state is in {file}"
            hint += (
                "; only if the other end is gone for good, take the program over with "
                f"`wasmsr run PROGRAM --adopt --from-snapshot {file}`"
            )
        return HandedAway(text, file=file, hint=hint)

    def _journal_offer(self, move: Move, to: Peer | None = None) -> None:
        peer = to or self.peer_of(move.program)
        with self.journal.lock:
            record = self.journal.get(move.program)
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
            self.journal.put(
                replace(
                    record,
                    standing=OwnershipState.OFFERED,
                    attempt=move.attempt,
                    peer=peer.address,
                    node=self.peers.node_of(peer),
                )
            )

    def _journal_handed(self, move: Move) -> str:
        """Journal the decision; return the name of a state file that nobody needs any more."""
        with self.journal.lock:
            record = self.journal.get(move.program)
            if record is None or record.attempt != move.attempt:
                raise MigrationError(
                    "the journal does not have this attempt", phase="hand-over", owner="source"
                )
            received = record.received
            self.journal.put(
                replace(
                    record,
                    standing=OwnershipState.HANDED,
                    epoch=move.epoch,
                    file="",
                    received="",
                    confirmed=False,
                )
            )
        return received

    def _give_up(
        self, move: Move, program: MovableProgram, error: Exception | None, stands: bool
    ) -> None:
        """Take an undecided attempt back, on disk first, and continue the program.

        If the disk fails, it is enough that the peer says that it has forgotten the attempt.
        Otherwise the program stays paused: the peer may be READY, and this process may be killed.
        """
        peer = self.peer_of(move.program)
        told = False
        while not self._journal_given_up(move):
            try:
                told = peer.abort(move) in (OwnershipState.UNKNOWN, OwnershipState.HANDED)
            except (PeerLost, PeerRefused):
                told = False
            if told or self.stop.is_set():
                break
            text = f"neither the journal nor {peer.address} can take the move back"
            self.announce(Event("trouble", f"{text}; the program stays paused; trying again"))
            self.stop.wait(1.0)
        if stands and not self.stop.is_set() and program.wait(0) is None:
            program.start()
        if error:
            self._not_moved(move, error, peer)
        if not told:
            try:
                peer.abort(move)
            except (PeerLost, PeerRefused):
                self._unheard = move, peer

    def _journal_given_up(self, move: Move) -> bool:
        with self.journal.lock:
            record = self.journal.get(move.program)
            if record is None or record.attempt != move.attempt:
                return True
            try:
                self.journal.put(replace(record, standing=OwnershipState.OWNED))
            except JournalError:
                return False
        return True

    def _not_moved(self, move: Move, error: Exception, to: Peer | None = None) -> None:
        peer = to or self.peer_of(move.program)
        reason = error.reason.name.lower() if isinstance(error, PeerRefused) else "failed"
        self.refused = isinstance(error, PeerRefused) and error.reason is not Reason.BUSY
        message = str(error)
        hint = getattr(error, "hint", None)
        text = f"not moved, the program runs on here: {message}" + (
            f"; hint: {hint}" if hint else ""
        )
        if self.refused and message == self._reason:
            text = "not moved, for the same reason as before; the program runs on here"
        self._reason = message if self.refused else ""
        self.announce(
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
