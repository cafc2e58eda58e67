"""Memories that are read into files, which the restored program then maps instead of copying them.

A reader gets `allocate`, and `adopt` lays a store's memories over what was read. So a program is
restored without a second copy of its memory, and the first search for dirty pages finds a base.
"""

from __future__ import annotations

import mmap
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from wasmsr.errors import SnapshotError
from wasmsr.snapshot.memory.bases import MemoryBase, MemoryBases

if TYPE_CHECKING:
    from wasmsr.interp.store.store import Store
    from wasmsr.snapshot.state import MemoryState

LEAST = 1 << 20
"""Bytes from which on a memory is worth a file of its own."""


class _FileBytes(mmap.mmap):
    """The bytes of a base, writable until a memory is laid over it."""

    base: MemoryBase | None = None


def allocate(size: int) -> bytearray | memoryview:
    """Return zero bytes for a memory; a large one is a file in memory where the host has such.

    Raises:
        OSError, MemoryError: The host has no room.
    """
    if size < LEAST:
        return bytearray(size)
    try:
        base = MemoryBase.empty()
    except (OSError, AttributeError):  # no such files here, or no descriptor is free
        return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    base.resize(size)
    found = _FileBytes(base.fd, size)
    found.base = base
    return memoryview(found)


def adopt(memories: Sequence[MemoryState]) -> Callable[[Store, int], bool]:
    """Return what lays the memories of one restored store over the files that were read.

    The state gives up these memories: a memory is laid over a file once, and belongs to the store.

    Args:
        memories: The memories of the state, by address.
    """

    def lay(store: Store, address: int) -> bool:
        data = memories[address].data
        file = data.obj if isinstance(data, memoryview) else None
        if not isinstance(file, _FileBytes) or file.base is None:
            return False
        base, file.base = file.base, None
        if store.bases is None:
            store.bases = MemoryBases(store)
        try:
            store.bases.lay(address, base)
        except (SnapshotError, OSError):
            return False  # a copy does as well
        return True

    return lay


__all__ = ["LEAST", "adopt", "allocate"]
