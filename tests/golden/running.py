"""A program with every kind of state alive at once, for a frozen sample and for journeys between
CPUs: two modules, which throw, catch and call each other.

`LEGACY` has a handler of the older exceptions, which owns its exception while others run above it,
and rethrows it; `MAIN` has `try_table`, exception references, memories with 32- and 64-bit
addresses, a table with 64-bit indices of typed function references, and vectors as operands below
its calls. No assembler knows both, so they are two; as binaries they stand in the sample that
freeze.py makes.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from pathlib import Path

from wasmsr import Module, Store
from wasmsr.snapshot.state import SnapshotState

LEGACY = """(module
  (type $step (func (param i32) (result i64)))
  (tag $e (export "e") (param i64 v128))
  (tag (export "plain"))
  (table (export "table") 4 funcref)
  (memory (export "memory") 1 2)
  (func $caught (param $i i32) (result i64) (local $v v128)
    try $outer (result i64)
      try (result i64)
        (call_indirect (type $step) (local.get $i) (i32.const 0))
      delegate $outer
    catch $e
      local.set $v
      (v128.store offset=8 (i32.shl (local.get $i) (i32.const 4))
        (i8x16.add (local.get $v) (v128.const i32x4 1 2 3 4)))
      (i64.add (call_indirect (type $step) (local.get $i) (i32.const 1)))
      (if (i32.and (local.get $i) (i32.const 4)) (then (rethrow $outer)))
    catch_all
      (drop (call_indirect (type $step) (local.get $i) (i32.const 2)))
      rethrow $outer
    end)
  (func (export "guarded") (param $i i32) (result i64)
    (i64x2.extract_lane 1
      (i64x2.mul (i32x4.splat (local.get $i))
        (i16x8.q15mulr_sat_s (v128.const i16x8 1 -2 30000 4 -5 -32768 7 8)
          (i64x2.splat (call $caught (local.get $i))))))))"""

MAIN = """(module
  (type $step (func (param i32) (result i64)))
  (import "legacy" "e" (tag $e (param i64 v128)))
  (import "legacy" "plain" (tag $plain))
  (import "legacy" "table" (table $shared 4 funcref))
  (import "legacy" "memory" (memory $near 1 2))
  (import "legacy" "guarded" (func $guarded (type $step)))
  (memory $wide i64 1 3)
  (table $steps i64 3 (ref null $step))
  (table $kept 4 exnref)
  (tag $own (param (ref null $step) exnref))
  (global $last (mut exnref) (ref.null exn))
  (global $sum (mut v128) (v128.const f32x4 0.1 -0.0 nan 1e30))
  (elem (table $shared) (i32.const 0) func $throws $work $count)
  (elem (table $steps) (i64.const 0) (ref null $step) (ref.func $count) (ref.func $work))
  (elem declare func $turn)
  (data (memory $wide) (i64.const 65533) "\\00\\ff\\7f")

  (func $at (param $i i32) (result i64)
    (i64.and (i64.mul (i64.extend_i32_s (local.get $i)) (i64.const 7919)) (i64.const 0xfff0)))

  (func $throws (type $step)
    (block $3 (block $2 (block $1 (block $0
      (br_table $0 $1 $2 $3 (i32.and (local.get 0) (i32.const 3))))
      (throw $plain))
      (throw $e (i64.load $wide (call $at (local.get 0))) (global.get $sum)))
      (throw $own (table.get $steps (i64.const 0)) (global.get $last)))
    (call $work (local.get 0)))

  (func $count (type $step) (local $n i32) (local $s i64)
    (local.set $n (i32.const 5))
    (loop $next
      (local.set $s (i64.add (i64.rotl (local.get $s) (i64.const 9))
        (i64.load16_s $wide offset=65533 (i64.const 0))))
      (v128.store $wide (call $at (local.get $n))
        (i32x4.add (i64x2.splat (local.get $s)) (v128.load $near (i32.const 100))))
      (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))
    (memory.copy $wide $near (call $at (local.get 0)) (i32.const 8) (i32.const 60))
    (memory.copy $near $wide (i32.const 64) (i64.const 65500) (i32.const 36))
    (local.get $s))

  (func $work (type $step) (local $f (ref $step))
    (local.set $f (ref.as_non_null (table.get $steps (i64.const 0))))
    (global.set $sum (f32x4.relaxed_madd
      (f32x4.convert_i32x4_s (i32x4.splat (local.get 0)))
      (f64x2.promote_low_f32x4 (global.get $sum))
      (f32x4.div (f32x4.convert_i32x4_u (i64x2.splat (call_ref $step (local.get 0) (local.get $f))))
        (f32x4.sqrt (f32x4.splat (f32.convert_i32_s (local.get 0)))))))
    (i64x2.extract_lane 0 (i8x16.swizzle (global.get $sum)
      (v128.xor (v128.const i8x16 9 1 8 2 7 3 6 4 5 0 1 2 3 4 5 6)
        (i8x16.splat (i32.wrap_i64 (i64.and (i64.const 3)
          (call_ref $step (local.get 0) (local.get $f)))))))))

  ;; What comes out of `guarded`: its result, or what it threw and did not keep.
  (func $turn (param $i i32) (result i64) (local $v v128) (local $n i64)
    (local $x exnref) (local $f (ref null $step))
    (block $any (result exnref)
      (block $mine (result (ref null $step) exnref exnref)
        (block $e (result i64 v128 exnref)
          (try_table (catch_ref $e $e) (catch_ref $own $mine) (catch_all_ref $any)
            (return (call $guarded (local.get $i))))
          unreachable)
        (local.set $x) (local.set $v) (local.set $n)
        (global.set $sum (i64x2.add (local.get $v) (i64x2.splat (call $work (local.get $i)))))
        ;; The same exception twice: kept, and thrown again.
        (table.set $kept (i32.and (local.get $i) (i32.const 3)) (local.get $x))
        (block $again (result exnref)
          (try_table (catch_all_ref $again) (throw_ref (local.get $x))) unreachable)
        (call $work (local.get $i)) (local.set $n (i64.xor (local.get $n)))
        (global.set $last)
        (return (local.get $n)))
      ;; A function, an exception or null, and the exception that held them.
      (local.set $x) drop (local.set $f)
      (local.set $n (call_ref $step (local.get $i) (local.get $f)))
      (global.set $last (select (result exnref) (local.get $x) (ref.null exn)
        (i32.and (local.get $i) (i32.const 12))))
      (return (local.get $n)))
    (local.set $n (i64.xor (i64.const -1) (call $count (local.get $i))))
    (global.set $last)
    (local.get $n))

  (func (export "run") (param $n i32) (result i64 v128 i64) (local $i i32) (local $s i64)
    (loop $next
      (global.get $last)
      (local.set $s (i64.add (i64.rotr (local.get $s) (i64.const 3)) (call $turn (local.get $i))))
      drop
      (if (i32.eq (local.get $i) (i32.const 20)) (then
        (drop (memory.grow $wide (i64.const 1))) (drop (memory.grow $near (i32.const 1)))
        (drop (table.grow $steps (ref.func $turn) (i64.const 2)))))
      (br_if $next (i32.lt_u (local.tee $i (i32.add (local.get $i) (i32.const 1)))
        (local.get $n))))
    (local.get $s) (global.get $sum) (i64.load $wide (i64.const 0x5cc0))))"""


TURNS = 40
RESULTS = (22804684006864696, 0x4E23F8A7E29C00004E23F8A7629C0000, 18446744070674304052)
"""What comes of so many turns, and after how many instructions, in deterministic mode."""
EXECUTED = 18545

EVERYTHING = frozenset(
    {
        "vector operand",
        "exception of a legacy handler",
        "exception as operand",
        "exception in a table",
        "function as local",
        "32-bit memory",
        "64-bit memory",
        "64-bit table",
        "tag",
    }
)


def begun() -> Store:
    """The program before its first instruction.

    Raises:
        RuntimeError: wabt, which assembles `LEGACY`, is not installed.
    """
    assembler = shutil.which("wat2wasm")
    if assembler is None:
        raise RuntimeError("needs wabt: apt-get install wabt")
    with tempfile.TemporaryDirectory() as folder:
        source, target = Path(folder, "legacy.wat"), Path(folder, "legacy.wasm")
        source.write_text(LEGACY, encoding="utf-8")
        command = [assembler, "--enable-exceptions", str(source), "-o", str(target)]
        subprocess.run(command, check=True)
        legacy = Module(target.read_bytes(), name="legacy")
    store = Store(deterministic=True)
    exports = store.instantiate(legacy).exports
    main = store.instantiate(Module.from_text(MAIN, name="main"), {"legacy": exports})
    store.enqueue(main.function("run"), TURNS)
    return store


def alive(snapshot: SnapshotState) -> set[str]:
    """Which of `EVERYTHING` it holds."""
    found = {"tag"} if snapshot.tags else set()
    found |= {f"{64 if m.address64 else 32}-bit memory" for m in snapshot.memories}
    found |= {"64-bit table" for t in snapshot.tables if t.address64}
    if any(any(table.elements) for table in snapshot.tables if table.type == 0x69):
        found.add("exception in a table")
    for frame in snapshot.thread.frames:
        for n, (code, value) in enumerate(zip(frame.types, frame.values, strict=True)):
            operand = n >= frame.locals
            if operand and code == 0x7B:
                found.add("vector operand")
            elif operand and code == 0x69 and value:
                legacy = snapshot.instances[frame.instance].module == 0
                found.add("exception of a legacy handler" if legacy else "exception as operand")
            elif code == 0x70 and value:
                found.add("function as local")
    return found
