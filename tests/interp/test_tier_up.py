"""Native code that comes while a program runs: `auto`, and the thread that compiles."""

from __future__ import annotations

import itertools
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest

from tests.interp.machines import hop
from tests.interp.test_both_codes import MIXED, SWITCH
from tests.interp.test_native import exported, native_bytes
from tests.lockstep import Pair
from wasmsr import Finished, Module, Paused, Store
from wasmsr.interp import compiling, tier

pytestmark = pytest.mark.skipif(tier.refusal() is not None, reason="no native code here")

LOOP = Module.from_text("""(module (memory 1)
  (func $step (export "step") (param i32) (result i32) (i32.add (local.get 0) (i32.const 3)))
  (func (export "run") (param $n i32) (result i32) (local $i i32) (local $s i32)
    (loop $again
      (local.set $s (i32.add (i32.xor (local.get $s) (local.get $i)) (i32.const 7)))
      (i32.store (i32.and (local.get $i) (i32.const 0xFFF8)) (local.get $s))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (local.get $n))))
    (i32.add (local.get $s) (i32.load (i32.const 64)))))""")


@pytest.fixture(autouse=True)
def _auto() -> Iterator[None]:
    tier.choose("auto")
    yield
    tier.choose(None)
    tier.enough()


@pytest.fixture
def by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread compiles; the test calls `compiling.work`."""
    monkeypatch.setattr(compiling, "begin", lambda: None)


def expected(n: int) -> object:
    tier.choose("interpreter")
    store = Store()
    result = exported(store.instantiate(LOOP))(n)
    tier.choose("auto")
    return result


@pytest.mark.usefixtures("by_hand")
def test_functions_that_are_called_often() -> None:
    module = Module.from_text("""(module (func (export "run") (param i32) (result i32)
      (i32.add (local.get 0) (i32.const 3))))""")
    store = Store()
    assert store.tier == "auto"
    assert store.copied().tier == "auto"
    run = exported(store.instantiate(module))
    for i in range(255):
        assert run(i) == i + 3
    compiling.work()
    assert not native_bytes(store)
    assert run(7) == 10
    compiling.work()
    assert native_bytes(store)
    assert run(8) == 11


def test_a_loop_gets_native_code_while_it_runs() -> None:
    module = Module.from_text(
        '(module (global (export "g") (mut i64) (i64.const 0)) (func (export "run") '
        "(loop (global.set 0 (i64.add (global.get 0) (i64.const 1))) (br 0))))"
    )
    store = Store()
    store.enqueue(exported(store.instantiate(module)))
    runs = threading.Thread(target=store.run)
    runs.start()
    until = time.monotonic() + 30
    while not native_bytes(store) and time.monotonic() < until:
        time.sleep(0.005)
    store.pause()
    runs.join()
    assert native_bytes(store)
    store.check()
    again = hop(store)
    threading.Timer(0.01, again.pause).start()
    assert again.run() == Paused("requested")


@pytest.mark.usefixtures("by_hand")
@pytest.mark.parametrize("counted", [False, True], ids=["plain", "counted"])
@pytest.mark.parametrize("code", [MIXED, SWITCH, LOOP], ids=["mixed", "switch", "loop"])
def test_states_while_native_code_comes(code: Module, counted: bool) -> None:
    """Some functions are native, some wait for it, and at each stop more of them are."""
    for turns in (1, 20, 200):
        tier.enough(turns)
        stores = []
        for _ in range(2):
            store = Store()
            store.enqueue(exported(store.instantiate(Module(code.binary))), 100)
            stores.append(store)
        pair = Pair(stores[0], stores[1], counted=counted)
        for stop in itertools.count():
            outcome = pair.advance(1 + stop % 7, through_calls=stop % 3 == 0)
            if isinstance(outcome, Finished):
                break
            if stop % 5 == 0:
                compiling.work()
        assert native_bytes(stores[0], counts=counted) or turns > 20


def test_random_pauses_and_restores_while_functions_are_compiled() -> None:
    pauses(rounds=5, n=400_000)


@pytest.mark.full
def test_many_random_pauses() -> None:
    assert pauses(rounds=10**9, n=3_000_000, wanted=2_000) >= 2_000


def pauses(rounds: int, n: int, wanted: int = 10**9) -> int:
    """Run the loop anew each round, with pauses at random times; how many pauses there were."""
    tier.enough(500)
    right = expected(n)
    draw = random.Random(rounds)
    paused = 0
    for _ in range(rounds):
        store = Store()  # of a module without native code
        store.enqueue(exported(store.instantiate(Module(LOOP.binary))), n)
        while True:
            timer = threading.Timer(draw.random() * 0.002, store.pause)
            timer.start()
            outcome = store.run()
            timer.join()
            if isinstance(outcome, Finished):
                assert outcome.results[0] == right
                break
            paused += 1
            store = hop(store) if paused % 2 else store
        if paused >= wanted:
            break
    return paused


def test_a_child_compiles_too() -> None:
    script = """
import os, time
from tests.interp.test_tier_up import LOOP, Module, Store, exported, expected, native_bytes, tier
tier.choose("auto")
right = expected(100_000)
def compiled():
    store = Store()
    run = exported(store.instantiate(Module(LOOP.binary)))
    until = time.monotonic() + 30
    while not native_bytes(store) and time.monotonic() < until:
        assert run(100_000) == right
    return bool(native_bytes(store))
assert compiled()
child = os.fork()
if child == 0:
    os._exit(0 if compiled() else 1)
assert compiled()
_, status = os.waitpid(child, 0)
print("child", os.waitstatus_to_exitcode(status))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=".")
    assert done.stdout == "child 0\n", done.stderr
