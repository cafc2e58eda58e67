"""Starts of programs from one snapshot through a node, beside bare forks of a worker.

`bench.nodes --starts N` uses it. A CPython is warmed up and saved once. Then, in turns, a worker is
forked that gets no program, and a program is submitted that begins in the snapshot and prints
random bytes. All over the node's own socket.
"""

from __future__ import annotations

import hashlib
import os
import re
import statistics
import time
from collections.abc import Callable
from pathlib import Path

from wasmsr import Node
from wasmsr.executor.local import LocalExecutor
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.executor.process import ProcessExecutor
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.workers.confinement import Confinement, HostAccess
from wasmsr.node.workers.warm_parents import WorkerPlace
from wasmsr.rpc.control.control_server import ControlServer
from wasmsr.runspec.run_spec import RunSpec

SCRIPT = """
import os, json, re, time
words = {str(n): n for n in range(20000)}
print("warm", flush=True)
try:
    input()
except EOFError:
    pass
print(os.urandom(16).hex(), sum(words.values()), flush=True)
time.sleep(1000)
"""
"""What CPython runs. It is saved while it waits for input; a fork has an empty one."""
ALIVE = 10
"""Programs that run at the same time."""
SAMPLES = 10
"""Programs of which memory is measured."""
SLACK = 1.0
"""MiB that a program may take besides a bare worker and what it writes."""
TIMES = 3.0
"""How often the 99th percentile of a first answer may have the time of a bare fork."""


def warm(module: Path, folder: Path) -> Path:
    """Return a snapshot of a CPython that has imported and built what its script needs."""
    executor = LocalExecutor()
    ours, theirs = os.pipe()
    streams = (ours, -1, -1)
    spec = {"program": str(module), "args": ["-c", SCRIPT]}
    program = executor.start(spec, streams=streams)
    deadline = time.monotonic() + 120
    while executor.logs(program, "stdout")[1] != b"warm\n":
        if time.monotonic() > deadline:
            raise AssertionError("CPython did not warm up")
        time.sleep(0.001)
    time.sleep(0.1)
    executor.pause(program)
    path = folder / "warm.snapshot"
    with open(path, "wb") as file:
        executor.snapshot(program, file.fileno())
    executor.cancel(program)
    os.close(ours)
    os.close(theirs)
    return path


def private_mib(process: int) -> tuple[float, float]:
    """Return the memory of a process that no other shares, in MiB: all of it, and what it has
    written of the memories that it shares with the others."""
    total = written = 0
    memory = False
    for line in Path(f"/proc/{process}/smaps").read_text(encoding="utf-8").splitlines():
        if re.match(r"[0-9a-f]+-", line):
            memory = "memfd:" in line
        elif line.startswith(("Private_Dirty:", "Private_Clean:")):
            size = int(line.split()[1])
            total += size
            written += size if memory else 0
    return total / 1024, written / 1024


class Starts:
    """A node in this process, and the two ways to start something on it."""

    def __init__(self, module: Path, folder: Path) -> None:
        self.module, self.folder = module, folder
        self.snapshot = warm(module, folder)
        self.supervisor = NodeSupervisor(folder / "node", NodeRules(ring=1 << 20))
        admit: Callable[..., str] = lambda peer, certificate, token: "bench"  # noqa: E731
        self.server = ControlServer(self.supervisor, f"unix:{folder}/socket", "0", admit)
        self.node = Node(f"unix:{folder}/socket")
        self.digest = hashlib.sha256(module.read_bytes()).hexdigest()
        self.known = hashlib.sha256(self.snapshot.read_bytes()).hexdigest()
        self.count = 0
        self.answers: set[bytes] = set()
        self.alive: list[str] = []
        self.submit()  # the upload, and the warm parent

    def bare(self) -> tuple[float, ProcessExecutor]:
        """Return the seconds in which a worker without a program is there, and the worker."""
        self.count += 1
        home = self.folder / f"bare{self.count}"
        place = WorkerPlace(home / "worker", home / "output", home / "tmp", home / "carried")
        access = HostAccess.of(RunSpec(program=str(self.module)), home)
        snapshot = self.supervisor._warm(self.known, RunSpec())
        began = time.perf_counter()
        worker = self.supervisor._parents.worker(
            self.supervisor.folder.module(self.digest), self.digest, None, place,
            Confinement(access=access), ring=1 << 20, wait=5, snapshot=snapshot,
        )  # fmt: skip
        return time.perf_counter() - began, worker

    def submit(self) -> tuple[float, str]:
        """Return the seconds until a program has given its first answer, and its id."""
        began = time.perf_counter()
        if self.alive:
            found = self.node.submit_known(self.digest, snapshot=self.known)
        else:
            found = self.node.submit(self.module, from_snapshot=self.snapshot)
        output = self.supervisor.folder.program(found.program).output
        while ring_bounds(output, "stdout")[1] < 33:
            if time.perf_counter() - began > 60:
                raise AssertionError(f"no answer: {self.node.ps()[-1]}")
            time.sleep(0.0005)
        took = time.perf_counter() - began
        answer = b"".join(piece.data for piece in self.node.logs(found.program, ["stdout"]))
        self.answers.add(answer.split()[0])
        self.alive.append(found.program)
        return took, found.program

    def thin(self, left: int) -> None:
        """Kill the oldest programs, so that no more than `left` run."""
        while len(self.alive) > left:
            self.node.kill(self.alive.pop(0))

    def close(self) -> None:
        """End the node."""
        self.node.close()
        self.server.stop(0)
        self.supervisor.stop(save=False, seconds=10)


def measure(module: Path, folder: Path, count: int, say: Callable[[str], None]) -> bool:
    """Start so many programs, and return whether the figures are within their limits."""
    starts = Starts(module, folder)
    forks: list[float] = []
    answers: list[float] = []
    bare_memory: list[float] = []
    memory: list[tuple[float, float]] = []
    try:
        for number in range(count):
            took, worker = starts.bare()
            forks.append(took)
            if number < SAMPLES:
                bare_memory.append(private_mib(worker.pid)[0])
            worker.kill()
            took, program = starts.submit()
            answers.append(took)
            if number < SAMPLES:
                memory.append(private_mib(starts.supervisor.find(program).pid))
            starts.thin(ALIVE)
        shared = len(starts.answers) == count + 1
    finally:
        starts.close()
    worst = statistics.quantiles(answers, n=100)[98]
    fork, fork_worst = statistics.median(forks), statistics.quantiles(forks, n=100)[98]
    bare = statistics.median(bare_memory)
    more = statistics.median(total - written - bare for total, written in memory)
    say(
        f"{count} starts from one snapshot: first answer {statistics.median(answers) * 1e3:.1f} ms "
        f"in the median, {worst * 1e3:.1f} at the 99th percentile; a bare fork "
        f"{fork * 1e3:.1f} and {fork_worst * 1e3:.1f} ms: {worst / fork:.2f} and "
        f"{worst / fork_worst:.2f} x"
    )
    say(
        f"memory of its own: a bare worker {bare:.2f} MiB; with a program {more:+.2f} MiB and "
        f"{statistics.median(written for _, written in memory):.2f} MiB of pages that it wrote"
    )
    say("no two had the same random bytes" if shared else "SOME SHARED RANDOM BYTES")
    return shared and worst <= TIMES * fork_worst and more <= SLACK
