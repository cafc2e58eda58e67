;; Writes a diary: opens "diary" in the first folder, appends a line every 20 ms, 150 of them, renames
;; "old" to "older" and removes "gone" on the way, and says "done".
(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_rename"
    (func $path_rename (param i32 i32 i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_unlink_file"
    (func $path_unlink_file (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "diary")
  (data (i32.const 110) "000 dear diary\n")
  (data (i32.const 130) "old")
  (data (i32.const 140) "older")
  (data (i32.const 150) "gone")
  (data (i32.const 160) "done\n")
  (func $check (param i32)
    (if (local.get 0) (then (call $proc_exit (local.get 0)))))
  (func $write (param $fd i32) (param $at i32) (param $size i32)
    (i32.store (i32.const 16) (local.get $at))
    (i32.store (i32.const 20) (local.get $size))
    (call $check (call $fd_write (local.get $fd) (i32.const 16) (i32.const 1) (i32.const 24))))
  (func $digit (param $at i32) (param $value i32)
    (i32.store8 (local.get $at)
      (i32.add (i32.const 48) (i32.rem_u (local.get $value) (i32.const 10)))))
  (func (export "_start") (local $line i32)
    (call $check (call $path_open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 5)
      (i32.const 1) (i64.const 0x60) (i64.const 0) (i32.const 1) (i32.const 0)))
    (loop $next
      (call $digit (i32.const 110) (i32.div_u (local.get $line) (i32.const 100)))
      (call $digit (i32.const 111) (i32.div_u (local.get $line) (i32.const 10)))
      (call $digit (i32.const 112) (local.get $line))
      (call $write (i32.load (i32.const 0)) (i32.const 110) (i32.const 15))
      (if (i32.eq (local.get $line) (i32.const 60)) (then
        (call $check (call $path_rename (i32.const 3) (i32.const 130) (i32.const 3)
          (i32.const 3) (i32.const 140) (i32.const 5)))
        (call $check (call $path_unlink_file (i32.const 3) (i32.const 150) (i32.const 4)))))
      (i64.store (i32.const 216) (i64.const 0x1))
      (i32.store (i32.const 216) (i32.const 1))
      (i64.store (i32.const 224) (i64.const 20000000))
      (call $check (call $poll_oneoff (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 24)))
      (local.set $line (i32.add (local.get $line) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $line) (i32.const 150))))
    (call $write (i32.const 1) (i32.const 160) (i32.const 5))))
