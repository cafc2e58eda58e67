"""Forks: own pages and random bytes, shared memory, a number, and a hook that comes first."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from tests.snapshot.checkpoints.guest import GUEST
from wasmsr import Module, Snapshot, SnapshotError, Store, Wasi
from wasmsr.interp.outcomes import Finished, Paused
from wasmsr.snapshot.moments.forks import fork_imports

HOOKED = """(module
  (import "wasmsr" "fork_number" (func $number (result i64)))
  (memory (export "memory") 300)
  (global $low (mut i64) (i64.const 0)) (global $high (mut i64) (i64.const 0))
  (global $called (mut i64) (i64.const 0))
  (func (export "wasmsr_forked") (param $n i64) (param i64 i64) (local $i i32)
    (global.set $called (i64.add (global.get $called) (local.get $n)))
    (loop $more (br_if $more (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
      (i32.const 50))))
    (global.set $low (local.get 1)) (global.set $high (local.get 2)))
  (func (export "run") (param $turns i32) (result i64 i64 i64 i64 i64)
    (loop $again
      (i64.store (i32.mul (local.get $turns) (i32.const 4096))
        (i64.extend_i32_u (local.get $turns)))
      (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
    (call $number) (global.get $called) (global.get $low) (global.get $high)
    (i64.load (i32.const 819200))))"""


def warm(text: str, fuel: int, *arguments: int) -> Snapshot:
    """A snapshot of a program that is paused after some instructions."""
    store = Store()
    instance = store.instantiate(Module.from_text(text), fork_imports(0))
    store.enqueue(instance.function("run"), *arguments)
    if fuel:
        assert isinstance(store.run(fuel=fuel), Paused)
    return Snapshot.of(store, embed=True)


def end_of(store: Store) -> tuple[int, ...]:
    outcome = store.run()
    assert isinstance(outcome, Finished)
    return outcome.results


def private_kib() -> int:
    """Anonymous memory of this process in KiB."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("RssAnon"):
            return int(line.split()[1])
    return 0


@pytest.mark.parametrize("fuel", [0, 1, 500, 2000])
def test_each_fork_ends_as_the_program_would(fuel: int) -> None:
    snapshot = warm(GUEST, fuel * 10, 3000)
    with snapshot.restore() as store:
        wanted = end_of(store)
    forks = snapshot.fork(5)
    random.Random(fuel).shuffle(forks)
    assert {end_of(one) for one in forks} == {wanted}
    for one in forks:
        one.close()


@pytest.mark.parametrize("fuel", [0, 100])
def test_each_knows_its_number_and_has_fresh_bits(fuel: int) -> None:
    snapshot = warm(HOOKED, fuel, 250)
    ends = [end_of(one) for one in snapshot.fork(8)] + [end_of(snapshot.fork(1, first=100)[0])]
    assert [one[0] for one in ends] == [one[1] for one in ends] == [*range(1, 9), 100]
    assert len({one[2:4] for one in ends}) == 9, "two forks have the same random bits"
    assert {one[4] for one in ends} == {200}


def test_the_hook_can_be_saved_in_the_middle() -> None:
    (one,) = warm(HOOKED, 100, 250).fork(1)
    assert isinstance(one.run(fuel=60), Paused)
    again = Snapshot.of(one, embed=True)
    with again.restore(imports=fork_imports(1)) as store:
        assert end_of(store) == end_of(one)


def test_a_deterministic_program_gets_a_stream_for_its_number(tmp_path: Path) -> None:
    text = """(module
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (memory (export "memory") 1)
      (func (export "run") (param i32) (result i64)
        (drop (call $random (i32.const 0) (i32.const 8)))
        (i64.load (i32.const 0))))"""
    store = Store(deterministic=True)
    store.wasi = Wasi(deterministic=True)
    instance = store.instantiate(Module.from_text(text), store.wasi.imports)
    store.enqueue(instance.function("run"), 0)
    snapshot = Snapshot.of(store, embed=True)
    first, second = ([end_of(one) for one in snapshot.fork(4)] for _ in range(2))
    assert first == second, "the number decides"
    assert len(set(first)) == 4
    with snapshot.restore() as same:
        assert end_of(same) not in first


@pytest.mark.skipif(
    not Path("/proc/self/status").exists() or os.environ.get("WASMSR_SANITIZED") == "1",
    reason="the system shows no such figure, or sanitizers have pages of their own",
)
def test_forks_share_what_they_do_not_write() -> None:
    store = Store()
    instance = store.instantiate(Module.from_text(HOOKED), fork_imports(0))
    instance.memory("memory").data[:] = random.Random(1).randbytes(300 * 65536)
    snapshot = Snapshot.of(store, embed=True)
    before = private_kib()
    forks = snapshot.fork(20)
    for number, one in enumerate(forks):
        one.instances[0].memory("memory").data[number * 4096] = number
    spent = private_kib() - before
    assert spent < 20 * 2000, "of 19,200 KiB each"
    for number, one in enumerate(forks):
        data = one.instances[0].memory("memory").data
        assert [data[other * 4096] for other in range(20) if other == number] == [number]
        one.close()
    assert bytes(snapshot.state.memories[0].data[:4096]) == random.Random(1).randbytes(4096)


def test_forks_can_be_saved_grown_and_forked_again() -> None:
    (one,) = warm(GUEST, 5000, 3000).fork(1)
    one.run(fuel=20_000)
    again = Snapshot.of(one, embed=True)
    two = again.fork(2)
    assert len({end_of(store) for store in [one, *two]}) == 1


def test_what_cannot_be_is_refused() -> None:
    snapshot = warm(GUEST, 10, 3000)
    assert snapshot.fork(0) == []
    for count, first in ((-1, 1), (1, 0), (1, -3)):
        with pytest.raises(ValueError, match="1 and up"):
            snapshot.fork(count, first=first)
    with pytest.raises(TypeError, match="not given wrong"):
        snapshot.fork(1, wrong=1)
    bare = Snapshot.of(Store())
    assert len(bare.fork(2)) == 2
    lost = warm(HOOKED, 10, 100)
    lost.state.modules[0].binary = None
    with pytest.raises(SnapshotError):
        lost.fork(1)
