"""What a process of ours that serves for long sets for itself: heaps, and how threads take turns.

The C library of GNU gives threads heaps of their own, eight for each core. A server whose threads
come and go fills each of them, and what is free in one is of no use to the others. So its memory
grows for thousands of calls although nothing is kept.
"""

from __future__ import annotations

import errno
import os
import sys

from wasmsr._ffi import lib

SHARED = 2
"""Heaps of a server's process: Python runs one thread at a time, and gRPC has threads beside it."""

TURN = 0.0005
"""Seconds that a thread of Python waits for another one that computes, until it asks for its turn.

A stop of a program has about ten steps in several threads of both ends, and each can wait so long.
With Python's 5 ms every fourth move of CPython stood 5 ms longer."""


def become_server(heaps: int = SHARED) -> None:
    """Set this process up to serve. It must have no other thread yet.

    Only a process of our own calls this, never the library: it holds for the whole process.

    Args:
        heaps: Heaps at most, the first thread's included; at least 1.

    Raises:
        OSError: The C library refuses this limit.
    """
    limit_heaps(heaps)
    sys.setswitchinterval(TURN)


def limit_heaps(most: int = SHARED) -> bool:
    """Let all threads of this process share so many heaps. It must have no other thread yet.

    Only a process of our own calls this, never the library: it holds for the whole process.

    Args:
        most: Heaps at most, the first thread's included; at least 1.

    Returns:
        Whether the C library has such a limit.

    Raises:
        OSError: It refuses this one.

    Source: mallopt(3), M_ARENA_MAX.
    """
    result: int = lib.wsys_limit_heaps(most)
    if result < 0 and -result != errno.ENOSYS:
        raise OSError(-result, os.strerror(-result))
    return result == 0


__all__ = ["SHARED", "TURN", "become_server", "limit_heaps"]
