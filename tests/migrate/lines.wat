(module ;; Writes "line N\n" for N from 0 to 400, every ten milliseconds; what fails it tries no more.
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "line ")
  (func $number (param $n i32) (result i32) ;; its digits at 69, and a new line; the whole length
    (local $size i32) (local $rest i32) (local $at i32)
    (local.set $rest (local.get $n))
    (loop $count
      (local.set $size (i32.add (local.get $size) (i32.const 1)))
      (local.set $rest (i32.div_u (local.get $rest) (i32.const 10)))
      (br_if $count (local.get $rest)))
    (local.set $at (i32.add (i32.const 69) (local.get $size)))
    (i32.store8 (local.get $at) (i32.const 10))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i32.store8 (local.get $at)
        (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
      (br_if $digit (local.get $n)))
    (i32.add (local.get $size) (i32.const 6)))
  (func (export "_start") (local $n i32)
    (loop $next
      (i32.store (i32.const 0) (i32.const 64))
      (i32.store (i32.const 4) (call $number (local.get $n)))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (i64.store (i32.const 128) (i64.const 0))
      (i64.store (i32.const 136) (i64.const 0)) ;; a clock
      (i64.store (i32.const 144) (i64.const 1)) ;; the monotonic one
      (i64.store (i32.const 152) (i64.const 10000000))
      (i64.store (i32.const 160) (i64.const 0))
      (i64.store (i32.const 168) (i64.const 0))
      (drop (call $poll (i32.const 128) (i32.const 256) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br_if $next (i32.le_u (local.get $n) (i32.const 400))))))
