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


def now() -> int:
    """Return the time in ns since 1970, from 0 to `LATEST`."""
    try:
        found = time.time_ns()
    except OverflowError:
        # A float is exact to some microseconds then.
        found = int(time.clock_gettime(time.CLOCK_REALTIME) * 1_000_000_000)
    return min(max(found, 0), LATEST)
