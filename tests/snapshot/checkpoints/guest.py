"""A program that checks itself: it writes all over a growing memory and sums up what is there."""

from __future__ import annotations

GUEST = """(module
  (memory (export "memory") 4 64)
  (global $seed (mut i64) (i64.const 88172645463325252))
  (func $next (result i64)
    (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 13))))
    (global.set $seed (i64.xor (global.get $seed) (i64.shr_u (global.get $seed) (i64.const 7))))
    (global.set $seed (i64.xor (global.get $seed) (i64.shl (global.get $seed) (i64.const 17))))
    (global.get $seed))
  (func $where (result i32)
    (i32.and (i32.const -8) (i32.rem_u (i32.wrap_i64 (i64.shr_u (call $next) (i64.const 20)))
      (i32.sub (i32.mul (memory.size) (i32.const 65536)) (i32.const 8192)))))
  (func $sum (result i64) (local $at i32) (local $sum i64)
    (loop $more
      (local.set $sum (i64.add (i64.rotl (local.get $sum) (i64.const 5))
        (i64.load (local.get $at))))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $more (i32.lt_u (local.get $at) (i32.mul (memory.size) (i32.const 65536)))))
    (local.get $sum))
  (func (export "run") (param $turns i32) (result i64)
    (loop $again
      (i64.store (call $where) (call $next))
      (if (i32.eqz (i32.and (local.get $turns) (i32.const 63)))
        (then (memory.fill (call $where) (i32.and (local.get $turns) (i32.const 64))
          (i32.const 5000))))
      (if (i32.eqz (i32.and (local.get $turns) (i32.const 4095)))
        (then (drop (memory.grow (i32.const 1)))))
      (br_if $again (local.tee $turns (i32.sub (local.get $turns) (i32.const 1)))))
    (call $sum)))"""
"""`run(turns)` returns a sum over all of its memory."""
