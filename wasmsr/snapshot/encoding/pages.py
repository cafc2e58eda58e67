"""Memory pages: which are stored, in which order, and where each stored page belongs.

Zero pages are absent. Equal pages are stored once, in the order of first use. The index holds runs
of pages, so that a gigabyte of memory does not become a million objects. Layout:
docs/snapshot-format.md, section 5.13.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from struct import Struct, pack
from typing import TYPE_CHECKING

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import (
    BATCH_SIZE,
    LEAF,
    Buffer,
    climb,
    leaf_digests,
    tree_digest,
)
from wasmsr.snapshot.memory.parts import in_parts

if TYPE_CHECKING:
    from wasmsr.snapshot.memory.page_engine import EqualPages

PAGE_SIZE = 4096
"""Bytes in a page of the format; a WebAssembly page has 16 of them."""
ENTRY = Struct("<IIII")
"""Memory, first page, number of pages, first stored page."""

_CHUNK = 16 * PAGE_SIZE
_ZERO_CHUNK = bytes(_CHUNK)
_ZERO_PAGE = bytes(PAGE_SIZE)
_BATCH = BATCH_SIZE // PAGE_SIZE
_LEAVES = BATCH_SIZE // LEAF


def _load_page_map() -> Callable[[Buffer], bytearray] | None:
    """Return the core's page scan where it is built; the format alone needs no compiled code."""
    try:
        from wasmsr.snapshot.memory.page_engine import page_map
    except (ImportError, AttributeError):
        return None
    return page_map


def _page_map(view: Buffer) -> bytearray:
    view = memoryview(view)
    flags = bytearray(len(view) // PAGE_SIZE)
    for start in range(0, len(view), _CHUNK):
        chunk = view[start : start + _CHUNK].tobytes()
        if chunk != _ZERO_CHUNK:
            page = start // PAGE_SIZE
            for offset in range(0, len(chunk), PAGE_SIZE):
                if chunk[offset : offset + PAGE_SIZE] != _ZERO_PAGE:
                    flags[page + offset // PAGE_SIZE] = 1
    return flags


page_map: Callable[[Buffer], bytearray] = _load_page_map() or _page_map
"""One byte for each page of a memory: 0 where all of it is zero, else 1."""


class PageMap:
    """What a snapshot stores of its memories, which may not change while this is used.

    Attributes:
        entries: The page index: runs of pages as numbers in fours: memory, first page, number of
            pages, first stored page.
        sources: The same for the pages in which the stored pages are, in their order.
        stored: Number of stored pages.
        base: None: version 1 has no incremental form.
    """

    base: None = None

    def __init__(self, views: list[memoryview], found: EqualPages | PlainEqualPages) -> None:
        self._views = views
        self._found = found
        self.entries: Sequence[int] = found.entries
        self.sources: Sequence[int] = found.sources
        self.stored = found.stored

    def index(self) -> bytes:
        """Return the page index section."""
        return pack(f"<{len(self.entries)}I", *self.entries)

    @property
    def size(self) -> int:
        """Bytes of the page data section."""
        return self.stored * PAGE_SIZE

    def digest(self) -> bytes:
        """Return the tree digest of the page data section."""
        digests: list[bytes | bytearray] = [b""] * -(-self.stored // _BATCH)
        leaves = _leaf_digests()

        def work(first: int, end: int) -> None:
            for number in range(first, end):
                digests[number] = leaves(self._batch(number))

        in_parts(len(digests), work, part=_LEAVES)
        return climb(b"".join(digests)) if digests else tree_digest(b"")

    def batches(self) -> Iterator[Buffer]:
        """Yield the page data section in batches of `BATCH_SIZE`, the last one shorter."""
        for number in range(-(-self.stored // _BATCH)):
            yield self._batch(number)

    def _batch(self, number: int) -> Buffer:
        """Return a batch: a view of a memory, or a copy where the pages are in several places."""
        first = number * _BATCH
        count = min(_BATCH, self.stored - first)
        low, high = 0, len(self.sources) // 4
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if self.sources[4 * middle + 3] <= first else (low, middle)
        memory, page, pages, stored = self.sources[4 * low : 4 * low + 4]
        if first + count <= stored + pages:
            start = (page + first - stored) * PAGE_SIZE
            return self._views[memory][start : start + count * PAGE_SIZE]
        copy = bytearray(count * PAGE_SIZE)
        self._found.copy(first, count, copy)
        return copy

    def olds(self) -> None:
        """Return None: version 1 knows no base."""


class PlainEqualPages:
    """The core's `EqualPages` in Python: for tools without the core, and for tests to compare."""

    def __init__(self, memories: Sequence[memoryview]) -> None:
        self._memories = memories
        self._places: list[memoryview] = []
        self.entries: list[int] = []
        self.sources: list[int] = []
        seen: dict[bytes, int] = {}
        for memory, view in enumerate(memories):
            for page, flag in enumerate(page_map(view)):
                if flag:
                    place = view[page * PAGE_SIZE : (page + 1) * PAGE_SIZE]
                    number = seen.setdefault(place.tobytes(), len(self._places))
                    if number == len(self._places):
                        self._places.append(place)
                        self._append(self.sources, memory, page, number)
                    self._append(self.entries, memory, page, number)
        self.stored = len(self._places)

    @staticmethod
    def _append(runs: list[int], memory: int, page: int, number: int) -> None:
        if runs:
            last, first, count, stored = runs[-4:]
            if (last, first + count, stored + count) == (memory, page, number):
                runs[-2] += 1
                return
        runs.extend((memory, page, 1, number))

    def copy(self, first: int, count: int, target: Buffer) -> None:
        """Copy stored pages into a buffer."""
        memoryview(target)[:] = b"".join(self._places[first : first + count])


def scan(memories: Sequence[Buffer]) -> PageMap:
    """Find the pages to store. The memories may not change until the map has been used."""
    views = [_bytes_view(memory) for memory in memories]
    try:
        from wasmsr.snapshot.memory.page_engine import EqualPages
    except ImportError:
        return PageMap(views, PlainEqualPages(views))
    return PageMap(views, EqualPages(views))


def _leaf_digests() -> Callable[[Buffer], bytes | bytearray]:
    """Return what digests the leaves of a batch."""
    try:
        from wasmsr.snapshot.memory.page_engine import leaf_digests as fast
    except ImportError:
        return leaf_digests
    return lambda batch: fast(0, batch, LEAF)


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
