"""Fast and precise code stand in the same state at every canonical point, byte for byte.

Small programs here, each also a sentence about folding that was wrong once or could be; official
scripts in tests/spec/test_codes.py, random modules in tests/fuzz, real programs in tests/real.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import wasmtime

from tests.lockstep import Pair, enqueue
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished
from wasmsr.interp.store.store import Store

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "snapshot"
PLENTY = 1 << 60


def lockstep(module: Module, export: str, *args: int | float, most: int = 3000) -> int:
    """Run an export in both codes and compare: with stops at all points, at loop headers only, and
    by turns with fast code that counts. Returns the number of states compared."""
    compared = 0
    for through_calls, counted in ((False, False), (True, False), (None, True)):
        pair = Pair(*(Store(deterministic=True) for _ in range(2)), counted=counted)
        for store in (pair.fast, pair.precise):
            store.instantiate(module)
        enqueue(pair, export, *args)
        pair.run(most=most, seed=len(args), through_calls=through_calls)
        compared += pair.compared
    return compared


def module(text: str) -> Module:
    """A module from the text format."""
    return Module(bytes(wasmtime.wat2wasm(text)))


MIXED = module("""(module (memory 1) (global $g (mut f64) (f64.const 1))
  (table funcref (elem $f $f))
  (func $f (param i32 i32) (result i32)
    (select (local.get 0) (local.get 1) (i32.lt_s (local.get 0) (local.get 1))))
  (func (export "run") (param $n i32) (result i32)
    (local $i i32) (local $sum i32) (local $x f32) (local $y f64) (local $wide i64)
    (loop $next
      (local.set $sum (i32.add (local.get $sum)
        (call $f (i32.mul (local.get $i) (i32.const 3)) (i32.sub (local.get $n) (local.get $i)))))
      (local.set $x (f32.add (local.get $x) (f32.convert_i32_s (local.get $sum))))
      (local.set $y (f64.div (f64.promote_f32 (local.get $x)) (global.get $g)))
      (global.set $g (f64.add (local.get $y) (f64.const 0.5)))
      (local.set $wide (i64.xor (i64.reinterpret_f64 (local.get $y)) (i64.rotl (local.get $wide)
        (i64.const 7))))
      (i32.store offset=8 (i32.and (i32.mul (local.get $i) (i32.const 4)) (i32.const 0xfff))
        (local.get $sum))
      (i64.store (i32.const 5000) (local.get $wide))
      (if (i32.and (local.get $i) (i32.const 1))
        (then (local.set $sum (i32.load16_s offset=2 (local.get $i))))
        (else (local.set $sum (call_indirect (param i32 i32) (result i32)
          (local.get $sum) (i32.load (i32.const 5004)) (i32.and (local.get $i) (i32.const 1))))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (local.get $n))))
    (local.get $sum)))""")

SWITCH = module(
    """(module
  (func (export "run") (param $n i32) (result i64) (local $sum i64)
    (loop $next (result i64)
      (block $a (block $b (block $c (block $d
        (br_table $a $b $c $d (i32.rem_u (local.get $n) (i32.const 5))))
        (local.set $sum (i64.add (local.get $sum) (i64.const 1))))
        (local.set $sum (i64.mul (local.get $sum) (i64.const 3))))
        (local.set $sum (i64.sub (i64.const 9) (local.get $sum))))
      (block $out (result i64)
        (local.get $sum)
        (drop (br_if $out (i64.const 4) (i64.eqz (local.get $sum))))
        (i64.extend_i32_u (local.get $n))
        (i64.add))
      (local.set $sum)
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $next (i32.eqz (i32.eqz (i32.ne (local.get $n) (i32.const 0)))))
      (local.get $sum)
      (br_if 0 (i64.const 5) (i32.const 0))
      (drop))))""".replace("      (br_if 0 (i64.const 5) (i32.const 0))\n      (drop)", "")
)

TAIL = module("""(module
  (func $even (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1))
      (else (return_call $odd (i32.sub (local.get 0) (i32.const 1))))))
  (func $odd (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 0))
      (else (return_call $even (i32.sub (local.get 0) (i32.const 1))))))
  (func (export "run") (param i32) (result i32) (call $even (local.get 0))))""")

TRAPS = module("""(module (memory 1)
  (func $deep (param i32) (result i32)
    (i32.div_u (i32.load (i32.const 65532)) (i32.sub (local.get 0) (i32.const 7))))
  (func (export "run") (param $n i32) (result i32) (local $s i32)
    (loop $l (local.set $s (i32.add (local.get $s) (call $deep (local.get $n))))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $s)))""")


@pytest.mark.parametrize(
    ("code", "argument"),
    [(MIXED, 100), (SWITCH, 200), (TAIL, 500), (TRAPS, 40)],
    ids=["mixed", "switch", "tail", "traps"],
)
def test_small_programs(code: Module, argument: int) -> None:
    assert lockstep(code, "run", argument) > 30


FOLDS = {
    "a first cell that sets a local is no load": """(func (export "run") (param $n i32) (result i64)
        (local $a i64) (local $b i32)
        (local.set $a (i64.add (i64.extend_i32_u (local.get $n)) (i64.const -1)))
        (local.set $b (i32.load offset=8 (local.get $n)))
        (i64.add (local.get $a) (i64.extend_i32_u (local.get $b))))""",
    "an addition stands first": """(func (export "run") (param $n i32) (result i32) (local $b i32)
        (local.set $n (i32.add (local.get $n) (i32.const 4)))
        (local.set $b (i32.load offset=8 (local.get $n)))
        (i32.add (local.get $n) (local.get $b)))""",
    "a local changes under a value of it; a call's result comes where the new one was": """
        (func $seven (result i32) (i32.const 7))
        (func (export "run") (param $n i32) (result i32)
        local.get $n
        (local.set $n (i32.mul (local.get $n) (i32.const 3)))
        call $seven
        i32.sub
        local.get $n
        i32.xor)""",
    "a pair of loads sets a local under a value taken from it": """
        (func (export "run") (param $n i32) (result i32) (local $p i32)
        (i32.store (i32.const 16) (i32.const 32)) (i32.store (i32.const 32) (i32.const 48))
        (i32.store (i32.const 48) (local.get $n))
        (local.set $p (i32.const 8))
        (local.set $p (i32.load offset=8 (local.get $p)))
        local.get $p
        (local.set $p (i32.load (local.get $p)))
        local.get $p
        (local.set $p (i32.load (local.get $p)))
        i32.sub
        local.get $p
        i32.mul)""",
    "a comparison waits below another": """(func (export "run") (param $n i32) (result i32)
        (i32.lt_s (local.get $n) (i32.const 5))
        (i32.eqz (i32.gt_u (local.get $n) (i32.const 2)))
        (if (result i32) (then (i32.const 10)) (else (local.get $n)))
        i32.add)""",
    "a branch carries a value past others": """(func (export "run") (param $n i32) (result i32)
        (block $out (result i32)
          local.get $n
          (i32.add (local.get $n) (i32.const 1))
          (br_if $out (i32.mul (local.get $n) (i32.const 2)) (i32.and (local.get $n) (i32.const 1)))
          i32.add
          i32.add))""",
    "a loop has parameters that change places": """
        (func (export "run") (param $n i32) (result i64) (local $t i64)
        (i64.const 1) (i64.const 2)
        (loop $next (param i64 i64) (result i64)
          local.set $t
          (i64.add (local.get $t))
          local.get $t
          i64.xor
          local.get $t
          (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1))))
          i64.sub))""",
}


@pytest.mark.parametrize("body", FOLDS.values(), ids=FOLDS)
@pytest.mark.parametrize("n", [1, 2, 3, 6])
def test_folding(body: str, n: int) -> None:
    code = module(f"(module (memory 1) {body})")
    assert lockstep(code, "run", n) >= 3
    engine = wasmtime.Engine()
    store = wasmtime.Store(engine)
    instance = wasmtime.Instance(store, wasmtime.Module(engine, code.binary), [])
    run = instance.exports(store)["run"]
    assert isinstance(run, wasmtime.Func)
    ours = Store()
    assert ours.instantiate(code).function("run")(n) == run(store, n)


def test_fib() -> None:
    assert lockstep(Module.from_file(EXAMPLES / "fib.wasm"), "fib", 13) > 300


def test_a_program_restored_in_precise_code_changes_to_fast_code_and_ends_alike() -> None:
    for n in (1, 7, 50, 333, 1234):
        store = Store(deterministic=True)
        store.enqueue(store.instantiate(MIXED).function("run"), 60)
        store.run(fuel=n)
        whole = Store(deterministic=True)
        whole.enqueue(whole.instantiate(MIXED).function("run"), 60)
        expected = whole.run(fuel=PLENTY)
        assert isinstance(expected, Finished)
        outcome = store.run()
        assert isinstance(outcome, Finished)
        assert outcome.raw == expected.raw
        assert store.memory_view(0) == whole.memory_view(0)


PAIRS = module("""(module (memory 1)
  (data (i32.const 0) "\\08\\00\\00\\00\\10\\00\\00\\00\\18\\00\\00\\00"
    "\\20\\00\\00\\00\\28\\00\\00\\00\\30")
  (func (export "run") (param $n i32) (result i32) (local $x i32) (local $y i32) (local $sum i32)
    (loop $l
      (local.set $x (i32.load (local.get $y)))
      (local.get $x) ;; keeps what the first load of the pair has set
      (local.set $x (i32.load offset=4 (local.get $y)))
      (local.set $sum (i32.add (local.get $sum)))
      (local.set $sum (i32.xor (local.get $sum) (local.get $x)))
      (local.set $y (i32.and (i32.add (local.get $y) (i32.const 4)) (i32.const 12)))
      (br_if $l (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (local.get $sum)))""")


def test_pairs_of_loads_keep_what_is_pending() -> None:
    assert lockstep(PAIRS, "run", 9) > 5
    store = Store()
    assert store.instantiate(PAIRS).function("run")(1) == 8 ^ 16
