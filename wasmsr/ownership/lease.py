"""Times of leases, on the clock of `realtime.boot`, which counts suspended time."""

from __future__ import annotations

import time
from collections.abc import Callable

from wasmsr import realtime
from wasmsr.ownership.failures import LeaseLost
from wasmsr.ownership.owner_record import OwnerRecord

LEASE_SECONDS = 10.0
"""The lease, in seconds, where nothing else is said."""

MARGIN = 0.05
"""How much longer than the lease a watcher waits, as a part of it: clocks of two machines may
differ by so much in their speed."""

POLL_SECONDS = 0.5
"""How often a watcher reads the record."""

Clock = Callable[[], int]
"""Nanoseconds since any fixed moment."""

boot_clock: Clock = realtime.boot
"""The clock of leases."""


def wall_milliseconds() -> int:
    """Return milliseconds since the Unix epoch; people read it, and nobody decides by it."""
    return max(0, time.time_ns() // 1_000_000)


class Lease:
    """The lease of one owner. It counts from *before* the question that gave it was sent.

    Any thread may call its methods.
    """

    def __init__(self, seconds: float = LEASE_SECONDS, clock: Clock = boot_clock) -> None:
        self.length = int(seconds * 1e9)
        self.clock = clock
        self._from: int | None = None

    def begin(self, asked: int | None) -> bool:
        """Begin at `asked`, the clock's time before the question; None ends the lease.

        Returns:
            Whether the lease lasts now.
        """
        self._from = asked
        return self.lasts()

    @property
    def elapsed(self) -> float:
        """How much of the lease has passed: 0 at its begin, 1 or more after its end."""
        begin = self._from
        return 1.0 if begin is None else (self.clock() - begin) / self.length

    @property
    def times(self) -> tuple[int, int]:
        """When the program must pause and when the lease ends, by the clock; 0 without a lease."""
        begin = self._from
        if begin is None:
            return 0, 0
        return begin + self.length * 2 // 3, begin + self.length

    def lasts(self) -> bool:
        """Return whether the lease lasts."""
        return self.elapsed < 1

    def due(self) -> bool:
        """Return whether a third has passed: it is time to renew."""
        return self.elapsed * 3 >= 1

    def late(self) -> bool:
        """Return whether two thirds have passed: the program must pause."""
        return self.elapsed * 3 >= 2

    def would_last(self, asked: int) -> bool:
        """Return whether a lease that counts from `asked` lasts now."""
        return self.clock() - asked < self.length

    def check(self, record: OwnerRecord | None) -> None:
        """Check the deadline before an effect outside. This narrows the window, no more.

        Raises:
            LeaseLost: The lease has ended.
        """
        if not self.lasts():
            raise LeaseLost(
                "its lease has ended, so it must not have an effect here",
                program=record.program if record else b"",
                record=record,
                hint="the program goes on when the register has renewed the lease",
            )


class RecordWatch:
    """One watcher of one record: has the record been unchanged for a lease and the margin?"""

    def __init__(self, *, margin: float = MARGIN, clock: Clock = boot_clock) -> None:
        self.margin = margin
        self.clock = clock
        self.record: OwnerRecord | None = None
        self._since = 0

    def see(self, record: OwnerRecord | None) -> None:
        """Note a record that was just read. Call it after the answer has come, not before."""
        if record != self.record:
            self.record, self._since = record, self.clock()

    def expired(self) -> bool:
        """Return whether the owner's lease has surely ended, by the owner's clock too."""
        if self.record is None:
            return False
        return self.clock() - self._since >= self.record.lease * 1e6 * (1 + self.margin)
