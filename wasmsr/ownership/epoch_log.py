"""The output of a leased program: a file for each epoch, which begins where its checkpoint ended.

    FOLDER/EPOCH/STREAM-OFFSET

What an owner wrote after the checkpoint that its successor restored does not count. Nobody cuts its
file: a reader stops there by the name of the next epoch's file. So an old owner that still writes
changes nothing.
"""

from __future__ import annotations

import os
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wasmsr.ownership.failures import LogDamaged
from wasmsr.ownership.fencing import epoch_folder

STREAMS = ("stdout", "stderr")
"""The streams that have logs."""

LARGEST_READ = 1 << 20
"""Bytes that one call returns at most."""

HELD_SUFFIX = ".held"
"""The end of the name of a file of output that is held back."""

Shown = Callable[[bytes | memoryview], None]
"""Gets output in order."""

_EPOCH = re.compile(r"\d{12}")
_FILE = re.compile(r"(stdout|stderr)-(\d{16})")


class LogPart(NamedTuple):
    """What one epoch wrote of a stream.

    Attributes:
        epoch: The epoch.
        start: Offset in the stream of the first byte of the file.
        path: The file.
    """

    epoch: int
    start: int
    path: Path


class Piece(NamedTuple):
    """What a follower reads.

    Attributes:
        offset: Offset in the stream of the first byte.
        data: The bytes.
        epoch: The epoch that wrote them.
        rewound: The stream was cut to `offset`: what the follower had beyond is produced again.
    """

    offset: int
    data: bytes
    epoch: int
    rewound: bool


class EpochLog:
    """Writes the output of one epoch. Any thread may call it.

    With `commit`, output is held back in a file beside, STREAM-OFFSET.held, until the checkpoint to
    which it belongs counts. The file lets a successor complete what counts (`complete`).
    """

    def __init__(
        self,
        folder: Path,
        stream: str,
        epoch: int,
        start: int,
        *,
        commit: bool = False,
        again: bool = False,
        shown: Shown | None = None,
    ) -> None:
        """Begin the part of an epoch.

        Args:
            folder: The folder of the program's logs.
            stream: "stdout" or "stderr".
            epoch: The epoch.
            start: How much of the stream belongs to the checkpoint that was restored, in bytes.
            commit: Hold output back until `committed`.
            again: Go on with the part, which an earlier supervisor of the same epoch has begun.
            shown: Gets what is let out, in order.

        Raises:
            OSError: The file cannot be made; FileExistsError if this epoch has it already.
        """
        assert stream in STREAMS
        place = epoch_folder(folder, epoch)
        place.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.commit = commit
        self._lock = threading.Lock()
        self._shown = shown
        path = place / f"{stream}-{start:016d}"
        how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if again else os.O_EXCL)
        self._file = os.open(path, how, 0o600)
        self._held = os.open(path.with_suffix(HELD_SUFFIX), how, 0o600) if commit else -1
        self._start = start
        self._out = start + os.fstat(self._file).st_size
        self.size = start + os.fstat(self._held).st_size if commit else self._out
        """Bytes of the stream so far, held ones included: what a checkpoint notes as `output`."""

    @property
    def start(self) -> int:
        """Bytes of the stream before this epoch."""
        return self._start

    @property
    def out(self) -> int:
        """Bytes of the stream that were let out."""
        return self._out

    def write(self, data: bytes | memoryview, /) -> int:
        """Append output, or hold it back; return how many bytes were taken."""
        with self._lock:
            at = self.size - self._start
            if self.commit:
                _write(self._held, data, at)
                self.size += len(data)
            else:
                _write(self._file, data, at)
                self.size += len(data)
                self._let_out(data)
        return len(data)

    def _let_out(self, data: bytes | memoryview) -> None:
        self._out += len(data)
        if self._shown is not None:
            self._shown(data)

    def committed(self, output: int) -> None:
        """Let out what a checkpoint has, of which the register's answer says that it counts.

        Args:
            output: `size` when the checkpoint was made.
        """
        with self._lock:
            while self.commit and self._out < output:
                at = self._out - self._start
                data = os.pread(self._held, min(LARGEST_READ, output - self._out), at)
                if not data:
                    return
                _write(self._file, data, at)
                self._let_out(data)

    def sync(self) -> None:
        """Make what was written durable. Call it before a checkpoint that has it counts."""
        with self._lock:
            os.fsync(self._held if self.commit else self._file)

    def close(self) -> None:
        """Close the file; what is held back is not let out."""
        with self._lock:
            for file in (self._file, self._held):
                if file >= 0:
                    os.close(file)
            self._file = self._held = -1


def _write(file: int, data: bytes | memoryview, at: int) -> None:
    """Write all bytes at an offset: to write the same bytes twice changes nothing."""
    view = memoryview(data)
    while view:
        done = os.pwrite(file, view, at)
        view, at = view[done:], at + done


def complete(folder: Path, stream: str, epoch: int, output: int | None) -> None:
    """Let out what counts of an epoch's held output, if its owner was lost before it did so.

    Args:
        folder: The folder of the program's logs.
        stream: "stdout" or "stderr".
        epoch: The epoch.
        output: Bytes of the stream that count; None if the program has ended, so that all count.

    Raises:
        LogDamaged: The epoch has two parts of the stream.
        OSError: A file cannot be read or written.
    """
    for part in parts(folder, stream):
        held = part.path.with_suffix(HELD_SUFFIX)
        if part.epoch != epoch or not held.exists():
            continue
        with open(held, "rb") as source, open(part.path, "r+b") as target:
            at = os.fstat(target.fileno()).st_size
            end = os.fstat(source.fileno()).st_size if output is None else output - part.start
            while at < end and (data := os.pread(source.fileno(), min(LARGEST_READ, end - at), at)):
                _write(target.fileno(), data, at)
                at += len(data)
            os.fsync(target.fileno())


def parts(folder: Path, stream: str) -> list[LogPart]:
    """Return what the epochs wrote of a stream, oldest first. Other files are ignored.

    Raises:
        LogDamaged: An epoch has two parts of the stream.
        OSError: The folder cannot be read.
    """
    found: list[LogPart] = []
    if not folder.is_dir():
        return found
    for place in sorted(folder.iterdir()):
        if not _EPOCH.fullmatch(place.name) or not place.is_dir():
            continue
        for path in sorted(place.iterdir()):
            match = _FILE.fullmatch(path.name)
            if match is None or match[1] != stream:
                continue
            if found and found[-1].epoch == int(place.name):
                raise LogDamaged(f"{place} has two files of {stream}")
            found.append(LogPart(int(place.name), int(match[2]), path))
    return found


class LogFollower:
    """Reads a stream that grows, and that is rewound when an owner is lost."""

    def __init__(self, folder: Path, stream: str, offset: int = 0, epoch: int = 0) -> None:
        """Begin at an offset of the stream; `epoch` is that of the byte before, 0 at the begin."""
        self.folder = folder
        self.stream = stream
        self.offset = offset
        self._epoch = epoch

    def read(self) -> Piece | None:
        """Return the next piece, or None if there is nothing new.

        A piece that is `rewound` can be empty; a command then says `rewound to OFFSET`.
        """
        found = parts(self.folder, self.stream)
        newer = [part for part in found if part.epoch > self._epoch]
        cut = min((part.start for part in newer), default=self.offset)
        if self._epoch and cut < self.offset:
            # The smallest start decides: what was read beyond it may all be different now.
            self.offset = cut
            self._epoch = next(part.epoch for part in newer if part.start == cut)
            return Piece(cut, b"", self._epoch, True)
        for at, part in enumerate(found):
            end = min((later.start for later in found[at + 1 :]), default=None)
            if part.epoch < self._epoch or self.offset < part.start:
                continue
            if end is not None and self.offset >= end:
                continue
            room = LARGEST_READ if end is None else min(LARGEST_READ, end - self.offset)
            data = _read(part.path, self.offset - part.start, room)
            if not data and end is not None:
                raise LogDamaged(
                    f"{part.path} ends at byte {self.offset} of the stream, and a checkpoint "
                    f"counts {end}"
                )
            if not data:
                return None
            piece = Piece(self.offset, data, part.epoch, False)
            self._epoch = part.epoch
            self.offset += len(data)
            return piece
        return None


def _read(path: Path, offset: int, size: int) -> bytes:
    file = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return os.pread(file, size, offset)
    finally:
        os.close(file)
