"""Dirty pages: which pages of a program's memories were written since a consumer asked last.

There are three methods, and this host's best is taken:

- `userfaultfd`: the kernel notes writes (Linux 6.7; many sandboxes forbid it);
- `private`: the pages of a memory over a base of its own that are not the base's (Linux 6.7);
- `hash`: the digests of all pages are compared. Every host has it, and tests compare with it.

All three see every write: by the program, by a host function through `Memory.data`, by `readv`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, ClassVar

from wasmsr.errors import SnapshotError
from wasmsr.snapshot.memory import page_calls
from wasmsr.snapshot.memory.bases import MemoryBases
from wasmsr.snapshot.memory.page_engine import (
    DIGEST,
    PAGE_SIZE,
    Runs,
    differences,
    gather,
    page_digests,
    page_map,
    pairs_of,
    runs_of,
)
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName

if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface
    from wasmsr.interp.store.state import MemoryPlace

VARIABLE = "WASMSR_DIRTY_PAGES"
"""The environment variable that forces a method by its name."""


WATCHED_PAGES = 1 << 19
"""Pages of which the kernel tells in about 4 ms which were written. To start a second thread would
not be faster."""


class DirtyMethod(ABC):
    """Finds what is written to one memory, from when it is made.

    Args:
        store: The store; no thread runs it during a call.
        address: The memory's.
        bases: The bases of the store's memories.
    """

    name: ClassVar[str]

    def __init__(self, store: StoreInterface, address: int, bases: MemoryBases) -> None:
        self.store = store
        self.address = address
        self.bases = bases

    @classmethod
    @abstractmethod
    def refusal(cls) -> str | None:
        """Return why this host does not have the method, or None."""

    @abstractmethod
    def scan(self, flags: bytearray) -> None:
        """Mark what was written since the last `settle`, or more; leave other flags as they are.

        `userfaultfd` and `hash` begin anew here.
        """

    def settle(self, runs: Runs) -> None:  # noqa: B027 (most methods have nothing to do)
        """Begin anew for these pages, which `scan` has found while the program is paused."""

    def shrunk(self, pages: int) -> None:  # noqa: B027 (likewise)
        """Take note that the memory has so many pages now; what it grows by is zero."""

    def close(self) -> None:  # noqa: B027 (likewise)
        """Release what the method has of the host."""


class WatchedWrites(DirtyMethod):
    """The kernel notes writes (userfaultfd in its asynchronous mode, and PAGEMAP_SCAN).

    Linux forgets to protect a page that it moves during the scan (up to 6.18), so a later scan may
    name the page again though it was not written. It never leaves one out.
    """

    name = "userfaultfd"

    def __init__(self, store: StoreInterface, address: int, bases: MemoryBases) -> None:
        super().__init__(store, address, bases)
        place = store.state.memory_place(address)
        self._watch = -1
        if place.reserved:  # all of it is watched: the memory can grow
            self._watch = page_calls.watch_writes(place.start, place.reserved)
        try:
            # Every page is protected, which takes a hundred times as long as to see that it is.
            pages = place.size // PAGE_SIZE
            page_calls.scan(place.start, page_calls.WRITTEN, bytearray(pages), pages)
        except OSError:
            self.close()
            raise

    @classmethod
    def refusal(cls) -> str | None:
        """Return why this host does not have the method, or None."""
        return page_calls.refusal_of(page_calls.WRITTEN)

    def scan(self, flags: bytearray) -> None:
        """Mark what was written since the last scan, and begin anew."""
        place = self.store.state.memory_place(self.address)
        pages = place.size // PAGE_SIZE
        page_calls.scan(place.start, page_calls.WRITTEN, flags, pages, at_once=WATCHED_PAGES)

    def close(self) -> None:
        """Let the kernel forget."""
        watch, self._watch = self._watch, -1
        if watch >= 0:
            os.close(watch)


class PrivatePages(DirtyMethod):
    """What is written becomes private to a memory over a base of its own."""

    name = "private"

    def __init__(self, store: StoreInterface, address: int, bases: MemoryBases) -> None:
        super().__init__(store, address, bases)
        bases.make_own(address)
        flags = bytearray(store.state.memory_place(address).size // PAGE_SIZE)
        self.scan(flags)
        self.settle(runs_of(flags))

    @classmethod
    def refusal(cls) -> str | None:
        """Return why this host does not have the method, or None."""
        return page_calls.refusal_of(page_calls.PRIVATE)

    def scan(self, flags: bytearray) -> None:
        """Mark what is private."""
        place = self.store.state.memory_place(self.address)
        page_calls.scan(place.start, page_calls.PRIVATE, flags, place.size // PAGE_SIZE)

    def settle(self, runs: Runs) -> None:
        """Write these pages into the base, so that they are private no more."""
        self.bases.settle(self.address, runs)


class PageHashes(DirtyMethod):
    """The digests of all pages are compared with those of the last scan."""

    name = "hash"

    def __init__(self, store: StoreInterface, address: int, bases: MemoryBases) -> None:
        super().__init__(store, address, bases)
        self._digests = self._now()

    @classmethod
    def refusal(cls) -> str | None:
        """Return None: every host has the method."""
        return None

    def shrunk(self, pages: int) -> None:
        """Forget the digests of pages that are gone."""
        del self._digests[pages * DIGEST :]

    def _now(self) -> bytearray:
        return page_digests(self.store.memory_view(self.address), bytes(DIGEST))

    def scan(self, flags: bytearray) -> None:
        """Mark the pages with other bytes than at the last scan."""
        old, self._digests = self._digests, self._now()
        new = self._digests
        common = min(len(old), len(new))
        old += bytes(len(new) - common)  # what has grown was zero
        changed = differences(old[: len(new)], new, size=DIGEST)
        for page, flag in enumerate(changed):
            if flag:
                flags[page] = 1


METHODS: tuple[type[DirtyMethod], ...] = (WatchedWrites, PrivatePages, PageHashes)
"""All methods, the best first."""


def method_of_host() -> type[DirtyMethod]:
    """Return the best method that this host has, or the one that the variable names.

    Raises:
        SnapshotError: The variable names none, or one that this host does not have.
    """
    wanted = os.environ.get(VARIABLE)
    for method in METHODS:
        if wanted and method.name != wanted:
            continue
        refusal = method.refusal()
        if refusal is None:
            return method
        if wanted:
            raise SnapshotError(
                f"this host cannot find dirty pages by the method {wanted}: {refusal}",
                hint=f"without {VARIABLE}, the best method that there is will be taken",
            )
    names = ", ".join(method.name for method in METHODS)
    raise SnapshotError(
        f"{VARIABLE} is {wanted!r}, which is no method to find dirty pages",
        hint=f"the methods are {names}",
    )


class DirtyConsumer:
    """Somebody who asks which pages were written since a moment of their own.

    `DirtyTracker.consumer` makes one.

    Attributes:
        flags: A byte for each page of each space, 1 where it was written. They may be shorter or
            longer than the space.
    """

    def __init__(self) -> None:
        self.flags: dict[SpaceName, bytearray] = {}

    def mark(self, space: SpaceName, runs: Runs) -> None:
        """Add runs of pages."""
        flags = self.flags.setdefault(space, bytearray())
        if runs:
            flags.extend(bytes(max(0, runs[-2] + runs[-1] - len(flags))))
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            flags[first : first + count] = b"\1" * count


class DirtyChanges(Mapping[SpaceName, Runs]):
    """What a consumer gets: for each space the runs of pages that were written.

    Attributes:
        settles: Whether the method begins anew for these pages. A consumer of which the program is
            not to run on sets it to False; if it does, the pages are found again.
    """

    settles = True

    def __init__(self, tracker: DirtyTracker, runs: dict[SpaceName, Runs], *, latest: bool) -> None:
        self._tracker = tracker
        self._runs = runs
        self._latest = latest

    def __getitem__(self, space: SpaceName) -> Runs:
        return self._runs[space]

    def __iter__(self) -> Iterator[SpaceName]:
        return iter(self._runs)

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def pages(self) -> int:
        """How many pages were written in all."""
        return sum(sum(runs[1::2]) for runs in self._runs.values())

    def now(self, space: SpaceName) -> bytearray:
        """Return a copy of the pages, one after the other."""
        return gather(self._tracker.store.memory_view(space.number), self._runs[space])

    def pairs(self, space: SpaceName) -> list[tuple[int, int]]:
        """Return the runs as pairs (first page, number of pages), as the writer takes them."""
        return pairs_of(self._runs[space])

    def old(self, space: SpaceName, runs: Sequence[tuple[int, int]]) -> bytearray | None:
        """Return pages as the consumer's last changes left them, one after the other.

        None where nobody has these bytes: the method keeps none, or another consumer asked later.
        Pages by which the memory has grown were zero.
        """
        base = self._tracker.bases.get(space.number)
        if not self._latest or base is None:
            return None
        result = bytearray(PAGE_SIZE * sum(count for _, count in runs))
        view = base.view()
        at = 0
        for first, count in runs:
            old = view[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            result[at : at + len(old)] = old
            at += count * PAGE_SIZE
        return result


class DirtyTracker:
    """The one service that finds the dirty pages of a store's memories, for all consumers.

    Scanning resets what the kernel notes, so only the tracker scans. Each consumer has its own
    flags, to which every scan adds.

    Args:
        store: The store. No thread runs it during a call.
        bases: The bases of its memories; None takes those of the store.
        method: How; None takes this host's best.

    Raises:
        SnapshotError: As `method_of_host`.
    """

    def __init__(
        self,
        store: StoreInterface,
        *,
        bases: MemoryBases | None = None,
        method: type[DirtyMethod] | None = None,
    ) -> None:
        self.store = store
        self.bases = bases or store.bases or MemoryBases(store)
        store.bases = self.bases
        self.method = method or method_of_host()
        self._memories: dict[SpaceName, DirtyMethod] = {}
        self._consumers: list[DirtyConsumer] = []
        self._last: DirtyConsumer | None = None
        self._scan()

    @classmethod
    def of(cls, store: StoreInterface, method: type[DirtyMethod] | None = None) -> DirtyTracker:
        """Return the service of a store, for one more consumer.

        Every consumer of a store asks the same service: a scan resets what the kernel notes, and
        a second service would miss what the first has found.

        Args:
            store: The store.
            method: As for the constructor, for the first consumer.

        Raises:
            SnapshotError: As the constructor; or the store's service uses another method.
        """
        if store.bases is None:
            store.bases = MemoryBases(store)
        found: DirtyTracker | None = store.bases.tracker
        if found is None:
            found = store.bases.tracker = cls(store, method=method)
        elif method is not None and found.method is not method:
            raise SnapshotError(
                f"the dirty pages of the store are found by the method {found.method.name} already"
            )
        return found

    def leave(self, consumer: DirtyConsumer) -> None:
        """Forget a consumer; without any, release what the methods have of the host."""
        if consumer in self._consumers:
            self._consumers.remove(consumer)
        if not self._consumers:
            self.close()
            if self.bases.tracker is self:
                self.bases.tracker = None

    def resized(self, before: Sequence[MemoryPlace]) -> None:
        """Take note that memories have other sizes, or other places, as after `Store.assign`.

        Args:
            before: Where they were.

        Raises:
            SnapshotError: The host has no room.
        """
        state = self.store.state
        for number, old in enumerate(before):
            space = SpaceName(MEMORY_SPACE, number)
            place = state.memory_place(number) if number < state.counts.memories else None
            if place is None or place.start != old.start:
                self.bases.shrunk(number, 0)
                if space in self._memories:
                    self._memories.pop(space).close()
                for consumer in self._consumers:
                    consumer.flags.pop(space, None)
                continue
            if place.size < old.size:  # where it grows again, it has zeros
                pages, gone = place.size // PAGE_SIZE, (old.size - place.size) // PAGE_SIZE
                self.mark(space, array("Q", (pages, gone)))
            if place.base < old.base:
                self.bases.shrunk(number, place.base)
                if space in self._memories:
                    self.replaced(space)
            elif place.size < old.size and space in self._memories:
                self._memories[space].shrunk(place.size // PAGE_SIZE)
        self._last = None
        if len(self._memories) != state.counts.memories:
            self._scan()

    def consumer(self) -> DirtyConsumer:
        """Return a new consumer, whose first changes are what is written from now on."""
        self._settle(self._scan())
        made = self._last = DirtyConsumer()
        self._consumers.append(made)
        return made

    def remove(self, consumer: DirtyConsumer) -> None:
        """Forget a consumer."""
        self._consumers.remove(consumer)

    def written(self, consumer: DirtyConsumer) -> dict[SpaceName, Runs]:
        """Return what was written since the consumer's last changes, which stay its last ones.

        Raises:
            SnapshotError: The host does not find the pages.
        """
        self._scan()
        return {
            space: runs_of(consumer.flags.get(space, bytearray())[: self._pages(space)])
            for space in self._memories
        }

    @contextmanager
    def changes(self, consumer: DirtyConsumer) -> Iterator[DirtyChanges]:
        """Give what was written since the consumer's last changes.

        The program is paused from the beginning to the end of the `with` block, in which the
        consumer copies the pages. At the end the consumer's moment is now. Where the block raises,
        the consumer gets the same pages again.

        Raises:
            SnapshotError: The host does not find the pages, or has no room to begin anew; the
                consumer gets the same pages again.
        """
        found = self._scan()
        runs = {}
        for space in self._memories:
            pages = self._pages(space)
            runs[space] = runs_of(consumer.flags.get(space, bytearray())[:pages])
        latest = self._last is consumer and self.method is PrivatePages
        changes = DirtyChanges(self, runs, latest=latest)
        yield changes
        if changes.settles:
            self._settle(found)
            self._last = consumer
        else:  # the pages will be found again
            self._last = None
        consumer.flags.clear()

    def copied(self, space: SpaceName) -> memoryview:
        """Return a copy of a whole space, in which zero pages take no room.

        Raises:
            SnapshotError: The host has no room.
        """
        return self.bases.copied(space.number)

    def mark(self, space: SpaceName, runs: Runs) -> None:
        """Count pages as written that were changed otherwise: by `StoreState.drop_pages`."""
        for consumer in self._consumers:
            consumer.mark(space, runs)

    def replaced(self, space: SpaceName) -> None:
        """Take note that a memory is over another base, or was cleared; all its pages count."""
        self._memories.pop(space).close()
        self._last = None
        self._scan()
        for consumer in self._consumers:
            length = max(self._pages(space), len(consumer.flags.get(space, b"")))
            consumer.mark(space, array("Q", (0, length)))

    def close(self) -> None:
        """Release what the methods have of the host; the store and its memories stay."""
        for memory in self._memories.values():
            memory.close()
        self._memories.clear()

    def _scan(self) -> dict[SpaceName, bytearray]:
        """Find what was written, and add it to the flags of all consumers."""
        if self.store.running:
            raise RuntimeError("a thread runs the store")
        found: dict[SpaceName, bytearray] = {}
        try:
            for address in range(self.store.state.counts.memories):
                space = SpaceName(MEMORY_SPACE, address)
                memory = self._memories.get(space)
                if memory is None:
                    # A memory that is new to us: all that it has counts as written.
                    flags = bytearray()
                    if self._consumers:
                        flags = page_map(self.store.memory_view(address))
                    self._memories[space] = self.method(self.store, address, self.bases)
                else:
                    flags = found[space] = bytearray(self._pages(space))
                    try:
                        memory.scan(flags)
                    except BaseException:
                        self._mark_all(space, flags)  # what was found is not found again
                        raise
                self._mark_all(space, flags)
        except OSError as error:
            raise SnapshotError(f"the host does not find dirty pages: {error}") from error
        return found

    def _mark_all(self, space: SpaceName, flags: bytearray) -> None:
        runs = runs_of(flags)
        for consumer in self._consumers:
            consumer.mark(space, runs)

    def _settle(self, found: Mapping[SpaceName, bytearray]) -> None:
        self._last = None
        for space, flags in found.items():
            self._memories[space].settle(runs_of(flags))

    def _pages(self, space: SpaceName) -> int:
        return int(self.store.state.memory_place(space.number).size) // PAGE_SIZE
