"""Runs one program in both codes at once and compares their states where both can stop.

Fast and precise code poll for a pause at the same canonical points (loop headers reached by a
branch, and calls), so `wsr_pause_after` stops both at the n-th. `Pair` holds two stores that were
made alike; `compare` demands that nothing that a snapshot holds differs. Used by tests/interp for
small programs, by tests/spec for the official scripts and by tests/real for real programs.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

from wasmsr._ffi import ffi, lib
from wasmsr.interp.outcomes import Finished, Outcome, Paused, Trapped
from wasmsr.interp.store.externs import Function, Global
from wasmsr.interp.store.store import Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.state import SnapshotState

THROUGH_CALLS: int = lib.WSR_THROUGH_CALLS
PRECISE: int = lib.WSR_PRECISE
COUNTED: int = lib.WSR_COUNTED


class Differ(AssertionError):
    """The codes stand in different states; the text says where."""


def advance(store: Store, points: int, how: int, *, through_calls: bool = False) -> Outcome:
    """Run to the `points`-th canonical point from here, or to the end.

    Args:
        how: PRECISE; 0, in fast code where that was built; COUNTED, likewise, with counts.
        through_calls: only loop headers count, so that fast code makes its calls itself.
    """
    lib.wsr_pause_after(store.c, points, how | THROUGH_CALLS * through_calls)
    try:
        return store.run()
    finally:
        lib.wsr_pause_after(store.c, 0, 0)


def _memories(store: Store) -> Iterator[Any]:
    counts = ffi.new("wsr_store_counts *")
    lib.wsr_store_count(store.c, counts)
    view = ffi.new("wsr_memory_view *")
    for address in range(counts.memories):
        lib.wsr_memory(store.c, address, view)
        yield ffi.buffer(view.data, view.size) if view.size else b""


def _summary(outcome: Outcome) -> Any:
    if isinstance(outcome, Trapped):
        return outcome.trap.code, outcome.trap.backtrace
    if isinstance(outcome, Finished):
        return "finished", outcome.raw
    return outcome


def _content(snapshot: SnapshotState) -> bytes:
    return bytes(content_digest(snapshot))


class Pair:
    """Two stores that were made alike: one to be run in fast code, one in precise code.

    With `counted` the fast code counts instructions, and the counts are compared too. Memories and
    whole snapshots may be left out of most comparisons where a program has hundreds of megabytes:
    `memories` is how many comparisons there are to one that has them.

    Attributes:
        points: how many canonical points have been passed; compared: at how many the states were.
    """

    def __init__(
        self, fast: Store, precise: Store, *, counted: bool = False, memories: int = 1
    ) -> None:
        self.counted = counted
        self.memories = memories
        self.fast = fast
        self.precise = precise
        self.points = 0
        self.compared = 0

    def advance(self, points: int, *, through_calls: bool = False) -> Outcome:
        """Take both so many canonical points further and compare; the outcome of both.

        Raises:
            Differ: something that a snapshot holds is not equal.
        """
        outcome = advance(self.fast, points, COUNTED * self.counted, through_calls=through_calls)
        other = advance(self.precise, points, PRECISE, through_calls=through_calls)
        self.points += points
        where = f"after {self.points} points"
        if _summary(outcome) != _summary(other):
            raise Differ(f"{where}: fast {outcome}, precise {other}")
        self.compare(where)
        return outcome

    def compare(self, where: str) -> None:
        """Demand equal states: quickly, and every hundredth time through whole snapshots."""
        self.compared += 1
        if self.counted:
            counts = [lib.wsr_executed(store.c) for store in (self.fast, self.precise)]
            if counts[0] != counts[1]:
                raise Differ(f"{where}: counted {counts[0]} instructions, precise {counts[1]}")
        if self.fast.frames(dead_locals=False) != self.precise.frames(dead_locals=False):
            here, there = (
                self.fast.frames(dead_locals=False),
                self.precise.frames(dead_locals=False),
            )
            raise Differ(f"{where}: frames: fast {here[-3:]}, precise {there[-3:]}")
        if self.compared % self.memories == 0:
            self._compare_memories(where)
        sizes = ffi.new("wsr_store_counts *")
        lib.wsr_store_count(self.fast.c, sizes)
        for address in range(sizes.globals):
            if _global(self.fast, address) != _global(self.precise, address):
                raise Differ(f"{where}: global {address} differs")
        if self.compared % (100 * self.memories) == 1 and not self.same_snapshots():
            raise Differ(f"{where}: the snapshots differ")

    def _compare_memories(self, where: str) -> None:
        for one, other in zip(_memories(self.fast), _memories(self.precise), strict=True):
            if one != other:
                at = next(i for i in range(min(len(one), len(other))) if one[i] != other[i])
                raise Differ(f"{where}: memory differs at {at:#x}")

    def same_snapshots(self) -> bool:
        """Whether both capture to the same content, and are whole."""
        self.fast.check()
        self.precise.check()
        return _content(capture(self.fast)) == _content(capture(self.precise))

    def run(
        self, *, most: int, every: int = 1, seed: int = 0, through_calls: bool | None = None
    ) -> Outcome:
        """Run to the end or to `most` comparisons, `every` points apart on average.

        Calls are stopped at, or not, by turns drawn with `seed`, unless `through_calls` says.

        Raises:
            Differ: as `advance`.
        """
        draw = random.Random(seed)
        outcome: Outcome = Paused("requested")
        for _ in range(most):
            through = draw.random() < 0.5 if through_calls is None else through_calls
            outcome = self.advance(
                draw.randint(1, 2 * every - 1) if every > 1 else 1, through_calls=through
            )
            if outcome != Paused("requested"):
                break
        return outcome


def _global(store: Store, address: int) -> int:
    return Global(store, address).bits


def enqueue(pair: Pair, name: str, *args: int | float) -> None:
    """Queue an invocation of an export of the last instance in both stores."""
    for store in (pair.fast, pair.precise):
        function = store.instances[-1].exports[name]
        assert isinstance(function, Function)
        store.enqueue(function, *args)
