"""What forks and ways back of a warmed-up CPython cost, beside their limits.

    python -m bench.forks [--count N]

A fork may take 1 ms of CPU and 0.3 MiB, a way back in place 1 ms and a copy of the pages that
differ. Each figure is the median and the worst of N; the first one, which imports, is left out.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from tests.real import fetch
from wasmsr import History, Module, Moment, Paused, Retry, Snapshot, Store, Wasi
from wasmsr.snapshot.memory.dirty_pages import METHODS, DirtyMethod

COUNT = 20
SCRIPT = "import sys\nt={str(n): n for n in range(2000)}\nwhile True: eval(sys.stdin.readline())"
LINE = b"sum(t.values()), [str(n) for n in range(300)]\n"


class Lines:
    """An input with a line now and then; in between, the program pauses."""

    store: Store

    def __init__(self) -> None:
        self.lines = 0

    def read(self, size: int) -> bytes:
        """Return the next line, or pause the program."""
        if self.lines:
            self.lines -= 1
            return LINE
        self.store.pause()
        raise Retry


def warmed(module: Module) -> tuple[Store, Lines]:
    """Return a CPython that waits for a line."""
    store, lines = Store(), Lines()
    lines.store = store
    store.wasi = Wasi(args=["python", "-c", SCRIPT], stdin=lines)
    store.enqueue(store.instantiate(module, store.wasi.imports).function("_start"))
    step(store, lines)
    return store, lines


def step(store: Store, lines: Lines) -> None:
    """Let the program take a line."""
    lines.lines = 1
    while lines.lines:
        assert store.run() == Paused("requested")


def cpu(task: Callable[[], object]) -> float:
    """Return the ms of CPU that a task takes."""
    start = time.process_time()
    task()
    return (time.process_time() - start) * 1000


def anonymous_kib() -> int:
    """Return the anonymous memory of this process in KiB."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("RssAnon"))


def row(what: str, times: Sequence[float], limit: str) -> None:
    """Print a line of the table."""
    print(f"{what:<34} {statistics.median(times):7.2f} {max(times):7.2f}   {limit}")


def forks(moment: Moment, count: int) -> None:
    """Measure forks."""
    kept = moment.fork(1, stdin=b"")
    before = anonymous_kib()
    times = [cpu(lambda: kept.extend(moment.fork(1, stdin=b""))) for _ in range(count)]
    row("fork, ms of CPU", times, "1 ms")
    print(f"{'fork, KiB':<34} {(anonymous_kib() - before) / count:7.0f}           307 KiB")
    for one in kept:
        one.close()


def _take(history: History, moments: list[Moment]) -> None:
    moments.append(history.take())


def ways_back(module: Module, method: type[DirtyMethod], count: int) -> None:
    """Measure moments and ways back with a method to find written pages."""
    store, lines = warmed(module)
    history = History(store, method=method)
    history.take()
    takes, backs, pages = [], [], 0
    for _ in range(count + 1):
        step(store, lines)
        moments: list[Moment] = []
        takes.append(cpu(partial(_take, history, moments)))
        step(store, lines)
        pages = max(pages, *(image.written.count for image in moments[0].images))
        backs.append(cpu(partial(history.go_to, moments[0])))
        history.drop(moments[0])
    copied = bytearray(pages * 4096)
    copy = min(cpu(lambda: bytes(copied)) for _ in range(5))
    row(f"moment, {method.name}, ms", takes[1:], "")
    row(f"way back, {method.name}, ms", backs[1:], f"{1 + copy:.2f} ms ({pages} pages)")
    history.close()
    store.close()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(prog="python -m bench.forks", description=__doc__)
    parser.add_argument("--count", type=int, default=COUNT)
    count = parser.parse_args().count
    module = Module.from_file(fetch.python())
    store, _ = warmed(module)
    snapshot = Snapshot.of(store)
    print(f"{'CPython 3.12':<34} {'median':>7} {'worst':>7}   limit")
    with snapshot.moment(modules=[module]) as moment:
        forks(moment, count)
    for method in METHODS:
        if method.refusal() is None:
            ways_back(module, method, count)


if __name__ == "__main__":
    main()
