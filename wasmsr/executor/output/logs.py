"""The output of programs that an executor keeps: the last bytes, or all until they are read.

A program whose output is held waits as for a full pipe. So nothing is lost while its reader is
away, and a new supervisor continues where the old one stopped.
"""

from __future__ import annotations

import fcntl
import os
import threading
from contextlib import suppress
from typing import Protocol

from wasmsr.executor.port import LARGEST_READ, LOG_BYTES, ExecutorError

PIPE_BYTES = 1 << 20
"""Bytes that the pipe of a held output takes, where the host allows so many."""


class ProgramLog(Protocol):
    """Kept output of one stream of a program. Any thread may call its methods."""

    def read(self, offset: int) -> tuple[int, bytes]:
        """Return the first offset, from `offset` on, of which bytes are here, and the bytes."""

    def drained(self) -> int:
        """Return how many bytes the program has written; it must not run."""

    def close(self) -> None:
        """Release what the host keeps."""


class LogBuffer:
    """The last `LOG_BYTES` bytes of an output stream. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._data = bytearray()
        self._dropped = 0

    def write(self, data: memoryview, /) -> int:
        """Keep data, drop the oldest, and return how many bytes were taken."""
        with self._lock:
            self._data += data
            over = len(self._data) - LOG_BYTES
            if over > 0:
                del self._data[:over]
                self._dropped += over
        return len(data)

    def read(self, offset: int) -> tuple[int, bytes]:
        """Return the first offset, from `offset` on, of which bytes are here, and the bytes."""
        with self._lock:
            start = max(offset, self._dropped)
            at = start - self._dropped
            return start, bytes(self._data[at : at + LARGEST_READ])

    def drained(self) -> int:
        """Return how many bytes the program has written."""
        with self._lock:
            return self._dropped + len(self._data)

    def close(self) -> None:
        """Do nothing: the buffer is only memory."""


class HeldLog:
    """All bytes of an output stream from the first that the reader has not had.

    Attributes:
        end: The descriptor to which the program writes: the end of a pipe. The caller closes it.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._read, self.end = os.pipe2(os.O_CLOEXEC)
        os.set_blocking(self._read, False)
        with suppress(OSError):  # the user has many pipes: this one is smaller
            fcntl.fcntl(self._read, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self._data = bytearray()
        self._start = 0

    def read(self, offset: int) -> tuple[int, bytes]:
        """Drop the bytes before `offset`, which the reader has, and return those from there on.

        Raises:
            ExecutorError: The bytes at `offset` were dropped, or were not written yet.
        """
        with self._lock:
            drop = offset - self._start
            if not 0 <= drop <= len(self._data):
                raise ExecutorError(f"the output has no byte {offset} to be read now")
            del self._data[:drop]
            self._start = offset
            self._take(LARGEST_READ)
            return offset, bytes(self._data[:LARGEST_READ])

    def drained(self) -> int:
        """Return how many bytes the program has written; it must not run."""
        with self._lock:
            self._take(LARGEST_READ + 2 * PIPE_BYTES)
            return self._start + len(self._data)

    def _take(self, most: int) -> None:
        """Take what is in the pipe, until `most` bytes are here."""
        while (room := most - len(self._data)) > 0:
            try:
                piece = os.read(self._read, room)
            except BlockingIOError:
                return
            if not piece:
                return
            self._data += piece

    def close(self) -> None:
        """Close the reader's end of the pipe."""
        with self._lock:
            os.close(self._read)
