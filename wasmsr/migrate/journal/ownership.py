"""What a record means to an end that asks: the answers to Status, and what follows from them.

Pure functions between the journal and the two halves of the hand-over; the tables in
docs/migration-protocol.md are these functions.
"""

from __future__ import annotations

from enum import Enum

from wasmsr.migrate.journal.journal import Record
from wasmsr.migrate.protocol import Move, OwnershipState, Report


class SettleVerdict(Enum):
    """What an end in doubt does with what it was told."""

    WAIT = "wait"
    TAKE = "take"
    """A READY destination: the source has decided; own the program."""
    DROP = "drop"
    """A READY destination: the attempt was given up."""
    DECIDE = "decide"
    """A source that lost the program undecided: the destination has it all; hand over."""
    CONFIRM = "confirm"
    """A source: the destination owns it, or did."""
    GIVE_UP = "give up"
    """A source that lost the program undecided: nobody else has it either."""


def report(record: Record | None, move: Move) -> Report:
    """Return what to answer when asked about `move`. Changes nothing."""
    if record is None:
        return Report(OwnershipState.UNKNOWN)
    if record.incoming and record.incoming.attempt == move.attempt:
        return Report(OwnershipState.READY, record.incoming.epoch, record.incoming.attempt)
    return Report(record.standing, record.epoch, record.attempt, record.ending)


def settle_ready(answer: Report, move: Move) -> SettleVerdict:
    """Return what a destination that is READY for `move` does with the source's answer.

    Only a record that names this very attempt as handed lets it run. A record that knows the
    program and says anything else but "offered in this attempt" can only stand after the attempt
    was given up. A source that does not know the program proves nothing.
    """
    if (
        answer.standing in (OwnershipState.HANDED, OwnershipState.OFFERED)
        and answer.attempt == move.attempt
    ):
        return (
            SettleVerdict.TAKE if answer.standing is OwnershipState.HANDED else SettleVerdict.WAIT
        )
    if answer.standing in (OwnershipState.UNKNOWN, OwnershipState.READY, OwnershipState.RECEIVING):
        return SettleVerdict.WAIT
    return SettleVerdict.DROP


def settle_offered(answer: Report, move: Move) -> SettleVerdict:
    """Return what a source does that finds its record OFFERED for `move` and has no program any
    more."""
    if answer.standing is OwnershipState.READY and answer.attempt == move.attempt:
        return SettleVerdict.DECIDE
    if answer.standing is OwnershipState.RECEIVING:
        return SettleVerdict.WAIT
    if owned(answer, move):
        return SettleVerdict.CONFIRM
    return SettleVerdict.GIVE_UP


def owned(answer: Report, move: Move) -> bool:
    """Return whether the destination owns the program by `move`, or did before it went on or
    ended."""
    if answer.standing is OwnershipState.HANDED:
        # Handed on: its own epoch was one less.
        return answer.epoch > move.epoch
    return (
        answer.standing
        in (OwnershipState.OWNED, OwnershipState.OFFERED, OwnershipState.ENDED, OwnershipState.LOST)
        and answer.epoch >= move.epoch
    )
