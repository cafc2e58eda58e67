"""Variants of ownership that lack one rule each. The search must find out what is wrong with each.

A rule is a name that `node.py` asks for, or a row of the product's table that is changed.
"""

from __future__ import annotations

from tests.ownership.model.node import Rules
from wasmsr.ownership.transitions import OwnerEvent as E
from wasmsr.ownership.transitions import OwnerState as S


def _rule(name: str) -> Rules:
    return Rules(without=frozenset({name}))


def _row(state: S, event: E, after: S | None) -> Rules:
    return Rules(rows={(state, event): after})


LATE_SWAPS: dict[str, Rules] = {
    "a source that gives an attempt up does not write so before the program runs on": _rule(
        "aborted first"
    ),
    "a late swap does not look who owns the program": _rule("a late swap is the owner's"),
    "a destination drops what the journal of a killed source still offers": _rule(
        "offered until settled"
    ),
}
"""A source that was killed between READY and the swap makes the swap when it is started again."""

BROKEN: dict[str, Rules] = {
    # The register.
    "a swap compares nothing": _rule("compare"),
    "a swap compares owner and epoch, not the whole record": _rule("whole record"),
    "the record ends with its lease": _rule("permanent"),
    "a new owner keeps the epoch": _rule("next epoch"),
    # The lease.
    "the lease counts from the answer to the renewal": _rule("before the renewal"),
    "the lease counts from the answer to the claim": _rule("before the claim"),
    "a claim that is repeated counts from the repetition": _rule("from the first claim"),
    "no pause at two thirds": _rule("two thirds"),
    "a frozen owner runs on without a look at its deadline": _rule("thaw"),
    "the clock stops while the machine is suspended": _rule("boot time"),
    "a paused owner runs on without a renewal": _rule("held renews"),
    "an owner in doubt only reads": _rule("asking renews by a swap"),
    "an owner in doubt never asks": _rule("asking renews"),
    "a claim that was answered late runs": _row(S.CLAIMING, E.GRANTED_LATE, S.RUNNING),
    "a renewal that was answered late runs": _row(S.ASKING, E.RENEWED_LATE, S.RUNNING),
    "an owner that is refused runs on": _row(S.ASKING, E.REFUSED, S.RUNNING),
    "who is refused a claim runs": _row(S.CLAIMING, E.REFUSED, S.RUNNING),
    "a claim without an answer runs": _row(S.CLAIMING, E.SILENT, S.RUNNING),
    # The watch.
    "anybody takes the program at once": _rule("watch"),
    "a watch does not begin again when the record changes": _rule("watch restarts"),
    "a watch without a margin for clocks": _rule("margin"),
    "clocks drift more than is allowed for": _rule("bounded drift"),
    "nobody takes a program over": _row(S.NONE, E.TAKE, None),
    # Crashes and workers.
    "an owner that was started again runs on in its epoch": _rule("claim after a crash"),
    "a new supervisor leaves an old worker alone": _rule("old workers first"),
    "a worker does not watch its own deadline": _rule("worker watches"),
    "an adopted worker runs on at once": _row(S.STRANDED, E.ADOPT, S.RUNNING),
    "a stranded worker is neither adopted nor ends": Rules(
        rows={(S.STRANDED, E.ADOPT): None, (S.STRANDED, E.WORKER_ENDS): None}
    ),
    # Moves.
    "READY decides, and not the swap": _rule("the swap decides"),
    "an offer does not pause the program": _rule("an offer pauses"),
    "a source without an answer runs on": _row(S.HANDING, E.SILENT, S.RUNNING),
    "a source without an answer reads, and runs on": _rule("settle by read"),
    "a source that has moved the program runs on": _row(S.HANDING, E.MOVED, S.RUNNING),
    "an attempt that is given up runs on at once": _row(S.OFFERING, E.GIVE_UP, S.RUNNING),
    "Commit of any attempt counts": _rule("commit names the attempt"),
    "the destination's lease counts from Commit": _rule("before READY"),
    "a destination that hears Commit late runs": _row(S.RECEIVED, E.DECIDED_LATE, S.RUNNING),
    "a destination that was started again does not ask": _rule("a restarted destination asks"),
    "a destination keeps the state of an attempt that is over": _row(S.RECEIVED, E.DROPPED, None),
    "a destination drops a state without a look at the record": _rule("a reading before the drop"),
    "who gives the program back runs on": _rule("release discards"),
    **LATE_SWAPS,
    # Effects.
    "the receiver takes effects of older epochs": _rule("the receiver refuses"),
}
"""What is missing, and the rules without it."""
