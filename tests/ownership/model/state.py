"""The values of the model, packed into integers: the register, and each node with its messages.

A swap compares the whole record. So of a record that somebody read, the model keeps one bit:
whether it is *fresh*, which is to say that nobody has swapped since. Times are ticks.
"""

from __future__ import annotations

from typing import Any

LEASE = 3
"""Ticks of a lease; the program pauses when one is left."""

WATCH = 5
"""Ticks for which a watcher must see a record unchanged: the lease, and a margin for clocks of
which one is a tick slow and the other a tick fast in that time."""

NODE_FIELDS = {
    "state": 4,  # OwnerState
    "frozen": 1,
    "left": 2,  # ticks of the lease
    "pending": 2,  # ticks of the lease that an answer would give: counted from before the question
    "slow": 1,  # the clock has been slow in the time of `left`
    "slow_pending": 1,  # in the time of `pending`
    "watch": 3,  # ticks until a watcher may take the program
    "fast": 1,  # the clock has been fast in that time
    "epoch": 3,
    "attempt": 3,
    "to": 2,  # the destination of the offer
    "to_renamed": 1,  # which of its ids said READY
    "journaled": 2,  # the journal offers the attempt: OFFERED or RAN_ON
    "ending": 1,  # the question under way ends an attempt of the process before
    "armed": 3,  # an effect of this epoch has passed the check of the deadline
    "renamed": 1,  # the journal was lost, so the node has another id
    "stray": 1,  # an old worker runs beside (only in a broken variant)
    "fresh": 1,  # the record is as the node read it
    "ask": 3,  # the question under way: CREATE to RELEASE below
    "ask_fresh": 1,
    "answer": 2,  # DONE, MINE or OTHER
    "answer_fresh": 1,
    "late": 3,  # a question that nobody waits for; it can still arrive
    "late_fresh": 1,
    "late_epoch": 3,
    "late_to": 3,
    "late_attempt": 3,
    "offered": 3,  # the state of this attempt is on its way to this node
    "offered_epoch": 3,
    "source": 2,
    "ready": 3,  # READY of this attempt is on its way to this node
    "ready_renamed": 1,
    "commit": 3,  # Commit of this attempt is on its way
}
"""Names and bits of what the model has of a node."""

WORLD_FIELDS = {
    "owner": 3,  # id of the owner
    "epoch": 3,  # 0: no record
    "attempt": 3,
    "released": 1,
    "attempts": 3,  # attempts so far
    "seen": 3,  # the largest epoch of which the receiver accepted an effect
    "faults": 3,  # faults that are left
    "moves": 2,  # moves that are left
}
"""Names and bits of the register, of the receiver of effects, and of what may still happen."""

CREATE, CLAIM, RENEW, MOVE, RELEASE = 1, 2, 3, 4, 5
DONE, MINE, OTHER = 1, 2, 3
NOBODY = 7
OFFERED, RAN_ON = 1, 2
"""What the journal says of an attempt: it is offered; so it says, but the program has run since
(only in a broken variant)."""


def _shifts(fields: dict[str, int]) -> dict[str, tuple[int, int]]:
    at, found = 0, {}
    for name, bits in fields.items():
        found[name] = at, (1 << bits) - 1
        at += bits
    return found


NODE = _shifts(NODE_FIELDS)
WORLD = _shifts(WORLD_FIELDS)
NODE_BITS = sum(NODE_FIELDS.values())
WORLD_BITS = sum(WORLD_FIELDS.values())


def room(*names: str) -> int:
    """The mask that clears fields of a node."""
    return ~sum(NODE[name][1] << NODE[name][0] for name in names)


LATE = ("late", "late_fresh", "late_epoch", "late_to", "late_attempt")

NOT_FRESH = room("fresh", "ask_fresh", "answer_fresh", *LATE)
"""A node `& NOT_FRESH` after somebody has swapped the record. A late question that compares with
the record before can do nothing any more, so it is forgotten."""

NOT_FRESH_LATE = room("fresh", "ask_fresh", "answer_fresh", "late_fresh")
"""The same for variants in which such a question can do something."""


class Fields:
    """Fields by name, to be read and changed; `packed` makes an integer of them."""

    def __init__(self, value: int, places: dict[str, tuple[int, int]]) -> None:
        self.__dict__["places"] = places
        for name, (shift, mask) in places.items():
            self.__dict__[name] = value >> shift & mask

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(name)

    def packed(self) -> int:
        values = self.__dict__
        total = 0
        for name, (shift, mask) in values["places"].items():
            value = values[name]
            assert 0 <= value <= mask, f"{name} = {value}"
            total |= value << shift
        return total

    def __repr__(self) -> str:
        return " ".join(f"{n}={getattr(self, n)}" for n in self.places if getattr(self, n))


def node(value: int = 0) -> Fields:
    return Fields(value, NODE)


def world(value: int = 0) -> Fields:
    return Fields(value, WORLD)


def bits(**values: int) -> tuple[int, int]:
    """A message to a node: the mask that makes room, and the bits."""
    room = sum(NODE[name][1] << NODE[name][0] for name in values)
    return ~room, sum(value << NODE[name][0] for name, value in values.items())
