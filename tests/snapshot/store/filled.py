"""Stores and snapshots for the tests of the store."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.snapshot.checkpoints.guest import GUEST
from tests.snapshot.samples import carrying, full, small, thrown
from wasmsr import Module, Snapshot, Store
from wasmsr.snapshot.format import encode, save_pieces
from wasmsr.snapshot.state import MemoryState, ModuleRef, SnapshotState
from wasmsr.snapshot.store.folder import StoreFolder
from wasmsr.snapshot.store.pack import PackEntry, packs_of, read_index

PAGE = 4096


@cache
def growing(count: int = 20, fuel: int = 40_000) -> list[SnapshotState]:
    """Snapshots of one program whose memory grows, one after the other."""
    with Store() as store:
        instance = store.instantiate(Module.from_text(GUEST))
        store.enqueue(instance.function("run"), 10_000_000)
        found = []
        for _ in range(count):
            store.run(fuel=fuel)
            found.append(Snapshot.of(store, embed=True).state)
    return found


def random_memory(seed: int, pages: int = 16) -> SnapshotState:
    """A program with pages that nothing can compress."""
    data = bytearray(random.Random(seed).randbytes(pages * PAGE))
    data += bytes(-len(data) % 65536)
    return replace(small(), memories=[MemoryState(1, None, data)])


def embedding() -> SnapshotState:
    """A program with two modules inside, longer than a piece."""
    modules = []
    for seed in (1, 2):
        binary = b"\0asm\1\0\0\0" + random.Random(seed).randbytes(150_000)
        modules.append(ModuleRef(sha256(binary).digest(), len(binary), f"m{seed}", binary))
    return replace(random_memory(5), modules=modules)


STATES = {
    "small": small,
    "full": full,
    "thrown": thrown,
    "carrying": carrying,
    "embedding": embedding,
    "random": lambda: random_memory(3),
}
"""States with everything that a section can have."""


def saved(path: Path, state: SnapshotState, version: int = 2, *, handed: bool = False) -> Path:
    """Write a snapshot to a file."""
    save_pieces(encode(state, version=version, handed=handed), path)
    return path


def entries(path: Path) -> list[PackEntry]:
    """All entries of all indexes of a store."""
    folder = StoreFolder(path)
    return [entry for pack in packs_of(folder) for entry in read_index(folder, pack)]


def pages(state: SnapshotState) -> set[bytes]:
    """The digests of all pages that are not zeros."""
    found = set()
    for memory in state.memories:
        data = bytes(memory.data)
        for start in range(0, len(data), PAGE):
            page = data[start : start + PAGE]
            if any(page):
                found.add(sha256(page).digest())
    return found
