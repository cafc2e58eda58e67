;; Accepts three connections, one after the other; of each it reads a byte, and answers with its
;; number: 1, 2, 3.
(module
  (import "wasi_snapshot_preview1" "sock_accept"
    (func $sock_accept (param i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $fd_read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $fd_close (param i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
  (memory (export "memory") 1)
  (global $number (mut i32) (i32.const 0))
  (func $check (param i32)
    (if (local.get 0) (then (call $proc_exit (local.get 0)))))
  (func (export "_start")
    (i32.store (i32.const 16) (i32.const 100))
    (i32.store (i32.const 20) (i32.const 1))
    (loop $next
      (call $check (call $sock_accept (i32.const 3) (i32.const 0) (i32.const 24)))
      (call $check
        (call $fd_read (i32.load (i32.const 24)) (i32.const 16) (i32.const 1) (i32.const 28)))
      (global.set $number (i32.add (global.get $number) (i32.const 1)))
      (i32.store8 (i32.const 100) (i32.add (global.get $number) (i32.const 48)))
      (call $check
        (call $fd_write (i32.load (i32.const 24)) (i32.const 16) (i32.const 1) (i32.const 28)))
      (call $check (call $fd_close (i32.load (i32.const 24))))
      (br_if $next (i32.lt_u (global.get $number) (i32.const 3))))))
