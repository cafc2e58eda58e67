"""Where the time goes from a command line to its program's end, and from a module's file to it.

    python -m bench.startup [--rounds N] [--dir HOST::GUEST] [MODULE [ARGS…]]

All times are CPU time, user and system, the least of several rounds. First whole processes: what
Python alone needs, and what the command line adds for its help and for the smallest program. Then,
with a MODULE, its steps one by one in this process: reading the file, its SHA-256, decoding,
validating (in C, all bodies), the same by way of the module cache, instantiating, and running,
which is split further by a second run for which all functions have been compiled; and the whole
process, without the cache and with it. Python's bytecode is cached, as it is where a package was
installed.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TypeVar

from wasmsr import Limits, Module, Store
from wasmsr.interp.modules.module_cache import ModuleCache
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount

_T = TypeVar("_T")
Steps = dict[str, float]

PROCESSES: dict[str, Sequence[str]] = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import click'": ["-c", "import click"],
    "wasmsr --version": ["-m", "wasmsr", "--version"],
    "wasmsr --help": ["-m", "wasmsr", "--help"],
    "wasmsr run --help": ["-m", "wasmsr", "run", "--help"],
    "wasmsr run fib": ["-m", "wasmsr", "run", "fib"],
    "wasmsr run cat": ["-m", "wasmsr", "run", "cat"],
}


def timed(steps: Steps, name: str, do: Callable[[], _T]) -> _T:
    """Do it, and note its CPU time in seconds if that is the least so far."""
    began = time.process_time()
    result = do()
    steps[name] = min(steps.get(name, 1e9), time.process_time() - began)
    return result


def round_of(
    steps: Steps, path: Path, argv: Sequence[str], mounts: Sequence[Mount], folder: str
) -> None:
    """One round of all steps; the program's output goes nowhere."""
    data = timed(steps, "read the file", path.read_bytes)
    timed(steps, "SHA-256", lambda: hashlib.sha256(data).digest())
    module = timed(steps, "decode all but bodies", lambda: Module(data, lazy=True))
    timed(steps, "validate bodies", module.validate)
    cache = ModuleCache(folder)
    cache.clear()
    timed(steps, "file to module, first sight", lambda: cache.load(path))
    timed(steps, "file to module, known file", lambda: cache.load(path))
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


def process(words: Sequence[str], folder: str) -> float:
    """CPU time of a process, user and system, in seconds; its bytecode is kept in `folder`."""
    variables = {k: v for k, v in os.environ.items() if k != "PYTHONDONTWRITEBYTECODE"}
    variables |= {"PYTHONPYCACHEPREFIX": os.path.join(folder, "bytecode")}
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        words, check=True, stdout=subprocess.DEVNULL, stdin=subprocess.DEVNULL, env=variables
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main(argv: Sequence[str]) -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench.startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dir", action="append", default=[], metavar="HOST::GUEST")
    parser.add_argument("module", type=Path, nargs="?")
    parser.add_argument("args", nargs=argparse.REMAINDER)
    options = parser.parse_args(argv)
    mounts = [Mount.parse(text) for text in options.dir]
    steps: Steps = {}
    processes = dict(PROCESSES)
    with tempfile.TemporaryDirectory() as folder:
        notes = os.path.join(folder, "notes")
        if options.module is not None:
            for _ in range(options.rounds):
                guest = [options.module.name, *options.args]
                round_of(steps, options.module, guest, mounts, notes)
                gc.collect()
            folders = [f"--dir={text}" for text in options.dir]
            for name, place in (("no cache", "off"), ("known file", notes)):
                processes[f"wasmsr run MODULE, {name}"] = [
                    *("-m", "wasmsr", "run", "--module-cache", place),
                    *(*folders, str(options.module), *options.args),
                ]
        for name, words in processes.items():
            process([sys.executable, *words], folder)
            times = [process([sys.executable, *words], folder) for _ in range(options.rounds)]
            steps[f"process: {name}"] = min(times)
    for name, least in steps.items():
        print(f"{name:40} {1000 * least:9.1f} ms")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
