"""The memories of moments: a base, and what differs from the image before it.

Images form a tree. Each knows the image before it, and has the pages that were written since. The
first has a base, a file in memory that nobody writes any more. Images next to each other are merged
from their pages alone.
"""

from __future__ import annotations

import os
from array import array
from bisect import bisect_right
from collections.abc import Iterator
from typing import TYPE_CHECKING
from weakref import WeakSet

from wasmsr.snapshot.memory.bases import MemoryBase
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, Runs, runs_of
from wasmsr.snapshot.spaces.page_functions import page_runs

if TYPE_CHECKING:
    from wasmsr.interp.store.store import Store
    from wasmsr.snapshot.memory.bases import MemoryBases

Flags = bytes | bytearray
"""A byte for each page, 0 or 1."""


class WrittenPages:
    """Some pages of a memory, one after the other.

    Args:
        runs: First page and number of pages, in turn, ascending and apart from each other.
        data: The pages.
    """

    def __init__(self, runs: Runs, data: bytes | bytearray) -> None:
        self.runs = runs
        self.data = memoryview(data)
        self._first = list(runs[::2])
        self._place: list[int] = []
        place = 0
        for count in runs[1::2]:
            self._place.append(place)
            place += count
        self.count = place

    def flags(self, pages: int) -> bytearray:
        """Return a flag for each of the first `pages` pages."""
        found = bytearray(pages)
        for first, count in _pairs(self.runs):
            found[first : first + count] = b"\1" * count
        return found[:pages]

    def part(self, first: int, count: int) -> memoryview:
        """Return the bytes of pages that are in one of the runs."""
        run = bisect_right(self._first, first) - 1
        at = (self._place[run] + first - self._first[run]) * PAGE_SIZE
        return self.data[at : at + count * PAGE_SIZE]

    def over(self, below: WrittenPages, pages: int) -> WrittenPages:
        """Return these pages and those of `below` that are not among them."""
        runs = runs_of(either(self.flags(pages), below.flags(pages)))
        made = WrittenPages(runs, bytearray(sum(runs[1::2]) * PAGE_SIZE))
        for source in (below, self):
            for first, count in _pairs(source.runs):
                made.part(first, count)[:] = source.part(first, count)
        return made


class MemoryImage:
    """The bytes of one memory at a moment.

    Args:
        size: Bytes.
        base: For the first image: the bytes; what the memory has beyond them is zero.
        before: For the others: the image before.
        written: For the others: the pages that differ from it.
    """

    def __init__(
        self,
        size: int,
        *,
        base: MemoryBase | None = None,
        before: MemoryImage | None = None,
        written: WrittenPages | None = None,
    ) -> None:
        self.size = size
        self.base = base
        self.before = before
        self.written = written or WrittenPages(array("Q"), b"")
        self._after: WeakSet[MemoryImage] = WeakSet()
        if before is not None:
            before._after.add(self)

    @classmethod
    def of_bytes(cls, view: memoryview) -> MemoryImage:
        """Return an image without one before it, which has a copy of bytes. Raises OSError."""
        base = MemoryBase.empty()
        base.resize(len(view))
        for first, count in page_runs(view):
            at, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
            while at < end:
                at += os.pwrite(base.fd, view[at:end], at)
        base.share()
        return cls(len(view), base=base)

    @property
    def pages(self) -> int:
        """How many pages of 4 KiB the memory has."""
        return self.size // PAGE_SIZE

    @property
    def chain(self) -> list[MemoryImage]:
        """This image and those before it, the first one last."""
        found = [self]
        while found[-1].before is not None:
            found.append(found[-1].before)
        return found

    @property
    def written_pages(self) -> int:
        """How many pages the chain has besides its base, those that are there twice counted
        twice."""
        return sum(image.written.count for image in self.chain)

    def differences(self, other: MemoryImage) -> bytearray | None:
        """Return flags of the pages in which two images may differ; None: in all."""
        mine, others = self.chain, other.chain
        common = next((image for image in mine if image in others), None)
        if common is None:
            return None
        most = max(self.pages, other.pages)
        flags = bytearray(most)
        for images in (mine, others):
            for image in images[: images.index(common)]:
                flags = either(flags, image.written.flags(most))
        return flags

    def write(self, memory: memoryview, wanted: Flags) -> None:
        """Write pages of the image into a memory of the same size.

        Args:
            memory: The memory.
            wanted: Flags of the pages; all others have the right bytes already.
        """
        left = bytearray(wanted)
        image = self
        while image.before is not None:
            for first, count in _pairs(runs_of(both(left, image.written.flags(self.pages)))):
                start, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
                memory[start:end] = image.written.part(first, count)
                left[first : first + count] = bytes(count)
            image = image.before
        assert image.base is not None
        length = image.base.length
        for first, count in _pairs(runs_of(left)):
            start, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
            middle = min(max(start, length), end)
            while start < middle:  # read, not mapped: a hole of the file stays one
                start += os.preadv(image.base.fd, [memory[start:middle]], image.base.offset + start)
            memory[start:end] = bytes(end - start)

    def lay(self, store: Store, address: int, bases: MemoryBases) -> None:
        """Lay a memory of zeros over the base, and write the other pages. Raises SnapshotError."""
        chain = self.chain
        base = chain[-1].base
        assert base is not None
        bases.lay(address, base)
        if len(chain) > 1:
            wanted = bytearray(self.pages)
            for image in chain[:-1]:
                wanted = either(wanted, image.written.flags(self.pages))
            self.write(store.memory_view(address), wanted)

    def drop(self) -> None:
        """Leave the tree: what the image has goes to the one image after it, if there is one.

        No base is read. An image with several after it stays as long as they do.
        """
        if self.before is None or len(self._after) != 1:
            return
        (after,) = self._after
        after.written = after.written.over(self.written, after.pages)
        after.before = self.before
        self.before._after.discard(self)
        self.before._after.add(after)


def either(one: Flags, other: Flags) -> bytearray:
    """Return where one of two flags is set; the shorter array is extended by zeros."""
    length = max(len(one), len(other))
    bits = int.from_bytes(one, "little") | int.from_bytes(other, "little")
    return bytearray(bits.to_bytes(length, "little"))


def both(one: Flags, other: Flags) -> bytearray:
    """Return where both flags are set."""
    length = max(len(one), len(other))
    bits = int.from_bytes(one, "little") & int.from_bytes(other, "little")
    return bytearray(bits.to_bytes(length, "little"))


def _pairs(runs: Runs) -> Iterator[tuple[int, int]]:
    return zip(runs[::2], runs[1::2], strict=True)


__all__ = ["MemoryImage", "WrittenPages"]
