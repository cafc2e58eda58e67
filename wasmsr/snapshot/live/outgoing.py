"""Memories of a program that leave in rounds, while the program runs (pre-copy).

The first round has all pages that are not zeros, each later one the pages that were written since.
`scan` needs a program that stands; `batches` reads pages while the program runs. A page that is
written during that is torn, but it is then in the next round too. What was sent is digested, so the
digests of the memories are ready when the last pages are.

Source: Clark et al., "Live Migration of Virtual Machines", NSDI 2005 (pre-copy).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from wasmsr.snapshot.memory.dirty_pages import (
    DirtyMethod,
    DirtyTracker,
    PageHashes,
    method_of_host,
)
from wasmsr.snapshot.memory.page_engine import (
    DIGEST,
    PAGE_SIZE,
    Runs,
    differences,
    gather,
    pairs_of,
    runs_of,
)
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.spaces.page_functions import ZERO_DIGEST, page_digests
from wasmsr.snapshot.spaces.space_tree import SpaceTree

if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface

BATCH_PAGES = 128
"""Pages that are read, digested and sent at a time: 512 KiB."""


@dataclass(frozen=True, slots=True)
class PageBatch:
    """Pages of one memory.

    Attributes:
        memory: The memory's number.
        runs: Runs of the pages, ascending.
        data: Their bytes, one page after the other.
        zeros: Runs of the pages that are zeros now and were not before, ascending.
        known: Runs of the pages that the other side has in the image that it keeps, ascending.
    """

    memory: int
    runs: Runs
    data: bytes | bytearray | memoryview
    zeros: Runs
    known: Runs = field(default_factory=lambda: array("Q"))


class OutgoingPages:
    """The memories of one store on their way.

    Args:
        store: The store. It does not run while this is made, and during `scan`.
        method: How dirty pages are found; None takes this host's best.
        known: The digests of the image that the other side keeps, for the first round.

    Attributes:
        trees: The digests of what was sent, by memory.
        sizes: Pages of each memory at the last `scan`.
        method: The name of the method by which dirty pages are found.

    Raises:
        SnapshotError: The host does not find dirty pages, or has no room.
    """

    def __init__(
        self,
        store: StoreInterface,
        method: type[DirtyMethod] | None = None,
        known: Mapping[SpaceName, SpaceTree] | None = None,
    ) -> None:
        self._store = store
        self._known = known or {}
        method = method or method_of_host()
        self._tracker: DirtyTracker | None = None
        if method is not PageHashes:
            self._tracker = DirtyTracker.of(store, method)
            self._consumer = self._tracker.consumer()
        self.method = method.name
        self._first = True
        self._views: list[memoryview] = []
        self._runs: list[Runs] = []
        self.trees: dict[SpaceName, SpaceTree] = {}
        self.sizes: list[int] = []

    def scan(self, stays: Callable[[int], bool] | None = None) -> int:
        """Find the pages of the next round, and return how many there are at most.

        Args:
            stays: Is told how many, and returns whether the program stays paused for good. Then
                nothing is made ready to find what is written later.

        Raises:
            SnapshotError: The host does not find them.
        """
        store = self._store
        spaces = [SpaceName(MEMORY_SPACE, number) for number in range(store.state.counts.memories)]
        self._views = [store.memory_view(space.number) for space in spaces]
        self.sizes = [len(view) // PAGE_SIZE for view in self._views]
        for space, pages in zip(spaces, self.sizes, strict=True):
            self.trees.setdefault(space, SpaceTree(0)).grow(pages)
        first = self._first
        if not first:
            self._known = {}  # what was written since is seldom as it was, and the stop is near
        if self._tracker is None:
            self._runs = [
                _other_pages(view, self.trees[space])
                for space, view in zip(spaces, self._views, strict=True)
            ]
        else:
            with self._tracker.changes(self._consumer) as changes:
                bases = self._tracker.bases
                self._runs = [
                    bases.existing(space.number) if first else changes[space] for space in spaces
                ]
                changes.settles = stays is None or not stays(self._count())
        if self._tracker is None and stays is not None:
            stays(self._count())
        self._first = False
        return self._count()

    def _count(self) -> int:
        return sum(sum(runs[1::2]) for runs in self._runs)

    def batches(self) -> Iterator[PageBatch]:
        """Yield the pages of the round, without those that the other side has already."""
        for number, (view, runs) in enumerate(zip(self._views, self._runs, strict=True)):
            space = SpaceName(MEMORY_SPACE, number)
            tree, known = self.trees[space], self._known.get(space)
            for part in _parts(runs):
                batch = _batch(number, view, part, tree, known)
                if batch.runs or batch.zeros or batch.known:
                    yield batch
            tree.root()  # now, so that little is left to digest when the program is paused

    def sample(self, count: int) -> tuple[bytes, int]:
        """Return some pages of the round that will be sent, and how many were looked at for them.

        Args:
            count: How many are looked at, at most; they are spread evenly.
        """
        found = bytearray()
        total = sum(sum(runs[1::2]) for runs in self._runs)
        step = max(1, -(-total // count))
        at = looked = 0
        for number, (view, runs) in enumerate(zip(self._views, self._runs, strict=True)):
            chosen = array("Q")
            for first, length in pairs_of(runs):
                for page in range(first + -at % step, first + length, step):
                    chosen.extend((page, 1))
                at += length
            data = gather(view, chosen)
            space = SpaceName(MEMORY_SPACE, number)
            tree, known = self.trees[space], self._known.get(space)
            digests = page_digests(data)
            for place, page in enumerate(chosen[::2]):
                digest = digests[place * DIGEST : (place + 1) * DIGEST]
                if digest not in (ZERO_DIGEST, tree.leaves(page, 1), _leaves(known, page, 1)):
                    found += data[place * PAGE_SIZE : (place + 1) * PAGE_SIZE]
            looked += len(chosen) // 2
        return bytes(found), looked

    def close(self) -> None:
        """Release what the host keeps to find dirty pages."""
        self._views = []
        if self._tracker is not None:
            self._tracker.leave(self._consumer)


def _other_pages(view: memoryview, tree: SpaceTree) -> Runs:
    """Return the pages whose digests are not those of what was sent.

    So a page that is read later than its digest was taken is found again, whatever it was then.
    """
    return runs_of(differences(page_digests(view), tree.leaves(), size=DIGEST))


def _parts(runs: Runs) -> Iterator[Runs]:
    """Yield runs in parts of `BATCH_PAGES` pages."""
    part: Runs = array("Q")
    room = BATCH_PAGES
    for at in range(0, len(runs), 2):
        first, count = runs[at], runs[at + 1]
        while count:
            taken = min(count, room)
            part.extend((first, taken))
            first, count, room = first + taken, count - taken, room - taken
            if not room:
                yield part
                part, room = array("Q"), BATCH_PAGES
    if part:
        yield part


def _leaves(tree: SpaceTree | None, first: int, count: int) -> bytes:
    """Return the digests of pages; zeros, which are no digest, where there is none."""
    held = 0 if tree is None else max(0, min(count, tree.pages - first))
    return (tree.leaves(first, held) if tree and held else b"") + bytes((count - held) * DIGEST)


def _batch(
    number: int, view: memoryview, runs: Runs, tree: SpaceTree, image: SpaceTree | None
) -> PageBatch:
    """Read pages; leave out those that have the digests that `tree` has, and update `tree`.

    Pages that have the digests of `image` are named, and not sent.
    """
    data = gather(view, runs)
    digests = page_digests(data)
    pairs = pairs_of(runs)
    known = tree.leaves_of(pairs)
    count = len(digests) // DIGEST
    changed = differences(digests, known, size=DIGEST)
    filled = differences(digests, ZERO_DIGEST * count, size=DIGEST)
    others = bytearray(b"\1" * count)
    if image is not None:
        held = b"".join(_leaves(image, first, length) for first, length in pairs)
        others = bytearray(differences(digests, held, size=DIGEST))
    tree.set_runs(pairs, digests)
    if changed.count(1) == filled.count(1) == others.count(1) == count:  # nearly always
        return PageBatch(number, runs, data, array("Q"))
    full, zeros, kept, there = _Pages(), _Pages(), _Pages(), _Pages()
    pages = (page for first, length in pairs for page in range(first, first + length))
    for place, page in enumerate(pages):
        if not changed[place]:
            continue
        if not filled[place]:
            zeros.add(page)
        elif others[place]:
            full.add(page)
            kept.add(place)
        else:
            there.add(page)
    sent = gather(memoryview(data), kept.runs)
    return PageBatch(number, full.runs, sent, zeros.runs, there.runs)


class _Pages:
    """Ascending pages, gathered into runs."""

    def __init__(self) -> None:
        self.runs: Runs = array("Q")

    def add(self, page: int) -> None:
        runs = self.runs
        if runs and runs[-2] + runs[-1] == page:
            runs[-1] += 1
        else:
            runs.extend((page, 1))


__all__ = ["BATCH_PAGES", "OutgoingPages", "PageBatch"]
