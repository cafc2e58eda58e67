"""What the host's clock shows, whatever that is.

At the bottom of the package. Python cannot tell the time after 2262 in nanoseconds, and a clock
that was never set may stand before 1970. Neither is a reason to stop a program, so what is told is
the nearest time that WASI and snapshots have: from 1970 to 2554 (2**64 ns).
"""

from __future__ import annotations

import time

LATEST = (1 << 64) - 1
"""ns since 1970."""


def now() -> int:
    """Realtime in ns since 1970, from 0 to `LATEST`."""
    try:
        found = time.time_ns()
    except OverflowError:
        # A float, which has a few microseconds then.
        found = int(time.clock_gettime(time.CLOCK_REALTIME) * 1_000_000_000)
    return min(max(found, 0), LATEST)
