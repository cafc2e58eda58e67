"""A mapped file that is written while its snapshot arrives: pages first, then the head.

The regions of the memories begin after a room for the head, whose length nobody knows yet. The
section *padding* fills what the head leaves of it. The first 64 bytes are written last: until then
the file is no snapshot.

Chunks of carried files arrive before the sections too. Their section, *file data*, begins after a
room of its own for the sections before it; *file padding* fills what these leave. Then the rest is
kept beside the image until its end: what follows the file data has no place before.
"""

from __future__ import annotations

import errno
import os
import zlib
from collections import deque
from collections.abc import Sequence
from functools import cache
from typing import IO, NamedTuple, Protocol

from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FIRST,
    FLAG_HANDED,
    HEADER,
    RAW,
    SECTION,
    Buffer,
    Header,
    section_bytes,
)
from wasmsr.snapshot.encoding.mapped_writer import places_section, write_at
from wasmsr.snapshot.encoding.reader import SectionSize
from wasmsr.snapshot.live.carried import FileArea, IncomingFiles, stored_size
from wasmsr.snapshot.live.memories import LiveMemories
from wasmsr.snapshot.memory.page_calls import write_view
from wasmsr.snapshot.memory.page_engine import Runs
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.sections.host.files import CHUNK, CHUNK_SIZE, FILE_DATA, FILE_INDEX, spool
from wasmsr.snapshot.sections.pages.padding import FILE_PADDING, PADDING
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
        files: The chunks of carried files, which are to be written to `files.area`.
        expected: An estimate of the bytes of these chunks.

    Attributes:
        unwritten: Pages of memories that have come and are to be written: number, runs.
    """

    def __init__(
        self,
        file: int,
        rest: int,
        memories: LiveMemories,
        files: IncomingFiles | None = None,
        expected: int = 0,
    ) -> None:
        self.unwritten: deque[tuple[int, Runs]] = deque()
        self._file = file
        self._memories = memories
        self._files = IncomingFiles(0) if files is None else files
        self._kept: IO[bytes] | None = None
        self._there: list[tuple[int, int]] = []
        self._used = 0  # up to where old regions may be in the room before the file data
        self._room = self._rest_room = room_for(max(0, min(rest, _MOST_REST)))
        if expected > 0:
            index = (expected // CHUNK_SIZE + 1) * CHUNK.size
            self._files.area = FileArea(file, aligned(self._room + index + _SPARE))
            self._room += self._files.area.at + aligned(stored_size(expected) + _SPARE)
        self._end = 0
        self._early = 0
        self._tail = b""
        self._header = b""
        self._sections: list[SectionSize] | None = None
        self._done = b""  # the header of the snapshot that the file becomes
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

    def open_area(self) -> None:
        """Have a place for chunks, before the first of them. The regions move if there was none."""
        if self._files.area is None:
            self._files.area = FileArea(self._file, aligned(self._room + _SPARE))
            self._used = self._files.area.at
            self._room, self._stale = aligned(self._used + self._room + _SPARE), True

    def grown(self) -> None:
        """Take note of new chunks in the area; the regions move if it has reached them."""
        area = self._files.area
        if area is not None and area.end + _SPARE > self._room:
            more = area.size // 8 + 4 * _SPARE + self._rest_room
            self._room, self._stale = aligned(area.end + more), True

    @property
    def _has_files(self) -> bool:
        """Whether chunks have come, so that the rest is kept until its end."""
        return self._files.area is not None and self._files.area.size > 0

    def foresee(self, rest: Buffer) -> None:
        """Write an earlier rest to where the rest will be, so that it need not be written again.

        Raises:
            OSError: The file cannot be written.
        """
        area = self._files.area
        self._early = min(len(rest), self._room if area is None else area.at)
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
        if self._has_files:
            if self._kept is None:
                # Not all in memory: it has the chunks for which the rounds had no room.
                self._kept = spool()
            self._kept.write(piece)
            if foreseen == self._end and end <= self._early:
                self._there.append((self._end, end))
            self._end = end
            return
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
        area = self._files.area
        has = area is not None and area.size > 0
        self._cut(area.end if has and area is not None else max(self._end, HEADER.size))
        self._cut(self._size())
        self._stale = False
        for number in range(len(self._memories)):
            self.write(number, self._memories[number].stored())
        self.unwritten.clear()

    def finish(self, head: _Head) -> None:
        """Write all but the header, and pages that are still to be written.

        Args:
            head: What has read the rest.

        Raises:
            OSError: The file cannot be written.
        """
        self._sections = list(head.sections)
        self._finish(self._sections)

    def complete(self) -> None:
        """Make the file a snapshot, after `finish` and the last page.

        Raises:
            OSError: The file cannot be written.
        """
        assert self._sections is not None, "the image is not finished"
        if self._stale:  # a page could not be written, or the places have to be given anew
            self._finish(self._sections)
        write_at(self._file, 0, self._done)

    def _finish(self, sections: Sequence[SectionSize]) -> None:
        if self._has_files:
            self._finish_with_files(sections)
            return
        end = self._end
        padding = padding_for(end, self._room) if len(self._memories) else 0
        if padding > PADDING_LIMIT:
            self._room, self._stale, padding = aligned(end), True, 0
        self.settle()
        at = split = HEADER.size
        places_at = 0
        for kind, _, stored in sections:
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
        self._done = header.encode()

    def _finish_with_files(self, sections: Sequence[SectionSize]) -> None:
        """Do it where chunks have come: their section is there, the others are written around."""
        area, parts = self._files.area, _parts_of(sections)
        assert area is not None
        index = b"".join(section_bytes(FILE_INDEX.kind, self._files.index()))
        used = (
            max(self._early, self._used),
            0,
        )  # up to where the file has other bytes: before the files, and after
        while (zeros := _zeros_in(area.at - len(index) - parts.first)) is None:
            # The sections before are longer than their room, or shorter by far, or no padding has
            # that length.
            used = max(area.end, area.at), max(area.end, used[1])
            wanted = parts.first + len(index) + FIRST.size + 1
            area.move(max(area.at + 64, wanted) if area.at < PADDING_LIMIT else wanted)
        before = self._part(parts.after, parts.split)
        after = self._part(parts.split, self._end)
        end = area.end + len(before) + len(after)
        padding = 0
        if aligned(end) > self._room:
            self._room, self._stale = aligned(end), True
        elif len(self._memories):
            padding = padding_for(end, self._room)
        if padding > PADDING_LIMIT:
            self._room, self._stale, padding = aligned(end), True, 0
        self.settle()
        for start, stop in _others(HEADER.size, parts.first, self._there):
            write_at(self._file, start, self._part(start, stop))
        start = area.at - len(index)
        self._write_zeros(parts.first, zeros, FILE_PADDING.kind, min(used[0], start))
        write_at(self._file, start, index)
        area.finish(FILE_DATA.kind)
        at = area.end
        write_at(self._file, at, before)
        write_at(self._file, at + parts.places - parts.after, places_section(self._places))
        at += len(before)
        if padding:
            at = self._write_zeros(at, padding, PADDING.kind, used[1])
        write_at(self._file, at, after)
        self._cut(file_size(at + len(after), self._places))
        header = Header.decode(self._header)
        files = len(self._files) * CHUNK.size + area.size
        header = header._replace(
            flags=header.flags | FLAG_HANDED,
            sections=header.sections - parts.dropped + 3 + bool(padding),
            plain=header.plain - parts.plain + zeros + files + padding,
        )
        self._done = header.encode()

    def _part(self, start: int, stop: int) -> bytes:
        """Return bytes of the rest that was kept. Raises OSError."""
        assert self._kept is not None
        self._kept.seek(start)
        return self._kept.read(stop - start)

    def _write_zeros(self, at: int, size: int, kind: int, used: int) -> int:
        """Write a section of zeros; return where it ends.

        Args:
            at: Where it begins.
            size: Bytes of its payload.
            kind: Its kind.
            used: Up to where the file may have other bytes than zeros.
        """
        write_at(self._file, at, bytes(max(0, used - at)))
        for start in range(0, size, BATCH_SIZE):
            part = min(BATCH_SIZE, size - start)
            if start:
                head = BATCH.pack(RAW, part, _crc(part))
            else:
                head = FIRST.pack(kind, 0, 0, size, RAW, part, _crc(part))
            write_at(self._file, at, head)
            at += len(head) + part
        return at

    def _pad(self, split: int, padding: int) -> int:
        """Put the section *padding* between two parts of the head; return where the head ends."""
        file = self._file
        tail = self._tail or os.pread(file, self._end - split, split)
        if len(tail) != self._end - split:
            raise OSError(errno.EIO, "the image was changed by somebody else")
        self._tail = tail  # the next attempt needs it, if this one finds no room
        used = max(split + len(tail), self._early)
        at = self._write_zeros(split, padding, PADDING.kind, used)
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


class _Parts(NamedTuple):
    """Where the parts of a rest are that is written around the file data.

    Attributes:
        first: Where the sections before the file data end.
        after: Where the sections after the file data begin.
        split: Where *padding* belongs.
        places: Where the section *places* begins; `after` without one.
        dropped: How many sections of files the rest has itself.
        plain: Bytes of their payloads.
    """

    first: int
    after: int
    split: int
    places: int
    dropped: int
    plain: int


def _parts_of(sections: Sequence[SectionSize]) -> _Parts:
    at = first = after = split = HEADER.size
    places = dropped = dropped_plain = 0
    for kind, plain, stored in sections:
        if kind == PLACES.kind:
            places = at
        at += stored
        first = at if kind < FILE_PADDING.kind else first
        after = at if kind <= FILE_DATA.kind else after
        split = at if kind < PADDING.kind else split
        if kind in (FILE_INDEX.kind, FILE_DATA.kind):
            dropped, dropped_plain = dropped + 1, dropped_plain + plain
    return _Parts(first, after, split, places or after, dropped, dropped_plain)


def _zeros_in(room: int) -> int | None:
    """Return the payload of a section of zeros that takes just so many bytes; None for none."""
    whole, rest = divmod(room - SECTION.size, BATCH_SIZE + BATCH.size)
    size = whole * BATCH_SIZE + max(0, rest - BATCH.size)
    if room <= FIRST.size or 0 < rest <= BATCH.size or size > PADDING_LIMIT:
        return None
    return size


def _others(start: int, end: int, spans: list[tuple[int, int]]) -> list[tuple[int, int]]:
    """Return the spans from `start` to `end` that are not among ascending ones."""
    found = []
    for first, last in spans:
        if first > start and start < end:
            found.append((start, min(first, end)))
        start = max(start, last)
    return [*found, (start, end)] if start < end else found


@cache
def _crc(size: int) -> int:
    """Return the checksum of so many zeros."""
    return zlib.crc32(bytes(size))


__all__ = ["LiveImage", "room_for"]
