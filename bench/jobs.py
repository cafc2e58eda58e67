"""What an execution of a job costs: its start and end, its memory, its cancel, its log.

    python -m bench.jobs [--jobs 1000] [--idle 20] [--cancels 50] [--mib 1000] [--followers 1000]
                         [--json FILE]

Five figures, each beside its limit:

- milliseconds that a job takes beyond its program, of so many jobs that say hello, one after the
  other; the program alone runs in this process between them. A bare Python process does so too: it
  tells how busy the machine is (11 ms on a quiet one);
- memory of an idle execution, as the kernel counts shared pages (PSS), with what this process grows
  by for it;
- milliseconds from the cancel of a program in a tight loop to its result;
- peak memory of a process that follows the log of a program, which writes so many MiB as fast as it
  can, and that checks each byte;
- how many times as long a program takes when a thousand follow its log.

Exit code 1 if a limit is missed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import wasmsr
from bench.nodes import pss
from tests.jobs.programs import counting, request
from wasmsr.interp.modules.module import assemble
from wasmsr.jobs import Executor

FOLLOWED = 1.1
"""How many times as long a program may take when many follow its log."""

JOB_MS, IDLE_MIB, CANCEL_MS, FOLLOWER_MIB, LINE_MB = 15.0, 25.0, 100.0, 50.0, 100.0
"""The limits, and megabytes a second that the follower of a log must keep up with."""

HELLO = """
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 0) "\\10\\00\\00\\00\\06\\00\\00\\00")
  (data (i32.const 16) "hello\\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))
"""

LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'

LOUD = """
(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 3)
  (data (i32.const 0) "\\00\\00\\01\\00\\00\\00\\01\\00")
  (func (export "_start") (local $left i32)
    (memory.fill (i32.const 65536) (i32.const 120) (i32.const 65536))
    (local.set $left (i32.const {blocks}))
    (loop $next
      (i32.store (i32.const 65536) (local.get $left))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (br_if $next (local.tee $left (i32.sub (local.get $left) (i32.const 1)))))))
"""
"""Writes blocks of 64 KiB, each with its number at the beginning."""


def hello(executor: Executor, folder: Path, jobs: int) -> dict[str, Any]:
    """Run jobs that say hello."""
    module = wasmsr.Module(assemble(HELLO.encode()))
    given = request(folder, "hello", HELLO)
    executor.run({**given, "execution_id": "warm"})
    whole, alone, bare = [], [], []
    sink = os.open(os.devnull, os.O_WRONLY)
    for number in range(jobs):
        began = time.perf_counter()
        result = executor.run({**given, "execution_id": f"hello-{number}"})
        between = time.perf_counter()
        assert result.stdout == "hello\n"
        wasmsr.run(module, stdout=sink)
        alone.append(time.perf_counter() - between)
        whole.append(between - began)
        if number % 10 == 0:
            began = time.perf_counter()
            subprocess.run([sys.executable, "-S", "-c", ""], check=True)
            bare.append(1e3 * (time.perf_counter() - began))
    os.close(sink)
    beyond = [1e3 * (one - other) for one, other in zip(whole, alone, strict=True)]
    middle = statistics.median(beyond)
    last = statistics.quantiles(beyond, n=100)[98] if jobs > 1 else middle
    python = statistics.median(bare)
    return figure(
        "a job beyond its program", middle, JOB_MS, "ms", p99=last, jobs=jobs, python=python
    )


def idle(executor: Executor, folder: Path, count: int) -> dict[str, Any]:
    """Have executions that do nothing."""
    given = request(folder, "idle", LOOP)
    executor.start({**given, "execution_id": "idle-0"})
    executor.pause("idle-0")
    before = pss(os.getpid())
    for number in range(1, count + 1):
        executor.start({**given, "execution_id": f"idle-{number}"})
        executor.pause(f"idle-{number}")
    grown = (pss(os.getpid()) - before) / count
    workers = [one.worker for one in executor.list() if one.state == "paused"]
    mean = statistics.fmean(pss(one) for one in workers if one)
    for number in range(count + 1):
        executor.cancel(f"idle-{number}")
    return figure("an idle execution", mean + grown, IDLE_MIB, "MiB", supervisor=grown)


def cancels(executor: Executor, folder: Path, count: int) -> dict[str, Any]:
    """Cancel programs in a tight loop."""
    given, times = request(folder, "loop", LOOP), []
    for number in range(count):
        id = f"loop-{number}"
        executor.start({**given, "execution_id": id})
        time.sleep(0.01)
        began = time.perf_counter()
        executor.cancel(id)
        assert executor.wait(id, 10).exit_code == 130
        times.append(1e3 * (time.perf_counter() - began))
    return figure("a cancel", max(times), CANCEL_MS, "ms", median=statistics.median(times))


def followed(executor: Executor, folder: Path, followers: int) -> dict[str, Any]:
    """Time a program that writes a line every few milliseconds, without followers and with many."""
    times = []
    for number, count in enumerate((0, followers, 0, followers)):
        id = f"lines-{number}"
        given = counting(folder, id, lines=300, slow=1_500_000)
        executor.start(given)
        seen: list[int] = []

        def read(id: str = id, seen: list[int] = seen) -> None:
            seen.append(sum(1 for _ in executor.logs(id, follow=True)))

        threads = [threading.Thread(target=read) for _ in range(count)]
        for one in threads:
            one.start()
        executor.wait(id)
        info = executor.describe(id)
        last = (Path(info.folder) / "results" / "stdout").stat().st_mtime
        times.append(last - info.began)
        for one in threads:
            one.join()
        assert seen == [300] * count
    ratio = min(times[1], times[3]) / min(times[0], times[2])
    name = f"with {followers} followers"
    return figure(name, ratio, FOLLOWED, "times", alone=min(times[0], times[2]))


def loud(executor: Executor, folder: Path, mib: int) -> list[dict[str, Any]]:
    """Follow a program that writes as fast as it can, in a process of its own."""
    text = LOUD.replace("{blocks}", str(16 * mib))
    given = request(folder, "loud", text, output_limits={"stdout_file": 1 << 20})
    executor.start(given)
    log, blocks = executor.folder / "loud" / "log", 16 * mib
    words = [sys.executable, "-m", "bench.log_follower", os.fspath(log), str(blocks)]
    began = time.perf_counter()
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - began
    executor.wait("loud")
    if done.returncode:
        raise SystemExit(f"the follower failed: {done.stderr}")
    peak = float(done.stdout)
    speed = (blocks << 16) / seconds / 1e6
    return [
        figure("a follower of the log", peak, FOLLOWER_MIB, "MiB", mib=mib),
        figure("the log that it followed", speed, LINE_MB, "MB/s", least=True),
    ]


def figure(
    name: str, value: float, limit: float, unit: str, *, least: bool = False, **more: float
) -> dict[str, Any]:
    """Return a figure with its limit, as plain data."""
    met = value >= limit if least else value <= limit
    return {
        "name": name, "value": round(value, 2), "limit": limit, "unit": unit, "met": met,
        **{key: round(one, 2) for key, one in more.items()},
    }  # fmt: skip


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--jobs", type=int, default=1000)
    parser.add_argument("--idle", type=int, default=20)
    parser.add_argument("--cancels", type=int, default=50)
    parser.add_argument("--mib", type=int, default=1000)
    parser.add_argument("--followers", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="wasmsr-bench-") as place:
        folder = Path(place)
        parts: list[tuple[int, Callable[[Executor, Path, int], Any]]] = [
            (options.jobs, hello), (options.idle, idle), (options.cancels, cancels),
            (options.mib, loud), (options.followers, followed),
        ]  # fmt: skip
        for count, part in parts:
            if not count:
                continue
            with Executor(folder / part.__name__) as executor:
                one = part(executor, folder, count)
                for item in one if isinstance(one, list) else [one]:
                    found.append(item)
                    sign = "met" if item["met"] else "missed"
                    more = {k: v for k, v in item.items() if k not in FIELDS}
                    print(
                        f"{item['name']:26}{item['value']:9.2f} {item['unit']:5} "
                        f"(limit {item['limit']:g}: {sign}) {more or ''}",
                        flush=True,
                    )
    if options.json:
        options.json.write_text(json.dumps(found, indent=1), encoding="utf-8")
    return 0 if all(one["met"] for one in found) else 1


FIELDS = ("name", "value", "limit", "unit", "met")

if __name__ == "__main__":
    sys.exit(main())
