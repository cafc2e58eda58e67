"""Programs that the tests of nodes run, in text form."""

from __future__ import annotations

from pathlib import Path

from wasmsr.executor.local import LocalExecutor
from wasmsr.interp.modules.module import assemble

IMPORTS = """
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
"""

SPIN = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'
"""Computes for ever."""

COUNT = f"""(module {IMPORTS}
  (memory (export "memory") 1)
  (global $n (mut i32) (i32.const 0))
  (func $line (param $n i32) (local $i i32)
    (local.set $i (i32.const 8))
    (i32.store8 (i32.const 72) (i32.const 10))
    (loop $digit
      (local.set $i (i32.sub (local.get $i) (i32.const 1)))
      (i32.store8 (i32.add (i32.const 64) (local.get $i))
        (i32.add (i32.const 48) (i32.rem_u (local.get $n) (i32.const 10))))
      (local.set $n (i32.div_u (local.get $n) (i32.const 10)))
      (br_if $digit (local.get $i)))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 9))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8))))
  (func $work
    (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const WAIT))
    (if (i64.ne (i64.const WAIT) (i64.const 0))
      (then (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 8))))))
  (func (export "_start")
    (loop $again
      (call $line (global.get $n))
      (call $work)
      (global.set $n (i32.add (global.get $n) (i32.const 1)))
      (br_if $again (i32.lt_u (global.get $n) (i32.const TOTAL))))
    (call $exit (i32.const 7))))"""
"""Prints the numbers from 0 on, a line of eight digits each, and exits with code 7."""

FLOOD = f"""(module {IMPORTS}
  (memory (export "memory") 1)
  (func (export "_start")
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 60000))
    (loop $again
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br $again))))"""
"""Writes without end."""

FILL = """(module (memory (export "memory") 1)
  (func (export "_start") (local $at i32)
    (drop (memory.grow (i32.const 16384)))
    (drop (memory.grow (i32.const 32768)))
    (loop $again
      (i32.store (local.get $at) (i32.const 1))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br $again))))"""
"""Grows its memory to 1 GiB and then to 3 GiB, and writes to all of it until it traps."""

TERABYTE = """(module (memory (export "memory") i64 1)
  (func (export "_start")
    (if (i64.ne (memory.grow (i64.const 16777216)) (i64.const -1)) (then unreachable))))"""
"""Asks for a terabyte, and traps if it gets it."""

OPEN_ALL = f"""(module {IMPORTS}
  (memory (export "memory") 1) (data (i32.const 64) ".")
  (func (export "_start") (local $count i32)
    (loop $again
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (br_if $again (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 1)
        (i32.const 2) (i64.const 16384) (i64.const 0) (i32.const 0) (i32.const 128)))))
    (loop $spin br $spin)))"""
"""Opens its folder until it gets no more descriptors, and then computes for ever."""


def counting(total: int, milliseconds: int = 0) -> bytes:
    """Return the program that prints `total` numbers, and waits so long after each."""
    wait = str(milliseconds * 1_000_000)
    return assemble(COUNT.replace("TOTAL", str(total)).replace("WAIT", wait).encode())


def lines(first: int, end: int) -> bytes:
    """Return what it prints of the numbers from `first` to before `end`."""
    return b"".join(b"%08d\n" % number for number in range(first, end))


WARM = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
  (import "wasmsr" "fork_number" (func $number (result i64)))
  (memory (export "memory") 64)
  (func (export "_start") (local $at i32)
    (loop $fill
      (i32.store offset=4096 (local.get $at) (i32.const 7))
      (local.set $at (i32.add (local.get $at) (i32.const 4096)))
      (br_if $fill (i32.lt_u (local.get $at) (i32.const 4000000))))
    (drop (call $random (i32.const 64) (i32.const 16)))
    (i64.store (i32.const 80) (call $number))
    (i32.store (i32.const 88) (i32.load (i32.const 4096)))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 28))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
    (loop $spin (br $spin))))"""
"""Fills 4 MB of memory; then writes 16 random bytes, the number of its fork, and what it filled."""


def warmed(folder: Path, text: str = WARM, steps: int = 7000) -> tuple[bytes, Path]:
    """Return a program's binary, and the file of a snapshot after so many instructions."""
    binary = assemble(text.encode())
    module, snapshot = folder / "warm.wasm", folder / "warm.snapshot"
    module.write_bytes(binary)
    executor = LocalExecutor()
    program = executor.start({"program": str(module)}, paused=True)
    executor.step(program, steps)
    with open(snapshot, "wb") as file:
        executor.snapshot(program, file.fileno())
    executor.cancel(program)
    return binary, snapshot
