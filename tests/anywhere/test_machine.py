"""A saved program in JavaScript: it runs forwards and backwards, and is the program that we run."""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.anywhere.engines import HERE, NODE, needed
from wasmsr import Module, Paused, Snapshot, Store
from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.page import machine_module, machine_script
from wasmsr.snapshot.runnable.incoming import read_plain
from wasmsr.snapshot.runnable.outgoing import plain_program
from wasmsr.snapshot.state import SnapshotState

WORK = """(module
  (memory (export "memory") 4 40)
  (global $turns (mut i64) (i64.const 0))
  (table 1 funcref)
  (func $hash (param i32) (result i32) (local i32 i32)
    (local.set 1 (i32.const -2128831035))
    (loop
      (local.set 1 (i32.mul (i32.xor (local.get 1) (i32.load8_u (local.get 0)))
        (i32.const 16777619)))
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (local.set 2 (i32.add (local.get 2) (i32.const 1)))
      (br_if 0 (i32.lt_u (local.get 2) (i32.const 37))))
    (local.get 1))
  (func (export "run") (local i32 i32)
    (loop
      (global.set $turns (i64.add (global.get $turns) (i64.const 1)))
      (local.set 1 (call $hash (i32.and (local.get 1) (i32.const 0x3ffc0))))
      (i32.store (i32.and (local.get 1) (i32.const 0x3fffc)) (local.get 1))
      (if (i64.eqz (i64.rem_u (global.get $turns) (i64.const 5000)))
        (then (drop (memory.grow (i32.const 1)))))
      (br 0))))"""


def saved(after: int) -> tuple[Store, SnapshotState, bytes]:
    """A program that works on, after so many instructions; its store, state and module."""
    module = Module.from_text(WORK)
    store = Store()
    store.enqueue(store.instantiate(module).function("run"))
    assert store.run(fuel=after) == Paused("fuel")
    return store, Snapshot.of(store).state, bytes(module.binary)


def lay_out(state: SnapshotState, binary: bytes, folder: Path) -> None:
    """Write what a driver needs to a folder."""
    program = plain_program(state, [binary])
    (folder / "machine.js").write_text(machine_script())
    (folder / "package.json").write_text('{"type": "module"}')
    (folder / "machine.wasm").write_bytes(machine_module())
    (folder / "head.bin").write_bytes(program.head)
    (folder / "pages.bin").write_bytes(b"".join(program.pages()))


def walked(state: SnapshotState, binary: bytes, walk: Sequence[int], folder: Path) -> Any:
    """Let the machine go to each of these counts, from the saved state on; what it says."""
    lay_out(state, binary, folder)
    (folder / "walk.json").write_text(json.dumps(list(walk)))
    words = [*needed(NODE).command[:-1], str(HERE / "machine_driver.mjs"), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def _walk(steps: int, farthest: int, seed: int) -> list[int]:
    """Counts: mostly a few steps forwards or backwards, sometimes far away."""
    chosen, at, found = random.Random(seed), 0, []
    for _ in range(steps):
        if chosen.random() < 0.2:
            at = chosen.randrange(farthest)
        else:
            at = max(0, at + chosen.choice((1, -1, 7, -7, 1000, -1000, 250_000, -250_000)))
        found.append(at)
    return found


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full)])
def test_walks_to_and_fro(seed: int, tmp_path: Path) -> None:
    """After each step the machine's state is that of our engine after as many instructions."""
    steps, farthest = (25, 3_000_000) if seed == 1 else (200, 40_000_000)
    store, state, binary = saved(100_000)
    walk = _walk(steps, farthest, seed)
    found = walked(state, binary, walk, tmp_path)
    expected: dict[int, bytes] = {}
    at = 0
    for count in sorted(set(walk)):
        if count > at:
            assert store.run(fuel=count - at) == Paused("fuel")
            at = count
        expected[count] = content_digest(Snapshot.of(store).state)
    for number, (count, said) in enumerate(zip(walk, found, strict=True)):
        assert (said["count"], said["outcome"]) == (count, "paused")
        there = read_plain(memoryview((tmp_path / f"{number}.state").read_bytes()))
        assert there.executed == 100_000 + count
        assert content_digest(there) == expected[count], f"step {number}, to {count}"
    assert max(said["kept"] for said in found) < 150
    store.close()


@pytest.mark.parametrize("short", [{"keeps": 3, "bytes": 0}, {"keeps": 10**6, "bytes": 1 << 40}])
def test_too_little_memory_for_states(short: dict[str, int], tmp_path: Path) -> None:
    """Then fewer are kept, and the way back is longer; it ends where it ended before."""
    store, state, binary = saved(100_000)
    (tmp_path / "memory.json").write_text(json.dumps(short))
    walk = [30_000_000, 29_999_999, 9_000_000, 21_000_000, 5, 18_000_000]
    found = walked(state, binary, walk, tmp_path)
    at = 0
    for count in sorted(walk):
        assert store.run(fuel=count - at) == Paused("fuel")
        at = count
        number = walk.index(count)
        there = read_plain(memoryview((tmp_path / f"{number}.state").read_bytes()))
        assert content_digest(there) == content_digest(Snapshot.of(store).state), count
    assert [said["count"] for said in found] == walk
    assert max(said["kept"] for said in found) <= 6
    store.close()


def test_results_of_host_calls_have_their_types(tmp_path: Path) -> None:
    """A person types -1 for a number of 32 bits; what is no value of the type is refused."""
    module = Module.from_text("""(module
      (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
      (global $g (mut i32) (i32.const 0))
      (func (export "_start")
        (loop (global.set $g (call $yield)) (br 0))))""")
    from wasmsr.wasi.facade import Wasi

    with Wasi(deterministic=True) as wasi, Store() as store:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        assert store.run(fuel=1) == Paused("fuel")
        lay_out(Snapshot.of(store, wasi=wasi).state, bytes(module.binary), tmp_path)
    results = [-1, 1 << 40, 5, (1 << 64) - 2]
    (tmp_path / "results.json").write_text(json.dumps([str(one) for one in results]))
    words = [*needed(NODE).command[:-1], str(HERE / "results_driver.mjs"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    refused = "the result is no value of its type"
    assert [one["error"] for one in found] == ["", refused, "", ""]
    assert [one["global"] for one in found] == ["4294967295", "4294967295", "5", "4294967294"]


def test_host_calls_are_answered_once(tmp_path: Path) -> None:
    """Where the program was before, it is again: the answers of host calls are kept."""
    module = Module.from_text("""(module
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "_start") (local i32)
        (loop
          (i32.store (i32.const 16) (i32.add (i32.load (i32.const 16)) (i32.const 1)))
          (local.set 0 (i32.add (local.get 0)
            (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
          (br_if 0 (i32.lt_u (i32.load (i32.const 16)) (i32.const 2000))))
        unreachable))""")
    from wasmsr.wasi.facade import Wasi

    with Wasi(deterministic=True) as wasi, Store() as store:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        assert store.run(fuel=5) == Paused("fuel")
        state = Snapshot.of(store, wasi=wasi).state
    walk = [9000, 100, 9000, 8999, 9000, 40_000, 3, 40_000]
    found = walked(state, bytes(module.binary), walk, tmp_path)
    digests = [
        content_digest(read_plain(memoryview((tmp_path / f"{n}.state").read_bytes())))
        for n in range(len(walk))
    ]
    assert digests[0] == digests[2] == digests[4] != digests[3]
    assert digests[5] == digests[7] and found[5]["outcome"] == "trapped" == found[7]["outcome"]
    assert found[5]["count"] == found[7]["count"] < 40_000
