"""What a record says to an end that asks, and what that end then does.

The functions are pure. docs/migration-protocol.md has them as tables.
"""

from __future__ import annotations

from enum import Enum

from wasmsr.migrate.journal.journal import Record
from wasmsr.migrate.protocol import Move, OwnershipState, Report


class SettleVerdict(Enum):
    """What an end in doubt does with an answer."""

    WAIT = "wait"
    TAKE = "take"
    """A READY destination: the source has decided, so own the program."""
    DROP = "drop"
    """A READY destination: the source has given the attempt up, so forget it."""
    DECIDE = "decide"
    """A source that lost an offered program: the destination has all of it, so hand it over."""
    CONFIRM = "confirm"
    """A source: the destination owns the program, or did."""
    GIVE_UP = "give up"
    """A source that lost an offered program: no other end has it."""


def report(record: Record | None, move: Move) -> Report:
    """Return the answer to a question about `move`. Changes nothing."""
    if record is None:
        return Report(OwnershipState.UNKNOWN)
    if record.incoming and record.incoming.attempt == move.attempt:
        return Report(OwnershipState.READY, record.incoming.epoch, record.incoming.attempt)
    return Report(record.standing, record.epoch, record.attempt, record.ending)


def settle_ready(answer: Report, move: Move) -> SettleVerdict:
    """Return what a destination that is READY for `move` does with the source's answer.

    The program may run only if the source's record names this attempt as handed. If the record
    names the program and says anything else but "offered in this attempt", the source has given the
    attempt up. A source without a record of the program proves nothing.
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
    """Return what a source does whose record is OFFERED for `move` and whose program is lost."""
    if answer.standing is OwnershipState.READY and answer.attempt == move.attempt:
        return SettleVerdict.DECIDE
    if answer.standing is OwnershipState.RECEIVING:
        return SettleVerdict.WAIT
    if owned(answer, move):
        return SettleVerdict.CONFIRM
    return SettleVerdict.GIVE_UP


def owned(answer: Report, move: Move) -> bool:
    """Return whether the destination owns the program by `move`, or has owned it."""
    if answer.standing is OwnershipState.HANDED:
        # It has handed the program on. Its own epoch was one less.
        return answer.epoch > move.epoch
    return (
        answer.standing
        in (OwnershipState.OWNED, OwnershipState.OFFERED, OwnershipState.ENDED, OwnershipState.LOST)
        and answer.epoch >= move.epoch
    )
