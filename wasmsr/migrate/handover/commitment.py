"""A move that is decided, until its destination has confirmed that it owns the program."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from wasmsr.errors import WasmsrError
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.ports import MovableProgram, Peer
from wasmsr.migrate.protocol import (
    HandedAway,
    JournalError,
    Move,
    OwnershipState,
    PeerLost,
    PeerRefused,
)
from wasmsr.migrate.rounds.regroup import regroup

FIRST_DELAY, LAST_DELAY = 0.1, 5.0
"""Seconds between two questions to a silent peer, at first and at most."""


class NeverOwned(Exception):
    """The destination was READY in memory only, never owned the program, and has forgotten it."""


class Commitment:
    """One decided move, at its source.

    Args:
        journal: The journal of this end.
        peer: The destination.
        move: The move.
        announce: Gets the events.
        stop: Is set when the user interrupts.
        over: Returns whether the move is known to be over although the peer does not say so.
    """

    def __init__(
        self,
        journal: Journal,
        peer: Peer,
        move: Move,
        announce: Announce,
        stop: threading.Event,
        over: Callable[[], bool] = lambda: False,
    ) -> None:
        self._journal = journal
        self._peer = peer
        self._move = move
        self._announce = announce
        self._stop = stop
        self._over = over

    def carry_out(self, stopped: float | None = None, round_trip: float = 0.0) -> float | None:
        """Tell the peer the decision until the peer confirms it or the move is over; journal that.

        Args:
            stopped: When the program was paused (`time.monotonic`); None if an earlier process
                paused it.
            round_trip: Seconds of a question to the peer and its answer.

        Returns:
            Seconds from `stopped` until the program ran at the peer; None if that is not known.

        Raises:
            HandedAway: `stop` was set before the peer confirmed.
            NeverOwned: The peer can never own it by this move.
        """
        downtime: float | None = None
        peer, delay, complained = self._peer, FIRST_DELAY, ""
        while not self._confirmed():
            arrives = time.monotonic() + round_trip / 2
            trouble, started = self._ask_to_run(stopped, round_trip)
            if not trouble:
                if stopped is not None:
                    downtime = arrives + started - stopped
                break
            if self._over():
                break
            if self._forgotten():
                raise NeverOwned
            if trouble != complained:
                complained = trouble
                self._announce(Event("asking", f"{trouble}; asking again", {"peer": peer.address}))
            if self._stop.wait(delay):
                raise self.handed_away()
            delay = min(delay * 2, LAST_DELAY)
        with self._journal.locked(self._move.program):
            record = self._journal.get(self._move.program)
            handed = record and record.standing is OwnershipState.HANDED
            if record and handed and record.epoch == self._move.epoch:
                try:
                    self._journal.put(replace(record, confirmed=True))
                except JournalError as error:
                    # The only effect is one more question after a restart.
                    self._announce(Event("trouble", error.message))
        return downtime

    def _ask_to_run(self, stopped: float | None, round_trip: float) -> tuple[str, float]:
        """Send one Commit.

        Returns:
            What is wrong, or "" if the peer owns the program; and the seconds that the peer needed.
        """
        peer = self._peer
        try:
            span = time.monotonic() + round_trip / 2 - stopped if stopped is not None else 0.0
            answer = peer.commit(self._move, span)
        except (PeerLost, PeerRefused) as error:
            return f"{peer.address} has not confirmed that it owns the program ({error})", 0.0
        return self._trouble(answer.standing), answer.started

    def _forgotten(self) -> bool:
        """Return whether the peer can never own the program by this move.

        It was READY in memory only, and its journal, which is the same and has lost no record,
        does not have the move. So the process that was READY has ended, or has forgotten it; what
        is on its way to it (a late Commit) finds nothing.
        """
        record = self._journal.get(self._move.program)
        if record is None or not record.journal:
            return False
        try:
            answer = self._peer.status(self._move)
        except (PeerLost, PeerRefused):
            return False
        here = answer.standing in (OwnershipState.READY, OwnershipState.RECEIVING)
        same = answer.journal == record.journal
        return same and not here and not ownership.owned(answer, self._move)

    def _trouble(self, standing: OwnershipState) -> str:
        """Return what an answer to Commit says against the move, or ""."""
        if standing in (
            OwnershipState.OWNED,
            OwnershipState.OFFERED,
            OwnershipState.HANDED,
            OwnershipState.ENDED,
            OwnershipState.LOST,
        ):
            return ""
        if standing is OwnershipState.READY:
            return f"{self._peer.address} is getting the program ready"
        return (
            f"{self._peer.address} does not have the program that this end handed to it "
            "(was it started again with another --state-dir or --port?)"
        )

    def _confirmed(self) -> bool:
        """Return whether the peer's own messages have shown that the program reached it."""
        record = self._journal.get(self._move.program)
        return (
            record is None
            or record.confirmed
            or record.epoch != self._move.epoch
            or record.standing is not OwnershipState.HANDED
        )

    def keep(self, program: MovableProgram) -> None:
        """Write the state of the program that was handed over to a file, for an operator."""
        file = self._journal.state(self._move, "handed")
        try:
            for piece in regroup(program.pieces()):
                file.write(piece)
            file.commit()
            with self._journal.locked(self._move.program):
                record = self._journal.get(self._move.program)
                if record and record.standing is OwnershipState.HANDED:
                    self._journal.put(replace(record, file=file.name))
        except (WasmsrError, OSError, MemoryError) as error:
            with suppress(OSError):
                file.discard()
            self._announce(Event("trouble", f"its state could not be written here: {error}"))

    def handed_away(self) -> HandedAway:
        """Return the error for a move that the peer has not confirmed."""
        record = self._journal.get(self._move.program)
        file = str(self._journal.path(record.file)) if record and record.file else ""
        text = f"the program was handed to {self._peer.address}, which has not confirmed that"
        hint = "start the same command again to ask again"
        if file:
            text += f"; its last state is in {file}"
            hint += (
                "; only if the other end is gone for good, take the program over with "
                f"`wasmsr run PROGRAM --adopt --from-snapshot {file}`"
            )
        return HandedAway(text, file=file, hint=hint)


__all__ = ["FIRST_DELAY", "LAST_DELAY", "Commitment", "NeverOwned"]
