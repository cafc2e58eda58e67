"""Modules for tests of jobs, and requests that run them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from wasmsr.interp.modules.module import assemble
from wasmsr.jobs.execution.requests import ExecutionFolder

COUNTER = """
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (memory (export "memory") 2)
  (data (i32.const 0) "\\40\\00\\00\\00\\08\\00\\00\\00")
  (data (i32.const 32) "numbers")
  (data (i32.const 64) "0000000\\0a")
  (global $file (mut i32) (i32.const -1))
  (func $line (local $at i32)
    (local.set $at (i32.const 70))
    (loop $digit
      (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
      (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 57))
        (then
          (i32.store8 (local.get $at) (i32.const 48))
          (local.set $at (i32.sub (local.get $at) (i32.const 1)))
          (br $digit))))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 16)))
    (drop (call $write (global.get $file) (i32.const 0) (i32.const 1) (i32.const 16))))
  (func (export "_start") (local $left i32) (local $slow i32)
    (drop (call $open (i32.const 4) (i32.const 0) (i32.const 32) (i32.const 7) (i32.const 1)
      (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 24)))
    (global.set $file (i32.load (i32.const 24)))
    (local.set $left (i32.const {lines}))
    (loop $next
      (local.set $slow (i32.const {slow}))
      (loop $wait
        (br_if $wait (local.tee $slow (i32.sub (local.get $slow) (i32.const 1)))))
      (call $line)
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
"""
"""Writes numbers, a line each, to its output and to the file `numbers` of its first output."""


_LAST = "(br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1))))"

UNTIL_STOPPED = COUNTER.replace(
    _LAST,
    """(br_if $next (call $open (i32.const 3) (i32.const 0) (i32.const 48) (i32.const 4)
      (i32.const 0) (i64.const 0) (i64.const 0) (i32.const 0) (i32.const 24)))""",
).replace("(global $file", '(data (i32.const 48) "stop")\n  (global $file')
"""The same, until there is a file `/stop`: `stop` makes it, so a test says when it ends."""


FORKED = UNTIL_STOPPED.replace(
    '(func (export "_start")',
    """(func (export "wasmsr_forked") (param i64 i64 i64)
    (i64.store8 (i32.const 64) (i64.add (i64.const 48) (local.get 0))))
  (func (export "_start")""",
)
"""The same; in a copy the first digit of each line is the number of the copy."""


NOTHING = '(module (memory (export "memory") 1) (func (export "_start")))'
"""Ends at once."""


def stop(folder: Path) -> None:
    """Let `UNTIL_STOPPED` come to its end; `folder` is that of its execution."""
    (ExecutionFolder(folder).root / "stop").touch()


def numbers(lines: int) -> bytes:
    """Return what `COUNTER` writes."""
    return b"".join(b"%07d\n" % number for number in range(1, lines + 1))


def request(
    folder: Path, id: str, text: str, *, params: list[str] | None = None, **more: Any
) -> dict[str, Any]:
    """Return a request that runs a module in the text format; its file is in `folder`."""
    module = folder / f"{id}.wasm"
    module.write_bytes(assemble(text.encode()))
    inputs = [{"source": str(module), "target": "/main.wasm"}, *more.pop("inputs", [])]
    return {
        "execution_id": id,
        "engine": {"EntryModule": "/main.wasm", "Parameters": params or []},
        "inputs": inputs,
        **more,
    }


def counting(folder: Path, id: str, *, lines: int, slow: int = 1, **more: Any) -> dict[str, Any]:
    """Return a request for `COUNTER`, whose output is called `out`."""
    text = COUNTER.replace("{lines}", str(lines)).replace("{slow}", str(slow))
    return request(folder, id, text, outputs=[{"name": "out", "path": "/outputs"}], **more)


def until_stopped(folder: Path, id: str, *, slow: int = 1, **more: Any) -> dict[str, Any]:
    """Return a request for `UNTIL_STOPPED`, whose output is called `out`."""
    text = UNTIL_STOPPED.replace("{lines}", "1").replace("{slow}", str(slow))
    return request(folder, id, text, outputs=[{"name": "out", "path": "/outputs"}], **more)
