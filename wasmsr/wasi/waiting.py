"""Waiting that a pause can end.

Between the calls that may block and the host's `poll`. Whatever waits for a descriptor waits for
the caller's wake-up descriptor too; when that is first, `Retry` says that nothing has happened yet,
and the call is made again after the pause, or after the snapshot was restored.
"""

from __future__ import annotations

import select
import time
from typing import Final

from wasmsr.wasi.abi import Errno, Failure
from wasmsr.wasi.engine import Caller, Retry

IN: Final = select.POLLIN
OUT: Final = select.POLLOUT
FINE: Final = 1_000_000
"""ns. poll(2) counts in milliseconds; what is left below one is slept. No pause waits longer."""
LONGEST: Final = 3_600_000_000_000
"""ns, of one wait: poll(2) takes no more than 2**31 ms."""


def wait(caller: Caller, host: int, event: int, *, nonblocking: bool) -> None:
    """Return when `host` is ready for `event` (IN or OUT), or has an error to report.

    Raises Failure(AGAIN) if it is not and `nonblocking`, Retry if a pause is wanted first.
    """
    poll = select.poll()
    poll.register(host, event)
    if nonblocking:
        if not poll.poll(0):
            raise Failure(Errno.AGAIN)
        return
    poll.register(caller.wake_fd, IN)
    for ready, _ in poll.poll():
        if ready == host:
            return
    raise Retry


def poll_until(caller: Caller, poll: select.poll, remaining: int | None) -> list[tuple[int, int]]:
    """The (descriptor, events) that are ready within `remaining` ns (None: ever), without the
    wake-up descriptor; none when the time, or an hour of it, is over.

    Raises Retry if a pause is wanted first.
    """
    wake = caller.wake_fd
    poll.register(wake, IN)
    if remaining is not None:
        remaining = min(remaining, LONGEST)
    if remaining is None:
        found = poll.poll()
    else:
        end = time.monotonic_ns() + remaining
        found = poll.poll(remaining // FINE) if remaining >= FINE else poll.poll(0)
        if not found:
            time.sleep(max(0, end - time.monotonic_ns()) / 1e9)
            found = poll.poll(0)
    ready = [pair for pair in found if pair[0] != wake]
    if found and not ready:
        raise Retry
    return ready
