"""The decision about a program without a lease: HANDED in the source's journal."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace

from wasmsr.errors import MigrationError
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import Move, Offer, OwnershipState, Reason, refused
from wasmsr.ownership.failures import OwnershipError


def journal_handed(journal: Journal, move: Move) -> None:
    """Write HANDED.

    Raises:
        MigrationError: The journal does not have the attempt, or cannot be written.
    """
    with journal.locked(move.program):
        record = journal.get(move.program)
        if record is None or record.attempt != move.attempt:
            raise MigrationError(
                "the journal does not have this attempt", phase="hand-over", owner="source"
            )
        journal.put(
            replace(
                record,
                standing=OwnershipState.HANDED,
                epoch=move.epoch,
                file="",
                received="",
                confirmed=False,
            )
        )


class JournalDecision:
    """A program without a lease (`port.Decision`)."""

    def __init__(self, journal: Journal, program: bytes) -> None:
        self._journal = journal
        self._program = program

    @property
    def lease(self) -> int:
        """Return 0: there is none."""
        return 0

    def begin(self) -> None:
        """Become the first owner: the journal alone says so."""

    def epoch(self) -> int:
        """Return the epoch of the record."""
        record = self._journal.get(self._program)
        return record.epoch if record else 1

    def hand(self, move: Move, destination: bytes, stop: threading.Event) -> bool:
        """Write HANDED, which is the decision."""
        journal_handed(self._journal, move)
        return True

    def settle(
        self, move: Move, stop: threading.Event, ask: Callable[[], SettleVerdict]
    ) -> SettleVerdict | None:
        """Return None: nothing is decided, so the destination says whether it is READY."""
        return None

    def over(self, move: Move) -> bool:
        """Return False: only the destination can tell."""
        return False

    def end(self) -> None:
        """Note nothing: the journal's ENDED says it."""

    def lost(self) -> None:
        """Note nothing: the journal's LOST says it."""

    def ready(self, move: Move) -> None:
        """Note nothing: the journal's READY says it."""

    def verdict(self, move: Move, said: SettleVerdict) -> SettleVerdict:
        """Return what the source says."""
        return said

    def own(self, move: Move) -> None:
        """Note nothing: the journal's OWNED says it."""

    def forget(self) -> None:
        """Do nothing: nothing is kept."""

    def admit(self, epoch: int, *, last: bool = False) -> None:
        """Admit it: the records compare epochs and attempts."""


class JournalDecisions:
    """The decisions of an end without a register (`port.Decisions`)."""

    def __init__(self, journal: Journal) -> None:
        self._journal = journal

    def of(self, program: bytes) -> JournalDecision:
        """Return the decision about a program."""
        return JournalDecision(self._journal, program)

    def close(self) -> None:
        """Do nothing: there are no leases."""

    def leased(self, program: MovableProgram, seconds: float) -> MovableProgram:
        """Refuse it: a lease needs a register."""
        raise OwnershipError(
            "this end has no register, so a program cannot have a lease", program=program.id
        )

    def check(self, offer: Offer) -> None:
        """Refuse a leased program."""
        if offer.description.lease:
            raise _no_register()

    def received(
        self, move: Move, program: MovableProgram, lease: int, *, again: bool = False
    ) -> MovableProgram:
        """Return the program as it is."""
        if lease:
            raise _no_register()
        return program


def _no_register() -> MigrationError:
    return refused(
        Reason.FEATURE,
        "the program is under a lease, and this end has no register",
        "start that end with --register too",
    )


__all__ = ["JournalDecision", "JournalDecisions", "journal_handed"]
