"""The log of an execution that runs elsewhere, as a copy that grows here.

A server has each stream by itself, so the order between the two streams is that in which they came.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from wasmsr.executor.output.frames import FRAMES_FILE, HEAD, TAGS, FrameFile, FrameLog, read_head
from wasmsr.jobs.execution.log import rewind_log

READ: Final = 1 << 20
"""Bytes of the log that are looked at together."""


class CopiedLog:
    """A log that one thread writes, and anybody reads with `read_log`."""

    def __init__(self, folder: Path, limits: Mapping[str, int]) -> None:
        """Go on at the end of what is there, without what a killed process has written half.

        Args:
            folder: The folder of the log.
            limits: Bytes of each stream that its own file gets.

        Raises:
            OSError: It cannot be opened, or is damaged.
        """
        self._folder, self._limits = folder, dict(limits)
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self._mend()
        self._open()

    def _mend(self) -> None:
        """Cut the log after the last frame that is whole, and that its stream's file has too."""
        path = self._folder / FRAMES_FILE
        if not path.exists():
            return
        size = os.path.getsize(path)
        had = {name: self._size_of(name) for name in TAGS}
        names = {number: name for name, number in TAGS.items()}
        sizes, end = dict.fromkeys(TAGS, 0), 0
        for at, tag, length in self._heads():
            name = names[tag]
            grown = sizes[name] + length
            if at + HEAD + length > size or had[name] < min(grown, self._limits[name]):
                break
            sizes[name], end = grown, at + HEAD + length
        kept = {name: min(count, self._limits[name]) for name, count in sizes.items()}
        if end != size or kept != had:
            for name in TAGS:  # one that was never written is empty
                (self._folder / name).touch(mode=0o600)
            rewind_log(self._folder, {FRAMES_FILE: end, **kept})

    def _size_of(self, stream: str) -> int:
        path = self._folder / stream
        return os.path.getsize(path) if path.exists() else 0

    def _open(self) -> None:
        self._within: tuple[int, dict[str, int]] = (0, dict.fromkeys(TAGS, 0))
        self._frames = FrameFile(self._folder)
        self._streams = {
            name: FrameLog(self._folder, name, self._frames, self._limits[name]) for name in TAGS
        }
        self.sizes = self._sizes_before(os.path.getsize(self._folder / FRAMES_FILE))
        """Bytes that the log has of each stream."""

    def write(self, stream: str, data: bytes) -> None:
        """Append output. Raises OSError."""
        view = memoryview(data)
        while view:
            taken = self._streams[stream].write(view)
            self.sizes[stream] += taken
            view = view[taken:]

    def rewind(self, stream: str, offset: int) -> None:
        """Drop what came of a stream from an offset on, and all that came after that.

        `sizes` says afterwards what the log has left of each stream.

        Raises:
            OSError: It cannot be cut.
        """
        end = self._place_of(stream, offset)
        sizes = self._sizes_before(end)
        self.close()
        kept = {name: min(size, self._limits[name]) for name, size in sizes.items()}
        rewind_log(self._folder, {FRAMES_FILE: end, **kept})
        self._open()

    def clear(self) -> None:
        """Drop everything. Raises OSError."""
        self.close()
        rewind_log(self._folder, {FRAMES_FILE: 0, **dict.fromkeys(TAGS, 0)})
        self._open()

    def end_within(self, most: Mapping[str, int]) -> int:
        """Return where the log ends that has at most so many bytes of each stream.

        Raises OSError: The log is damaged.
        """
        at, sizes = self._within
        if any(sizes[name] > most[name] for name in sizes):
            at, sizes = 0, dict.fromkeys(TAGS, 0)
        names = {number: name for name, number in TAGS.items()}
        for begin, tag, length in self._heads(at):
            if sizes[names[tag]] + length > most[names[tag]]:
                break
            sizes = {**sizes, names[tag]: sizes[names[tag]] + length}
            at = begin + HEAD + length
        self._within = at, sizes
        return at

    def _heads(self, begin: int = 0) -> list[tuple[int, int, int]]:
        """Return the frames from an offset on. Raises OSError."""
        return heads(self._folder, begin)

    def _place_of(self, stream: str, offset: int) -> int:
        """Return where the first frame begins that has a byte of a stream from an offset on."""
        count = 0
        for at, tag, length in self._heads():
            if tag == TAGS[stream]:
                count += length
                if count > offset:
                    return at
        return os.path.getsize(self._folder / FRAMES_FILE)

    def _sizes_before(self, end: int) -> dict[str, int]:
        sizes = dict.fromkeys(TAGS, 0)
        names = {number: name for name, number in TAGS.items()}
        for at, tag, length in self._heads():
            if at < end:
                sizes[names[tag]] += length
        return sizes

    def close(self) -> None:
        """Close the files."""
        for one in self._streams.values():
            one.close()
        self._frames.close()


def heads(folder: Path, begin: int = 0) -> list[tuple[int, int, int]]:
    """Return where each frame of a log begins, its stream's number and its length.

    Args:
        folder: The folder of the log.
        begin: Where the first of these frames begins.

    Raises:
        OSError: It cannot be read, or is damaged.
    """
    found, at = [], begin
    size = os.path.getsize(folder / FRAMES_FILE)
    with open(folder / FRAMES_FILE, "rb") as file:
        while at + HEAD <= size:
            file.seek(at)
            try:
                tag, length = read_head(file.read(HEAD))
            except ValueError as error:
                raise OSError(f"the log is damaged: {error}") from None
            found.append((at, tag, length))
            at += HEAD + length
    return found


def log_sizes(folder: Path) -> dict[str, int]:
    """Return how many bytes the log of a folder has of each stream. Raises OSError."""
    names = {number: name for name, number in TAGS.items()}
    sizes = dict.fromkeys(TAGS, 0)
    for _, tag, length in heads(folder):
        sizes[names[tag]] += length
    return sizes


__all__ = ["CopiedLog", "heads", "log_sizes"]
