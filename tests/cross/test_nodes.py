"""CPython moves, while it runs, between nodes on three CPUs: x86-64, aarch64, s390x and back.

The nodes of the guests run under qemu-user, which has neither userfaultfd nor seccomp: rounds find
their pages by hashes there, and workers are confined less. Needs `make cross`.
"""

from __future__ import annotations

import itertools
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from tests.real.fetch import Unavailable, python
from wasmsr import Node
from wasmsr.rpc import keys

from .guests import ARM64, GUESTS, ROOT, S390X, Guest

pytestmark = [pytest.mark.full, pytest.mark.timeout(1800)]

ROUTE: tuple[Guest | None, ...] = (None, ARM64, S390X, None)
STEPS = 2500
SECONDS = 600.0
"""How long a node under qemu-user may take to do something."""

SCRIPT = f"""
import hashlib, random
random.seed(7)
numbers = [random.random() for _ in range(20000)]
words = {{str(n): n for n in range(5000)}}
seen = hashlib.sha256()
for step in range({STEPS}):
    numbers[step * 37 % 20000] *= 1.0000001
    words[str(step)] = sum(numbers)
    seen.update(repr(words[str(step)]).encode())
    print(f"{{step:04d}}", seen.hexdigest()[:16], flush=True)
again = hashlib.sha256()
for step in range({STEPS}):
    again.update(repr(words[str(step)]).encode())
print(again.hexdigest() == seen.hexdigest(), sum(numbers), flush=True)
"""
"""Computes with floats, and checks at the end what it had computed on the way."""


class CpuNode:
    """A node here or in a guest."""

    def __init__(self, guest: Guest | None, folder: Path, state: Path) -> None:
        folder.mkdir()
        with socket.socket() as trial:
            trial.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{trial.getsockname()[1]}"
        python = [sys.executable] if guest is None else [str(guest.command)]
        words = ["-m", "wasmsr", "node", "--listen", self.address, "--state-dir", str(folder)]
        self._log = folder / "log"
        with self._log.open("wb") as log:
            self.process = subprocess.Popen(
                [*python, *words, "--on-stop", "kill"], stderr=log, cwd=ROOT,
                env={**os.environ, "XDG_STATE_HOME": str(state)}, start_new_session=True,
            )  # fmt: skip
        # The key is made by the first end of this user, whichever that is.
        until(lambda: b" node id=" in self._log.read_bytes() or self.process.poll() is not None)
        assert self.process.poll() is None, self._log.read_text()
        token = keys.own(folder, state / "wasmsr")
        self.node = Node(self.address, token=token, seconds=SECONDS)

    def text(self, program: str) -> str:
        """Return what a program has printed, from the first byte."""
        pieces = self.node.logs(program, ["stdout"])
        return "".join(piece.data.decode() for piece in pieces)

    def close(self) -> None:
        """End the node and its workers."""
        self.node.close()
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


def until(holds: Callable[[], object], seconds: float = SECONDS) -> None:
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, "it takes too long"
        time.sleep(0.2)


@pytest.fixture
def nodes(tmp_path: Path) -> Iterator[Sequence[CpuNode]]:
    for guest in GUESTS:
        if (absence := guest.absence()) is not None:
            pytest.skip(absence)
    made: list[CpuNode] = []
    try:
        for name, where in (("here", None), ("arm64", ARM64), ("s390x", S390X)):
            made.append(CpuNode(where, tmp_path / name, tmp_path / "state"))
        yield made
    finally:
        for one in made:
            one.close()


def test_cpython_moves_between_nodes_of_three_cpus(
    nodes: Sequence[CpuNode], tmp_path: Path
) -> None:
    try:
        module = python()
    except Unavailable as error:
        pytest.skip(str(error))
    by_guest = dict(zip((None, ARM64, S390X), nodes, strict=True))
    unmoved = subprocess.run(
        [sys.executable, "-m", "wasmsr", "run", "--deterministic", str(module), "--", "-c", SCRIPT],
        capture_output=True, text=True, check=True, cwd=tmp_path,
    ).stdout  # fmt: skip
    assert len(unmoved.splitlines()) == STEPS + 1 and unmoved.splitlines()[-1].startswith("True")
    spec = {"args": ["-c", SCRIPT], "deterministic": True}
    program = by_guest[None].node.submit(module, spec).program
    until(lambda: by_guest[None].text(program))
    for source, target in itertools.pairwise(ROUTE):
        there = by_guest[target]
        by_guest[source].node.migrate(program, there.address)
        before = there.text(program)
        until(lambda: there.text(program) != before)  # noqa: B023
    found = by_guest[None].node.wait(program, SECONDS)
    assert (found.standing, found.code) == ("ended", 0), found.reason
    assert by_guest[None].text(program) == unmoved
