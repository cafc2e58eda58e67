"""Reading files of the host so that neither the program nor anybody else can notice."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from typing import Final


def open_to_read(root: int, path: bytes, flags: int = 0) -> int:
    """Open a file below `root` without a change of its access time, if the host allows that.
    Raises OSError."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | _NO_ATIME, dir_fd=root)
    except PermissionError:
        # Only a file's owner may do that.
        return os.open(path, flags, dir_fd=root)


_NO_ATIME: Final = getattr(os, "O_NOATIME", 0)
OPEN_FILES: Final = "/proc/self/fd"
"""Where Linux has the files that are open, to be opened again."""


class UnnoticedReader:
    """An open regular file that is read while it is saved, so that nobody can notice.

    The file is opened again: the new descriptor has another offset, and reading does not change
    the access time. If the host cannot do that (no /proc, no descriptor left), `host` is the given
    descriptor, and the reader restores its offset; see `own`. Use as a context manager.
    """

    __slots__ = ("host", "own")

    def __init__(self, given: int) -> None:
        """Open the file again.

        Raises:
            OSError: It can be read in no way.
        """
        self.host, self.own = given, False
        flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        for more in (_NO_ATIME, 0):
            try:
                again = os.open(f"{OPEN_FILES}/{given}", flags | more)
            except OSError:
                continue
            if os.path.samestat(os.fstat(again), os.fstat(given)):
                self.host, self.own = again, True
                return
            os.close(again)
        os.pread(given, 0, 0)  # EBADF if it is open for writing only

    def __enter__(self) -> UnnoticedReader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.own:
            os.close(self.host)

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """Return the ranges that have data, as (start, end)."""
        if self.own:
            yield from extents(self.host, size)
            return
        offset = os.lseek(self.host, 0, os.SEEK_CUR)
        try:
            found = list(extents(self.host, size))
        finally:
            os.lseek(self.host, offset, os.SEEK_SET)
        yield from found


def extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Return the ranges of an open file that have data, as (start, end). Moves the offset."""
    position = 0
    while position < size:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole is all that is left
            start, end = position, size  # a file system that does not know holes
        yield start, min(end, size)
        position = end


class ChunkFolder:
    """A directory that stays open as long as chunks below it may be read."""

    def __init__(self, root: int) -> None:
        self.root = os.dup(root)

    def __del__(self) -> None:
        os.close(self.root)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Return a part of a file below the directory.

        Raises:
            OSError: It cannot be read.
        """
        file = open_to_read(self.root, path)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)
