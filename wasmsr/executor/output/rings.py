"""The last bytes of an output stream on disk, in files that both processes see.

    FOLDER/STREAM-OFFSET    bytes of the stream from OFFSET on

The worker that has the program writes, and anybody reads. So output needs nobody to fetch it: it
is there when the supervisor, or the worker, is killed. A ring has at most `PARTS` + 1 files; the
oldest is removed when a new one begins.
"""

from __future__ import annotations

import os
import re
import threading
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from wasmsr.executor.port import LARGEST_READ

PARTS = 4
"""Files in which the room of a ring is divided."""

LEAST_ROOM = 4096
"""Bytes that a ring keeps at least."""

_NAME = re.compile(r"(stdout|stderr)-(\d{16})")


class RingPart(NamedTuple):
    """One file of a ring: the offset in the stream of its first byte, its name and its size."""

    start: int
    path: Path
    size: int


def ring_parts(folder: Path, stream: str) -> list[RingPart]:
    """Return the files of a ring, oldest first. Other files are ignored. Raises OSError."""
    found = []
    if not folder.is_dir():
        return []
    for path in folder.iterdir():
        match = _NAME.fullmatch(path.name)
        if match is not None and match[1] == stream:
            with suppress(FileNotFoundError):  # its turn is over
                found.append(RingPart(int(match[2]), path, path.stat().st_size))
    return sorted(found)


def ring_bounds(folder: Path, stream: str) -> tuple[int, int]:
    """Return the offsets of the first byte that is kept, and of the end. Raises OSError."""
    found = ring_parts(folder, stream)
    return (found[0].start, found[-1].start + found[-1].size) if found else (0, 0)


def read_ring(
    folder: Path, stream: str, offset: int, most: int = LARGEST_READ
) -> tuple[int, bytes]:
    """Return kept bytes.

    Args:
        folder: The folder of the ring.
        stream: "stdout" or "stderr".
        offset: Where to begin.
        most: Bytes that are returned at most.

    Returns:
        The offset of the first byte returned, which is larger than the one asked for where older
        bytes were dropped, and the bytes; none at the end.

    Raises:
        OSError: A file cannot be read.
    """
    while True:
        found = ring_parts(folder, stream)
        try:
            for part in found:
                if offset < part.start + part.size:
                    start = max(offset, part.start)
                    with open(part.path, "rb", buffering=0) as file:
                        data = os.pread(file.fileno(), min(most, LARGEST_READ), start - part.start)
                    if data:
                        return start, data
        except FileNotFoundError:
            continue  # the oldest was removed meanwhile
        return max(offset, found[0].start if found else 0), b""


def cut_ring(folder: Path, stream: str, end: int) -> None:
    """Drop what a stream has from `end` on, durably: it is written again. Raises OSError."""
    folder.mkdir(exist_ok=True, mode=0o700)
    for part in reversed(ring_parts(folder, stream)):
        if part.start >= end:
            part.path.unlink(missing_ok=True)
        elif part.start + part.size > end:
            os.truncate(part.path, end - part.start)
    if ring_bounds(folder, stream)[1] != end:
        # What the checkpoint ends with was dropped long ago: the ring begins anew.
        for part in ring_parts(folder, stream):
            part.path.unlink(missing_ok=True)
        os.close(os.open(folder / f"{stream}-{end:016d}", os.O_CREAT | os.O_WRONLY, 0o600))
    sync_path(folder, os.O_RDONLY | os.O_DIRECTORY)


def sync_path(path: Path, flags: int) -> None:
    """Write a file or folder to the disk. Raises OSError."""
    opened = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(opened)
    finally:
        os.close(opened)


class RingLog:
    """Writes a ring; one process at a time does. Any thread may call its methods."""

    def __init__(self, folder: Path, stream: str, room: int) -> None:
        """Go on at the end of what is there.

        Args:
            folder: The folder of the ring, which is made.
            stream: "stdout" or "stderr".
            room: Bytes that are kept at least, once so many were written.

        Raises:
            OSError: The folder cannot be used.
        """
        self._folder, self._stream = folder, stream
        self._part = max(room, LEAST_ROOM) // PARTS
        self._lock = threading.Lock()
        folder.mkdir(exist_ok=True, mode=0o700)
        found = ring_parts(folder, stream)
        self._kept = [part.path for part in found]
        self._start = found[-1].start if found else 0
        self._size = found[-1].size if found else 0
        self._file = self._open(self._start)

    def _open(self, start: int) -> int:
        path = self._folder / f"{self._stream}-{start:016d}"
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, 0o600)
        if path not in self._kept:
            self._kept.append(path)
        return file

    def write(self, data: memoryview, /) -> int:
        """Append all of the data, as to a file, and return how many bytes these are.

        Raises OSError.
        """
        view = memoryview(data)
        with self._lock:
            while view:
                if self._size >= self._part:
                    self._next()
                done = os.pwrite(self._file, view[: self._part - self._size], self._size)
                self._size += done
                view = view[done:]
        return len(data)

    def _next(self) -> None:
        """Begin a file, and remove the oldest one."""
        start = self._start + self._size
        file = self._open(start)  # first: without it the old one goes on
        os.close(self._file)
        self._file, self._start, self._size = file, start, 0
        while len(self._kept) > PARTS + 1:
            self._kept.pop(0).unlink(missing_ok=True)

    def read(self, offset: int) -> tuple[int, bytes]:
        """Return the first offset, from `offset` on, of which bytes are here, and the bytes."""
        return read_ring(self._folder, self._stream, offset)

    def drained(self) -> int:
        """Return how many bytes the program has written."""
        with self._lock:
            return self._start + self._size

    def sync(self) -> None:
        """Write what is kept to the disk. Raises OSError."""
        with self._lock:
            for path in self._kept:
                sync_path(path, os.O_RDONLY)
            sync_path(self._folder, os.O_RDONLY | os.O_DIRECTORY)

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._file)
            self._file = -1
