"""The whole output of a program on disk: a log of frames, and the bytes of each stream.

    FOLDER/frames            what the program wrote to either stream, in its order
    FOLDER/stdout, stderr    bytes of one stream, up to a limit

A frame is the stream's number (u32, little-endian; 1 is stdout, 2 is stderr), the length (u32,
big-endian) and the bytes: the form of Bacalhau's logs. The worker that has the program writes, and
anybody reads. Frames are appended whole, or not at all.
"""

from __future__ import annotations

import errno
import os
import struct
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wasmsr.executor.output.rings import sync_path
from wasmsr.executor.port import LARGEST_READ

FRAMES_FILE: Final = "frames"
"""The name of the log in its folder, and of its length among those of the streams."""

TAGS: Final = {"stdout": 1, "stderr": 2}
"""The number of each stream."""

HEAD: Final = 8
"""Bytes before the data of a frame."""

LARGEST_FRAME: Final = 1 << 20
"""Bytes of data of one frame at most; a larger write makes several frames."""

_TAG, _LENGTH = struct.Struct("<I"), struct.Struct(">I")


def frame_head(tag: int, length: int) -> bytes:
    """Return the bytes before the data of a frame."""
    return _TAG.pack(tag) + _LENGTH.pack(length)


def read_head(head: bytes) -> tuple[int, int]:
    """Return stream and length of a frame.

    Raises:
        ValueError: The bytes are not the head of a frame.
    """
    (tag,), (length,) = _TAG.unpack_from(head), _LENGTH.unpack_from(head, 4)
    if tag not in (1, 2) or length > LARGEST_FRAME:
        raise ValueError(f"not a frame of a log: stream {tag}, {length} bytes")
    return tag, length


def cut_frames(folder: Path, ends: Mapping[str, int]) -> None:
    """Drop what a log has beyond these ends, durably: the program writes it again.

    Args:
        folder: The folder of the log.
        ends: Bytes of the log, by `FRAMES_FILE`, and of each stream, by its name.

    Raises:
        OSError: The files cannot be cut, or the log is shorter than that.
    """
    for name, end in ends.items():
        path = folder / name
        size = path.stat().st_size
        if size < end and name == FRAMES_FILE:
            raise OSError(errno.EIO, f"the log has {size} bytes, and had {end} when it was saved")
        if size > end:
            os.truncate(path, end)
            sync_path(path, os.O_RDONLY)


class FrameFile:
    """The log of one program, to which both of its streams are written."""

    def __init__(self, folder: Path) -> None:
        """Go on at the end of what is there. Raises OSError."""
        folder.mkdir(exist_ok=True, mode=0o700)
        self._lock = threading.Lock()
        self._file = _opened(folder / FRAMES_FILE)
        self._size = os.fstat(self._file).st_size

    def append(self, tag: int, data: memoryview) -> None:
        """Append a frame. Raises OSError; the log is as it was then."""
        head = frame_head(tag, len(data))
        whole = len(head) + len(data)
        with self._lock:
            done = -1
            try:
                done = os.writev(self._file, (head, data))
                if done != whole:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                if done > 0:
                    os.ftruncate(self._file, self._size)
                raise
            self._size += whole

    def read(self, offset: int) -> tuple[int, bytes]:
        """Return the offset and what the log has from there on."""
        return offset, os.pread(self._file, LARGEST_READ, offset)

    def drained(self) -> int:
        """Return how many bytes the log has."""
        with self._lock:
            return self._size

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            os.close(self._file)
            self._file = -1


class FrameLog:
    """One stream of a program that is written to a log of frames."""

    def __init__(self, folder: Path, stream: str, frames: FrameFile, most: int) -> None:
        """Go on at the end of what is there.

        Args:
            folder: The folder of the log.
            stream: "stdout" or "stderr".
            frames: The log.
            most: Bytes of the stream that its own file gets.

        Raises:
            OSError: The file cannot be opened.
        """
        self._frames, self._tag, self._most = frames, TAGS[stream], most
        self._file = _opened(folder / stream)
        self._size = os.fstat(self._file).st_size

    def write(self, data: memoryview, /) -> int:
        """Append data, as to a file, and return how many bytes were taken. Raises OSError."""
        view = memoryview(data).cast("B") if len(data) else memoryview(b"")
        for at in range(0, len(view) or 1, LARGEST_FRAME):
            piece = view[at : at + LARGEST_FRAME]
            try:
                self._frames.append(self._tag, piece)
            except OSError:
                if at:
                    return at
                raise
            kept = piece[: max(0, self._most - self._size)]
            if kept:
                self._size += os.write(self._file, kept)
        return len(view)

    def read(self, offset: int) -> tuple[int, bytes]:
        """Return the offset and what the stream's file has from there on."""
        return offset, os.pread(self._file, LARGEST_READ, offset)

    def drained(self) -> int:
        """Return how many bytes the stream's file has."""
        return self._size

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)
        self._file = -1


def _opened(path: Path) -> int:
    return os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
