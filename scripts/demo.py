#!/usr/bin/env python3
"""`make demo`: a real transcoding moves between two processes while it runs, and ends right.

Two `wasmsr remote` processes, left and right, each with a folder for its own state; the program's
output goes to one folder that both see. The same work runs unmoved beside them. In the end the two
results are compared; the exit code is 0 only if they are equal and the program moved often enough.

How much work it is, and how often it moves, depends on this machine and on what else it does: a
short run first tells how fast it is here.
"""

from __future__ import annotations

import hashlib
import json
import os
import resource
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any

WORK_SECONDS = 22.0
"""How long the transcoding should take here when nothing moves."""
EVERY_SECONDS = 2.0
"""How long it stays on one side, at most."""
LEAST_MOVES = 6
PLANNED_MOVES = 10
"""As many at least, even if the machine has nothing else to do any more after the short run."""
LIMIT_SECONDS = 110.0
"""Then something is wrong, and the demo ends."""

SCALE = "4"
TRIAL_FRAMES = 8
RESULT = "transcoding.avi"

COLOURS = {"left": "36", "right": "33", "alone": "35", "demo": "1"}


class Screen:
    """Lines of several processes on one screen, each with its name before it."""

    def __init__(self) -> None:
        self._colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
        self._lock = threading.Lock()
        self._start = time.monotonic()

    def say(self, name: str, text: str) -> None:
        """One line."""
        passed = time.monotonic() - self._start
        label = f"{passed:6.1f} s  {name:<5}"
        # The two sides stand in two columns, so that one sees the program go to and fro.
        indent = " " * 36 if name == "right" else ""
        line = f"{label} | {indent}{text}"
        if self._colour:
            line = f"\x1b[{COLOURS[name]}m{line}\x1b[0m"
        with self._lock:
            print(line, flush=True)


class Side:
    """One `wasmsr remote`, and what it says."""

    def __init__(self, name: str, screen: Screen, command: Sequence[str], folder: Path) -> None:
        self.name = name
        self.arrivals = 0
        self.downtimes: list[float] = []
        self._screen = screen
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout and self.process.stderr
        self._threads = [
            threading.Thread(target=self._events, args=(self.process.stdout,), daemon=True),
            threading.Thread(target=self._words, args=(self.process.stderr,), daemon=True),
        ]
        for thread in self._threads:
            thread.start()

    def _events(self, stream: IO[str]) -> None:
        for line in stream:
            try:
                event = json.loads(line)
            except ValueError:
                self._screen.say(self.name, line.rstrip())
                continue
            kind = event.get("event")
            if kind == "started":
                self._screen.say(self.name, "started here")
            elif kind == "arrived":
                self.arrivals += 1
                self.downtimes.append(float(event["downtime"]))
                size = int(event["bytes"]) / 2**20
                stood = float(event["downtime"]) * 1000
                text = f"arrived: {size:.1f} MiB, stood still {stood:.0f} ms"
                self._screen.say(self.name, text)
            elif kind == "moved":
                self._screen.say(self.name, "sent it on")
            elif kind == "ended":
                where = "here" if event.get("here") else "on the other side"
                self._screen.say(self.name, f"the program ended {where}, code {event.get('code')}")
            elif kind not in ("listening", "prepared", "sending", "progress", "settled"):
                self._screen.say(self.name, ", ".join(f"{k} {v}" for k, v in event.items()))

    def _words(self, stream: IO[str]) -> None:
        for line in stream:
            self._screen.say(self.name, line.rstrip())

    def finish(self, seconds: float) -> int:
        """Wait for the process and its last lines, and return its exit code."""
        code = self.process.wait(max(seconds, 0))
        for thread in self._threads:
            thread.join(5)
        return code


def wasmsr(*words: str) -> list[str]:
    """Return a command line of wasmsr."""
    return [sys.executable, "-m", "wasmsr", *words]


def transcode(folder: Path, frames: int) -> list[str]:
    """Return the command of an unmoved run."""
    return wasmsr("run", "transcoding", "--dir", str(folder), "--", *arguments(frames))


def arguments(frames: int) -> list[str]:
    """Return the program's arguments."""
    return ["--frames", str(frames), "--scale", SCALE, "--progress", str(max(frames // 16, 1))]


def plan(folder: Path, screen: Screen) -> tuple[int, float]:
    """Return the frames that take about WORK_SECONDS here, and the seconds between two moves.

    A busy machine leaves little work for that time; then the seconds are fewer.
    """
    frames = TRIAL_FRAMES
    while True:
        began, computed_before = time.monotonic(), computed()
        quiet = subprocess.DEVNULL
        subprocess.run(transcode(folder, frames), check=True, stdin=quiet, stderr=quiet)
        took, computing = time.monotonic() - began, computed() - computed_before
        if took > 1.5:
            break
        frames *= 3
    wanted = max(int(frames * WORK_SECONDS / took), TRIAL_FRAMES)
    screen.say("demo", f"{frames} frames take {took:.1f} s here; the work will be {wanted} frames")
    return wanted, min(EVERY_SECONDS, computing * wanted / frames / PLANNED_MOVES)


def computed() -> float:
    """Seconds of processor time that ended children took; unlike time, others do not stretch it."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(s.getsockname()[1]) for s in sockets]
    for s in sockets:
        s.close()
    return ports


def digest(path: Path) -> str:
    """Return the SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def demo(folder: Path, screen: Screen) -> int:
    """Run everything in `folder` and return the exit code."""
    deadline = time.monotonic() + LIMIT_SECONDS
    for name in ("trial", "alone", "moved", "left", "right"):
        (folder / name).mkdir()
    frames, every = plan(folder / "trial", screen)

    alone = subprocess.Popen(
        transcode(folder / "alone", frames), stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    ports = dict(zip(("left", "right"), free_ports(2), strict=True))
    # Each side has a state directory of its own, as on two hosts, so both are given a key.
    key = folder / "key"
    key.touch(0o600)
    key.write_text(secrets.token_hex(32))
    sides: dict[str, Side] = {}
    try:
        for name, other in (("right", "left"), ("left", "right")):
            command = wasmsr("remote", "--json", "--every", f"{every:.2f}")
            command += ["--port", str(ports[name]), "--peer", str(ports[other])]
            command += ["--dir", str(folder / "moved"), "--state-dir", str(folder / name)]
            command += ["--token-file", str(key), "--program", "transcoding"]
            if name == "left":
                command += ["--send", "--", *arguments(frames)]
            sides[name] = Side(name, screen, command, folder)
            screen.say(name, f"process {sides[name].process.pid}, port {ports[name]}")
        codes = [side.finish(deadline - time.monotonic()) for side in sides.values()]
        codes.append(alone.wait(max(deadline - time.monotonic(), 0)))
    except subprocess.TimeoutExpired:
        screen.say("demo", f"not finished within {LIMIT_SECONDS:.0f} s")
        return 1
    finally:
        running: list[subprocess.Popen[Any]] = [alone, *(side.process for side in sides.values())]
        for process in running:
            if process.poll() is None:
                process.terminate()
                process.wait(10)
    if any(codes):
        screen.say("demo", f"exit codes {codes}: something went wrong")
        return 1
    return compare(folder, screen, list(sides.values()))


def compare(folder: Path, screen: Screen, sides: list[Side]) -> int:
    """Says what came of it; returns the exit code."""
    moves = sum(side.arrivals for side in sides)
    stood = sorted(time for side in sides for time in side.downtimes)
    moved, unmoved = digest(folder / "moved" / RESULT), digest(folder / "alone" / RESULT)
    middle = f", standing still {stood[len(stood) // 2] * 1000:.0f} ms (median)" if stood else ""
    screen.say("demo", f"moved {moves} times{middle}")
    screen.say("demo", f"SHA-256 moved    {moved}")
    screen.say("demo", f"SHA-256 unmoved  {unmoved}")
    equal = moved == unmoved
    screen.say("demo", "equal" if equal else "DIFFERENT")
    if moves < LEAST_MOVES:
        screen.say("demo", f"but {LEAST_MOVES} moves were to be shown")
    return 0 if equal and moves >= LEAST_MOVES else 1


def main() -> int:
    """Run the command line and return the exit code."""
    screen = Screen()
    screen.say("demo", "a film is transcoded by a program that moves between two processes")
    folder = Path(tempfile.mkdtemp(prefix="wasmsr-demo-"))
    try:
        return demo(folder, screen)
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)


if __name__ == "__main__":
    sys.exit(main())
