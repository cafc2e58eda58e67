"""Where the time goes from a module's file to a program's end.

    python -m bench.startup [--rounds N] [--dir HOST::GUEST] MODULE [ARGS…]

Each step is timed by itself, in CPU time of the process, with the least of several rounds: reading
the file, its SHA-256, decoding and validating (in C, all bodies), making the Python view of it,
instantiating, and running; running is split further by a second run in the same process, for which
all functions have been compiled. What the interpreter of Python needs to start and to import
wasmsr is measured by processes of their own.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from wasmsr import Limits, Module, Store
from wasmsr._ffi import ffi, lib
from wasmsr.wasi.mounts import Mount
from wasmsr.wasi.preview1 import Wasi

_T = TypeVar("_T")
Steps = dict[str, float]


def timed(steps: Steps, name: str, do: Callable[[], _T]) -> _T:
    """Do it, and note its CPU time in seconds if that is the least so far."""
    began = time.process_time()
    result = do()
    steps[name] = min(steps.get(name, 1e9), time.process_time() - began)
    return result


def validated(data: bytes) -> object:
    """Decode and validate in C alone."""
    error = ffi.new("wsr_error *")
    module = lib.wsr_module_new(ffi.from_buffer(data), len(data), error)
    assert module != ffi.NULL
    return ffi.gc(module, lib.wsr_module_free)


def round_of(steps: Steps, path: Path, argv: Sequence[str], mounts: Sequence[Mount]) -> None:
    """One round of all steps; the program's output goes nowhere."""
    data = timed(steps, "read the file", path.read_bytes)
    timed(steps, "SHA-256", lambda: hashlib.sha256(data).digest())
    timed(steps, "decode and validate", lambda: validated(data))
    module = timed(steps, "`Module`, with its Python view", lambda: Module.from_file(path))
    with open(os.devnull, "r+b") as null:
        for name in ("run, compiling what is called", "run again, compiled"):
            wasi = Wasi(args=argv, mounts=mounts, stdout=null.fileno(), deterministic=True)
            store = Store(limits=Limits())
            imports = wasi.imports
            make = partial(store.instantiate, module, imports, start=False)
            instance = timed(steps, "instantiate", make)
            store.wasi = wasi
            store.enqueue(instance.function("_start"))
            timed(steps, name, store.run)
            store.close()


def process(words: Sequence[str]) -> float:
    """CPU time of a process, user and system, in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(words, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str]) -> int:
    """The command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", action="append", default=[], metavar="HOST::GUEST")
    parser.add_argument("module", type=Path)
    parser.add_argument("args", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    mounts = [Mount.parse(text) for text in options.dir]
    steps: Steps = {}
    for _ in range(options.rounds):
        round_of(steps, options.module, [options.module.name, *options.args], mounts)
        gc.collect()
    folders = [f"--dir={text}" for text in options.dir]
    whole = ["-m", "wasmsr", "run", *folders, str(options.module), *options.args]
    for name, words in (
        ("process: python -c pass", ["-c", "pass"]),
        ("process: wasmsr --version", ["-m", "wasmsr", "--version"]),
        ("process: wasmsr run MODULE", whole),
    ):
        seconds = [process([sys.executable, *words]) for _ in range(options.rounds)]
        steps[name] = min(seconds)
    for name, least in steps.items():
        print(f"{name:32} {1000 * least:9.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
