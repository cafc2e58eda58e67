"""Stores and snapshots for the tests of the store."""

from __future__ import annotations

import random
from dataclasses import replace
from functools import cache
from hashlib import sha256
from pathlib import Path

from tests.snapshot.samples import carrying, full, small, thrown
from wasmsr import Module, Snapshot, Store
from wasmsr.snapshot.format import encode, save_pieces
from wasmsr.snapshot.state import MemoryState, ModuleRef, SnapshotState
from wasmsr.snapshot.store.folder import StoreFolder
from wasmsr.snapshot.store.pack import PackEntry, packs_of, read_index

PAGE = 4096

GROWING = """(module
  (memory (export "memory") 1 256)
  (func (export "run") (param $turns i32) (local $at i32) (local $in i32)
    (loop $again
      (if (i32.ge_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))
        (then (drop (memory.grow (i32.const 1)))))
      (i64.store (i32.const 8) (i64.add (i64.load (i32.const 8)) (i64.const 1)))
      (local.set $in (i32.const 128))
      (loop $more
        (i64.store (i32.add (local.get $at) (i32.mul (local.get $in) (i32.const 16)))
          (i64.mul (i64.extend_i32_u (i32.add (local.get $at) (local.get $in)))
            (i64.const 0x9E3779B97F4A7C15)))
        (br_if $more (local.tee $in (i32.sub (local.get $in) (i32.const 1)))))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))))"""
"""Fills its memory page by page, and counts in the first page."""


@cache
def growing(count: int = 20, fuel: int = 40_000) -> list[SnapshotState]:
    """Snapshots of one program whose memory grows, one after the other."""
    with Store() as store:
        instance = store.instantiate(Module.from_text(GROWING))
        store.enqueue(instance.function("run"), 4000)
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
    return [entry for pack in packs_of(folder) for entry in read_index(folder, pack).entries()]


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
