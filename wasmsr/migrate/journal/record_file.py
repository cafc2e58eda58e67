"""The file of a program's record: a line for each change, of which the last whole one counts.

A line is the CRC-32 of its JSON in eight hexadecimal digits, a space, the JSON and a line feed. So
a change costs one write and one sync of data. A file of version 1 is one JSON object without a
checksum, and is replaced at the next change.
"""

from __future__ import annotations

import errno
import os
import zlib
from pathlib import Path

LONG = 64 << 10
"""Bytes from which on a file is replaced by its last line and not appended to."""

_HEAD = 9


def line_of(values: bytes) -> bytes:
    """Return the line for a JSON text, which has no line feed."""
    return b"%08x %s\n" % (zlib.crc32(values), values)


def last_of(data: bytes) -> tuple[bytes, int]:
    """Return the JSON text of the last whole line, and where that line ends.

    What follows it was being written when the end was killed or its host lost power: it has no line
    feed, or zeros that the host never wrote. Nobody has been told of it.

    Raises:
        ValueError: No line is whole, or a line was damaged after it had been written.
    """
    end = data.rfind(b"\n") + 1
    lines = data[:end].split(b"\n")[:-1]
    if lines and not _is_whole(lines[-1]) and b"\0" in lines[-1]:
        end -= len(lines.pop()) + 1
    elif _is_whole(data[end:-1]) and data[-1:] != b"\0":
        lines.append(data[end:])  # its line feed was damaged
    if not lines or not all(map(_is_whole, lines)):
        raise ValueError("no line is whole, or one is damaged")
    return lines[-1][_HEAD:], end


def _is_whole(line: bytes) -> bool:
    return line + b"\n" == line_of(line[_HEAD:])


def append(path: Path, size: int, line: bytes) -> None:
    """Add a line to a file, on the disk when this returns.

    Args:
        path: The file.
        size: Bytes that it has.
        line: The line.

    Raises:
        OSError: The disk does not take it. A part of the line may be in the file.
    """
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        if os.fstat(file).st_size != size:
            raise OSError(errno.EIO, "somebody else has written it")
        at, view = size, memoryview(line)
        while view:
            written = os.pwrite(file, view, at)
            at, view = at + written, view[written:]
        os.fdatasync(file)
    finally:
        os.close(file)


def cut(path: Path, size: int) -> None:
    """Take away what `append` has added, on the disk when this returns. Raises OSError."""
    file = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.ftruncate(file, size)
        os.fsync(file)
    finally:
        os.close(file)


__all__ = ["LONG", "append", "cut", "last_of", "line_of"]
