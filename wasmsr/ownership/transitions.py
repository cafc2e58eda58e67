"""The one table of what a node may do with a leased program.

The code (`leased_program.py`) and the model that tests every order of events
(`tests/ownership/model.py`) both read this table. docs/ownership.md explains it.
"""

from __future__ import annotations

from enum import IntEnum


class OwnerState(IntEnum):
    """What a node has of a program."""

    NONE = 0
    """Nothing that may run. It may watch the record."""
    CLAIMING = 1
    """It has asked for the next epoch and has no answer yet."""
    RUNNING = 2
    """It is the owner, and its lease lasts. The only state in which the program may run."""
    HELD = 3
    """It is the owner by the last answer; the program is paused."""
    ASKING = 4
    """It has a paused state, and only a renewal that succeeds tells whether it is the owner."""
    OFFERING = 5
    """The program is paused, and a destination gets its state."""
    HANDING = 6
    """It has asked the register to make the destination the owner, and has no answer yet."""
    RECEIVED = 7
    """It has the whole state of an attempt on disk. The register has not decided."""
    ORPHAN = 8
    """The supervisor is gone, and the worker has not noticed yet."""
    STRANDED = 9
    """The worker has paused, and waits for a new supervisor."""


class OwnerEvent(IntEnum):
    """What happens to a node's part of a program."""

    CREATE = 0
    """A new program begins: the node asks for epoch 1."""
    TAKE = 1
    """`may_take` holds: the node asks for the next epoch."""
    GRANTED = 2
    """The register took the claim, and the lease counted from before the question lasts."""
    GRANTED_LATE = 3
    """The register took the claim, and that lease has ended already."""
    RENEWED = 4
    """The register took the renewal, and the lease counted from before the question lasts."""
    RENEWED_LATE = 5
    """The register took the renewal, and that lease has ended already."""
    REFUSED = 6
    """The record names another owner or epoch."""
    STALE = 7
    """The record still names this node in this epoch; only its serial is another."""
    SILENT = 8
    """No answer came. The swap may still arrive."""
    TWO_THIRDS = 9
    """Two thirds of the lease have passed without a renewal."""
    DEADLINE = 10
    """The lease has ended by the local clock."""
    OFFER = 11
    """The program is to move: it pauses."""
    READY = 12
    """The destination has the whole state of this attempt."""
    GIVE_UP = 13
    """The move does not work, and the register was not asked for it."""
    MOVED = 14
    """The register made the destination the owner."""
    RECEIVE = 15
    """A whole state has come, is verified and on disk."""
    DECIDED = 16
    """The record names this node and attempt; the lease counted from before READY lasts."""
    DECIDED_LATE = 17
    """The same, and that lease has ended already."""
    DROPPED = 18
    """The record shows that the attempt is over."""
    RELEASE = 19
    """The owner gives the program back: it discards the state and then asks the register."""
    SUPERVISOR_LOST = 20
    """The supervisor has ended."""
    NOTICE = 21
    """The worker has noticed that."""
    ADOPT = 22
    """A new supervisor takes the worker over."""
    WORKER_ENDS = 23
    """Nobody adopted the worker in time."""
    CRASH = 24
    """The node's processes end."""


_S, _E = OwnerState, OwnerEvent

TRANSITIONS: dict[tuple[OwnerState, OwnerEvent], OwnerState] = {
    (_S.NONE, _E.CREATE): _S.CLAIMING,
    (_S.NONE, _E.TAKE): _S.CLAIMING,
    (_S.NONE, _E.RECEIVE): _S.RECEIVED,
    (_S.NONE, _E.CRASH): _S.NONE,
    (_S.CLAIMING, _E.GRANTED): _S.RUNNING,
    (_S.CLAIMING, _E.GRANTED_LATE): _S.ASKING,
    (_S.CLAIMING, _E.REFUSED): _S.NONE,
    (_S.CLAIMING, _E.SILENT): _S.CLAIMING,
    (_S.CLAIMING, _E.CRASH): _S.NONE,
    (_S.RUNNING, _E.RENEWED): _S.RUNNING,
    (_S.RUNNING, _E.RENEWED_LATE): _S.ASKING,
    (_S.RUNNING, _E.STALE): _S.RUNNING,
    (_S.RUNNING, _E.REFUSED): _S.NONE,
    (_S.RUNNING, _E.SILENT): _S.RUNNING,
    (_S.RUNNING, _E.TWO_THIRDS): _S.HELD,
    (_S.RUNNING, _E.DEADLINE): _S.ASKING,
    (_S.RUNNING, _E.OFFER): _S.OFFERING,
    (_S.RUNNING, _E.SUPERVISOR_LOST): _S.ORPHAN,
    (_S.RUNNING, _E.CRASH): _S.NONE,
    (_S.HELD, _E.RENEWED): _S.RUNNING,
    (_S.HELD, _E.RENEWED_LATE): _S.ASKING,
    (_S.HELD, _E.STALE): _S.HELD,
    (_S.HELD, _E.REFUSED): _S.NONE,
    (_S.HELD, _E.SILENT): _S.HELD,
    (_S.HELD, _E.DEADLINE): _S.ASKING,
    (_S.HELD, _E.RELEASE): _S.NONE,
    (_S.HELD, _E.SUPERVISOR_LOST): _S.STRANDED,
    (_S.HELD, _E.CRASH): _S.NONE,
    (_S.ASKING, _E.RENEWED): _S.RUNNING,
    (_S.ASKING, _E.RENEWED_LATE): _S.ASKING,
    (_S.ASKING, _E.STALE): _S.ASKING,
    (_S.ASKING, _E.REFUSED): _S.NONE,
    (_S.ASKING, _E.SILENT): _S.ASKING,
    (_S.ASKING, _E.SUPERVISOR_LOST): _S.STRANDED,
    (_S.ASKING, _E.CRASH): _S.NONE,
    (_S.OFFERING, _E.RENEWED): _S.OFFERING,
    (_S.OFFERING, _E.RENEWED_LATE): _S.ASKING,
    (_S.OFFERING, _E.STALE): _S.OFFERING,
    (_S.OFFERING, _E.REFUSED): _S.NONE,
    (_S.OFFERING, _E.SILENT): _S.OFFERING,
    (_S.OFFERING, _E.READY): _S.HANDING,
    (_S.OFFERING, _E.GIVE_UP): _S.HELD,
    (_S.OFFERING, _E.DEADLINE): _S.ASKING,
    (_S.OFFERING, _E.SUPERVISOR_LOST): _S.STRANDED,
    (_S.OFFERING, _E.CRASH): _S.NONE,
    (_S.HANDING, _E.MOVED): _S.NONE,
    (_S.HANDING, _E.REFUSED): _S.NONE,
    (_S.HANDING, _E.STALE): _S.ASKING,
    (_S.HANDING, _E.SILENT): _S.ASKING,
    (_S.HANDING, _E.SUPERVISOR_LOST): _S.STRANDED,
    (_S.HANDING, _E.CRASH): _S.NONE,
    (_S.RECEIVED, _E.DECIDED): _S.RUNNING,
    (_S.RECEIVED, _E.DECIDED_LATE): _S.ASKING,
    (_S.RECEIVED, _E.DROPPED): _S.NONE,
    (_S.RECEIVED, _E.TAKE): _S.CLAIMING,
    (_S.RECEIVED, _E.CRASH): _S.RECEIVED,
    (_S.ORPHAN, _E.NOTICE): _S.STRANDED,
    (_S.ORPHAN, _E.TWO_THIRDS): _S.STRANDED,
    (_S.ORPHAN, _E.DEADLINE): _S.STRANDED,
    (_S.ORPHAN, _E.CRASH): _S.NONE,
    (_S.STRANDED, _E.ADOPT): _S.ASKING,
    (_S.STRANDED, _E.WORKER_ENDS): _S.NONE,
    (_S.STRANDED, _E.CRASH): _S.NONE,
}
"""The state after each event that a state allows. Any other event is a bug."""


def may_take(*, owned: bool, named: bool, expired: bool) -> bool:
    """Return whether a node that has nothing of a program may ask for the next epoch.

    Args:
        owned: The record says that somebody owns the program.
        named: That owner is this node. It has nothing, so nothing of that epoch runs.
        expired: This node has seen the record unchanged for a lease and the margin (`RecordWatch`).
    """
    return not owned or named or expired


def claim_event(*, done: bool, lasts: bool) -> OwnerEvent:
    """Return the event of an answer to a claim.

    Args:
        done: The register took it.
        lasts: The lease, counted from before the question was sent, has not ended.
    """
    if not done:
        return OwnerEvent.REFUSED
    return OwnerEvent.GRANTED if lasts else OwnerEvent.GRANTED_LATE


def renewal_event(*, done: bool, mine: bool, lasts: bool) -> OwnerEvent:
    """Return the event of an answer to a renewal; `mine`: the record names this node and epoch."""
    if not done:
        return OwnerEvent.STALE if mine else OwnerEvent.REFUSED
    return OwnerEvent.RENEWED if lasts else OwnerEvent.RENEWED_LATE


def move_event(*, done: bool, mine: bool) -> OwnerEvent:
    """Return the event of an answer to the swap of a move."""
    if done:
        return OwnerEvent.MOVED
    return OwnerEvent.STALE if mine else OwnerEvent.REFUSED


def received_event(*, epoch: int, named: bool, at_epoch: int, lasts: bool) -> OwnerEvent | None:
    """Return what a record says to a node that has the state of an attempt, or None for nothing.

    Args:
        epoch: The epoch of the record.
        named: The record names this node and this attempt.
        at_epoch: The epoch in which this node would own the program by the attempt.
        lasts: The lease, counted from before READY was sent, has not ended.
    """
    if named:
        return OwnerEvent.DECIDED if lasts else OwnerEvent.DECIDED_LATE
    return OwnerEvent.DROPPED if epoch >= at_epoch else None
