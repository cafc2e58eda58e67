"""The source's half of the hand-over: prepare, stop, stream, decide, commit.

The record HANDED is the one decision. Before HANDED is on disk, this end owns the program: after a
failure it first journals that it has given the attempt up (OWNED, with the attempt's id), and then
resumes the program. After HANDED is on disk, this end never runs the program; it only repeats
Commit. `endpoint` calls this half.
"""

from __future__ import annotations

import hashlib
import secrets
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from wasmsr.errors import MigrationError, WasmsrError
from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Journal, Record, StateFile, state_name
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import Buffer, MovableProgram, Peer
from wasmsr.migrate.protocol import (
    ID_BYTES,
    INPUT,
    PIECE,
    HandedAway,
    InDoubt,
    JournalError,
    Move,
    Offer,
    OwnershipState,
    PeerLost,
    PeerRefused,
    Reason,
    Receipt,
    Refusal,
    Report,
)

PAUSE_SECONDS = 10.0
"""How long a program may take to pause; a host call in progress delays it."""

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between two questions to a silent peer, at first and at most."""


@dataclass(frozen=True)
class Moved:
    """A move that was decided and confirmed.

    Attributes:
        move: The move.
        size: Bytes of the state.
        duration: Seconds that sending the state took.
        downtime: Seconds from the pause of the program to its start at the peer.
    """

    move: Move
    size: int
    duration: float
    downtime: float


class MoveSource:
    """Moves programs away from this end, one at a time, in the thread that calls.

    Attributes:
        peers: The ends to which programs can go.
        stop: Is set when the user interrupts; every wait then ends.
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
    ) -> None:
        self.journal = journal
        self.peers = peers if isinstance(peers, Peers) else Peers(peers)
        self.announce = announce
        self.stop = stop
        self.software = software
        self.refused = False
        self._unheard: tuple[Move, Peer] | None = None
        """An attempt that was given up, and the peer that has not heard so."""
        self._reason = ""

    def peer_of(self, program: bytes) -> Peer:
        """Return the only peer, or of several the one that the journal names for a program."""
        return self.peers.only if len(self.peers) == 1 else self.peers.of(self.journal.get(program))

    def own(self, program: MovableProgram, to: Peer | None = None) -> None:
        """Journal that this end owns a program that begins here. Raises JournalError."""
        peer = to or self.peer_of(program.id)
        self.journal.put(Record(program.id, OwnershipState.OWNED, epoch=1, peer=peer.address))

    def prepare(
        self, program: MovableProgram, move: Move, to: Peer | None = None
    ) -> tuple[bytes, ...]:
        """Ask a peer to take `program`, and upload the modules that the peer lacks.

        This journals nothing.

        Args:
            program: The program.
            move: The attempt.
            to: The peer; None takes the program's peer.

        Returns:
            Digests of the pieces of files that the peer has.

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
        offer = Offer(self.journal.node, move, description, software=self.software)
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
        return answer.held

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
            held = self.prepare(program, move, peer)
            self._journal_offer(move, peer)
        except MigrationError as error:
            self._not_moved(move, error, peer)
            return None
        stopped = time.monotonic()
        name = ""
        try:
            if not program.pause(PAUSE_SECONDS):
                raise MigrationError(
                    f"the program did not pause within {PAUSE_SECONDS:.0f} s",
                    phase="stop",
                    owner="source",
                )
            if program.wait(0) is not None:
                self._give_up(move, program, None)
                return None
            receipt, name, duration = self._stream(program, move, held)
            self._journal_handed(move, name)
        except (WasmsrError, OSError, MemoryError) as error:
            self._give_up(move, program, error)
            self.journal.discard(name)
            return None
        # The decision is on disk. This end never runs the program in this epoch again.
        self._reason = ""
        self.commit(move, stopped)
        downtime = time.monotonic() - stopped
        self.announce(
            Event(
                "moved",
                f"moved to {peer.address}: {size(receipt.size)} in {seconds(duration)}, "
                f"downtime {seconds(downtime)}",
                {
                    "peer": peer.address,
                    "program": move.program.hex(),
                    "epoch": move.epoch,
                    "bytes": receipt.size,
                    "seconds": duration,
                    "downtime": downtime,
                },
            )
        )
        return Moved(move, receipt.size, duration, downtime)

    def _stream(
        self, program: MovableProgram, move: Move, held: tuple[bytes, ...]
    ) -> tuple[Receipt, str, float]:
        """Send the state to the peer and to the disk; return when both have all of it."""
        peer = self.peer_of(move.program)
        began = time.monotonic()
        digest = hashlib.sha256()
        sending = peer.transfer(move)
        file: StateFile | None = None
        try:
            file = self.journal.state(move, "handed")
            for piece in regroup(program.pieces(frozenset(held))):
                sending.send(piece)
                digest.update(piece)
                file.write(piece)
                self.announce(Event("progress", "", {"bytes": file.size}))
                if self.stop.is_set():
                    raise PeerLost("interrupted")
            receipt = Receipt(file.size, digest.digest())
            # While this end syncs its copy, the peer verifies and tries the state.
            sending.finish(receipt)
            file.commit()
            if sending.ready() != receipt:
                raise PeerLost(f"{peer.address} holds other bytes than it was sent")
        except BaseException:
            sending.cancel()
            if file:
                file.discard()
            raise
        return receipt, file.name, time.monotonic() - began

    def commit(self, move: Move, stopped: float | None = None) -> None:
        """Tell the peer the decision until the peer confirms it; then journal that.

        Args:
            move: The decided move.
            stopped: When the program was paused (`time.monotonic`); None if an earlier process
                paused it.

        Raises:
            HandedAway: `stop` was set before the peer confirmed.
        """
        peer = self.peer_of(move.program)
        delay = FIRST_DELAY
        complained = ""
        while not self._confirmed(move):
            trouble = self._ask_to_run(move, stopped)
            if not trouble:
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

    def _ask_to_run(self, move: Move, stopped: float | None) -> str:
        """Send one Commit and return what is wrong, or "" if the peer owns the program."""
        peer = self.peer_of(move.program)
        try:
            span = time.monotonic() - stopped if stopped is not None else 0.0
            standing = peer.commit(move, span)
        except (PeerLost, PeerRefused) as error:
            return f"{peer.address} has not confirmed that it owns the program ({error})"
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
        file = self.journal.path(record.file) if record and record.file else "(gone)"
        return HandedAway(
            f"the program was handed to {peer.address}, which has not confirmed that; "
            f"its last state is in {file}",
            file=str(file),
            hint="start the same command again to ask again; only if the other end is gone for "
            f"good, take the program over with `wasmsr run PROGRAM --adopt --from-snapshot {file}`",
        )

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
                )
            )

    def _journal_handed(self, move: Move, file: str) -> None:
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
                    file=file,
                    received="",
                    confirmed=False,
                )
            )
        self.journal.discard(received)

    def _give_up(self, move: Move, program: MovableProgram, error: Exception | None) -> None:
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
        if not self.stop.is_set() and program.wait(0) is None:
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


def regroup(pieces: Iterable[Buffer], limit: int = PIECE) -> Iterator[Buffer]:
    """Return the same bytes in pieces of at most `limit`; join small pieces in sequence."""
    gathered = bytearray()
    for piece in pieces:
        view = memoryview(piece).cast("B")
        while view:
            if not gathered and len(view) >= limit:
                yield view[:limit]
                view = view[limit:]
                continue
            room = limit - len(gathered)
            gathered += view[:room]
            view = view[room:]
            if len(gathered) == limit:
                yield bytes(gathered)
                gathered.clear()
    if gathered:
        yield bytes(gathered)
