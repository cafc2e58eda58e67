"""Supervisors and workers of a node are killed at random moments; then the node must be right.

    python -m tests.node.campaign --runs 300 --file RESULTS
    python -m tests.node.campaign --runs 0 --file RESULTS        what RESULTS says in all

A run is named by its seed. The command skips the seeds that RESULTS has, so it can be continued.
Every second run has leased programs on two nodes (`lease_campaign.py`), and every fourth has
programs that move between two nodes (`move_campaign.py`); `--only` takes one kind.

Each of the others has three programs that count, and three faults: the supervisor, a worker, or
both are killed, or the supervisor is asked to end; meanwhile somebody pauses, resumes and saves
programs.
After each fault the node is started again, sooner or later than its workers wait, and says of each
program: running, paused, resumable, ended or lost. That is checked against the processes and
against what the node has said before. In the end each program that is not lost has written each
line once.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.node import lease_campaign
from tests.node.move_campaign import one_run
from tests.node.programs import counting, lines
from wasmsr import Node
from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import living
from wasmsr.rpc.control.program_info import ProgramInfo

PROGRAMS, FAULTS, LINES, WAIT = 3, 3, 600, 5
ADOPT, EVERY = 1.5, 0.3
"""Seconds that workers wait for a supervisor, and between checkpoints."""

KINDS = ("supervisor", "supervisor late", "worker", "both", "stop")


class Wrong(Exception):
    """The node says what is not so."""


class Run:
    """One run."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.random = random.Random(seed)
        self.folder = folder
        self.log = open(folder / "log", "ab")  # noqa: SIM115 (closed by `close`)
        self.saved: dict[str, int] = {}
        """Lives and offsets of save points that the node has acknowledged, by program."""
        self.standings: Counter[str] = Counter()
        self.process: subprocess.Popen[bytes] | None = None
        self.begin()

    def begin(self) -> None:
        """Start the node, and wait until it answers."""
        words = [str(self.folder), str(ADOPT), str(EVERY)]
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.node.campaign_node", *words], stderr=self.log
        )
        end = time.monotonic() + 60
        while time.monotonic() < end:
            with suppress(WasmsrError), self.node() as node:
                node.info()
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        raise Wrong(f"the node does not start: {(self.folder / 'log').read_text()[-2000:]}")

    def node(self) -> Node:
        """Return a connection to the node."""
        return Node(f"unix:{self.folder}/control", seconds=30)

    def workers(self, program: str) -> list[int]:
        """Return the process ids of the workers of a program that live."""
        place = self.folder / "state" / "programs" / program / "worker"
        return [process for _, process in living(place)] if place.is_dir() else []

    def close(self) -> None:
        """Kill everything."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        for place in (self.folder / "state" / "programs").glob("*"):
            for process in self.workers(place.name):
                with suppress(ProcessLookupError):
                    os.kill(process, signal.SIGKILL)
        self.log.close()

    def play(self) -> None:
        """Do the run. Raises Wrong."""
        binary = counting(LINES, WAIT)
        with self.node() as node:
            mine = [node.submit(binary).program for _ in range(PROGRAMS)]
        for _ in range(FAULTS):
            stop = threading.Event()
            meddler = threading.Thread(target=self.meddle, args=(mine, stop))
            meddler.start()
            time.sleep(self.random.uniform(0.0, 0.8))
            self.fault(mine)
            stop.set()
            meddler.join()
            with self.node() as node:
                self.settle(node, mine)
        with self.node() as node:
            for id in mine:
                self.finish(node, id)

    def meddle(self, mine: list[str], stop: threading.Event) -> None:
        """Pause, resume and save programs until the fault has happened."""
        rng = random.Random(self.random.random())
        with self.node() as node:
            while not stop.is_set():
                id, verb = rng.choice(mine), rng.choice(("pause", "resume", "checkpoint"))
                with suppress(WasmsrError):
                    found = getattr(node, verb)(id)
                    if verb == "checkpoint" and found.saved is not None:
                        self.saved[id] = max(self.saved.get(id, 0), found.saved["number"])
                time.sleep(rng.uniform(0, 0.05))

    def fault(self, mine: list[str]) -> None:
        """Let one fault happen, and have a node again."""
        assert self.process is not None
        kind = self.random.choice(KINDS)
        self.standings[f"fault: {kind}"] += 1
        victims = self.random.sample(mine, self.random.randint(1, PROGRAMS))
        if kind in ("worker", "both"):
            for id in victims:
                for process in self.workers(id):
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        if kind == "worker":
            time.sleep(0.3)
            return
        self.process.send_signal(signal.SIGTERM if kind == "stop" else signal.SIGKILL)
        self.process.wait(60)
        if kind == "supervisor late":
            time.sleep(self.random.uniform(ADOPT - 0.3, ADOPT + 1))
        self.begin()

    def settle(self, node: Node, mine: list[str]) -> None:
        """Check what the node says, and let everything run again."""
        found = {one.program: one for one in node.ps()}
        if set(found) != set(mine):
            raise Wrong(f"it knows {sorted(found)} and not {sorted(mine)}")
        for id in mine:
            one = found[id]
            self.standings[one.standing] += 1
            self.check(one)
            if one.standing in ("paused", "resumable"):
                node.resume(id)

    def check(self, one: ProgramInfo) -> None:
        """Compare what the node says of a program with the processes, and with what it said."""
        workers = self.workers(one.program)
        if one.standing in ("running", "paused"):
            if one.worker is None:
                raise Wrong(f"{one.program}: {one.standing} without a worker")
        elif workers and one.worker is None:
            time.sleep(0.5)  # it has just ended
            if left := self.workers(one.program):
                raise Wrong(f"{one.program}: {one.standing}, and worker {left} lives")
        if one.standing == "lost" and one.program in self.saved:
            raise Wrong(f"{one.program}: lost, and checkpoint {self.saved[one.program]} was said")
        if one.standing not in ("running", "paused", "resumable", "lost", "ended"):
            raise Wrong(f"{one.program}: {one.standing}")

    def finish(self, node: Node, id: str) -> None:
        """Let a program come to its end, and check its output."""
        for _ in range(5):
            one = node.wait(id, 60)
            if one.standing != "resumable":
                break
            node.resume(id)
        if one.standing == "lost":
            return
        if (one.standing, one.code) != ("ended", 7):
            raise Wrong(f"{id}: {one.standing} {one.ending} {one.code} {one.reason}")
        data = b""
        for piece in node.logs(id, ["stdout"]):
            if piece.offset != len(data):
                raise Wrong(f"{id}: output from {piece.offset} on, and {len(data)} bytes are here")
            data += piece.data
        if data != lines(0, LINES):
            raise Wrong(f"{id}: the output is not what it should be: {len(data)} bytes")


def play(seed: int) -> dict[str, Any]:
    """Do the run of a seed, and return what came of it."""
    with tempfile.TemporaryDirectory(prefix="wasmsr-node-") as folder:
        run = Run(seed, Path(folder))
        said = ""
        try:
            run.play()
        except (Wrong, WasmsrError) as error:
            said = f"{type(error).__name__}: {error}"
        finally:
            run.close()
        if said:
            said += "\n" + (Path(folder) / "log").read_text()[-4000:]
        return {"seed": seed, "wrong": said, **run.standings}


def play_moves(seed: int) -> dict[str, Any]:
    """Do the run of a seed with moves, and return what came of it."""
    found = one_run(seed)
    faults = Counter(f"fault: moves, {kind}" for kind in found["faults"])
    return {"seed": seed, "wrong": "\n".join(found["wrong"]), **faults, "moves": found["moves"]}


def any_kind(seed: int, only: str, slack: float) -> dict[str, Any]:
    """Do the run of a seed, of the kind that it has or of the only one, and return what it gave."""
    kind = only or ("node", "leases", "moves", "leases")[seed % 4]
    if kind == "leases":
        return {"kind": kind, **lease_campaign.play(seed, slack=slack)}
    return {"kind": kind, **(play_moves(seed) if kind == "moves" else play(seed))}


def main() -> int:
    """Run the command line and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--file", type=Path, required=True)
    parser.add_argument("--only", choices=("node", "moves", "leases"), default="")
    parser.add_argument("--slack", type=float, default=0.0, help="seconds added to limits of times")
    options = parser.parse_args()
    done: dict[int, dict[str, Any]] = {}
    if options.file.exists():
        for line in options.file.read_text(encoding="utf-8").splitlines():
            one = json.loads(line)
            done[one["seed"]] = one
    for seed in range(options.runs):
        if seed in done:
            continue
        done[seed] = any_kind(seed, options.only, options.slack)
        with open(options.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(done[seed]) + "\n")
        print({name: n for name, n in done[seed].items() if name != "logs"}, flush=True)
    total: Counter[str] = Counter()
    for one in done.values():
        total.update({name: n for name, n in one.items() if name != "seed" and type(n) is int})
        total[f"runs: {one.get('kind', 'node')}"] += 1
    for name in ("back", "old"):
        times = sorted(time for one in done.values() for time in one.get(name, ()))
        if times:
            print(f"{name}: {len(times)}, median {times[len(times) // 2]} s, most {times[-1]} s")
    wrong = [one["seed"] for one in done.values() if one["wrong"]]
    print(f"{len(done)} runs, {len(wrong)} wrong {wrong}: {dict(sorted(total.items()))}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
