"""Memory pages: which are stored, in which order, and where each stored page belongs.

Zero pages are absent. Equal pages are stored once, in the order of first use. The index holds runs
of pages, so that a gigabyte of memory does not become a million objects. Layout:
docs/snapshot-format.md, section 5.13.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import Any

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import BATCH_SIZE, Buffer, Tree

PAGE_SIZE = 4096
"""Bytes in a page of the format; a WebAssembly page has 16 of them."""
ENTRY = Struct("<IIII")
"""Memory, first page, number of pages, first stored page."""

_CHUNK = 16 * PAGE_SIZE
_ZERO_CHUNK = bytes(_CHUNK)
_ZERO_PAGE = bytes(PAGE_SIZE)


def _load_page_map() -> Callable[[memoryview], bytes] | None:
    """Return the core's page scan where it is built; the format alone needs no compiled code."""
    try:
        from wasmsr._ffi import ffi, lib

        scan: Any = lib.wsr_page_map
    except (ImportError, AttributeError):
        return None

    def page_map(view: memoryview) -> bytes:
        count = len(view) // PAGE_SIZE
        flags = bytearray(count)
        if count:
            scan(ffi.from_buffer(view), len(view), PAGE_SIZE, ffi.from_buffer(flags))
        return bytes(flags)

    return page_map


def _page_map(view: memoryview) -> bytes:
    flags = bytearray(len(view) // PAGE_SIZE)
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK].tobytes()
        if chunk != _ZERO_CHUNK:
            page = start // PAGE_SIZE
            for offset in range(0, len(chunk), PAGE_SIZE):
                if chunk[offset : offset + PAGE_SIZE] != _ZERO_PAGE:
                    flags[page + offset // PAGE_SIZE] = 1
    return bytes(flags)


page_map: Callable[[memoryview], bytes] = _load_page_map() or _page_map
"""One byte for each page of a memory: 0 where all of it is zero, else 1."""


def copy_pages(source: Buffer, target: memoryview) -> None:
    """Copy a memory into one of zeros, of the same length, without touching its zero pages."""
    view = _bytes_view(source)
    flags = page_map(view)
    first = flags.find(1)
    while first >= 0:
        end = flags.find(0, first)
        if end < 0:
            end = len(flags)
        part = slice(first * PAGE_SIZE, end * PAGE_SIZE)
        target[part] = view[part]
        first = flags.find(1, end)


@dataclass(slots=True)
class PageMap:
    """What a snapshot stores of its memories.

    Attributes:
        views: the memories' bytes.
        entries: runs (memory, first page, pages, first stored page), the page index.
        sources: runs (memory, first page, pages) that hold the stored pages, in their order.
        stored: number of stored pages.
    """

    views: list[memoryview]
    entries: list[tuple[int, int, int, int]] = field(default_factory=list)
    sources: list[tuple[int, int, int]] = field(default_factory=list)
    stored: int = 0

    def index(self) -> bytes:
        """Return the page index section."""
        return b"".join([ENTRY.pack(*entry) for entry in self.entries])

    @property
    def size(self) -> int:
        """Bytes of the page data section."""
        return self.stored * PAGE_SIZE

    def digest(self) -> bytes:
        """Return the tree digest of the page data section."""
        tree = Tree()
        for memory, first, count in self.sources:
            tree.update(self.views[memory][first * PAGE_SIZE : (first + count) * PAGE_SIZE])
        return tree.digest()

    def batches(self) -> Iterator[Buffer]:
        """Yield the page data section in batches of `BATCH_SIZE`, the last one shorter."""
        parts: list[memoryview] = []
        room = BATCH_SIZE
        for memory, first, count in self.sources:
            view = self.views[memory]
            start, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
            while start < end:
                part = view[start : min(end, start + room)]
                parts.append(part)
                start += len(part)
                room -= len(part)
                if room == 0:
                    yield parts[0] if len(parts) == 1 else b"".join(parts)
                    parts, room = [], BATCH_SIZE
        if parts:
            yield b"".join(parts)


def scan(memories: Sequence[Buffer]) -> PageMap:
    """Find the pages to store. The memories may not change until the map has been used."""
    result = PageMap([_bytes_view(memory) for memory in memories])
    seen: dict[int, list[int]] = {}
    places: list[tuple[int, int]] = []
    for memory, view in enumerate(result.views):
        flags = page_map(view)
        # The run of index entries and the run of new pages that the next page may prolong.
        first = count = base = 0
        source = sources = 0
        for page, flag in enumerate(flags):
            if not flag:
                continue
            data = view[page * PAGE_SIZE : (page + 1) * PAGE_SIZE].tobytes()
            key = hash(data)
            number = _find(seen.get(key), data, places, result.views)
            if number is None:
                number = len(places)
                places.append((memory, page))
                seen.setdefault(key, []).append(number)
                if sources and page == source + sources:
                    sources += 1
                else:
                    if sources:
                        result.sources.append((memory, source, sources))
                    source, sources = page, 1
            if count and page == first + count and number == base + count:
                count += 1
            else:
                if count:
                    result.entries.append((memory, first, count, base))
                first, count, base = page, 1, number
        if count:
            result.entries.append((memory, first, count, base))
        if sources:
            result.sources.append((memory, source, sources))
    result.stored = len(places)
    return result


def _find(
    numbers: list[int] | None, data: bytes, places: list[tuple[int, int]], views: list[memoryview]
) -> int | None:
    """Return the stored page equal to `data` among those of equal hash."""
    for number in numbers or ():
        memory, page = places[number]
        if views[memory][page * PAGE_SIZE : (page + 1) * PAGE_SIZE].tobytes() == data:
            return number
    return None


def _bytes_view(data: Buffer) -> memoryview:
    view = memoryview(data)
    return view if view.format == "B" and view.ndim == 1 else view.cast("B")


@dataclass(slots=True)
class Placement:
    """Where stored pages belong, read from a page index.

    Attributes:
        stored: number of stored pages.
        firsts, places: the stored page that a run begins with, ascending, and its memory, first
            page and number of pages; together they cover all stored pages once.
        repeats: runs (memory, first page, pages, first stored page) of pages that are there already
            when their turn comes.
    """

    stored: int = 0
    firsts: list[int] = field(default_factory=list)
    places: list[tuple[int, int, int]] = field(default_factory=list)
    repeats: list[tuple[int, int, int, int]] = field(default_factory=list)

    @classmethod
    def parse(cls, index: Buffer, sizes: Sequence[int]) -> Placement:
        """Read a page index for memories of `sizes` bytes.

        Raises:
            FormatError: it is not the one index that a writer would have made: entries out of
                order, overlapping, empty, out of range, not joined, or skipping stored pages.
        """
        if len(index) % ENTRY.size:
            raise FormatError("the page index ends in the middle of an entry")
        self = cls()
        stored = 0
        last, end, tail = 0, 0, -1
        for memory, first, count, base in ENTRY.iter_unpack(index):
            if memory >= len(sizes):
                raise FormatError(f"the page index names memory {memory} of {len(sizes)}")
            if memory != last:
                if memory < last:
                    raise FormatError("the page index is out of order")
                last, end, tail = memory, 0, -1
            if count == 0:
                raise FormatError("the page index has an empty run")
            if first < end:
                raise FormatError(f"the page index has page {first} of memory {memory} twice")
            if first + count > sizes[memory] // PAGE_SIZE:
                raise FormatError(f"the page index goes beyond the end of memory {memory}")
            if base > stored:
                raise FormatError(f"the page index skips stored page {stored}")
            if first == end and base == tail:
                raise FormatError("the page index has two runs that should be one")
            end, tail = first + count, base + count
            old = min(count, stored - base)
            if old:
                self.repeats.append((memory, first, old, base))
            if old < count:
                self.firsts.append(stored)
                self.places.append((memory, first + old, count - old))
                stored = tail
        self.stored = stored
        return self

    def fill(self, start: int, data: Buffer, memories: Sequence[memoryview]) -> None:
        """Write stored pages `start` and up where they belong."""
        run = bisect_right(self.firsts, start) - 1
        view = memoryview(data)
        position, number = 0, start
        while position < len(view):
            memory, first, count = self.places[run]
            skip = number - self.firsts[run]
            size = min((count - skip) * PAGE_SIZE, len(view) - position)
            target = (first + skip) * PAGE_SIZE
            memories[memory][target : target + size] = view[position : position + size]
            position += size
            number += size // PAGE_SIZE
            run += 1

    def repeat(self, memories: Sequence[memoryview]) -> None:
        """Copy the pages that are stored once and used again; after all stored pages are in."""
        for memory, first, count, base in self.repeats:
            run = bisect_right(self.firsts, base) - 1
            while count:
                origin, page, pages = self.places[run]
                skip = base - self.firsts[run]
                size = min(pages - skip, count)
                start, target = (page + skip) * PAGE_SIZE, first * PAGE_SIZE
                memories[memory][target : target + size * PAGE_SIZE] = memories[origin][
                    start : start + size * PAGE_SIZE
                ]
                first += size
                base += size
                count -= size
                run += 1
