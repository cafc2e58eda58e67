"""Memories that are files, which a restored program maps instead of copying them.

A reader gets `allocate`, and `adopt` lays a store's memories over what was read. So a program is
restored without a second copy of its memory, and the first search for dirty pages finds a base.
`file_bytes` gives the memories of a mapped snapshot, which nobody reads at all.
"""

from __future__ import annotations

import errno
import mmap
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wasmsr.errors import SnapshotError
from wasmsr.snapshot.memory.bases import MemoryBase, MemoryBases
from wasmsr.snapshot.memory.page_engine import copy_pages

if TYPE_CHECKING:
    from wasmsr.interp.store.store import Store
    from wasmsr.snapshot.state import MemoryState

LEAST = 1 << 20
"""Bytes from which on a memory is worth a file of its own."""


class _FileBytes(mmap.mmap):
    """The bytes of a base. Those of a base of its own are writable until it is adopted."""

    base: MemoryBase | None = None


def allocate(size: int) -> bytearray | memoryview:
    """Return zero bytes for a memory; a large one is a file in memory where the host has such.

    The last free descriptor is left to others, who must open what is restored next.

    Raises:
        OSError, MemoryError: The host has no room.
    """
    if size < LEAST:
        return bytearray(size)
    try:
        base = MemoryBase.empty()
    except (OSError, AttributeError):  # no such files here, or no descriptor is free
        return _anonymous(size)
    base.resize(size)
    try:
        found = _FileBytes(base.fd, size)
        os.close(os.dup(base.fd))
    except OSError as error:
        base.close()
        if error.errno not in (errno.EMFILE, errno.ENFILE):
            raise
        return _anonymous(size)
    found.base = base
    return memoryview(found)


def grow(data: bytearray | memoryview, size: int) -> bytearray | memoryview:
    """Return a memory that `allocate` gave with zeros added up to `size` bytes.

    A file is the same file, longer. The old bytes are of no use afterwards.

    Raises:
        OSError, MemoryError: The host has no room; the old bytes stay in use.
    """
    base = base_of(data)
    if base is None:
        grown = allocate(size)
        copy_pages(data, memoryview(grown)[: len(data)])
        return grown
    assert isinstance(data, memoryview) and isinstance(data.obj, _FileBytes)
    base.resize(size)
    try:
        found = _FileBytes(base.fd, size)
    except OSError:
        base.cut(len(data))
        raise
    found.base, data.obj.base = base, None
    return memoryview(found)


def unload(data: bytes | bytearray | memoryview) -> None:
    """Let go of the pages of this mapping of a memory that `allocate` gave; the file keeps them.

    To end the mapping of a large memory takes long (1 GiB: 40 ms) unless its pages are gone before.
    """
    base = base_of(data)
    if base is not None and base.own:
        assert isinstance(data, memoryview) and isinstance(data.obj, _FileBytes)
        data.obj.madvise(mmap.MADV_DONTNEED)


def _anonymous(size: int) -> memoryview:
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


def file_bytes(file: int, offset: int, length: int) -> memoryview:
    """Return a part of a file that nobody writes or cuts, mapped and not read.

    Stores can be laid over it any number of times.

    Args:
        file: A descriptor, which stays the caller's.
        offset: Where the part begins; a multiple of 64 KiB.
        length: How many bytes; a multiple of 64 KiB.

    Raises:
        OSError: The host has no room, or no descriptor is free.
    """
    if not length:
        return memoryview(b"")
    base = MemoryBase(os.dup(file), offset, length)
    flags = mmap.MAP_PRIVATE
    found = _FileBytes(base.fd, length, flags=flags, prot=mmap.PROT_READ, offset=offset)
    found.base = base
    return memoryview(found)


def base_of(data: bytes | bytearray | memoryview) -> MemoryBase | None:
    """Return the base of a memory's bytes that `allocate` or `file_bytes` gave; None if it has
    none, or a store has taken it over."""
    file = data.obj if isinstance(data, memoryview) else None
    return file.base if isinstance(file, _FileBytes) else None


def share(memories: Sequence[MemoryState]) -> None:
    """Make memories that were read into files immutable, so that many stores can be laid over
    them.

    Args:
        memories: The memories of a state, which nobody else reads or writes.
    """
    for memory in memories:
        base = base_of(memory.data)
        if base is not None:
            base.share()
            memory.data = memoryview(memory.data).toreadonly()


def adopt(memories: Sequence[MemoryState], *, take: bool = True) -> Callable[[Store, int], bool]:
    """Return what lays the memories of a restored store over their files.

    A base of a memory's own is given up by the state: it is laid once, and belongs to the store. A
    base that is shared is laid under each store.

    Args:
        memories: The memories of the state, by address.
        take: Whether bases of a memory's own are taken from the state; otherwise only shared ones
            are laid.
    """

    def lay(store: Store, address: int) -> bool:
        data = memories[address].data
        base = base_of(data)
        if base is None or (base.own and not take):
            return False
        if base.own:
            assert isinstance(data, memoryview) and isinstance(data.obj, _FileBytes)
            data.obj.base = None
        if store.bases is None:
            store.bases = MemoryBases(store)
        try:
            store.bases.lay(address, base)
        except (SnapshotError, OSError):
            return False  # a copy does as well
        return True

    return lay


__all__ = ["LEAST", "adopt", "allocate", "base_of", "file_bytes", "grow", "share", "unload"]
