"""What decides a move, for the two halves of the hand-over.

For a program without a lease it is the record HANDED in the source's journal
(`journal_decision.py`). For a leased program it is a swap in the register
(`register_decision.py`). The halves ask the same questions in both cases.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Protocol

from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import Move, Offer


class Decision(Protocol):
    """The decisions about one program, as one end makes or hears of them."""

    # At the source.

    @property
    def lease(self) -> int:
        """Milliseconds of the program's lease; 0 for none."""

    def begin(self) -> None:
        """Become the first owner of a program that begins here.

        Raises:
            WasmsrError: This end does not own it.
        """

    def epoch(self) -> int:
        """Return the epoch in which this end owns the program."""

    def hand(self, move: Move, destination: bytes, stop: threading.Event) -> bool:
        """Make the destination the owner; it is READY, and the program is paused here.

        Args:
            move: The attempt.
            destination: The destination's node id.
            stop: Is set when the user interrupts.

        Returns:
            Whether it is the owner now. Otherwise this attempt can never make it the owner.

        Raises:
            WasmsrError, OSError: It is not the owner, and never will be by this attempt.
            InDoubt: `stop` was set while nobody could tell.
        """

    def settle(
        self, move: Move, stop: threading.Event, ask: Callable[[], SettleVerdict]
    ) -> SettleVerdict | None:
        """Return what is decided about an attempt that an earlier process of this end offered.

        Args:
            move: The attempt.
            stop: Ends the waiting.
            ask: Asks the destination once what it has of the attempt; WAIT if that is not known.

        Returns:
            The verdict. None says that only the destination can tell.

        Raises:
            InDoubt: `stop` was set before it was known.
        """

    def over(self, move: Move) -> bool:
        """Return whether a decided move is known to be over, whatever its destination says.

        Another end has become the owner since, or the program has ended.
        """

    def end(self) -> None:
        """Note that the program has ended here. Nobody may run it again."""

    def lost(self) -> None:
        """Note that this end owned the program in an earlier process, and has nothing of it."""

    # At the destination.

    def ready(self, move: Move) -> None:
        """Note that READY is on the disk of this end, before it is said."""

    def verdict(self, move: Move, said: SettleVerdict) -> SettleVerdict:
        """Return what this end, which is READY, does.

        Args:
            move: The attempt.
            said: What follows from the source's words: TAKE, DROP or WAIT.

        Raises:
            PeerRefused: Nobody can tell now.
        """

    def own(self, move: Move) -> None:
        """Note that this end owns the program; OWNED is on its disk. It may run from now on."""

    def forget(self) -> None:
        """Release what is kept of the program: it is not here any more."""

    # At any end.

    def admit(self, epoch: int, *, last: bool = False) -> None:
        """Check that a message about the program has an effect.

        Args:
            epoch: The epoch of the program's owner who sends it.
            last: Whether it says that the program has ended.

        Raises:
            PeerRefused: The epoch is older than one that is known, or nobody can tell.
        """


class Decisions(Protocol):
    """The decisions of one end, by program. Any thread may call it."""

    def of(self, program: bytes) -> Decision:
        """Return the decision about a program."""

    def close(self) -> None:
        """End all leases, and close the register."""

    def leased(self, program: MovableProgram, seconds: float) -> MovableProgram:
        """Return a program that begins here under a lease of so many seconds.

        Raises:
            OwnershipError: There is no register.
        """

    def check(self, offer: Offer) -> None:
        """Check that the source of an offer may make it. Raises PeerRefused."""

    def received(
        self, move: Move, program: MovableProgram, lease: int, *, again: bool = False
    ) -> MovableProgram:
        """Take note of a program whose whole state is here, before READY is on the disk.

        Args:
            move: The attempt.
            program: The program, restored.
            lease: Milliseconds of its lease, as the offer says; 0 if it has none.
            again: Whether an earlier process of this end was READY.

        Returns:
            The program, which runs only as the decision allows.

        Raises:
            PeerRefused: The program cannot be here.
        """


__all__ = ["Decision", "Decisions"]
