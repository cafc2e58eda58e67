"""The programs that come to an end: a registry, and a small state machine for each of them.

A program's own lock (`Journal.locked`) orders what happens to it. The registry's lock is only held
for a moment, never while something is written, received or restored. So no arrival waits for
another one.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum

from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.handover.uploads import Upload
from wasmsr.migrate.journal.journal import Incoming, Journal
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import Move, Offer, OwnershipState, PeerRefused, Reason, refused

MOST_PROGRAMS = 1000
"""Most programs that an end can be told to take."""

OFFERS = 64
"""Offers that an end remembers at least; the oldest is forgotten first, and its source asks again.
"""


@dataclass(frozen=True)
class EndLimits:
    """How many programs an end takes.

    Attributes:
        programs: Programs that are here, arrive, wait for a decision, or are being handed away.
        arrivals: Programs that arrive at the same time.

    Raises:
        ValueError: There is no such limit.
    """

    programs: int = 1
    arrivals: int = 1

    def __post_init__(self) -> None:
        if not 1 <= self.arrivals <= self.programs <= MOST_PROGRAMS:
            raise ValueError(
                f"an end takes 1 to {MOST_PROGRAMS} programs, and at most as many arrive at a "
                f"time: not {self.programs} and {self.arrivals}"
            )


@dataclass
class ReadyProgram:
    """A program that is here, restored on trial, while its source decides.

    Attributes:
        move: The move that brought it.
        program: The restored program; it does not run.
        source: The source's address.
        size: Bytes of its state.
        duration: Seconds that receiving it took.
        since: When the source was asked last (`time.monotonic`).
        came: When the state was complete (`time.monotonic`).
        memory: What its record would have, if it is READY in memory only; else None.
    """

    move: Move
    program: MovableProgram
    source: str
    size: int
    duration: float
    since: float
    came: float
    memory: Incoming | None = None


class ArrivalState(Enum):
    """How far a program is on its way in."""

    OFFERED = "offered"
    """It may come; nothing of it is here."""
    RECEIVING = "receiving"
    """Its state is coming."""
    READY = "ready"
    """All of it is here and on the disk; its source decides."""
    GONE = "gone"
    """It is owned here, or was given up."""


STEPS: dict[ArrivalState, frozenset[ArrivalState]] = {
    ArrivalState.OFFERED: frozenset({ArrivalState.RECEIVING, ArrivalState.GONE}),
    ArrivalState.RECEIVING: frozenset({ArrivalState.READY, ArrivalState.GONE}),
    ArrivalState.READY: frozenset({ArrivalState.GONE}),
    ArrivalState.GONE: frozenset(),
}
"""The states that can follow each state. Any other step is a bug."""


class ArrivingProgram:
    """One attempt of a program to come.

    Attributes:
        move: The attempt.
        state: How far it is.
        offer: The offer; None after a restart.
        upload: The module of the program that is being received, or None.
        reception: Its state that is being received, or None.
        ready: The program, if it is READY.
    """

    def __init__(self, move: Move, offer: Offer | None = None) -> None:
        self.move = move
        self.offer = offer
        self.state = ArrivalState.OFFERED
        self.upload: Upload | None = None
        self.reception: Reception | None = None
        self.ready: ReadyProgram | None = None

    def step(self, state: ArrivalState) -> None:
        """Go to the next state."""
        if state not in STEPS[self.state]:
            raise AssertionError(f"what is {self.state.value} cannot be {state.value} next")
        self.state = state


class Arrivals:
    """The arriving programs of one end, by id. Any thread may call it."""

    def __init__(self, journal: Journal, limits: EndLimits) -> None:
        self.limits = limits
        self._journal = journal
        self._changed = threading.Condition()
        self._arriving: dict[bytes, ArrivingProgram] = {}
        self._committing = 0
        self._retired = False

    def get(self, program: bytes) -> ArrivingProgram | None:
        """Return the attempt of a program to come, or None."""
        with self._changed:
            return self._arriving.get(program)

    def all_in(self, *states: ArrivalState) -> list[ArrivingProgram]:
        """Return the arriving programs in these states, the oldest first."""
        with self._changed:
            return [one for one in self._arriving.values() if one.state in states]

    def offering(self, digest: bytes, size: int) -> ArrivingProgram | None:
        """Return the newest offer that names a module."""
        for one in reversed(self.all_in(ArrivalState.OFFERED)):
            modules = one.offer.description.modules if one.offer else ()
            if (digest, size) in [(name.digest, name.size) for name in modules]:
                return one
        return None

    # ---- steps of one program; the caller holds its lock -----------------------------------------

    def offered(self, offer: Offer) -> None:
        """Note an offer; an earlier one of the same program is forgotten."""
        with self._changed:
            before = self._arriving.pop(offer.move.program, None)
            arriving = ArrivingProgram(offer.move, offer)
            if before is not None:
                before.step(ArrivalState.GONE)
                if before.move == offer.move:
                    arriving.upload = before.upload
            self._arriving[offer.move.program] = arriving
            offers = [one for one in self._arriving.values() if one.state is ArrivalState.OFFERED]
            for old in offers[: -max(OFFERS, self.limits.programs)]:
                self._remove(old)

    def begin(self, arriving: ArrivingProgram) -> None:
        """Note that a program's state comes. Raises PeerRefused if there is no room."""
        with self._changed:
            self._check_room(arriving.move)
            arriving.step(ArrivalState.RECEIVING)

    def hold(self, arriving: ArrivingProgram, ready: ReadyProgram) -> None:
        """Note that a program is READY."""
        with self._changed:
            if arriving.state is ArrivalState.OFFERED:  # restored from the disk
                arriving.step(ArrivalState.RECEIVING)
            arriving.step(ArrivalState.READY)
            arriving.ready, arriving.reception = ready, None
            self._arriving[arriving.move.program] = arriving

    def remove(self, arriving: ArrivingProgram) -> bool:
        """Forget an arriving program; return False if that was done before."""
        with self._changed:
            return self._remove(arriving)

    def _remove(self, arriving: ArrivingProgram) -> bool:
        if arriving.state is ArrivalState.GONE:
            return False
        arriving.step(ArrivalState.GONE)
        if self._arriving.get(arriving.move.program) is arriving:
            del self._arriving[arriving.move.program]
        return True

    # ---- room ------------------------------------------------------------------------------------

    def check_room(self, move: Move) -> None:
        """Refuse a move for which there is no room now. Raises PeerRefused."""
        with self._changed:
            self._check_room(move)

    def _check_room(self, move: Move) -> None:
        if self._retired:
            raise refused(Reason.BUSY, "it is about to end")
        limits = self.limits
        others = [one for one in self._arriving.values() if one.move.program != move.program]
        ready = {one.move.program for one in others if one.state is ArrivalState.READY}
        coming = {one.move.program for one in others if one.state is ArrivalState.RECEIVING}
        if limits.programs == 1:
            if ready:
                raise refused(Reason.BUSY, "it waits for the decision on an earlier attempt")
            if coming:
                raise refused(Reason.BUSY, "it is receiving another program")
        if len(coming) >= limits.arrivals:
            raise refused(Reason.BUSY, f"it is receiving {len(coming)} programs")
        here, leaving = self._journaled(move.program)
        if len(ready | coming | here | leaving) < limits.programs:
            return
        if limits.programs == 1:
            what = "has a program of its own" if here else "is still handing a program over"
            raise refused(Reason.BUSY, f"it {what}")
        raise refused(Reason.BUSY, f"it has {limits.programs} programs, and takes no more")

    def _journaled(self, but: bytes) -> tuple[set[bytes], set[bytes]]:
        """Return the programs that are here, and those that are being handed away."""
        here, leaving = set(), set()
        for record in self._journal.records():
            if record.program == but:
                continue
            if record.standing in (OwnershipState.OWNED, OwnershipState.OFFERED):
                here.add(record.program)
            elif record.standing is OwnershipState.HANDED and not record.confirmed:
                leaving.add(record.program)
        return here, leaving

    def has_room(self, move: Move) -> bool:
        """Return whether there is room for a program that waits on the disk."""
        try:
            self.check_room(move)
        except PeerRefused:
            return False
        return True

    # ---- the end of the end ----------------------------------------------------------------------

    @contextmanager
    def committing(self) -> Iterator[None]:
        """Do something that `retire` waits for."""
        with self._changed:
            self._committing += 1
        try:
            yield
        finally:
            with self._changed:
                self._committing -= 1
                self._changed.notify_all()

    def retire(self, ended: bytes) -> bool:
        """Take no more programs, and give up those whose state is coming.

        Args:
            ended: The id of a program that has ended, which does not count.

        Returns:
            False if this end owns or may own another program, and goes on.
        """
        with self._changed:
            self._changed.wait_for(lambda: not self._committing)
            for record in self._journal.records():
                if record.standing is OwnershipState.OWNED and record.program != ended:
                    return False
            arriving = list(self._arriving.values())
            if any(one.state is ArrivalState.READY for one in arriving):
                return False
            self._retired = True
            for one in arriving:
                if one.reception:
                    one.reception.cancel()
                self._remove(one)
            return True


__all__ = [
    "MOST_PROGRAMS",
    "OFFERS",
    "STEPS",
    "ArrivalState",
    "Arrivals",
    "ArrivingProgram",
    "EndLimits",
    "ReadyProgram",
]
