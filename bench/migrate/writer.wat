(module
  ;; Fills its memory. Then it counts, and writes a word in a page anywhere, so many pages a second.
  ;; It says how far it has counted, and keeps the sum of all words: at the end it adds them up
  ;; again, and its exit code is 0 if the sum is right. The end is when its time is over, or when its
  ;; folder, if it has one, has a file `stop`. `subjects.py` fills in what is in capitals.
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_filestat_get"
    (func $stat (param i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") MEMORY)
  (data (i32.const 64) "count ")
  (data (i32.const 128) "stop")
  (global $x (mut i64) (i64.const 88172645463325252))
  (global $sum (mut i64) (i64.const 0))
  (func $next (result i64) ;; a random number
    (global.set $x (i64.xor (global.get $x) (i64.shl (global.get $x) (i64.const 13))))
    (global.set $x (i64.xor (global.get $x) (i64.shr_u (global.get $x) (i64.const 7))))
    (global.set $x (i64.xor (global.get $x) (i64.shl (global.get $x) (i64.const 17))))
    (global.get $x))
  (func $now (result i64) ;; nanoseconds
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 32)))
    (i64.load (i32.const 32)))
  (func $say (param $n i64) ;; "count N"
    (local $at i32) (local $rest i64)
    (local.set $at (i32.const 70))
    (local.set $rest (local.get $n))
    (loop $size
      (local.set $at (i32.add (local.get $at) (i32.const 1)))
      (br_if $size
        (i64.ne (local.tee $rest (i64.div_u (local.get $rest) (i64.const 10))) (i64.const 0))))
    (i32.store8 (local.get $at) (i32.const 10))
    (i32.store (i32.const 0) (i32.const 64))
    (i32.store (i32.const 4) (i32.sub (local.get $at) (i32.const 63)))
    (loop $digit
      (local.set $at (i32.sub (local.get $at) (i32.const 1)))
      (i64.store8 (local.get $at)
        (i64.add (i64.const 48) (i64.rem_u (local.get $n) (i64.const 10))))
      (br_if $digit
        (i64.ne (local.tee $n (i64.div_u (local.get $n) (i64.const 10))) (i64.const 0))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $put (param $at i32) (param $word i64)
    (global.set $sum (i64.add (global.get $sum)
      (i64.sub (local.get $word) (i64.load (local.get $at)))))
    (i64.store (local.get $at) (local.get $word)))
  (func $fill (param $end i32) ;; each page but every tenth: words that compress as a program's do
    (local $at i32)
    (local.set $at (i32.const 4096))
    (loop $each
      (if (i32.ne (i32.rem_u (i32.shr_u (local.get $at) (i32.const 12)) (i32.const 10))
                  (i32.const 5))
        (then (call $put (local.get $at) (i64.and (call $next) (i64.const 0x00ff0000ffff)))))
      (br_if $each
        (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end)))))
  (func $scatter (param $end i32) ;; a word in a page anywhere
    (local $at i32)
    (local.set $at (i32.and (i32.wrap_i64 (call $next)) (i32.sub (local.get $end) (i32.const 8))))
    (if (i32.lt_u (local.get $at) (i32.const 4096)) (then (return)))
    (call $put (local.get $at) (i64.and (global.get $x) (i64.const 0xffff))))
  (func $right (param $end i32) (result i32) ;; whether the sum is that of the words
    (local $at i32) (local $sum i64)
    (local.set $at (i32.const 4096))
    (loop $each
      (local.set $sum (i64.add (local.get $sum) (i64.load (local.get $at))))
      (br_if $each
        (i32.lt_u (local.tee $at (i32.add (local.get $at) (i32.const 8))) (local.get $end))))
    (i64.eq (local.get $sum) (global.get $sum)))
  (func (export "_start")
    (local $end i32) (local $n i64) (local $spin i32)
    (local $now i64) (local $due i64) (local $said i64) (local $last i64)
    (local.set $end (i32.shl (i32.const MEMORY) (i32.const 16)))
    (call $fill (local.get $end))
    (local.set $due (local.tee $now (call $now)))
    (local.set $last (i64.add (local.get $now) (i64.const LIFE)))
    (loop $forever
      (local.set $spin (i32.const 20000))
      (loop $again
        (br_if $again (local.tee $spin (i32.sub (local.get $spin) (i32.const 1)))))
      (local.set $n (i64.add (local.get $n) (i64.const 1)))
      (local.set $now (call $now))
      (if (i64.gt_s (i64.sub (local.get $now) (local.get $due)) (i64.const 100000000))
        ;; It stood, and does not catch up.
        (then (local.set $due (i64.sub (local.get $now) (i64.const 100000000)))))
      (block $done
        (loop $pages
          (br_if $done (i64.gt_s (local.get $due) (local.get $now)))
          (call $scatter (local.get $end))
          (local.set $due (i64.add (local.get $due) (i64.const EACH)))
          (br $pages)))
      (if (i64.gt_s (i64.sub (local.get $now) (local.get $said)) (i64.const 50000000))
        (then
          (local.set $said (local.get $now))
          (call $say (local.get $n))
          (if (i32.eqz (call $stat (i32.const 3) (i32.const 0) (i32.const 128) (i32.const 4)
                             (i32.const 192)))
            (then (local.set $last (local.get $now))))))
      (br_if $forever (i64.lt_s (local.get $now) (local.get $last))))
    (call $exit (i32.eqz (call $right (local.get $end))))))
