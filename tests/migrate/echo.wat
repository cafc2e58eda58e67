;; Copies standard input to standard output, 7 bytes every 20 ms, and ends with it.
(module
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (func $check (param i32)
    (if (local.get 0) (then (call $proc_exit (local.get 0)))))
  (func (export "_start")
    (i32.store (i32.const 200) (i32.const 1))
    (i32.store (i32.const 216) (i32.const 1))
    (i64.store (i32.const 224) (i64.const 20000000))
    (loop $next
      (i32.store (i32.const 16) (i32.const 100))
      (i32.store (i32.const 20) (i32.const 7))
      (call $check (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 20)))
      (if (i32.eqz (i32.load (i32.const 20))) (then return))
      (call $check (call $fd_write (i32.const 1) (i32.const 16) (i32.const 1) (i32.const 24)))
      (call $check (call $poll_oneoff (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 24)))
      (br $next))))
