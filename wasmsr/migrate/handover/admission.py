"""Whether an offered program may come: what the protocol, the journal and its streams say.

The functions raise PeerRefused. They change nothing but one thing: an offer can prove that a peer
owns a program that this end has handed to it.
"""

from __future__ import annotations

from dataclasses import replace

from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.protocol import (
    PROTOCOL,
    JournalError,
    Move,
    Offer,
    OwnershipState,
    Reason,
    refused,
)

PARKED = 4
"""Most states in doubt that an end of one program keeps on disk only."""


def check_protocol(offer: Offer, node: bytes) -> None:
    """Refuse an offer of another protocol version, or of this end itself, whose id is `node`."""
    if offer.protocol != PROTOCOL:
        raise refused(
            Reason.VERSION,
            f"it speaks version {PROTOCOL} of the migration protocol, not {offer.protocol}",
            "install the same version of wasmsr on both ends",
        )
    if offer.node == node:
        raise refused(Reason.SELF, "the peer is this very end", "name the address of the other end")


def check_streams(offer: Offer, node: bytes, peers: Peers) -> None:
    """Refuse a program whose streams are at an end to which this one, `node`, does not speak."""
    ends = (b"", offer.node, node)
    shown, fed = offer.description.shown, offer.description.fed
    if shown not in ends or (shown == offer.node and not peers.reaches(shown)):
        raise refused(
            Reason.FEATURE,
            "the program's output is shown by a third end, to which it does not speak",
            "start the program with --stdout-after-move here",
        )
    if fed not in ends or (fed == offer.node and not peers.reaches(fed)):
        raise refused(
            Reason.FEATURE,
            "the program's input is at a third end, to which it does not speak",
            "start the program with --stdin-after-move eof",
        )


def check_journal(journal: Journal, move: Move, programs: int = 1) -> None:
    """Refuse a move that contradicts the journal.

    Args:
        journal: The journal of this end.
        move: The attempt.
        programs: How many programs this end takes.
    """
    record = journal.get(move.program)
    if record and record.incoming:
        raise refused(Reason.BUSY, "it waits for the decision on an earlier attempt")
    parked = max(PARKED, programs)
    if len(parked_records(journal)) >= parked:
        raise refused(
            Reason.BUSY,
            f"it keeps {parked} states whose owners have not decided",
            "`wasmsr remote --forget PROGRAM` there removes one",
        )
    if record and not _may_follow(record, move):
        raise refused(
            Reason.OWNERSHIP,
            f"its journal says that program {move.program.hex()[:8]} is "
            f"{record.standing.name} in epoch {record.epoch}, so nobody can hand it over "
            f"in epoch {move.epoch}",
        )


def confirm(journal: Journal, move: Move, node: bytes) -> None:
    """Note what an offer of a node proves of an earlier move of the same program.

    A third node proves nothing. It may have the program from the one that has not confirmed.
    """
    record = journal.get(move.program)
    if record and record.standing is OwnershipState.HANDED and not record.confirmed:
        if record.node and node != record.node:
            raise refused(
                Reason.BUSY,
                f"it has handed the program to {record.peer}, which has not confirmed that yet",
            )
        # Only the program's owner can offer it in this epoch. So the peer owns it, and its answer
        # to our Commit was lost.
        try:
            journal.put(replace(record, confirmed=True))
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error


def parked_records(journal: Journal) -> list[Record]:
    """Return the records of the states in doubt that are on disk only."""
    return [r for r in journal.records() if r.incoming and r.incoming.parked]


def _may_follow(record: Record, move: Move) -> bool:
    """Return whether our record allows what the source of `move` says.

    The source says that it owns the program in the epoch before the move's.
    """
    claimed = move.epoch - 1
    if record.standing is OwnershipState.UNKNOWN:
        return True
    if record.standing is OwnershipState.HANDED:
        return claimed >= record.epoch
    return record.standing is OwnershipState.LOST and claimed > record.epoch
