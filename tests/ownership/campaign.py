"""Runs of a self-checking program on two nodes with real worker processes, and faults.

    python -m tests.ownership.campaign --runs 1000 --jobs 4 --file RESULTS
    python -m tests.ownership.campaign --runs 0 --file RESULTS        what RESULTS says in all

A run is named by its seed. The command skips the seeds that RESULTS has, so it can be continued.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import re
import secrets
import signal
import subprocess
import sys
import tempfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.ownership.services import EtcdHost, RegisterHost, SqliteHost, etcd_missing
from wasmsr.executor.old_workers import living
from wasmsr.interp.modules.module import assemble
from wasmsr.ownership.epoch_log import LogFollower, parts
from wasmsr.ownership.lease import MARGIN, boot_clock

LEASE = 1.0
"""Seconds of the lease in the campaign."""

INTERVAL = 0.4
"""Seconds between checkpoints."""

LATE = 0.5
"""The share of killed nodes that are started again only after others had to take over."""

ETCD = 10
"""Every so many runs have their register in etcd, where it is installed."""

FAULTS = ("kill node", "kill worker", "kill both", "freeze both", "freeze worker", "register away")

COUNT = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (func $digit (param $at i32) (param $value i32)
    (i32.store8 (local.get $at) (i32.add (i32.const 48) (local.get $value))))
  (func (export "_start") (local $n i32) (local $sum i32) (local $at i32) (local $v i32)
    (i32.store (i32.const 144) (i32.const 1)) (i64.store (i32.const 152) (i64.const 15000000))
    (i32.store (i32.const 0) (i32.const 64)) (i32.store (i32.const 4) (i32.const 20))
    (i32.store8 (i32.const 73) (i32.const 32)) (i32.store8 (i32.const 83) (i32.const 10))
    (loop $line
      (local.set $sum (i32.add (i32.mul (local.get $sum) (i32.const 31)) (local.get $n)))
      (local.set $v (local.get $n)) (local.set $at (i32.const 72))
      (loop $a (call $digit (local.get $at) (i32.rem_u (local.get $v) (i32.const 10)))
        (local.set $v (i32.div_u (local.get $v) (i32.const 10)))
        (br_if $a (i32.ge_u (local.tee $at (i32.sub (local.get $at) (i32.const 1)))
          (i32.const 64))))
      (local.set $v (i32.rem_u (local.get $sum) (i32.const 1000000000)))
      (local.set $at (i32.const 82))
      (loop $b (call $digit (local.get $at) (i32.rem_u (local.get $v) (i32.const 10)))
        (local.set $v (i32.div_u (local.get $v) (i32.const 10)))
        (br_if $b (i32.ge_u (local.tee $at (i32.sub (local.get $at) (i32.const 1)))
          (i32.const 74))))
      (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
      (drop (call $poll (i32.const 128) (i32.const 192) (i32.const 1) (i32.const 8)))
      (local.set $n (i32.add (local.get $n) (i32.const 1)))
      (br $line))))"""
"""Prints a number and a checksum of all numbers before, a line every 15 ms."""


class Node:
    """One node of a run, which can be killed and started again."""

    def __init__(self, given: dict[str, Any], errors: Path) -> None:
        self.given, self.errors = given, errors
        self.said: list[dict[str, int]] = []
        self.rests_until = 0.0
        self.start()

    def start(self) -> None:
        with open(self.errors, "ab") as errors:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.ownership.campaign_node", json.dumps(self.given)],
                stdout=subprocess.PIPE, stderr=errors, text=True,
            )  # fmt: skip
        self.reader = threading.Thread(target=self._read, args=(self.process,), daemon=True)
        self.reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        for line in process.stdout:
            with suppress(ValueError):  # a line that a kill has cut
                self.said.append(json.loads(line))

    def workers(self) -> list[int]:
        return [process for _, process in living(Path(self.given["workers"])) if process]

    def signal(self, number: int, node: bool, workers: bool) -> None:
        for process in ([self.process.pid] if node else []) + (self.workers() if workers else []):
            with suppress(ProcessLookupError):
                os.kill(process, number)

    def alive(self) -> None:
        """Start the node again if it has ended, and has rested."""
        if self.process.poll() is not None and time.monotonic() >= self.rests_until:
            self.start()

    def close(self) -> None:
        self.signal(signal.SIGKILL, True, True)
        self.process.wait()


class Run:
    """One run."""

    def __init__(self, seed: int, folder: Path, faults: int, etcd: bool = False) -> None:
        self.chance = random.Random(seed)
        self.faults = faults
        self.folder = folder
        self.host: RegisterHost = EtcdHost(folder) if etcd else SqliteHost(folder)
        address = (
            f"http://127.0.0.1:{self.host.proxy.port}"
            if isinstance(self.host, EtcdHost)
            else str(self.host.path)
        )
        wasm = folder / "count.wasm"
        wasm.write_bytes(assemble(COUNT.encode()))
        names = [secrets.token_bytes(16).hex() for _ in range(2)]
        self.program = secrets.token_bytes(16)
        self.nodes = []
        for at, name in enumerate(names):
            workers = folder / f"workers-{at}"
            workers.mkdir()
            given = {
                "node": name, "nodes": names, "program": self.program.hex(), "wasm": str(wasm),
                "register": address, "store": str(folder / "store"), "lease": LEASE,
                "interval": INTERVAL, "workers": str(workers), "creates": at == 0,
            }  # fmt: skip
            self.nodes.append(Node(given, folder / f"errors-{at}"))

    def said(self) -> list[dict[str, int]]:
        return sorted((s for node in self.nodes for s in list(node.said)), key=lambda s: s["time"])

    def owner(self) -> Node:
        said = [node for node in self.nodes if node.said]
        return max(said, key=lambda node: node.said[-1]["time"])

    def wait(self, since: int, seconds: float) -> float:
        """Wait for output after a moment; return how many seconds after it came."""
        end = time.monotonic() + seconds
        while True:
            for node in self.nodes:
                node.alive()
            later = [one["time"] for one in self.said() if one["time"] > since]
            if later:
                return (later[0] - since) / 1e9
            assert time.monotonic() < end, "the program does not go on"
            time.sleep(0.02)

    def all_up(self) -> None:
        """Wait until nodes that rest are started again."""
        while any(node.process.poll() is not None for node in self.nodes):
            for node in self.nodes:
                node.alive()
            time.sleep(0.05)

    def fault(self, name: str) -> float:
        """Make a fault and return the seconds until there was output again."""
        owner = self.owner()
        if name == "register away":
            self.host.freeze()
            time.sleep(2 * LEASE)
            since = boot_clock()
            self.host.thaw()
        elif name.startswith("kill"):
            if name.endswith("late"):
                owner.rests_until = time.monotonic() + LEASE * (1 + MARGIN) + 2.5
            owner.signal(signal.SIGKILL, "worker" not in name, "node" not in name)
            since = boot_clock()
        else:
            node = name == "freeze both"
            owner.signal(signal.SIGSTOP, node, True)
            since = boot_clock()
            time.sleep(LEASE * 2)
            owner.signal(signal.SIGCONT, node, True)
        return self.wait(since, 30)

    def go(self) -> dict[str, Any]:
        found: dict[str, Any] = {"faults": []}
        try:
            self.wait(0, 30)
            for _ in range(self.faults):
                time.sleep(self.chance.uniform(0.3, 1.5))
                self.all_up()
                name = self.chance.choice(FAULTS)
                if name in ("kill node", "kill both") and self.chance.random() < LATE:
                    name += ", started late"
                found["faults"].append([name, round(self.fault(name), 2)])
            time.sleep(0.5)
        finally:
            for node in self.nodes:
                node.close()
        return {**found, **self.check()}

    def close(self) -> None:
        for node in self.nodes:
            node.close()
        self.host.close()

    def errors(self) -> str:
        return "".join(node.errors.read_text()[-1500:] for node in self.nodes)

    def check(self) -> dict[str, Any]:
        """Check what is left: the log, the order of the epochs, and the record."""
        said = self.said()
        epochs = [one["epoch"] for one in said]
        assert epochs == sorted(epochs), "an older epoch wrote after a newer one had begun"
        follower, data = LogFollower(self.folder / "store", "stdout"), b""
        while (piece := follower.read()) is not None:
            assert piece.offset == len(data) and not piece.rewound
            data += piece.data
        lines = re.findall(rb"(\d{9}) (\d{9})\n", data)
        assert b"".join(b"%s %s\n" % line for line in lines) == data[: len(lines) * 20]
        total = 0
        for n, line in enumerate(lines):
            total = (total * 31 + n) & 0xFFFFFFFF
            assert (int(line[0]), int(line[1])) == (n, total % 1_000_000_000), f"line {n}: {line}"
        register = self.host.register()
        record = register.read(self.program)
        register.close()
        assert record is not None and record.epoch >= epochs[-1]
        oldest = max(self.ages(said), default=0.0)
        return {"lines": len(lines), "epochs": record.epoch, "oldest": round(oldest, 2)}

    def ages(self, said: list[dict[str, int]]) -> list[float]:
        """For each lost owner: seconds from the checkpoint that was restored to its last output."""
        found = []
        written = parts(self.folder / "store", "stdout")
        for before, after in itertools.pairwise(written):
            offset, reached = before.start, None
            mine = [one for one in said if one["epoch"] == before.epoch]
            for one in mine:
                offset += one["bytes"]
                if reached is None and offset >= after.start:
                    reached = one["time"]
            if reached is not None:
                found.append((mine[-1]["time"] - reached) / 1e9)
        return found


def run(seed: int, faults: int = 3, slack: float = 0.0, etcd: bool = False) -> dict[str, Any]:
    """Carry out one run; raises AssertionError if something is wrong.

    `slack` is added to the limits of times, in seconds, where other tests use the machine too.
    """
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        one = Run(seed, Path(folder), faults, etcd)
        try:
            found = one.go()
            # Two intervals; without a register no checkpoint counts until the program pauses.
            limit = 2 * INTERVAL + LEASE * 2 / 3 + slack
            assert found["oldest"] <= limit, f"a checkpoint was {found['oldest']} s old"
            for name, seconds in found["faults"]:
                limit = LEASE * (1 + MARGIN) + 2 + slack
                assert seconds <= limit, f"{name}: back after {seconds} s; {limit} s are the most"
        except AssertionError as error:
            raise AssertionError(f"{error}\n{one.errors()}") from error
        finally:
            one.close()
    return {"register": "etcd" if etcd else "sqlite", **found}


def one_line(seed: int, faults: int, slack: float) -> dict[str, Any]:
    """Return the result of a run, or what was wrong."""
    etcd = seed % ETCD == ETCD - 1 and not etcd_missing()
    try:
        return {"seed": seed, **run(seed, faults, slack, etcd)}
    except Exception as error:  # noqa: BLE001 (the other runs go on)
        return {"seed": seed, "wrong": f"{type(error).__name__}: {error}"[:4000]}


def summary(lines: list[dict[str, Any]]) -> str:
    """Return what all runs say together."""
    waits: dict[str, list[float]] = {}
    for name, seconds in (fault for line in lines for fault in line.get("faults", ())):
        waits.setdefault(name, []).append(seconds)
    wrong = [line["seed"] for line in lines if "wrong" in line]
    oldest = max((line["oldest"] for line in lines if "oldest" in line), default=0.0)
    found = [
        f"{len(lines)} runs, {sum(map(len, waits.values()))} faults, {len(wrong)} failed {wrong}; "
        f"the oldest checkpoint that was restored had {oldest} s"
    ]
    for name, some in sorted(waits.items()):
        some.sort()
        at = (len(some) // 2, len(some) * 99 // 100, -1)
        middle, high, most = (some[one] for one in at)
        found.append(f"{name:26}{len(some):6} faults; back after {middle} s, 99 %: {high}, {most}")
    return "\n".join(found)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.ownership.campaign")
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--jobs", type=int, default=1, help="runs at the same time")
    parser.add_argument("--slack", type=float, default=0.0, help="seconds added to limits of times")
    parser.add_argument("--faults", type=int, default=3, help="faults in each run")
    parser.add_argument("--file", type=Path, help="continue, and keep the results")
    given = parser.parse_args()
    lines: list[dict[str, Any]] = []
    if given.file and given.file.exists():
        lines = [json.loads(line) for line in given.file.read_text().splitlines()]
    left = sorted(set(range(given.runs)) - {line["seed"] for line in lines})
    with ThreadPoolExecutor(given.jobs) as pool:
        for found in pool.map(lambda seed: one_line(seed, given.faults, given.slack), left):
            lines.append(found)
            print(json.dumps(found), flush=True)
            if given.file:
                with open(given.file, "a") as file:
                    file.write(json.dumps(found) + "\n")
    print(summary(lines))
    return int(any("wrong" in line for line in lines))


if __name__ == "__main__":
    sys.exit(main())
