"""Forks: several programs from one snapshot that share all memory that they do not write.

A fork is not its twin. What a program holds in memory is equal in all forks: hash seeds, keys,
UUIDs. So a program can ask for the number of its fork, and a program that exports
`wasmsr_forked` is called first, with the number and fresh random bits.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from wasmsr.errors import SnapshotError
from wasmsr.interp.store.externs import Function, HostFunction
from wasmsr.interp.types import FuncType, ValType
from wasmsr.snapshot.memory.bases import MemoryBase, MemoryBases
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, page_runs
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.interp.store.instance import Imports
    from wasmsr.interp.store.store import Store

MODULE: Final = "wasmsr"
"""The module name of imports about forks."""
NUMBER: Final = "fork_number"
"""The import that returns the number of the fork, an i64; 0 is a program that is no fork."""
HOOK: Final = "wasmsr_forked"
"""The export that a fork calls first: its number, and 128 random bits as two i64, low first."""

_NUMBER_TYPE = FuncType((), (ValType.I64,))
_HOOK_TYPE = FuncType((ValType.I64, ValType.I64, ValType.I64), ())
_SEED = 32


def fork_imports(number: int) -> Imports:
    """Return the import `wasmsr.fork_number`, for a program that asks which fork it is.

    Args:
        number: What it returns. Give 0 where a program starts; `Snapshot.fork` gives the others.
    """
    answer = HostFunction(_NUMBER_TYPE, lambda caller: number, identity=f"{MODULE}.{NUMBER}")
    return {MODULE: {NUMBER: answer}}


class ForkSource:
    """The memories of a snapshot as files in memory, which forks map.

    Args:
        state: The snapshot's state.

    Raises:
        SnapshotError: The host has no room, or no such files.
    """

    def __init__(self, state: SnapshotState) -> None:
        self._state = state
        self._bases: list[MemoryBase] = []
        try:
            for memory in state.memories:
                self._bases.append(_base_of(memoryview(memory.data)))
        except (OSError, AttributeError) as error:
            raise SnapshotError(
                f"there is no room for the memories that forks share: {error}"
            ) from error

    def lay(self, store: Store, address: int) -> bool:
        """Lay a memory of a new fork over the shared bytes."""
        if store.bases is None:
            store.bases = MemoryBases(store)
        store.bases.lay(address, self._bases[address])
        return True

    def state(self, number: int) -> SnapshotState:
        """Return the state of a fork: a deterministic program gets random bytes of its own."""
        wasi = self._state.wasi
        random = wasi.get("random") if wasi is not None else None
        if wasi is None or not isinstance(random, dict):
            return self._state
        seed = blake2b(random["seed"] + number.to_bytes(8, "little"), digest_size=_SEED).digest()
        return replace(self._state, wasi=wasi | {"random": {"seed": seed, "position": 0}})

    def fresh(self, number: int) -> bytes:
        """Return 16 random bytes for a fork; those of a deterministic program follow from its
        seed and the number."""
        wasi = self.state(number).wasi
        random = None if wasi is None else wasi.get("random")
        if isinstance(random, dict):
            return blake2b(random["seed"], digest_size=16, person=b"wasmsr fork").digest()
        return os.urandom(16)


def fork(
    source: ForkSource, number: int, restore: Callable[[SnapshotState, Imports], Store]
) -> Store:
    """Return a fork, paused where the snapshot was, or in front of its call of `wasmsr_forked`.

    Args:
        source: The shared memories.
        number: The number of the fork, at least 1.
        restore: Makes a store of a state and of the imports about forks.
    """
    store = restore(source.state(number), fork_imports(number))
    try:
        _call_hook(store, number, source.fresh(number))
    except BaseException:
        store.close()
        raise
    return store


def _call_hook(store: Store, number: int, fresh: bytes) -> None:
    low, high = (int.from_bytes(half, "little", signed=True) for half in (fresh[:8], fresh[8:]))
    for instance in store.instances:
        hook = _hook_of(instance)
        if hook is None:
            continue
        if store.frames():
            store.push_call(hook, number, low, high)
        else:  # between two calls: the hook is the next one
            store.enqueue(hook, number, low, high)
            store.queue.insert(0, store.queue.pop())


def _hook_of(instance: Any) -> Function | None:
    for export in instance.module.exports:
        if export.name == HOOK and export.type == _HOOK_TYPE:
            found: Function = instance.function(HOOK)
            return found
    return None


def _base_of(view: memoryview) -> MemoryBase:
    base = MemoryBase.empty()
    base.resize(len(view))
    for first, count in page_runs(view):
        at, end = first * PAGE_SIZE, (first + count) * PAGE_SIZE
        while at < end:
            at += os.pwrite(base.fd, view[at:end], at)
    base.share()
    return base


__all__ = ["HOOK", "MODULE", "NUMBER", "ForkSource", "fork", "fork_imports"]
