"""A program is restored over the file into which its memory was read, without a second copy."""

from __future__ import annotations

import os
import random
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from wasmsr import Module, Snapshot, Store
from wasmsr.interp.outcomes import Finished, Paused
from wasmsr.program.program import Program
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.format import content_digest, encode
from wasmsr.snapshot.memory import adoption
from wasmsr.snapshot.memory.adoption import LEAST, adopt, allocate
from wasmsr.snapshot.memory.bases import MemoryBase
from wasmsr.snapshot.memory.dirty_pages import METHODS, DirtyTracker
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.state import SnapshotState

ROOT = Path(__file__).parents[3]
PAGES = 64
SUM = f"""(module (memory (export "memory") {PAGES} 100) (memory 1)
  (func (export "_start") (call $sum) (drop))
  (func $sum (export "run") (result i64) (local $at i32) (local $sum i64)
    (loop $more
      (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 3))
        (i64.load (local.get $at))))
      (i64.store (local.get $at) (local.get $sum))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $more (i32.lt_u (local.get $at) (i32.const {PAGES * 65536}))))
    (local.get $sum)))"""


def saved() -> bytes:
    """A program in the middle of its sum, as bytes."""
    store = Store()
    instance = store.instantiate(Module.from_text(SUM))
    data = instance.memory("memory").data
    data[: len(data) // 2] = random.Random(4).randbytes(len(data) // 2)
    store.enqueue(instance.function("run"))
    assert isinstance(store.run(fuel=400_000), Paused)
    return b"".join(encode(Snapshot.of(store, embed=True).state))


def read(data: bytes) -> SnapshotState:
    decoder = Decoder(allocate=allocate)
    decoder.feed(data)
    return decoder.finish()


def end_of(store: Store) -> object:
    outcome = store.run()
    assert isinstance(outcome, Finished)
    return outcome.results


def test_it_ends_as_a_copied_one_does() -> None:
    data = saved()
    with Snapshot(read(data)).restore() as copied:
        wanted = end_of(copied)
    state = read(data)
    with Snapshot(state).restore(lay=adopt(state.memories)) as store:
        place = store.state.memory_place(0)
        assert place.base == place.size == PAGES * 65536
        assert store.state.memory_place(1).base == 0, "a small memory is copied"
        assert content_digest(Snapshot.of(store, embed=True).state) == content_digest(read(data))
        store.state.grow_memory(0, 2)
        assert end_of(store) == wanted


def test_a_state_gives_its_memory_up_once() -> None:
    data = saved()
    state = read(data)
    lay = adopt(state.memories)
    with Snapshot(state).restore(lay=lay), Snapshot(state).restore(lay=lay) as second:
        assert second.state.memory_place(0).base == 0


@pytest.mark.parametrize("method", METHODS)
def test_dirty_pages_are_found_over_the_file(method: type) -> None:
    if (refusal := method.refusal()) is not None:  # type: ignore[attr-defined]
        pytest.skip(refusal)
    state = read(saved())
    with Snapshot(state).restore(lay=adopt(state.memories)) as store:
        tracker = DirtyTracker(store, method=method)
        consumer = tracker.consumer()
        memory = store.memory_view(0)
        for page in (0, 7, 500):
            memory[page * 4096 + 9] ^= 1
        with tracker.changes(consumer) as changes:
            assert changes.pairs(SpaceName(MEMORY_SPACE, 0)) == [(0, 1), (7, 1), (500, 1)]
        tracker.close()


def test_a_host_without_such_files_copies(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> MemoryBase:
        raise OSError(24, "no descriptor is free")

    monkeypatch.setattr(adoption.MemoryBase, "empty", refuse)
    state = read(saved())
    with Snapshot(state).restore(lay=adopt(state.memories)) as store:
        assert store.state.memory_place(0).base == 0
        end_of(store)


def hold_many(path: Path, free: int) -> None:
    """Hold twelve snapshots in a process that has so many more descriptors."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    held = []
    resource.setrlimit(resource.RLIMIT_NOFILE, (len(os.listdir("/proc/self/fd")) + free, hard))
    try:
        for _ in range(12):
            held.append(Snapshot.load(path))
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert all(one == held[0] for one in held)
    for one in (held[0], held[-1]):
        with one.restore() as store:
            end_of(store)


@pytest.mark.parametrize("free", [11, 12, 13])
def test_many_snapshots_can_be_held(tmp_path: Path, free: int) -> None:
    """Each has two descriptors for a large memory as long as there are some."""
    (tmp_path / "one.bin").write_bytes(saved())
    # In a process of its own: here the threads of other tests open files meanwhile.
    code = (
        "from pathlib import Path; from tests.snapshot.memory.test_adoption import hold_many; "
        f"hold_many(Path({str(tmp_path / 'one.bin')!r}), {free})"
    )
    # The sanitized package, if that is tested, comes before the one in the tree.
    path = os.pathsep.join(filter(None, (os.environ.get("PYTHONPATH"), str(ROOT))))
    environ = os.environ | {"PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], env=environ, check=True, timeout=60)


def test_the_command_adopts(tmp_path: Path) -> None:
    state = read(saved())
    program = Program.resume(state, adopted=True)
    assert program.store.state.memory_place(0).base >= LEAST
    program.close()
    program = Program.resume(read(saved()))
    assert program.store.state.memory_place(0).base == 0
    program.close()
