"""Descriptors kept in reserve, so that a program that has used up all others can be saved.

A program can open files until the operating system has no descriptor left for this process. To save
the program, wasmsr must open files: of the program, of the snapshot, of Python's modules. So it
holds some descriptors while the program runs, and closes them while the program is paused.

Checkpoints are written while the program runs, so they have a reserve of their own. And they keep
some descriptors open from the first one on: userfaultfd, files under memories, the page table.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

COUNT = 12
"""Descriptors in reserve. A save needs at most eight at a time: a file to read, a file to write and
its folder, a temporary file, a module to import and its folder, and two for a pipe."""
WRITING = 8
"""Descriptors for a checkpoint that is written or merged: a file to read, a file to write, a
folder, a temporary file, and two for each file in which a memory is read."""

_held: list[int] = []
_for_writing: list[int] = []
_lock = threading.Lock()
_lasting = 0
_writing = 0


def hold() -> None:
    """Open the reserve, or as much of it as the process can have."""
    with _lock:
        _fill(_for_writing, _writing)
        _fill(_held, COUNT + _lasting)


def let_go() -> None:
    """Close the reserve, so that other files can be opened."""
    with _lock:
        _empty(_held)


def begin_checkpoints(lasting: int) -> None:
    """Make the reserve larger before a program runs of which checkpoints are taken.

    Args:
        lasting: How many descriptors the first checkpoint opens and keeps.
    """
    global _lasting, _writing
    with _lock:
        _lasting, _writing = lasting, WRITING


def end_checkpoints() -> None:
    """Make the reserve as small again as it was."""
    global _lasting, _writing
    with _lock:
        _lasting = _writing = 0
        _empty(_for_writing)


@contextmanager
def lent() -> Iterator[None]:
    """Close the part of the reserve for checkpoints while one is written beside the program."""
    with _lock:
        had = len(_for_writing)
        _empty(_for_writing)
    try:
        yield
    finally:
        with _lock:
            _fill(_for_writing, min(had, _writing))


def _fill(held: list[int], count: int) -> None:
    try:
        while len(held) < count:
            held.append(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    except OSError:
        pass  # a host that has so few descriptors may still have enough


def _empty(held: list[int]) -> None:
    while held:
        os.close(held.pop())


__all__ = ["COUNT", "WRITING", "begin_checkpoints", "end_checkpoints", "hold", "lent", "let_go"]
