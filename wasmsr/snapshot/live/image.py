"""A mapped file that is written while its snapshot arrives: pages first, then the head.

The regions of the memories begin after a room for the head, whose length nobody knows yet. The
section *padding* fills what the head leaves of it. The first 64 bytes are written last: until then
the file is no snapshot.
"""

from __future__ import annotations

import errno
import os
import zlib
from functools import cache
from typing import Protocol

from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    FLAG_HANDED,
    HEADER,
    RAW,
    Buffer,
    Header,
)
from wasmsr.snapshot.encoding.mapped_writer import places_section, write_at
from wasmsr.snapshot.encoding.reader import SectionSize
from wasmsr.snapshot.live.memories import LiveMemories
from wasmsr.snapshot.memory.page_calls import write_view
from wasmsr.snapshot.memory.page_engine import Runs
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.sections.pages.padding import PADDING
from wasmsr.snapshot.sections.pages.places import PLACES
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.spaces.places import (
    PADDING_LIMIT,
    SpacePlace,
    aligned,
    file_size,
    padding_for,
    places_after,
)

_SPARE = 256 << 10
"""Bytes of room beside twice the rest."""
_MOST_SPARE = PADDING_LIMIT // 2
_MOST_REST = 1 << 30
"""Bytes that an estimate counts for: it comes from the other end."""


class _Head(Protocol):
    """What a reader knows of a head that it has read."""

    @property
    def sections(self) -> list[SectionSize]:
        """Its sections."""


def room_for(rest: int) -> int:
    """Return where the first region begins, for an estimate of the bytes of the rest."""
    return aligned(rest + min(rest, _MOST_SPARE) + _SPARE)


class LiveImage:
    """Writes the file. It does not sync it.

    After an `OSError` the image is laid out anew before it is used again; so a disk that was full
    leaves no wrong file.

    Args:
        file: A descriptor of an empty regular file, open for reading and writing; it stays the
            caller's.
        rest: An estimate of the bytes of the rest.
        memories: The memories, which the caller changes first.
    """

    def __init__(self, file: int, rest: int, memories: LiveMemories) -> None:
        self._file = file
        self._memories = memories
        self._room = room_for(max(0, min(rest, _MOST_REST)))
        self._end = 0
        self._early = 0
        self._tail = b""
        self._header = b""
        self._places: list[SpacePlace] = []
        self._stale = False

    def resize(self, number: int) -> None:
        """Take note of the size of a memory.

        If other regions are after its own, nothing is written to the file until `settle`.

        Raises:
            OSError: The file cannot be written.
        """
        if number < len(self._places) - 1:
            self._stale = True
        if self._stale:
            return
        before = self._places[number - 1] if number else None
        end = self._room if before is None else before.offset + before.length
        name, length = SpaceName(MEMORY_SPACE, number), self._memories[number].pages * PAGE_SIZE
        self._places[number:] = places_after(end, [(name, length)])
        self._cut(self._size())

    def write(self, number: int, runs: Runs) -> None:
        """Write pages of a memory. Raises OSError."""
        if self._stale or not runs:
            return
        try:
            view = memoryview(self._memories[number].data)
            write_view(self._file, self._places[number].offset, view, runs)
        except OSError:
            self._stale = True
            raise

    def foresee(self, rest: Buffer) -> None:
        """Write an earlier rest to where the rest will be, so that it need not be written again.

        Raises:
            OSError: The file cannot be written.
        """
        self._early = min(len(rest), self._room)
        write_at(self._file, HEADER.size, memoryview(rest)[HEADER.size : self._early])

    def append(self, piece: memoryview, foreseen: int | None = None) -> None:
        """Write the next bytes of the rest.

        Args:
            piece: The bytes.
            foreseen: Where they are in the earlier rest; None if they are not in it.

        Raises:
            OSError: The file cannot be written.
        """
        held = max(0, HEADER.size - self._end)
        self._header += piece[:held]
        end = self._end + len(piece)
        if end > self._room:
            self._room, self._stale = room_for(end), True
        there = foreseen == self._end and end <= self._early
        if piece[held:] and not there:
            write_at(self._file, self._end + held, piece[held:])
        self._end = end

    def settle(self) -> None:
        """Lay the file out anew if regions have moved. Raises OSError."""
        if not self._stale:
            return
        self._places = self._laid()
        self._cut(max(self._end, HEADER.size))
        self._cut(self._size())
        self._stale = False
        for number in range(len(self._memories)):
            self.write(number, self._memories[number].stored())

    def finish(self, head: _Head) -> None:
        """Make the file a snapshot.

        Args:
            head: What has read the rest.

        Raises:
            OSError: The file cannot be written.
        """
        end = self._end
        padding = padding_for(end, self._room) if len(self._memories) else 0
        if padding > PADDING_LIMIT:
            self._room, self._stale, padding = aligned(end), True, 0
        self.settle()
        at = split = HEADER.size
        places_at = 0
        for kind, _, stored in head.sections:
            if kind == PLACES.kind:
                places_at = at
            at += stored
            split = at if kind < PADDING.kind else split
        if padding:
            end = self._pad(split, padding)
        write_at(self._file, places_at, places_section(self._places))
        self._cut(file_size(end, self._places))
        header = Header.decode(self._header)
        header = header._replace(
            flags=header.flags | FLAG_HANDED,
            sections=header.sections + bool(padding),
            plain=header.plain + padding,
        )
        write_at(self._file, 0, header.encode())

    def _pad(self, split: int, padding: int) -> int:
        """Put the section *padding* between two parts of the head; return where the head ends."""
        file = self._file
        tail = self._tail or os.pread(file, self._end - split, split)
        if len(tail) != self._end - split:
            raise OSError(errno.EIO, "the image was changed by somebody else")
        self._tail = tail  # the next attempt needs it, if this one finds no room
        write_at(file, split, bytes(max(len(tail), self._early - split)))
        at = split
        for start in range(0, padding, BATCH_SIZE):
            size = min(BATCH_SIZE, padding - start)
            crc = _crc(size)
            if start:
                head = BATCH.pack(RAW, size, crc)
            else:
                head = FIRST.pack(PADDING.kind, 0, 0, padding, RAW, size, crc)
            write_at(file, at, head)
            at += len(head) + size
        write_at(file, at, tail)
        return at + len(tail)

    def _laid(self) -> list[SpacePlace]:
        sizes = [self._memories[number].pages for number in range(len(self._memories))]
        spaces = [(SpaceName(MEMORY_SPACE, n), size * PAGE_SIZE) for n, size in enumerate(sizes)]
        return places_after(self._room, spaces)

    def _size(self) -> int:
        return file_size(self._room, self._places)

    def _cut(self, size: int) -> None:
        try:
            os.ftruncate(self._file, size)
        except OSError:
            self._stale = True
            raise


@cache
def _crc(size: int) -> int:
    """Return the checksum of so many zeros."""
    return zlib.crc32(bytes(size))


__all__ = ["LiveImage", "room_for"]
