"""Waiting that a pause can end.

Each wait for a descriptor of the host also waits for the caller's wake-up descriptor. If the
wake-up comes first, the call has had no effect and raises `Retry`. The program makes the call again
after the pause, or after a restore.
"""

from __future__ import annotations

import errno
import os
import select

from wasmsr.wasi import syscalls
from wasmsr.wasi.engine import Caller, Retry
from wasmsr.wasi.errors import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from wasmsr.wasi.streams.descriptor import Descriptor
    from wasmsr.wasi.streams.nonblocking import NonblockingStream

IN: Final = select.POLLIN
OUT: Final = select.POLLOUT
PIECE: Final = 1 << 18
"""Bytes of a file that are read between two checks for a pause request."""
MOMENT: Final = 1_000_000
"""ns, after which something is tried again that the host takes for possible, and then is not."""
PIPE_PIECE: Final = 4096
"""A pipe that is ready takes this much without blocking (POSIX, PIPE_BUF; Linux, pipe(7))."""
LONGEST: Final = 3_600_000_000_000
"""ns, of one wait: some hosts count in milliseconds below 2**31."""


def wait(caller: Caller, host: int, event: int, *, nonblocking: bool) -> None:
    """Return when `host` is ready for `event` (IN or OUT), or has an error to report.

    Raises:
        CallError: EAGAIN: it is not ready, and `nonblocking`.
        Retry: A pause is wanted first.
    """
    if nonblocking:
        if not syscalls.wait_many([(host, event)], 0):
            raise CallError(errno.EAGAIN)
    elif not syscalls.wait_one(host, event, caller.wake_fd):
        raise Retry


def poll_until(
    caller: Caller, waited: list[tuple[int, int]], remaining: int | None
) -> list[tuple[int, int]]:
    """Return those of (descriptor, events) that are ready in time.

    Args:
        caller: The caller that waits.
        waited: (host descriptor, select events) each.
        remaining: ns; None waits for ever.

    Returns:
        None also when an hour is over, or a signal came.

    Raises:
        Retry: A pause is wanted first.
    """
    wake = caller.wake_fd
    timeout = -1 if remaining is None else min(remaining, LONGEST)
    found = syscalls.wait_many([*waited, (wake, IN)], timeout)
    ready = [pair for pair in found if pair[0] != wake]
    if found and not ready:
        raise Retry
    return ready


def read_file(caller: Caller, file: Descriptor, buffers: list[memoryview], offset: int) -> int:
    """Read a regular file from `offset` on; return the number of bytes.

    A program may read a hundred megabytes in one call, which takes tens of milliseconds. So the
    file is read in pieces. A pause between two pieces ends the call as if it had not been made:
    the program's offset stays. Made again, the call goes on where it was, if this is still the
    same store in the same invocation, where nothing else can have come between. After a restore
    all is read anew.

    Raises:
        Retry: A pause is wanted first.
    """
    total = sum(map(len, buffers))
    if total <= PIECE:
        return os.preadv(file.host, buffers, offset)
    call = (caller.store.invocations, offset, total)
    done, skip = 0, 0
    if file.begun is not None and file.begun[0] == call:
        skip = file.begun[1]
    file.begun = None
    for buffer in buffers:
        start = min(len(buffer), max(0, skip - done))
        done += start
        while start < len(buffer):
            piece = os.preadv(file.host, [buffer[start : start + PIECE]], offset + done)
            start += piece
            done += piece
            if not piece or done == total:
                return done
            if caller.pause_requested:
                file.begun = (call, done)
                raise Retry
    return done


def write_waiting(
    caller: Caller,
    to: Descriptor,
    buffers: list[memoryview],
    nowait: NonblockingStream | None = None,
) -> int:
    """Write to something that may block, without blocking, so that a pause never waits. `nowait`:
    how, where the descriptor itself is not non-blocking.

    All of it if possible; what was written so far when a pause, an error or a full non-blocking
    descriptor comes in between (a short write, which every program must expect). When nothing was
    written yet: Retry, or the error.
    """
    total = sum(map(len, buffers))
    if not total:
        return 0
    done = 0
    ready = False
    try:
        while True:
            try:
                if nowait is None:
                    piece = os.writev(to.host, buffers)
                elif nowait.sure:
                    piece = nowait.write(buffers)
                elif ready:
                    piece = nowait.write(_first(buffers, PIPE_PIECE))
                else:
                    piece = 0
            except BlockingIOError:
                if to.nonblocking and (nowait is None or nowait.sure):
                    raise
                if ready:
                    # It has room, but too little, as a terminal may.
                    poll_until(caller, [], MOMENT)
                piece = 0
            done += piece
            if done == total:
                return done
            if piece:
                buffers = _after(buffers, piece)
                if caller.pause_requested:
                    return done
            ready = not piece
            if ready or (nowait is not None and not nowait.sure):
                wait(caller, to.host, OUT, nonblocking=to.nonblocking)
                ready = True
    except (OSError, CallError, Retry):
        if not done:
            raise
    return done


def _first(buffers: list[memoryview], size: int) -> list[memoryview]:
    """Return the first `size` bytes at most of the buffers, at least one."""
    found = []
    for buffer in buffers:
        found.append(buffer[:size])
        size -= len(buffer)
        if size <= 0:
            break
    return found


def _after(buffers: list[memoryview], done: int) -> list[memoryview]:
    """Return the buffers without their first `done` bytes."""
    for index, buffer in enumerate(buffers):
        if done < len(buffer):
            return [buffer[done:], *buffers[index + 1 :]]
        done -= len(buffer)
    return []


def read_on(caller: Caller, file: Descriptor, buffers: list[memoryview]) -> int:
    """Read a regular file at its offset, and move that on."""
    if sum(map(len, buffers)) <= PIECE:
        return os.readv(file.host, buffers)
    start = os.lseek(file.host, 0, os.SEEK_CUR)
    done = read_file(caller, file, buffers, start)
    os.lseek(file.host, start + done, os.SEEK_SET)
    return done
