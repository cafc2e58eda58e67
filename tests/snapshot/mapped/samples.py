"""A program in the middle of its sum, and mapped files of it."""

from __future__ import annotations

import random
from pathlib import Path

from wasmsr import Module, Snapshot, Store
from wasmsr.interp.outcomes import Finished, Paused
from wasmsr.snapshot.mapped.saving import save_mapped

PAGES = 64
SIZE = PAGES * 65536
SUM = Module.from_text(f"""(module (memory (export "memory") {PAGES} 100) (memory 1)
  (func (export "_start") (call $sum) (drop))
  (func $sum (export "run") (result i64) (local $at i32) (local $sum i64)
    (loop $more
      (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 3))
        (i64.load (local.get $at))))
      (i64.store (local.get $at) (local.get $sum))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $more (i32.lt_u (local.get $at) (i32.const {SIZE}))))
    (local.get $sum)))""")


def saved(*, embed: bool = True) -> Snapshot:
    """A snapshot in the middle of the sum; half of the first memory is zeros."""
    with Store() as store:
        instance = store.instantiate(SUM)
        data = instance.memory("memory").data
        data[: len(data) // 2] = random.Random(4).randbytes(len(data) // 2)
        store.enqueue(instance.function("run"))
        assert isinstance(store.run(fuel=400_000), Paused)
        return Snapshot.of(store, embed=embed)


def mapped(folder: Path, snapshot: Snapshot | None = None) -> Path:
    """A mapped file, which is admitted."""
    path = folder / "mapped.bin"
    found = save_mapped((snapshot or saved()).state, path)
    assert found.admitted and found.size == path.stat().st_size
    return path


def end_of(store: Store) -> object:
    """The sum."""
    outcome = store.run()
    assert isinstance(outcome, Finished)
    return outcome.results


def is_mapped(store: Store) -> bool:
    """Whether both memories are over a file."""
    places = [store.state.memory_place(address) for address in range(2)]
    return all(place.base == place.size for place in places)
