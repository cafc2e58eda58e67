"""Waiting that a pause can end.

Between the calls that may block and the host's `poll`. Whatever waits for a descriptor waits for
the caller's wake-up descriptor too; when that is first, `Retry` says that nothing has happened yet,
and the call is made again after the pause, or after the snapshot was restored.
"""

from __future__ import annotations

import select

from wasmsr.wasi import syscalls
from wasmsr.wasi.abi import Errno, Failure
from wasmsr.wasi.engine import Caller, Retry

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

IN: Final = select.POLLIN
OUT: Final = select.POLLOUT
LONGEST: Final = 3_600_000_000_000
"""ns, of one wait: some hosts count in milliseconds below 2**31."""


def wait(caller: Caller, host: int, event: int, *, nonblocking: bool) -> None:
    """Return when `host` is ready for `event` (IN or OUT), or has an error to report.

    Raises Failure(AGAIN) if it is not and `nonblocking`, Retry if a pause is wanted first.
    """
    if nonblocking:
        if not syscalls.wait_many([(host, event)], 0):
            raise Failure(Errno.AGAIN)
    elif not syscalls.wait_one(host, event, caller.wake_fd):
        raise Retry


def poll_until(
    caller: Caller, waited: list[tuple[int, int]], remaining: int | None
) -> list[tuple[int, int]]:
    """Those of (descriptor, events) that are ready within `remaining` ns (None: ever); none when
    the time, or an hour of it, is over, or a signal came.

    Raises Retry if a pause is wanted first.
    """
    wake = caller.wake_fd
    timeout = -1 if remaining is None else min(remaining, LONGEST)
    found = syscalls.wait_many([*waited, (wake, IN)], timeout)
    ready = [pair for pair in found if pair[0] != wake]
    if found and not ready:
        raise Retry
    return ready
