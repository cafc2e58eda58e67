"""The digest of a space by position: a tree over its pages, which changes only along changed paths.

A *space* is bytes that a snapshot stores as pages, such as a linear memory. Leaves are the SHA-256
of each page of 4,096 bytes. A node is the SHA-256 of its 16 children's digests. A full tree has
16^h leaves; the pages after the end of the space count as zeros. So nodes over zeros only are
constants, and a memory that grows changes no node but those along its new edge.

Source: docs/snapshot-format.md, section 13.4; Merkle, "A Digital Signature Based on a Conventional
Encryption Function", 1987.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from hashlib import sha256

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, digest_blocks, page_digests

DIGEST = 32
"""Bytes of a digest."""
CHILDREN = 16
"""Children of a node. A node of the first level is over one Wasm page."""

_NODE = CHILDREN * DIGEST
_ZEROS = [sha256(bytes(PAGE_SIZE)).digest()]
for _ in range(10):
    _ZEROS.append(sha256(_ZEROS[-1] * CHILDREN).digest())


class SpaceTree:
    """The digests of a space's pages, and of the nodes above them.

    Args:
        pages: Pages of the space; all of them are zeros at first.
    """

    def __init__(self, pages: int) -> None:
        self._levels = [bytearray(_ZEROS[0] * pages)]
        self._changed: set[int] = set()
        self._pages = 0
        self._lay()

    def _lay(self) -> None:
        """Make room for the nodes above the leaves. New leaves are zeros, as they counted before;
        so only a new level has a node that must be computed."""
        self._pages = len(self._levels[0]) // DIGEST
        level = 0
        while (count := len(self._levels[level]) // DIGEST) > 1:
            level += 1
            if level == len(self._levels):
                self._levels.append(bytearray())
                self._changed.add(0)
            nodes = self._levels[level]
            nodes += _ZEROS[level] * (-(-count // CHILDREN) - len(nodes) // DIGEST)

    @property
    def pages(self) -> int:
        """Pages of the space."""
        return self._pages

    def grow(self, pages: int) -> None:
        """Make the space longer by pages of zeros.

        Args:
            pages: All pages that the space has now.
        """
        if pages > self._pages:
            self._levels[0] += _ZEROS[0] * (pages - self._pages)
            self._lay()

    def set_pages(self, first: int, data: Buffer) -> None:
        """Take the content of pages.

        Args:
            first: Number of the first page.
            data: Whole pages.
        """
        self.set_leaves(first, page_digests(data))

    def set_leaves(self, first: int, digests: Buffer) -> None:
        """Take the digests of pages.

        Args:
            first: Number of the first page.
            digests: 32 bytes for each page.
        """
        self._levels[0][first * DIGEST : first * DIGEST + len(digests)] = digests
        count = len(digests) // DIGEST
        if count:
            self._changed.update(range(first // CHILDREN, (first + count - 1) // CHILDREN + 1))

    def set_runs(self, runs: Iterable[tuple[int, int]], digests: Buffer) -> None:
        """Take the digests of runs of pages.

        Args:
            runs: First page and number of pages of each run.
            digests: 32 bytes for each page, one run after the other.
        """
        leaves, changed, at = self._levels[0], self._changed, 0
        for first, count in runs:
            end = at + count * DIGEST
            leaves[first * DIGEST : (first + count) * DIGEST] = digests[at:end]
            if count == 1:
                changed.add(first // CHILDREN)
            elif count:
                changed.update(range(first // CHILDREN, (first + count - 1) // CHILDREN + 1))
            at = end

    def set_zeros(self, first: int, count: int) -> None:
        """Note that pages are zeros now."""
        self.set_leaves(first, _ZEROS[0] * count)

    def leaf(self, page: int) -> bytes:
        """Return the digest of a page."""
        return bytes(self._levels[0][page * DIGEST : (page + 1) * DIGEST])

    def leaves(self, first: int = 0, count: int | None = None) -> bytes:
        """Return the digests of pages, 32 bytes each.

        Args:
            first: Number of the first page.
            count: How many pages; None for all that follow.
        """
        end = self._pages if count is None else first + count
        return bytes(memoryview(self._levels[0])[first * DIGEST : end * DIGEST])

    def leaves_of(self, runs: Sequence[tuple[int, int]]) -> bytes:
        """Return the digests of runs of pages, 32 bytes each, one run after the other."""
        return bytes(_parts(self._levels[0], runs, DIGEST))

    def root(self) -> bytes:
        """Return the digest (32 bytes) of the whole space."""
        changed = self._changed
        for level in range(1, len(self._levels)):
            below, nodes = self._levels[level - 1], self._levels[level]
            last = len(below) // _NODE
            whole = sorted(node for node in changed if node < last)
            runs = list(_runs(whole))
            # In one call: when a program is paused for a move, they are hundreds of runs.
            blocks = digest_blocks(_parts(below, runs, _NODE), _NODE) if runs else b""
            at = 0
            for first, count in runs:
                end = at + count * DIGEST
                nodes[first * DIGEST : (first + count) * DIGEST] = blocks[at:end]
                at = end
            if last in changed and last * _NODE < len(below):
                edge = bytes(below[last * _NODE :])
                edge += _ZEROS[level - 1] * (CHILDREN - len(edge) // DIGEST)
                nodes[last * DIGEST : (last + 1) * DIGEST] = sha256(edge).digest()
            changed = {node // CHILDREN for node in changed}
        self._changed = set()
        return bytes(self._levels[-1][:DIGEST]) or _ZEROS[0]

    def copy(self) -> SpaceTree:
        """Return a tree of its own with the same digests."""
        other = SpaceTree(0)
        other._levels = [bytearray(level) for level in self._levels]
        other._changed = set(self._changed)
        other._pages = self._pages
        return other


def _parts(data: bytearray, runs: Sequence[tuple[int, int]], size: int) -> Buffer:
    """Return runs of parts of `size` bytes, one after the other."""
    if len(runs) == 1:
        ((first, count),) = runs
        return memoryview(data)[first * size : (first + count) * size]
    return b"".join([data[first * size : (first + count) * size] for first, count in runs])


def _runs(numbers: Iterable[int]) -> Iterable[tuple[int, int]]:
    """Yield ascending numbers as runs (first, count)."""
    first = count = 0
    for number in numbers:
        if count and number == first + count:
            count += 1
            continue
        if count:
            yield first, count
        first, count = number, 1
    if count:
        yield first, count


__all__ = ["CHILDREN", "DIGEST", "SpaceTree"]
