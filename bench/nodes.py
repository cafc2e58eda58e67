"""What a worker process costs beside a thread: its start, and its memory.

    python -m bench.nodes [--programs N] [PROGRAM.wasm]
    python -m bench.nodes --starts 1000

Three ways to run N copies of one program (default: the packaged `cat`): threads of one process,
workers that start Python themselves, and workers that a warm parent forks. For each: milliseconds
until a program has its first instruction (median, 10th and 90th percentile), and memory for one
more, as the kernel counts shared pages (PSS). All in one run, in turns. The second form starts
programs from one snapshot of a CPython through a node (`forked_starts.py`).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from bench import forked_starts
from tests.real import fetch
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.port import RING, Executor
from wasmsr.executor.process import ProcessExecutor
from wasmsr.node.workers.confinement import Confinement, HostAccess
from wasmsr.node.workers.warm_parents import WarmParents, WorkerPlace
from wasmsr.runspec.run_spec import RunSpec

CAT = Path(__file__).resolve().parent.parent / "examples" / "snapshot" / "cat.wasm"


def pss(process: int) -> float:
    """Return the memory of a process in MiB; a page that n share counts 1/n."""
    text = Path(f"/proc/{process}/smaps_rollup").read_text(encoding="ascii")
    lines = (line.split() for line in text.splitlines())
    return next(int(words[1]) / 1024 for words in lines if words[0] == "Pss:")


def spread(times: list[float]) -> str:
    """Return median, 10th and 90th percentile of seconds, in milliseconds."""
    tenths = statistics.quantiles(times, n=10)
    middle = statistics.median(times)
    return f"{middle * 1e3:7.1f} ({tenths[0] * 1e3:.1f} to {tenths[-1] * 1e3:.1f})"


class Ways:
    """The three ways to start a program, each with a folder."""

    def __init__(self, module: Path, folder: Path) -> None:
        self.module, self.folder = module, folder
        self.spec = {"program": os.fspath(module)}
        self.digest = hashlib.sha256(module.read_bytes()).hexdigest()
        self.parents = WarmParents()
        self.parents.load(module, self.digest, None)
        self.local = LocalExecutor()
        self.count = 0
        self.left: list[ProcessExecutor] = []

    def thread(self) -> Executor:
        """Return the executor of this process."""
        return self.local

    def started(self) -> Executor:
        """Return a worker that starts Python itself."""
        self.count += 1
        self.left.append(ProcessExecutor(folder=self.folder / f"exec{self.count}"))
        return self.left[-1]

    def forked(self) -> Executor:
        """Return a worker from the warm parent, confined."""
        self.count += 1
        home = self.folder / f"fork{self.count}"
        place = WorkerPlace(home / "worker", home / "output", home / "tmp", home / "carried")
        confinement = Confinement(access=HostAccess.of(RunSpec.read(self.spec), home))
        self.left.append(
            self.parents.worker(
                self.module, self.digest, None, place, confinement, ring=1 << 20, wait=5
            )
        )
        return self.left[-1]

    def measure(self, way: Callable[[], Executor]) -> float:
        """Return the seconds until a program stands before its second instruction."""
        began = time.perf_counter()
        executor = way()
        streams = (-1, RING, RING) if way == self.forked else (-1, -1, -1)
        program = executor.start(self.spec, streams=streams, paused=True)
        executor.step(program)
        return time.perf_counter() - began


def address_space(process: int) -> float:
    """Return the address space of a process in GiB, which RLIMIT_AS would count."""
    text = Path(f"/proc/{process}/statm").read_text(encoding="ascii")
    return int(text.split()[0]) * resource.getpagesize() / (1 << 30)


def starts(count: int) -> int:
    """Measure starts from a snapshot of a CPython and return the exit code."""
    with tempfile.TemporaryDirectory(prefix="wasmsr-bench-") as folder:
        return 0 if forked_starts.measure(fetch.python(), Path(folder), count, print) else 1


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("module", nargs="?", type=Path, default=CAT)
    parser.add_argument("--programs", type=int, default=20)
    parser.add_argument("--starts", type=int, help="starts from one snapshot, through a node")
    options = parser.parse_args()
    if options.starts is not None:
        return starts(options.starts)
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-bench-"))
    ways = Ways(options.module.resolve(), folder)
    named = {"thread": ways.thread, "worker, exec": ways.started, "worker, fork": ways.forked}
    times: dict[str, list[float]] = {name: [] for name in named}
    memory: dict[str, list[float]] = {name: [] for name in named}
    try:
        ways.measure(ways.thread)  # the first one imports
        parents = next(iter(ways.parents.processes().values()))
        for _ in range(options.programs):
            for name, way in named.items():
                before = pss(os.getpid())
                times[name].append(ways.measure(way))
                if way == ways.thread:
                    memory[name].append(pss(os.getpid()) - before)
        groups: dict[str, list[int]] = {name: [] for name in named}
        for at, worker in enumerate(ways.left):
            groups["worker, fork" if at % 2 else "worker, exec"].append(worker.pid)
        for name, processes in groups.items():
            memory[name] += [pss(one) for one in processes]
        print(f"{options.programs} x {options.module.name}, {len(os.sched_getaffinity(0))} cores")
        base = statistics.median(times["thread"])
        for name in named:
            ratio = statistics.median(times[name]) / base
            print(
                f"{name:14}{spread(times[name])} ms, {ratio:6.1f} x thread; "
                f"{statistics.median(memory[name]):6.2f} MiB (PSS)"
            )
        print(f"the warm parent: {pss(parents):.1f} MiB; this process: {pss(os.getpid()):.1f} MiB")
        print(f"address space of a worker: {address_space(ways.left[-1].pid):.1f} GiB")
    finally:
        for one in ways.left:
            one.kill()
        ways.parents.close()
        shutil.rmtree(folder, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
