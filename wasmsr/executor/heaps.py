"""The heaps of the C library: how many the threads of a process have.

The C library of GNU gives threads heaps of their own, eight for each core. A server whose threads
come and go fills each of them, and what is free in one is of no use to the others. So its memory
grows for thousands of calls although nothing is kept.
"""

from __future__ import annotations

import errno
import os

from wasmsr._ffi import lib

SHARED = 2
"""Heaps of a server's process: Python runs one thread at a time, and gRPC has threads beside it."""


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


__all__ = ["SHARED", "limit_heaps"]
