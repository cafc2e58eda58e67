"""Kills nodes and workers at random moments while programs move between two nodes.

    python -m tests.node.move_campaign --runs 30 --file FILE [--seed 1] [--programs 3]

Each run starts two nodes and some programs that count, moves them to and fro, and kills a node,
both, or a worker with SIGKILL at random moments. Then everything is started again. It is right if
each program comes to its end on exactly one node, with each line once and in order, and if nothing
is called lost. One line of JSON a run goes to the file.
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
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tests.node.programs import counting, lines
from tests.node.test_commands import Shell
from wasmsr import Node
from wasmsr.errors import WasmsrError

LINES, SLOW = 900, 10
"""Lines of each program, and milliseconds after each."""

PATIENCE = 120.0
"""Seconds in which all programs must have ended after the last fault."""


class MoveRun:
    """One run: two nodes, some programs, some faults."""

    def __init__(self, folder: Path, seed: int, programs: int, faults: int) -> None:
        self.random = random.Random(seed)
        self.count, self.faults = programs, faults
        self.said: list[str] = []
        self.shells: list[Shell] = []
        for name in "ab":
            (folder / name).mkdir()
            shell = Shell(folder / name)
            shell.environ["XDG_STATE_HOME"] = str(folder / "state")
            shell.environ["WASMSR_STATE_DIR"] = str(folder / name / "state")
            self.shells.append(shell)
        self.over = threading.Event()
        self.programs: list[str] = []

    def client(self, shell: Shell) -> Node:
        """Return a client of a node, over the socket of its user."""
        return Node(f"unix:{shell.folder}/state/node/control", seconds=20)

    def start(self, shell: Shell) -> None:
        shell.node("--checkpoints-every", "0.3", "--resume")

    def move(self) -> None:
        """Move programs to and fro until the run is over; what fails is tried again."""
        turn = random.Random(self.random.random())
        while not self.over.is_set():
            source, to = turn.sample(self.shells, 2)
            with suppress(WasmsrError, OSError), self.client(source) as node:
                running = [one.program for one in node.ps() if one.standing == "running"]
                if running:
                    node.migrate(turn.choice(running), to.address)
            self.over.wait(turn.random() * 0.3)

    def kill(self) -> str:
        """Kill something, and start what is gone again; return what it was."""
        what = self.random.choice(("node", "node", "both", "worker"))
        if what == "worker":
            shell = self.random.choice(self.shells)
            with suppress(WasmsrError, OSError), self.client(shell) as node:
                found = [one for one in node.ps() if one.worker and one.saved]
                if found:
                    os.kill(self.random.choice(found).worker or 0, signal.SIGKILL)
        else:
            gone = self.shells if what == "both" else [self.random.choice(self.shells)]
            for shell in gone:
                assert shell.process is not None
                shell.process.kill()
                shell.process.wait()
            time.sleep(self.random.random() * 0.5)
            for shell in gone:
                self.start(shell)
        return what

    def resume(self) -> None:
        for shell in self.shells:
            with suppress(WasmsrError, OSError), self.client(shell) as node:
                for one in node.ps():
                    if one.standing == "resumable":
                        node.resume(one.program)

    def standings(self) -> dict[str, list[str]]:
        """Return what the nodes say of each program."""
        found: dict[str, list[str]] = {program: [] for program in self.programs}
        for shell in self.shells:
            with self.client(shell) as node:
                for one in node.ps():
                    found[one.program].append(one.standing)
        return found

    def run(self) -> dict[str, Any]:
        """Carry the run out, and return what it found."""
        a = self.shells[0]
        (a.folder / "count.wasm").write_bytes(counting(LINES, SLOW))
        for shell in self.shells:
            self.start(shell)
        self.programs = [a.run("submit", "count.wasm").strip() for _ in range(self.count)]
        mover = threading.Thread(target=self.move)
        mover.start()
        kinds = []
        try:
            for _ in range(self.faults):
                time.sleep(0.5 + self.random.random() * 2)
                kinds.append(self.kill())
                self.resume()
        finally:
            self.over.set()
            mover.join()
        wrong = self.end()
        return {"faults": kinds, "wrong": wrong, "moves": self.moves()}

    def moves(self) -> int:
        return sum(len(shell.events("move-arrived")) for shell in self.shells)

    def end(self) -> list[str]:
        """Wait until all programs have ended; return what is wrong."""
        deadline = time.monotonic() + PATIENCE
        while True:
            self.resume()
            found = self.standings()
            if all("ended" in said for said in found.values()):
                break
            if time.monotonic() > deadline:
                return [f"{program[:8]} has not ended: {said}" for program, said in found.items()]
            time.sleep(0.3)
        wrong = [
            f"{program[:8]} is {said}"
            for program, said in found.items()
            if said.count("ended") != 1 or set(said) - {"ended", "moved"}
        ]
        for shell in self.shells:
            with self.client(shell) as node:
                for one in node.ps():
                    if one.standing == "ended":
                        pieces = node.logs(one.program, ("stdout",))
                        data = b"".join(piece.data for piece in pieces)
                        if data != lines(0, LINES):
                            wrong.append(f"{one.program[:8]} has other output ({len(data)} bytes)")
        return wrong

    def close(self) -> None:
        for shell in self.shells:
            if shell.process is not None and shell.process.poll() is None:
                shell.process.send_signal(signal.SIGTERM)
                with suppress(subprocess.TimeoutExpired):
                    shell.process.wait(40)


def one_run(seed: int, programs: int = 3, faults: int = 4) -> dict[str, Any]:
    """Carry out one run, and return what it found."""
    with tempfile.TemporaryDirectory() as folder:
        run = MoveRun(Path(folder), seed, programs, faults)
        try:
            found = {"seed": seed, **run.run()}
            if found["wrong"]:
                found["logs"] = [
                    (shell.folder / "log").read_text()[-20_000:] for shell in run.shells
                ]
            return found
        finally:
            run.close()


def main(words: Sequence[str]) -> int:
    """Carry out many runs; the exit code is 1 if one was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--runs", type=int, default=30)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--programs", type=int, default=3)
    parser.add_argument("--faults", type=int, default=4)
    parser.add_argument("--file", type=Path, required=True)
    options = parser.parse_args(words)
    bad = 0
    for seed in range(options.seed, options.seed + options.runs):
        found = one_run(seed, options.programs, options.faults)
        with open(options.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(found) + "\n")
        bad += bool(found["wrong"])
        shown = {name: value for name, value in found.items() if name != "logs"}
        print(json.dumps(shown), flush=True)
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
