"""The time of the host's clock, within the range of WASI and snapshots.

`time.time_ns` fails after 2262, and a clock that was never set can show a time before 1970. Neither
may stop a program. So `now` returns the nearest time from 1970 to 2554 (2**64 ns).
"""

from __future__ import annotations

import time

LATEST = (1 << 64) - 1
"""The latest time, in ns since 1970."""


def boot() -> int:
    """Return ns since the machine was started, suspended time included.

    CLOCK_MONOTONIC of Linux stops in a suspended machine: a deadline would come too late. macOS has
    no CLOCK_BOOTTIME; its CLOCK_MONOTONIC counts that time.
    """
    return time.clock_gettime_ns(getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC))


class Stopwatch:
    """Seconds that something has run, without the time in which it stood."""

    def __init__(self, ran: float = 0.0) -> None:
        """Begin with so many seconds; `run` lets it count."""
        self._ran, self._since = ran, 0.0
        self._runs = False

    @property
    def seconds(self) -> float:
        """What it shows."""
        return self._ran + (time.monotonic() - self._since if self._runs else 0.0)

    def run(self) -> None:
        """Count from now on."""
        if not self._runs:
            self._since, self._runs = time.monotonic(), True

    def stand(self) -> None:
        """Count no more until `run`."""
        self._ran, self._runs = self.seconds, False


def now() -> int:
    """Return the time in ns since 1970, from 0 to `LATEST`."""
    try:
        found = time.time_ns()
    except OverflowError:
        # A float is exact to some microseconds then.
        found = int(time.clock_gettime(time.CLOCK_REALTIME) * 1_000_000_000)
    return min(max(found, 0), LATEST)
