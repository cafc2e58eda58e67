"""Pages of version 2 of the format: runs by position, their bytes, and the digests of spaces.

A writer makes `SpacePages` of a state's spaces; a reader fills `DraftSpace`s with `PageRuns`. Equal
pages are not shared here: a store and the wire share them. Layout: docs/snapshot-format.md,
section 13.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from struct import Struct
from typing import TypeAlias

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import (
    BATCH_SIZE,
    FULL,
    INCREMENTAL,
    MAPPED,
    Buffer,
    tree_digest,
)
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, gather, page_digests, page_runs
from wasmsr.snapshot.spaces.space_tree import DIGEST, SpaceTree

RUN = Struct("<HHIII")
"""Kind of the space, flags, number of the space, first page, number of pages."""
ZEROS = 1
"""Flag of a run in an incremental snapshot: its pages are zeros now, and have no bytes."""
SPACE = Struct("<HHIQ32s")
"""Kind, flags, number, pages and digest of a space."""

_ZERO_PAGE = bytes(PAGE_SIZE)

Runs: TypeAlias = list[tuple[int, int]]
"""Runs of pages (first, count), ascending."""


@dataclass(slots=True)
class Base:
    """What a writer knows of the snapshot that an incremental one is made against.

    Attributes:
        root: Its root digest.
        content: Its content digest.
        depth: How many snapshots are below it: 0 for a full one.
        trees: The digests of its spaces, by name.
        modules: Digests of the modules that it or those below it embed.
        chunks: Digests of chunks of files that it or those below it hold.
        old: Returns what it has at pages of a space, joined, or None where nobody holds it.
    """

    root: bytes
    content: bytes
    depth: int
    trees: dict[SpaceName, SpaceTree]
    modules: Container[bytes] = frozenset()
    chunks: Container[bytes] = frozenset()
    old: Callable[[SpaceName, Runs], Buffer | None] | None = None


@dataclass(slots=True)
class Written:
    """What a snapshot that was just written is to the next one: its digests.

    Attributes:
        root: Its root digest.
        content: Its content digest.
        trees: The digests of its spaces, by name.
    """

    root: bytes
    content: bytes
    trees: dict[SpaceName, SpaceTree]


@dataclass(slots=True)
class WrittenSpace:
    """A space that is written: its bytes, what of it is stored, and its digests."""

    name: SpaceName
    view: memoryview
    tree: SpaceTree
    runs: Runs = field(default_factory=list)
    zeros: Runs = field(default_factory=list)


class SpacePages:
    """What a snapshot of version 2 stores of its spaces.

    The spaces may not change until `batches` has ended.

    Args:
        spaces: The spaces' names and bytes, in the order of the file.
        base: What an incremental snapshot is made against; None for a full one.
        dirty: Runs of pages that may differ from the base, for each space; None for all pages.
        mapped: Whether the pages go to regions of a mapped file, and not into sections.
        trees: The digests of the spaces, by name, where they are known. No page is read then, and
            none is stored.

    Attributes:
        base: As given.
        spaces: The spaces.
        stored: Number of stored pages.
    """

    def __init__(
        self,
        spaces: Sequence[tuple[SpaceName, Buffer]],
        base: Base | None = None,
        dirty: Sequence[Runs] | None = None,
        *,
        mapped: bool = False,
        trees: Mapping[SpaceName, SpaceTree] | None = None,
    ) -> None:
        self.base = base
        self._mapped = mapped
        self.spaces: list[WrittenSpace] = []
        for place, (name, data) in enumerate(spaces):
            view = memoryview(data).cast("B")
            pages = len(view) // PAGE_SIZE
            if trees is not None:
                self.spaces.append(WrittenSpace(name, view, _known(trees, name, pages)))
                continue
            if base is None:
                runs = list(page_runs(view))
                self.spaces.append(WrittenSpace(name, view, SpaceTree(pages), runs))
                continue
            tree = base.trees[name].copy() if name in base.trees else SpaceTree(0)
            tree.grow(pages)
            space = WrittenSpace(name, view, tree)
            _compare(space, [(0, pages)] if dirty is None else dirty[place])
            self.spaces.append(space)
        self.stored = sum(count for space in self.spaces for _, count in space.runs)

    @property
    def form(self) -> int:
        """The form of the snapshot."""
        if self._mapped:
            return MAPPED
        return FULL if self.base is None else INCREMENTAL

    def index(self) -> bytes:
        """Return the section *page runs*."""
        if self._mapped:
            return b""
        entries: list[bytes] = []
        for space in self.spaces:
            runs = [(first, count, 0) for first, count in space.runs]
            runs += [(first, count, ZEROS) for first, count in space.zeros]
            entries += [
                RUN.pack(space.name.kind, flags, space.name.number, first, count)
                for first, count, flags in sorted(runs)
            ]
        return b"".join(entries)

    def parts(self) -> Iterator[tuple[WrittenSpace, Runs]]:
        """Yield the stored pages in parts of a batch, each of one space; a batch may have more
        than one part."""
        room = BATCH_SIZE // PAGE_SIZE
        for space in self.spaces:
            part: Runs = []
            for first, count in space.runs:
                while count:
                    taken = min(count, room)
                    part.append((first, taken))
                    first, count, room = first + taken, count - taken, room - taken
                    if not room:
                        yield space, part
                        part, room = [], BATCH_SIZE // PAGE_SIZE
            if part:
                yield space, part

    @property
    def size(self) -> int:
        """Bytes of the section *page bytes*."""
        return 0 if self._mapped else self.stored * PAGE_SIZE

    def digest(self) -> bytes:
        """Return zeros: the digests of the spaces prove the pages."""
        return bytes(DIGEST)

    def batches(self) -> Iterator[Buffer]:
        """Yield the stored pages in batches, and take their digests on the way."""
        for parts in self._batches():
            pieces: list[Buffer] = []
            for space, runs in parts:
                data = gather(space.view, runs)
                if self.base is None:
                    _take_digests(space, runs, page_digests(data))
                pieces.append(data)
            yield pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def olds(self) -> Iterator[Buffer | None] | None:
        """Return what the base has in place of each batch; None if nobody holds it."""
        base = self.base
        if base is None or base.old is None:
            return None
        old = base.old

        def found() -> Iterator[Buffer | None]:
            for parts in self._batches():
                pieces = [old(space.name, runs) for space, runs in parts]
                whole = [piece for piece in pieces if piece is not None]
                yield b"".join(whole) if len(whole) == len(pieces) else None

        return found()

    def _batches(self) -> Iterator[list[tuple[WrittenSpace, Runs]]]:
        parts: list[tuple[WrittenSpace, Runs]] = []
        pages = 0
        for space, runs in self.parts():
            parts.append((space, runs))
            pages += sum(count for _, count in runs)
            if pages == BATCH_SIZE // PAGE_SIZE:
                yield parts
                parts, pages = [], 0
        if parts:
            yield parts


def _known(trees: Mapping[SpaceName, SpaceTree], name: SpaceName, pages: int) -> SpaceTree:
    tree = trees.get(name)
    if tree is None or tree.pages != pages:
        known = "none" if tree is None else f"those of {tree.pages}"
        raise ValueError(f"{name} has {pages} pages, and of their digests {known} are given")
    return tree


def _take_digests(space: WrittenSpace, runs: Runs, digests: Buffer) -> None:
    at = 0
    for first, count in runs:
        space.tree.set_leaves(first, digests[at : at + count * DIGEST])
        at += count * DIGEST


def _compare(space: WrittenSpace, dirty: Runs) -> None:
    """Find which of the dirty pages differ from the base, and which of these are zeros now."""
    zero = SpaceTree(1).leaf(0)
    for first, count in dirty:
        end = min(first + count, space.tree.pages)
        digests = page_digests(space.view[first * PAGE_SIZE : end * PAGE_SIZE])
        for page in range(first, end):
            at = (page - first) * DIGEST
            digest = digests[at : at + DIGEST]
            if digest != space.tree.leaf(page):
                runs = space.zeros if digest == zero else space.runs
                if runs and sum(runs[-1]) == page:
                    runs[-1] = (runs[-1][0], runs[-1][1] + 1)
                else:
                    runs.append((page, 1))
                space.tree.set_leaves(page, digest)


class SpaceDigests:
    """The payload of the section *spaces*: it is made when the pages have been written.

    Attributes:
        pages: The pages, whose `batches` end before `batches` here begins.
    """

    def __init__(self, pages: SpacePages) -> None:
        self.pages = pages

    @property
    def size(self) -> int:
        """Bytes of the section."""
        return len(self.pages.spaces) * SPACE.size

    def _bytes(self) -> bytes:
        return b"".join(
            SPACE.pack(*space.name[:1], 0, space.name.number, space.tree.pages, space.tree.root())
            for space in self.pages.spaces
        )

    def digest(self) -> bytes:
        """Return its tree digest."""
        return tree_digest(self._bytes())

    def batches(self) -> Iterator[Buffer]:
        """Yield it."""
        data = self._bytes()
        for start in range(0, len(data), BATCH_SIZE):
            yield data[start : start + BATCH_SIZE]

    def olds(self) -> None:
        """Return None: the digests are always whole."""


@dataclass(slots=True)
class DraftSpace:
    """A space that is being read: its name, its bytes, which are the base's at first, and its
    digests."""

    name: SpaceName
    view: memoryview
    tree: SpaceTree


class PageRuns:
    """Where the stored pages of a snapshot belong.

    Args:
        spaces: The spaces.

    Attributes:
        stored: Number of stored pages.
        zeros: Places (space, first, count) of pages that are zeros now.
    """

    def __init__(self, spaces: Sequence[DraftSpace]) -> None:
        self.spaces = spaces
        self.stored = 0
        self.zeros: list[tuple[DraftSpace, int, int]] = []
        self._firsts: list[int] = []
        self._places: list[tuple[DraftSpace, int, int]] = []

    def parse(self, data: Buffer, *, incremental: bool) -> None:
        """Read the section *page runs*.

        Raises:
            FormatError: Runs are out of order, overlap, are empty, go beyond a space, name no space
                or should be one.
        """
        if len(data) % RUN.size:
            raise FormatError("the page runs end in the middle of a run")
        order = {space.name: number for number, space in enumerate(self.spaces)}
        last, end, tail = -1, 0, -1
        for kind, flags, number, first, count in RUN.iter_unpack(data):
            name = SpaceName(kind, number)
            place = order.get(name)
            if place is None:
                raise FormatError(f"the page runs name {name}, which the snapshot does not have")
            if flags & ~ZEROS or (flags and not incremental):
                raise FormatError(f"a page run of {name} has unknown flags")
            if place != last:
                if place < last:
                    raise FormatError("the page runs are out of order")
                last, end, tail = place, 0, -1
            space = self.spaces[place]
            if not count:
                raise FormatError(f"the page runs have an empty run in {name}")
            if first < end:
                raise FormatError(f"the page runs have page {first} of {name} twice")
            if first + count > len(space.view) // PAGE_SIZE:
                raise FormatError(f"a page run goes beyond the end of {name}")
            if first == end and flags == tail:
                raise FormatError(f"the page runs have two runs in {name} that should be one")
            end, tail = first + count, flags
            if flags & ZEROS:
                self.zeros.append((space, first, count))
            else:
                self._firsts.append(self.stored)
                self._places.append((space, first, count))
                self.stored += count

    def of_space(self, number: int) -> Runs:
        """Return the runs that the snapshot has of a space, those of zeros among them."""
        wanted = self.spaces[number]
        found = [(first, count) for space, first, count in self._places if space is wanted]
        found += [(first, count) for space, first, count in self.zeros if space is wanted]
        return sorted(found)

    def _pieces(self, start: int, pages: int) -> Iterator[tuple[DraftSpace, int, int]]:
        """Yield the places (space, first, count) of stored pages `start` and up."""
        run = bisect_right(self._firsts, start) - 1
        skip = start - self._firsts[run]
        while pages:
            space, first, count = self._places[run]
            taken = min(count - skip, pages)
            yield space, first + skip, taken
            pages -= taken
            skip = 0
            run += 1

    def old(self, start: int, size: int) -> bytes:
        """Return what the spaces hold in place of a batch of stored pages."""
        return b"".join(
            space.view[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            for space, first, count in self._pieces(start // PAGE_SIZE, size // PAGE_SIZE)
        )

    def take(self, start: int, data: Buffer) -> None:
        """Write a batch of stored pages where they belong, and take their digests.

        Args:
            start: Where the batch begins in the section, in bytes.
            data: Whole pages.
        """
        view = memoryview(data)
        digests = page_digests(view)
        at = 0
        for space, first, count in self._pieces(start // PAGE_SIZE, len(view) // PAGE_SIZE):
            part = view[at * PAGE_SIZE : (at + count) * PAGE_SIZE]
            space.view[first * PAGE_SIZE : (first + count) * PAGE_SIZE] = part
            space.tree.set_leaves(first, digests[at * DIGEST : (at + count) * DIGEST])
            at += count

    def fill(self, number: int, start: int, data: Buffer) -> None:
        """Write pages of a mapped snapshot to their places, and take their digests.

        Args:
            number: The place of the space among all spaces.
            start: Where the pages begin in the space, in bytes.
            data: Whole pages; those of zeros are left untouched.
        """
        space, view = self.spaces[number], memoryview(data)
        for first, count in page_runs(view):
            part = slice(first * PAGE_SIZE, (first + count) * PAGE_SIZE)
            space.view[start + part.start : start + part.stop] = view[part]
            space.tree.set_leaves(start // PAGE_SIZE + first, page_digests(view[part]))

    def close(self) -> None:
        """Do nothing: all pages are in their places."""

    def clear(self) -> None:
        """Write the zeros of an incremental snapshot.

        Raises:
            FormatError: A page that should become zeros is zeros in the base.
        """
        zero = SpaceTree(1).leaf(0)
        for space, first, count in self.zeros:
            for page in range(first, first + count):
                if space.tree.leaf(page) == zero:
                    raise FormatError(f"page {page} of {space.name} is zeros in the base already")
                space.view[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = _ZERO_PAGE
            space.tree.set_zeros(first, count)


__all__ = ["Base", "DraftSpace", "PageRuns", "Runs", "SpaceDigests", "SpaceName", "SpacePages"]
