"""What a call from Wasm to a host function and back costs.

    python -m bench.hostcall [--rounds N] [--calls N]

A loop in a module calls one import again and again; from the CPU time of the process that of the
same loop with a function of its own is taken off. The least of several rounds, in microseconds for
each call: WASI functions that do next to nothing, one that reads a clock, writes and reads of a few
bytes and of 64 KiB to and from /dev/null and /dev/zero, and host functions of the library's user.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Mapping, Sequence
from typing import Any

from wasmsr import Module, Store
from wasmsr.wasi.facade import Wasi

WASI = "wasi_snapshot_preview1"

MODULE = """(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (import "wasi_snapshot_preview1" "clock_time_get" (func $time (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek" (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "environ_sizes_get" (func $sizes (param i32 i32) (result i32)))
  (import "host" "nothing" (func $nothing))
  (import "host" "add" (func $add (param i32 i32) (result i32)))
  (memory (export "memory") 4)
  (data (i32.const 16) "\\00\\04\\00\\00\\0d\\00\\00\\00")
  (data (i32.const 32) "\\00\\00\\01\\00\\00\\00\\01\\00")
  (func $own (result i32) (i32.const 0))
{loops})"""

VECTORS = "(drop (call ${} (i32.const {}) (i32.const {}) (i32.const 1) (i32.const 8)))"
SEEK = "(drop (call $seek (i32.const 1) (i64.const 0) (i32.const 0) (i32.const 0)))"

CALLS = {
    "a function of its own": "(drop (call $own))",
    "sched_yield": "(drop (call $yield))",
    "environ_sizes_get": "(drop (call $sizes (i32.const 0) (i32.const 4)))",
    "clock_time_get": "(drop (call $time (i32.const 1) (i64.const 0) (i32.const 0)))",
    "fd_seek, refused": SEEK,
    "fd_write, 13 bytes": VECTORS.format("write", 1, 16),
    "fd_read, 13 bytes": VECTORS.format("read", 0, 16),
    "fd_write, 64 KiB": VECTORS.format("write", 1, 32),
    "fd_read, 64 KiB": VECTORS.format("read", 0, 32),
    "Python, () -> ()": "(call $nothing)",
    "Python, (i32, i32) -> i32": "(drop (call $add (i32.const 1) (i32.const 2)))",
}
"""Name to one call, as a statement in the text format."""


def module() -> Module:
    """One exported loop for each call; its parameter says how many."""
    loops = "".join(
        f"""  (func (export "{name}") (param $left i32)
    (loop $again {call}
      (br_if $again (local.tee $left (i32.sub (local.get $left) (i32.const 1))))))\n"""
        for name, call in CALLS.items()
    )
    return Module.from_text(MODULE.replace("{loops}", loops))


def measured(calls: int, rounds: int) -> Mapping[str, float]:
    """Name to seconds of CPU time for each call."""
    least = dict.fromkeys(CALLS, 1e9)
    null, zero = os.open(os.devnull, os.O_WRONLY), os.open("/dev/zero", os.O_RDONLY)
    with Wasi(stdin=zero, stdout=null) as wasi, Store() as store:
        host: dict[str, Any] = {"nothing": lambda: None, "add": lambda a, b: a + b}
        instance = store.instantiate(module(), {**wasi.imports, "host": host})
        functions = {name: instance.function(name) for name in CALLS}
        for _ in range(rounds):
            for name, function in functions.items():
                began = time.process_time()
                function(calls)
                least[name] = min(least[name], time.process_time() - began)
    os.close(null)
    os.close(zero)
    return {name: seconds / calls for name, seconds in least.items()}


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.hostcall", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=50_000)
    options = parser.parse_args(argv)
    costs = dict(measured(options.calls, options.rounds))
    own = costs.pop(next(iter(CALLS)))
    for name, seconds in costs.items():
        print(f"{name:28} {1e6 * (seconds - own):7.3f} µs")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
