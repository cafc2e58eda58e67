"""Drains a node with many programs to another one, and prints figures.

    python -m tests.node.drain_many [--programs 50] [--at-once 4] [--memory MIB] [--calm]
                                    [--line "100 Mbit/s"]

Two nodes as processes, on loopback or on a line of `bench.migrate.lines`. It checks that no program
is lost or doubled, and prints as one JSON object: the slowest move against the median, the time of
the whole drain against the bytes that were sent at the line's measured rate, and the memory of both
nodes with their workers: at rest before the drain, and at its peak, with the shares of supervisors,
warm parents and workers. The programs compute for ever; with --calm they wait most of the time.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench.migrate.lines import LINES, Line, Place
from bench.migrate.probes import probe
from bench.migrate.subjects import writer
from tests.node.test_commands import Shell
from wasmsr import Node
from wasmsr.interp.modules.module import assemble
from wasmsr.rpc.control.client_values import MoveEvent

LOOK_SECONDS = 0.25
"""Seconds between two looks at the memory, which read the tables of a hundred processes."""


CALM = """(module
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") PAGES)
  (func (export "_start") (local $at i32) (local $word i64)
    (local.set $word (i64.const 88172645463325252))
    (loop $fill ;; words that compress as a program's do
      (local.set $word (i64.xor (local.get $word) (i64.shl (local.get $word) (i64.const 13))))
      (local.set $word (i64.xor (local.get $word) (i64.shr_u (local.get $word) (i64.const 7))))
      (local.set $word (i64.xor (local.get $word) (i64.shl (local.get $word) (i64.const 17))))
      (i64.store (local.get $at) (i64.and (local.get $word) (i64.const 0x00ff0000ffff)))
      (local.set $at (i32.add (local.get $at) (i32.const 8)))
      (br_if $fill (i32.lt_u (local.get $at) (i32.const LAST))))
    (memory.fill (i32.const 128) (i32.const 0) (i32.const 48))
    (loop $wait ;; for 10 ms at a time
      (i32.store (i32.const 144) (i32.const 1))
      (i64.store (i32.const 152) (i64.const 10000000))
      (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 8)))
      (br $wait))))"""
"""Fills its memory of PAGES Wasm pages, LAST bytes, and then waits."""


def calm(memory: int) -> str:
    """Return the text of a program with so many MiB that mostly waits."""
    return CALM.replace("PAGES", str(memory * 16)).replace("LAST", str(memory << 20))


def resident(process: int) -> int:
    """Return the proportional share of memory of a process, or 0."""
    try:
        with open(f"/proc/{process}/smaps_rollup", encoding="ascii") as file:
            return sum(int(line.split()[1]) << 10 for line in file if line.startswith("Pss:"))
    except (OSError, ValueError):
        return 0


def processes(root: int) -> list[int]:
    """Return a process and all that descend from it."""
    children: dict[int, list[int]] = {}
    for name in os.listdir("/proc"):
        if name.isdigit():
            try:
                with open(f"/proc/{name}/stat", encoding="ascii", errors="replace") as file:
                    parent = int(file.read().rpartition(")")[2].split()[1])
            except (OSError, ValueError, IndexError):
                continue
            children.setdefault(parent, []).append(int(name))
    found, left = [], [root]
    while left:
        one = left.pop()
        found.append(one)
        left += children.get(one, [])
    return found


class MemoryWatch:
    """Reads the memory of nodes again and again, on a thread of its own.

    Attributes:
        peak: The most bytes, by who had them: "supervisors", "parents", "workers".
    """

    def __init__(self, roots: Sequence[int]) -> None:
        self._roots = roots
        self.peak: dict[str, int] = {}
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._work, daemon=True)

    def read(self) -> dict[str, int]:
        """Return what they have now."""
        found = {"supervisors": 0, "parents": 0, "workers": 0}
        for root in self._roots:
            found["supervisors"] += resident(root)
            # A worker is a copy of its parent, with the same command, so it is the younger one.
            first, *others = sorted(processes(root)[1:]) or [0]
            found["parents"] += resident(first)
            found["workers"] += sum(map(resident, others))
        return found

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self) -> None:
        """Read no more."""
        self._over.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            found = self.read()
            if sum(found.values()) > sum(self.peak.values()):
                self.peak = found


def nodes_on(folder: Path, places: Sequence[Place]) -> Iterator[Shell]:
    """Start a node at each end of a line."""
    for name, place in zip("ab", places, strict=True):
        (folder / name).mkdir()
        shell = Shell(folder / name, place.address, place.inside)
        shell.environ["XDG_STATE_HOME"] = str(folder / "state")
        shell.environ["WASMSR_STATE_DIR"] = str(folder / name / "state")
        shell.node("--insecure") if place.inside else shell.node()
        yield shell


def drain(
    folder: Path, programs: int, at_once: int, memory: int, *, line: Line, waits: bool
) -> dict[str, Any]:
    """Drain one node to another, and return the figures."""
    with line.made() as places:
        rate = probe(places, folder).rate
        shells: list[Shell] = []
        try:
            shells.extend(nodes_on(folder, places))
            text = calm(memory) if waits else writer(memory * 16, 1.0, 10_000)
            module = assemble(text.encode())
            found = _drained(shells[0], shells[1], module, programs, at_once)
        finally:
            for shell in shells:
                shell.end()
    return {
        **found, "line": line.name, "programs_mib": programs * memory,
        "line_mib_per_second": round(rate / (1 << 20), 1),
        "seconds_over_line": round(found["seconds"] / (found["sent_mib"] * (1 << 20) / rate), 2),
    }  # fmt: skip


def _drained(a: Shell, b: Shell, module: bytes, programs: int, at_once: int) -> dict[str, Any]:
    shells = (a, b)
    moved: list[dict[str, Any]] = []
    watch = MemoryWatch([one.process.pid for one in shells if one.process is not None])

    def tell(event: MoveEvent) -> None:
        if event.kind == "moved":
            moved.append(dict(event.values))

    with Node(f"unix:{a.folder}/state/node/control") as node:
        ids = {node.submit(module).program for _ in range(programs)}
        time.sleep(1.0)
        rest = watch.read()
        watch.start()
        began = time.monotonic()
        done = node.drain(b.address, at_once=at_once, tell=tell)
        span = time.monotonic() - began
        watch.stop()
        left = {one.program for one in node.ps() if one.standing != "moved"}
    there = [one["program"] for one in b.ps().values() if one["standing"] == "running"]
    spans = [float(one["seconds"]) for one in moved]
    sent = sum(int(one["bytes"]) for one in moved)
    return {
        "programs": programs,
        "moved": done.moved,
        "lost_or_doubled": len(ids ^ set(there)) + len(left) + len(there) - len(set(there)),
        "seconds": round(span, 2),
        "slowest_over_median": round(max(spans) / statistics.median(spans), 2),
        "downtime_median_ms": round(statistics.median(m["downtime"] for m in moved) * 1e3, 1),
        "sent_mib": round(sent / (1 << 20), 1),
        "rest_mib": _mib(rest),
        "peak_mib": _mib(watch.peak),
    }


def _mib(found: dict[str, int]) -> dict[str, float]:
    shown = {name: round(value / (1 << 20), 1) for name, value in found.items()}
    return {"all": round(sum(found.values()) / (1 << 20), 1), **shown}


def main(words: Sequence[str]) -> int:
    """Carry it out; the exit code is 1 if a program was lost or doubled."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--programs", type=int, default=50)
    parser.add_argument("--at-once", type=int, default=4)
    parser.add_argument("--memory", type=int, default=4, help="MiB of each program.")
    parser.add_argument("--calm", action="store_true", help="Programs that mostly wait.")
    parser.add_argument("--line", default=LINES[0].name, choices=[one.name for one in LINES])
    options = parser.parse_args(words)
    with tempfile.TemporaryDirectory() as folder:
        line = next(one for one in LINES if one.name == options.line)
        found = drain(
            Path(folder), options.programs, options.at_once, options.memory,
            line=line, waits=options.calm,
        )  # fmt: skip
    print(json.dumps(found))
    return 1 if found["lost_or_doubled"] or found["moved"] != options.programs else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
