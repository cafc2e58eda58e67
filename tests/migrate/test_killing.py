"""Two processes, real gRPC, and kill -9 at every record and message of a move.

The killed end is started again, as a user would, with the command it had. Then either the program
ends exactly once, with its own code, or, where an end was killed that owned it, both ends say that
it was lost. It never runs twice and never goes on from an old state.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.migrate.counter import CODE
from wasmsr.errors import EXIT_MIGRATION

ROOT = Path(__file__).resolve().parents[2]

OWNER_KILLED = {
    # Source: it owns the program until the other end is READY, whose copy is then handed over.
    ("a", "OFFERED:after"),
    ("a", "Transfer:before"),
    ("a", "Transfer:after"),
    # Destination: from the moment that OWNED is on disk, and then as source.
    ("b", "OWNED:after"),
    ("b", "Prepare:before"),
    ("b", "OFFERED:after"),
}

QUICK = [
    ("a", "HANDED:after"),
    ("b", "READY:after"),
    ("b", "OWNED:before"),
    ("b", "OWNED:after"),
]

SLOW = [
    ("b", "READY:before"),
    ("a", "Commit:after"),
    ("a", "HANDED:before"),
    ("a", "Transfer:after"),
    ("a", "OFFERED:after"),
    ("a", "Transfer:before"),
    ("a", "Commit:before"),
    ("b", "Prepare:before"),
    ("b", "OFFERED:after"),
    ("b", "HANDED:before"),
    ("b", "HANDED:after"),
    ("b", "Commit:after"),
]


def free_ports() -> tuple[int, int]:
    with socket.socket() as one, socket.socket() as two:
        one.bind(("127.0.0.1", 0))
        two.bind(("127.0.0.1", 0))
        return one.getsockname()[1], two.getsockname()[1]


class Pair:
    """Two ends, a which sends and b, as processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.ports = dict(zip("ab", free_ports(), strict=True))
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, end: str, fault: str | None = None, *more: str) -> None:
        other = "b" if end == "a" else "a"
        command = [sys.executable, "-m", "tests.migrate.running"]
        command += [str(self.ports[end]), str(self.ports[other]), str(self.folder), *more]
        command += ["--send"] if end == "a" else []
        command += ["--fault", fault] if fault else []
        environ = {**os.environ, "PYTHONPATH": str(ROOT)}
        self.processes[end] = subprocess.Popen(command, cwd=self.folder, env=environ)

    def log(self) -> list[str]:
        names = {str(port): end for end, port in self.ports.items()}
        lines = (self.folder / "log").read_text().splitlines()
        return [f"{names[line.split(' ')[0]]} {line.split(' ', 1)[1]}" for line in lines]

    def wait(self, end: str, seconds: float = 90) -> int:
        try:
            return self.processes[end].wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError("\n".join([f"{end} does not end", *self.log()])) from None

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


@pytest.fixture
def pair(tmp_path: Path):  # type: ignore[no-untyped-def]
    made = Pair(tmp_path)
    yield made
    made.stop()


def test_there_and_back(pair: Pair) -> None:
    pair.start("b")
    pair.start("a")
    codes = {end: pair.wait(end) for end in "ab"}
    log = pair.log()
    assert sorted(codes.values()) == [0, CODE], log
    assert not [line for line in log if "VIOLATION" in line]
    moves = [line for line in log if "event moved" in line]
    assert len(moves) >= 2, log  # how many more depends on what else the machine does
    assert [line[0] for line in moves[:2]] == ["a", "b"]


def check_kill(pair: Pair, end: str, fault: str) -> None:
    """Kills an end at its first passing of a point and starts it again."""
    for each in "ba":
        pair.start(each, f"{fault}:1" if each == end else None, "--limit", "300")
    assert pair.wait(end) == -9, pair.log()
    pair.start(end)
    if end == "b" and (end, fault) in OWNER_KILLED:
        # a hears from b that the program is lost; b waits for another one.
        assert pair.wait("a") == EXIT_MIGRATION, pair.log()
        pair.processes["b"].terminate()
        assert pair.wait("b") == 128 + signal.SIGTERM, pair.log()
        assert sum("was lost" in line for line in pair.log()) == 2
    else:
        # Where a owned the program it begins anew, as it is told by --send.
        assert sorted([pair.wait("a"), pair.wait("b")]) == [0, CODE], pair.log()
        begun = sum("event started" in line for line in pair.log())
        assert begun == (2 if (end, fault) in OWNER_KILLED else 1), pair.log()
        assert sum("was lost" in line for line in pair.log()) == begun - 1
    assert not [line for line in pair.log() if "VIOLATION" in line], pair.log()


@pytest.mark.full
@pytest.mark.parametrize(("end", "fault"), QUICK)
def test_kill(pair: Pair, end: str, fault: str) -> None:
    check_kill(pair, end, fault)


@pytest.mark.full
@pytest.mark.parametrize(("end", "fault"), SLOW)
def test_kill_elsewhere(pair: Pair, end: str, fault: str) -> None:
    check_kill(pair, end, fault)
