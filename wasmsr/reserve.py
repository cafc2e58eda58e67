"""Descriptors kept in reserve, so that a program that has used up all others can be saved.

A program can open files until the operating system has no descriptor left for this process. To save
the program, wasmsr must open files: of the program, of the snapshot, of Python's modules. So it
holds some descriptors while the program runs, and closes them while the program is paused.
"""

from __future__ import annotations

import os
import threading

COUNT = 12
"""Descriptors in reserve. A save needs at most eight at a time: a file to read, a file to write and
its folder, a temporary file, a module to import and its folder, and two for a pipe."""

_held: list[int] = []
_lock = threading.Lock()


def hold() -> None:
    """Open the reserve: `COUNT` descriptors, or as many as the process can have."""
    with _lock:
        try:
            if not _held:
                _held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
            while len(_held) < COUNT:
                _held.append(os.dup(_held[0]))
        except OSError:
            pass  # a host that has so few descriptors may still have enough


def let_go() -> None:
    """Close the reserve, so that other files can be opened."""
    with _lock:
        while _held:
            os.close(_held.pop())


__all__ = ["COUNT", "hold", "let_go"]
