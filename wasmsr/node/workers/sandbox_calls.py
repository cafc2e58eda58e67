"""System calls by which a process gives up rights, with types and exceptions; see `_sandbox.c`.

Every function raises OSError: ENOSYS where the host has no such call.
"""

from __future__ import annotations

import os
from collections.abc import Sequence

from wasmsr._ffi import ffi, lib


def _answer(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result


def give_up_privileges() -> None:
    """Take no rights from programs that are executed, and show this memory to nobody (Linux)."""
    _answer(lib.wsys_give_up_privileges())


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent ends (Linux)."""
    _answer(lib.wsys_adopt_orphans())


def forbid_calls(*, listens: bool = False) -> None:
    """Allow this thread, and those that it starts, only the system calls of a worker (seccomp).

    Args:
        listens: Sockets may be opened too.
    """
    _answer(lib.wsys_forbid_calls(listens))


def landlock_version() -> int:
    """Return the version of Landlock that the kernel has, at least 1."""
    return _answer(lib.wsys_landlock_version())


def restrict_files(
    readable: Sequence[int], writable: Sequence[int], *, listens: bool = False
) -> int:
    """Allow this thread, and those that it starts, only some files (Landlock).

    Args:
        readable: Open folders, and files, whose content may be read.
        writable: The same for what may be read and changed.
        listens: TCP ports may be bound. Nothing may be connected to.

    Returns:
        The version of Landlock; an older one restricts less.
    """
    read, write = ffi.new("int[]", list(readable)), ffi.new("int[]", list(writable))
    return _answer(lib.wsys_landlock(read, len(readable), write, len(writable), listens))
