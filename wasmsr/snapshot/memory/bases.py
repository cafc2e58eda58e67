"""Bases: the files under the memories of a program.

A memory is a private mapping of its base, so its private pages are what was written since the base
was laid. The base covers its own length only; the memory after it is anonymous, and grows in place.
A base that anyone else maps is immutable, because a write to it would change every other memory
over it.
"""

from __future__ import annotations

import errno
import fcntl
import mmap
import os
import weakref
from array import array
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from wasmsr.errors import SnapshotError
from wasmsr.interp.store.state import StateRefused
from wasmsr.snapshot.memory.page_calls import PRIVATE, refusal_of, scan, write_pages
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, Runs, copy_runs, page_map, runs_of

if TYPE_CHECKING:
    from wasmsr.interp.store.interface import StoreInterface

_CHUNK = 4 << 20
"""Bytes of a memory that move to a base at a time: so little is there twice meanwhile."""
_NOEXEC_SEAL = 8
"""MFD_NOEXEC_SEAL (Linux 6.3), which some hosts insist on; Python has no name for it."""


class MemoryBase:
    """A file, or a part of one, whose bytes are under memories.

    Args:
        fd: A descriptor of the file, which now belongs to the base. The file must not become
            shorter.
        offset: Where the bytes begin; a multiple of 64 KiB.
        length: How many bytes; a multiple of 64 KiB.
        own: Whether only one memory maps the file, so that it may be written.
    """

    def __init__(self, fd: int, offset: int, length: int, *, own: bool = False) -> None:
        self.fd = fd
        self.offset = offset
        self.length = length
        self._own = own
        self._close = weakref.finalize(self, os.close, fd)
        self._close.atexit = False

    @classmethod
    def empty(cls) -> MemoryBase:
        """Return a base of no bytes, in memory (memfd), for one memory.

        Raises:
            OSError: The host has none, or no descriptor is free.
        """
        flags = os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING
        try:
            fd = os.memfd_create("wasmsr-base", flags | _NOEXEC_SEAL)
        except OSError:  # before Linux 6.3
            fd = os.memfd_create("wasmsr-base", flags)
        return cls(fd, 0, 0, own=True)

    @property
    def own(self) -> bool:
        """Whether the base may be written: only one memory maps it."""
        return self._own

    def share(self) -> None:
        """Make the base immutable for ever, so that other memories can be laid over it."""
        if self._own:
            seals = fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE
            try:
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, seals | fcntl.F_SEAL_SEAL)
            except OSError as error:
                if error.errno != errno.EBUSY:
                    raise
                # Who has filled it through a mapping still has that, and does not write any more.
                fcntl.fcntl(self.fd, fcntl.F_ADD_SEALS, fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW)
            self._own = False

    def resize(self, length: int) -> None:
        """Add zeros up to a length. Raises OSError."""
        self._check_own()
        os.ftruncate(self.fd, self.offset + length)
        self.length = length

    def cut(self, length: int) -> MemoryBase:
        """Return a base of the first bytes: this one, cut, if only one memory maps it.

        Raises:
            OSError: The file cannot be cut, or no descriptor is free.
        """
        if not self._own:
            return MemoryBase(os.dup(self.fd), self.offset, length)
        os.ftruncate(self.fd, self.offset + length)
        self.length = length
        return self

    def write(self, start: int, runs: Runs) -> None:
        """Write pages of a memory that begins at the address `start`. Raises OSError."""
        self._check_own()
        write_pages(self.fd, self.offset, start, runs)

    def extents(self) -> Iterator[tuple[int, int]]:
        """Yield the parts of the base that are no holes: first page, and the page after the last.

        Raises:
            OSError: The file cannot be read.
        """
        at, end = self.offset, self.offset + self.length
        while at < end:
            try:
                data = os.lseek(self.fd, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:  # only a hole follows
                    return
                raise
            at = os.lseek(self.fd, data, os.SEEK_HOLE)
            if data < end:
                first = (data - self.offset) // PAGE_SIZE
                yield first, -(-(min(at, end) - self.offset) // PAGE_SIZE)

    def view(self) -> memoryview:
        """Return the bytes, read-only. The view keeps them after `close`."""
        if not self.length:
            return memoryview(b"")
        return memoryview(
            mmap.mmap(
                self.fd,
                self.length,
                flags=mmap.MAP_SHARED,
                prot=mmap.PROT_READ,
                offset=self.offset,
            )
        )

    def close(self) -> None:
        """Close the descriptor; memories over the base keep the bytes. Again does nothing.

        A base that nobody refers to closes itself.
        """
        self.fd = -1
        self._close()

    def _check_own(self) -> None:
        if not self._own:
            raise ValueError("other memories may be over this base: it cannot be written")


class MemoryBases:
    """The bases of the memories of one store, by address. No thread runs the store meanwhile."""

    def __init__(self, store: StoreInterface) -> None:
        self._store = store
        self._state = store.state
        self._bases: dict[int, MemoryBase] = {}
        self.tracker: Any = None
        """The one `DirtyTracker` of the store, while somebody asks it."""

    def get(self, address: int) -> MemoryBase | None:
        """Return the base of a memory, or None."""
        return self._bases.get(address)

    def lay(self, address: int, base: MemoryBase) -> None:
        """Lay a memory over a base; what the memory had in the base's length is lost.

        Raises:
            SnapshotError: The file is too short, or the memory smaller than the base.
        """
        if os.fstat(base.fd).st_size < base.offset + base.length:
            raise SnapshotError("the file under a memory is shorter than the memory's base")
        try:
            self._state.lay_memory(address, base.fd, base.offset, base.length)
        except StateRefused as error:
            raise SnapshotError(str(error)) from None
        self._bases[address] = base

    def shrunk(self, address: int, length: int) -> None:
        """Take note of how many bytes of a memory are over its base now.

        Args:
            address: The memory's.
            length: Bytes; 0 if the memory has no base any more.

        Raises:
            SnapshotError: The host has no room.
        """
        base = self._bases.get(address)
        if base is None or base.length <= length:
            return
        if not length:
            del self._bases[address]
            return
        try:
            self._bases[address] = base.cut(length)
        except OSError as error:
            raise SnapshotError(f"a memory's base cannot be cut: {error}") from error

    def make_own(self, address: int) -> MemoryBase:
        """Give a memory a base of its own, unless it has one; then no page of it is private.

        Raises:
            SnapshotError: The host has no room. The memory has its bytes in each case.
        """
        found = self._bases.get(address)
        if found is not None and found.own:
            return found
        place = self._state.memory_place(address)
        try:
            base = MemoryBase.empty()
        except (OSError, AttributeError) as error:
            raise SnapshotError(f"there is no file for a memory's base: {error}") from error
        try:
            base.resize(place.size)
            view = self._store.memory_view(address)
            if place.base:  # a longer mapping of one file cannot begin with another file's
                base.write(place.start, self.existing(address))
                self._state.lay_memory(address, base.fd, 0, place.size)
            else:
                self._move(address, base, place.start, view)
        except (OSError, StateRefused) as error:
            # Where a part was laid already, it has the same bytes as before.
            base.close()
            raise SnapshotError(f"there is no room for a memory's base: {error}") from error
        self._bases[address] = base
        return base

    def _move(self, address: int, base: MemoryBase, start: int, view: memoryview) -> None:
        for first in range(0, len(view), _CHUNK):
            end = min(first + _CHUNK, len(view))
            runs = runs_of(page_map(view[first:end]))
            for at in range(0, len(runs), 2):
                runs[at] += first // PAGE_SIZE
            base.write(start, runs)
            self._state.lay_memory(address, base.fd, 0, end, first=first)

    def settle(self, address: int, runs: Runs) -> None:
        """Write private pages into the memory's base, so that they are private no more.

        A base of its own grows with the memory. A memory over a base that others map gets one of
        its own, which takes a copy of all its bytes.

        Args:
            address: The memory's.
            runs: Its private pages; what is not among them stays private.

        Raises:
            SnapshotError: The host has no room. The memory has its bytes in each case.
        """
        base = self._bases.get(address)
        if base is None or not base.own:
            self.make_own(address)
            return
        place = self._state.memory_place(address)
        try:
            grown = place.base
            if place.size > base.length:
                base.resize(place.size)
            base.write(place.start, runs)
            self._state.drop_pages(address, _before(runs, grown // PAGE_SIZE))
            if place.size > grown:
                self._state.lay_memory(address, base.fd, base.offset, place.size, first=grown)
        except (OSError, StateRefused) as error:
            raise SnapshotError(f"pages cannot be written to a memory's base: {error}") from error

    def existing(self, address: int) -> Runs:
        """Return the pages of a memory that exist; all others are zero.

        To read a page that does not exist would make the kernel give it memory.
        """
        place = self._state.memory_place(address)
        pages = place.size // PAGE_SIZE
        base = self._bases.get(address)
        if refusal_of(PRIVATE) is not None or (place.base and base is None):
            return array("Q", (0, pages)) if pages else array("Q")
        flags = bytearray(pages)
        if base is not None:
            for first, end in base.extents():
                flags[first:end] = b"\1" * (end - first)
        try:
            scan(place.start, PRIVATE, flags, pages)
        except OSError as error:
            raise SnapshotError(f"the host does not tell which pages exist: {error}") from error
        return runs_of(flags)

    def copied(self, address: int) -> memoryview:
        """Return a copy of a memory, in which zero pages take no room.

        Raises:
            SnapshotError: The host has no room.
        """
        view = self._store.memory_view(address)
        if not view:
            return memoryview(b"")
        flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
        try:
            copy = memoryview(mmap.mmap(-1, len(view), flags=flags))
        except OSError as error:
            raise SnapshotError(f"there is no room for a copy of a memory: {error}") from error
        copy_runs(view, self.existing(address), copy)
        return copy

    def close(self) -> None:
        """Let go of the bases; the memories keep their bytes."""
        self._bases.clear()


def _before(runs: Runs, end: int) -> Runs:
    """Return the part of runs before a page."""
    kept = array("Q")
    for at in range(0, len(runs), 2):
        first, count = runs[at], runs[at + 1]
        if first >= end:
            break
        kept.extend((first, min(count, end - first)))
    return kept
