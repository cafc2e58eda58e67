"""Memories that are filled in rounds, page by page, while their digests grow with them."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from operator import add, gt

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.interp.outcomes import Limits
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import HEADS_LIMIT, ReadLimits
from wasmsr.snapshot.memory.adoption import allocate, grow
from wasmsr.snapshot.memory.page_engine import DIGEST, Runs, differences, pages_in, runs_of, scatter
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, ZERO_DIGEST, page_digests
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import PAGE

_MOST = HEADS_LIMIT // 32
"""How many memories there may be: as many as the section *memories* can name."""
_ZEROS = bytes(1 << 20)


class LiveMemory:
    """A memory: its bytes, which are those of a base where the host has such, and its digests."""

    def __init__(self, number: int) -> None:
        self.name = SpaceName(MEMORY_SPACE, number)
        self.data: bytearray | memoryview = bytearray()
        self.tree = SpaceTree(0)

    @property
    def pages(self) -> int:
        """Number of pages."""
        return self.tree.pages

    def grow(self, pages: int) -> None:
        """Add pages of zeros. Raises OSError, MemoryError."""
        if pages == self.pages:
            return
        size = pages * PAGE_SIZE
        self.data = grow(self.data, size) if self.pages else allocate(size)
        self.tree.grow(pages)

    def take(self, runs: Runs, data: Buffer) -> None:
        """Put pages to their places. Raises FormatError."""
        count = self._check(runs)
        if len(data) != count * PAGE_SIZE:
            raise FormatError(f"{count} pages of {self.name} came with {len(data)} bytes")
        digests = memoryview(page_digests(data))
        scatter(data, runs, self.data)
        self.tree.set_runs(zip(runs[::2], runs[1::2], strict=True), digests)

    def clear(self, runs: Runs) -> Runs:
        """Make pages zeros; return those that were not. Raises FormatError."""
        self._check(runs)
        changed = array("Q")
        view = memoryview(self.data)
        for first, pages in zip(runs[::2], runs[1::2], strict=True):
            for start, count in self._stored(first, pages):
                changed.extend((start, count))
                for at in range(start * PAGE_SIZE, (start + count) * PAGE_SIZE, len(_ZEROS)):
                    end = min(at + len(_ZEROS), (start + count) * PAGE_SIZE)
                    view[at:end] = memoryview(_ZEROS)[: end - at]
                self.tree.set_zeros(start, count)
        return changed

    def stored(self) -> Runs:
        """Return the pages that are not zeros. No page is read, so none begins to exist."""
        found = array("Q")
        for run in self._stored(0, self.pages):
            found.extend(run)
        return found

    def _stored(self, first: int, count: int) -> list[tuple[int, int]]:
        leaves, zeros = self.tree.leaves(first, count), ZERO_DIGEST * count
        if leaves == zeros:
            return []
        runs = runs_of(differences(leaves, zeros, size=DIGEST))
        return [(first + at, pages) for at, pages in zip(runs[::2], runs[1::2], strict=True)]

    def _check(self, runs: Runs) -> int:
        """Return how many pages runs have. Raises FormatError if they are no runs of pages."""
        if len(runs) % 2:
            raise FormatError(f"the runs of pages of {self.name} end in the middle of a run")
        firsts, counts = runs[::2], runs[1::2]
        if 0 in counts:
            raise FormatError(f"{self.name} has an empty run of pages")
        try:
            pages = pages_in(runs, self.pages)
        except ValueError:
            raise FormatError(
                f"a run of pages goes beyond the end of {self.name}, which has {self.pages}"
            ) from None
        if any(map(gt, map(add, firsts, counts), firsts[1:])):
            raise FormatError(f"{self.name} has a page twice, or its runs are out of order")
        return pages


class LiveMemories:
    """The memories of a program that arrives, by address.

    Args:
        limit: Bytes that all of them may have together.
        limits: Limits of the store in which the state is to be restored.
    """

    def __init__(self, limit: int, limits: Limits | None) -> None:
        self._limits = ReadLimits(limit, 0, limits)
        self._all: list[LiveMemory] = []

    def __len__(self) -> int:
        return len(self._all)

    def __getitem__(self, number: int) -> LiveMemory:
        return self._all[number]

    def get(self, number: int) -> LiveMemory:
        """Return a memory. Raises FormatError if there is none with that number."""
        if not 0 <= number < len(self._all):
            raise FormatError(f"there is no memory {number}: {len(self._all)} were announced")
        return self._all[number]

    def resize(self, number: int, pages: int) -> None:
        """Give a memory so many pages of 4 KiB; the next number makes a new one.

        Raises:
            FormatError: It has more, the number leaves a gap, or a limit forbids it.
            SnapshotError: The host has no room.
        """
        if not 0 <= number <= len(self._all):
            raise FormatError(f"memory {number} was announced before memory {len(self._all)}")
        if number >= _MOST:
            raise FormatError(f"the program has more than {_MOST} memories")
        memory = self._all[number] if number < len(self._all) else LiveMemory(number)
        before = memory.pages
        if pages < before or pages % (PAGE // PAGE_SIZE):
            raise FormatError(
                f"memory {number} has {before} pages of {PAGE_SIZE} bytes and cannot have {pages}"
            )
        parts = PAGE // PAGE_SIZE
        self._limits.take_growth(number, pages // parts, (pages - before) // parts)
        try:
            memory.grow(pages)
        except (MemoryError, OSError) as error:
            raise SnapshotError(
                f"there is no room for a memory of {pages * PAGE_SIZE} bytes"
            ) from error
        if number == len(self._all):
            self._all.append(memory)

    def compare(self, digests: Sequence[bytes]) -> list[int]:
        """Return the numbers of the memories that have other digests than these."""
        return [
            memory.name.number
            for memory, digest in zip(self._all, digests, strict=True)
            if memory.tree.root() != digest
        ]

    def clear(self) -> None:
        """Let go of all memories."""
        self._all = []


__all__ = ["LiveMemories", "LiveMemory"]
