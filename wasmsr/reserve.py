"""Descriptors that a running program cannot use up, for what happens when it stands.

At the bottom of the package. A program may open files until the operating system has no descriptor
left for this process. To save it then, files must be opened nevertheless: of the program, of the
snapshot, of modules of Python. So some descriptors are held while it runs, and let go while it
stands.
"""

from __future__ import annotations

import os
import threading

COUNT = 12
"""What a save needs at a time, and some more: a file that is read, one that is written, its folder,
a temporary one, a module that is imported and its folder, and two for a pipe."""

_held: list[int] = []
_lock = threading.Lock()


def hold() -> None:
    """Hold `COUNT` descriptors, or as many as there are."""
    with _lock:
        try:
            if not _held:
                _held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            while len(_held) < COUNT:
                _held.append(os.dup(_held[0]))
        except OSError:
            pass  # a host that has so few descriptors may still have enough


def let_go() -> None:
    """Give them back, for whoever opens something next."""
    with _lock:
        while _held:
            os.close(_held.pop())


__all__ = ["COUNT", "hold", "let_go"]
