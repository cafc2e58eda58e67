"""The measurements: each gives rows, and a row stands next to its limit from the same run."""

from __future__ import annotations

import gc
import hashlib
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import zstandard

from wasmsr import Snapshot
from wasmsr.interp.modules.module import Module
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer, Done
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import encode
from wasmsr.snapshot.memory import dirty_pages
from wasmsr.snapshot.memory.page_engine import gather, page_map, runs_of

BATCH = 1 << 18
MIB = 1 << 20


@dataclass
class Row:
    """A figure with its limit.

    Attributes:
        what: What was measured.
        unit: Of values and limit: ms, MiB or ratio.
        values: One for each round.
        limit: What the median may be at most (at least, if `least`).
        least: Whether larger is better.
        note: What the limit consists of.
    """

    what: str
    unit: str
    values: list[float]
    limit: float | None = None
    least: bool = False
    note: str = ""

    @property
    def median(self) -> float:
        """The median of the rounds."""
        return statistics.median(self.values)

    @property
    def worst(self) -> float:
        """The worst round."""
        return min(self.values) if self.least else max(self.values)

    @property
    def met(self) -> bool | None:
        """Whether the median is within the limit; None if there is none."""
        if self.limit is None:
            return None
        return self.median >= self.limit if self.least else self.median <= self.limit

    def plain(self) -> dict[str, Any]:
        """Return it as JSON data."""
        return asdict(self) | {"median": self.median, "worst": self.worst, "met": self.met}


def timed(call: Callable[[], object]) -> float:
    """Return how long a call took, in ms."""
    begin = time.perf_counter()
    call()
    return (time.perf_counter() - begin) * 1000


def packed(data: bytes | bytearray | memoryview) -> int:
    """Return the size of data in zstd level 1, in batches as the format has them."""
    compressor = zstandard.ZstdCompressor(level=1)
    view = memoryview(data)
    return sum(len(compressor.compress(view[i : i + BATCH])) for i in range(0, len(view), BATCH))


def full_save(program: Program, rounds: int) -> list[Row]:
    """Capture and encoding to bytes on one core, and the size."""
    views = [program.store.memory_view(n) for n in range(program.store.state.counts.memories)]
    pages = b"".join(gather(view, runs_of(page_map(view))) for view in views)
    target = bytearray(len(pages))
    saves, limits, size = [], [], 0
    with one_core():
        for _ in range(rounds):
            copy = timed(lambda: memoryview(target).__setitem__(slice(None), pages))
            digest = timed(lambda: hashlib.sha256(pages).digest())
            begin = time.perf_counter()
            small = packed(pages)
            limits.append(copy + digest + (time.perf_counter() - begin) * 1000)
            begin = time.perf_counter()
            size = sum(len(piece) for piece in encode(program.snapshot()))
            saves.append((time.perf_counter() - begin) * 1000)
    limit = 1.3 * statistics.median(limits)
    return [
        Row("full save", "ms", saves, limit, note="1.3 × (memcpy + SHA-256 + zstd 1)"),
        Row("its size ÷ zstd 1", "ratio", [size / small], 1.1),
    ]


@contextmanager
def one_core() -> Iterator[None]:
    """Let the process use one core."""
    allowed = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {max(allowed)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, allowed)


@dataclass
class Taken:
    """The parts of the pauses of checkpoints, in ms; pages in bytes."""

    scan: list[float] = field(default_factory=list)
    copy: list[float] = field(default_factory=list)
    capture: list[float] = field(default_factory=list)
    pause: list[float] = field(default_factory=list)
    dirty: list[int] = field(default_factory=list)
    packed: list[int] = field(default_factory=list)
    written: list[int] = field(default_factory=list)


def checkpoints(
    program: Program, folder: Path, method: str, rounds: int, save: float, interval: float
) -> list[Row]:
    """Checkpoints of a program that runs on, by one method of dirty pages.

    Args:
        program: Paused; it is paused again at the end.
        folder: An empty folder.
        method: A name of `dirty_pages.METHODS`.
        rounds: Checkpoints after the first.
        save: What a full save takes, in ms.
        interval: Seconds between checkpoints.
    """
    taken = Taken()
    done: list[Done] = []
    os.environ[dirty_pages.VARIABLE] = method
    files = CheckpointFolder(folder)
    checkpointer = Checkpointer(files, done=done.append, failed=_raise)
    captured: list[float] = []

    def capture() -> Any:
        state = None

        def work() -> None:
            nonlocal state
            state = program.snapshot()

        captured.append(timed(work))
        return state

    gathered: list[bytearray] = []
    with watched(taken, gathered):
        for _ in range(rounds + 1):
            gathered.clear()
            taken.pause.append(timed(lambda: checkpointer.take(program.store, capture)))
            taken.dirty.append(sum(map(len, gathered)))
            taken.packed.append(sum(map(packed, gathered)))
            program.start()
            time.sleep(interval)
            while checkpointer.busy:
                time.sleep(0.01)
            program.pause()
            taken.written.append(done[-1].size)
    checkpointer.close()
    taken.capture = captured
    del os.environ[dirty_pages.VARIABLE]
    return _rows_of(taken, method, program, save)


def _rows_of(taken: Taken, method: str, program: Program, save: float) -> list[Row]:
    memory = len(program.store.memory_view(0))
    pauses, captures = taken.pause[1:], taken.capture[1:]
    scans = taken.scan[-len(pauses) :]
    copies = [_memcpy(size) for size in taken.dirty[1:]]
    limit = 2 * (statistics.median(scans) + statistics.median(copies)) + statistics.median(captures)
    share = statistics.median(taken.dirty[1:]) / memory
    fixed = 5.0 if memory <= 16 * MIB else 25.0 if method == "userfaultfd" else 60.0
    sizes = [written / MIB for written in taken.written[1:]]
    allowed = statistics.median([1.2 * size + 65536 for size in taken.packed[1:]]) / MIB
    where = f"checkpoint, {method}"
    return [
        Row(f"{where}: pause", "ms", pauses, limit, note="2 × (scan + memcpy) + capture"),
        Row(f"{where}: pause", "ms", pauses, save / 50, note="1/50 of a full save"),
        Row(f"{where}: pause", "ms", pauses, fixed, note=f"{share:.1%} dirty"),
        Row(f"{where}: of it the scan", "ms", scans),
        Row(f"{where}: bytes written", "MiB", sizes, allowed, note="1.2 × zstd + 64 KiB"),
    ]


@contextmanager
def watched(taken: Taken, gathered: list[bytearray]) -> Iterator[None]:
    """Note how long scans take, and what is copied."""
    scan, now = dirty_pages.DirtyTracker._scan, dirty_pages.DirtyChanges.now

    def timed_scan(self: Any) -> Any:
        found: Any = None

        def work() -> None:
            nonlocal found
            found = scan(self)

        taken.scan.append(timed(work))
        return found

    def kept(self: Any, space: Any) -> bytearray:
        pages = now(self, space)
        gathered.append(pages)
        return pages

    tracker, changes = dirty_pages.DirtyTracker, dirty_pages.DirtyChanges
    tracker._scan, changes.now = timed_scan, kept  # type: ignore[method-assign]
    try:
        yield
    finally:
        tracker._scan, changes.now = scan, now  # type: ignore[method-assign]


def _memcpy(size: int) -> float:
    source = b"\1" * size
    return timed(lambda: bytearray(source))


def _raise(error: BaseException) -> None:
    raise SystemExit(f"a checkpoint failed: {error}")


def throughput(program: Program, folder: Path, rounds: int, seconds: float) -> list[Row]:
    """Instructions a second with a checkpoint each second, relative to those without."""
    ratios = []
    for number in range(rounds):
        free = _speed(program, seconds, None)
        where = folder / str(number)
        where.mkdir()
        checkpointer = Checkpointer(CheckpointFolder(where), failed=_raise)
        checkpointer.take(program.store, program.snapshot)
        while checkpointer.busy:
            time.sleep(0.01)
        ratios.append(_speed(program, seconds, checkpointer) / free)
        checkpointer.close()
    note = "counted code, given a free core"
    return [Row("throughput with a checkpoint a second", "ratio", ratios, 0.97, True, note)]


def _speed(program: Program, seconds: float, checkpointer: Checkpointer | None) -> float:
    begin, before = time.perf_counter(), program.executed or 0
    while (passed := time.perf_counter() - begin) < seconds:
        program.start()
        time.sleep(min(1.0, seconds - passed))
        program.pause()
        if checkpointer is not None:
            checkpointer.take(program.store, program.snapshot)
    return ((program.executed or 0) - before) / (time.perf_counter() - begin)


def restores(folder: Path, module: Module, grants: HostGrants, rounds: int) -> list[Row]:
    """From a mapped and from a full file to the first instruction; the module is loaded.

    Args:
        folder: Has `mapped.bin` and `saved.bin` of the same state.
        module: The program's module.
        grants: What the program gets.
        rounds: Restores of the mapped file; the full one is read five times.
    """
    times: dict[str, list[float]] = {"mapped": [], "saved": []}
    added: list[float] = []
    for name, count in (("mapped", rounds), ("saved", min(rounds, 5))):
        _restored(folder / f"{name}.bin", module, grants).store.close()
        for _ in range(count):
            gc.collect()
            before = anonymous()
            begin = time.perf_counter()
            program = _restored(folder / f"{name}.bin", module, grants)
            times[name].append((time.perf_counter() - begin) * 1000)
            if name == "mapped":
                added.append(anonymous() - before)
            if program.wasi is not None:
                program.wasi.close()
            program.store.close()
            del program
    full = statistics.median(times["saved"])
    return [
        Row("mapped restore", "ms", times["mapped"], 3.0),
        Row("mapped restore", "ms", times["mapped"], full / 200, note="1/200 of a full restore"),
        Row("mapped restore: anonymous memory", "MiB", added, 0.3),
        Row("full restore", "ms", times["saved"]),
    ]


def _restored(path: Path, module: Module, grants: HostGrants) -> Program:
    program = Program.resume(Snapshot.load(path).state, module=module, grants=grants)
    program.store.run(fuel=1)
    return program


def forks(program: Program, rounds: int) -> list[Row]:
    """Forks of a program without files of the host: CPU time and memory of each."""
    moment = Snapshot(program.snapshot(embed=True)).moment(modules=[program.module])
    moment.fork(1)[0].close()
    times: list[float] = []
    before = anonymous()
    kept = []
    for number in range(2, rounds + 2):
        begin = time.process_time()
        kept += moment.fork(1, first=number)
        times.append((time.process_time() - begin) * 1000)
    each = (anonymous() - before) / rounds
    for store in kept:
        store.close()
    moment.close()
    return [Row("fork", "ms", times, 1.0, note="CPU"), Row("fork: memory", "MiB", [each], 0.3)]


def anonymous() -> float:
    """Return the anonymous memory of this process, in MiB."""
    text = Path("/proc/self/smaps_rollup").read_text()
    found = re.search(r"^Anonymous:\s+(\d+) kB", text, re.MULTILINE)
    assert found is not None
    return int(found[1]) / 1024


def peak(words: Sequence[str]) -> float:
    """Return the most memory that a process of the command line had, in MiB."""
    script = (
        "import os, resource, subprocess, sys\n"
        "subprocess.run(sys.argv[1:], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,"
        " stderr=subprocess.DEVNULL)\n"
        "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n"
    )
    command = [sys.executable, "-c", script, sys.executable, "-m", "wasmsr", *words]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout) / 1024


def show(rows: Sequence[Row]) -> str:
    """Return rows as lines of a table."""
    lines = []
    for row in rows:
        limit = "" if row.limit is None else f"{row.limit:10.2f}"
        sign = {None: " ", True: " ", False: "!"}[row.met]
        lines.append(
            f"  {row.what:42} {row.median:10.2f} {row.worst:10.2f} {limit:>10} {sign} "
            f"{row.unit:6}{row.note}"
        )
    return "\n".join(lines)


def as_json(rows: Sequence[Row]) -> str:
    """Return rows as JSON."""
    return json.dumps([row.plain() for row in rows])
