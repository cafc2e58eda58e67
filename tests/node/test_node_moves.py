"""`wasmsr migrate` and the others, between processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node.programs import counting, lines
from tests.node.test_commands import Shell, until

SLOW = 4
"""Milliseconds after each line."""


@pytest.fixture
def shells(tmp_path: Path) -> Iterator[Callable[[str], Shell]]:
    made: list[Shell] = []

    def make(name: str) -> Shell:
        (tmp_path / name).mkdir()
        made.append(Shell(tmp_path / name))
        made[-1].environ["XDG_STATE_HOME"] = str(tmp_path / "state")  # one user: one key
        made[-1].environ["WASMSR_STATE_DIR"] = str(tmp_path / name / "state")
        return made[-1]

    yield make
    for shell in made:
        shell.end()


def test_a_program_moves_between_processes(shells: Callable[[str], Shell], tmp_path: Path) -> None:
    a, b = shells("a"), shells("b")
    (a.folder / "count.wasm").write_bytes(counting(1500, SLOW))
    a.node()
    b.node()
    program = a.run("submit", "count.wasm").strip()
    until(lambda: a.run("logs", program))
    said = a.run("migrate", program[:8], b.address)
    assert f"moved: went to {b.address}" in said and "downtime" in said
    assert b.ps()[program]["standing"] == "running"
    gone = a.ps()[program]
    assert gone["standing"] == "moved" and gone["went"]["address"] == b.address
    assert gone["went"]["epoch"] == 2 and gone["went"]["confirmed"]
    events = [
        json.loads(line) for line in b.run("migrate", "--json", program, a.address).splitlines()
    ]
    moved = next(one for one in events if one.get("event") == "moved")
    assert moved["epoch"] == 3 and moved["rounds"] >= 1 and moved["downtime_wire"] >= 0
    assert events[-1]["standing"] == "moved"
    until(lambda: a.ps()[program]["standing"] == "ended")
    assert a.run("logs", program).encode() == lines(0, 1500)
    assert "it ended" in b.run("ps")


def test_logs_go_along(shells: Callable[[str], Shell], tmp_path: Path) -> None:
    """A reader that follows the output hears all of it, once, wherever the program is."""
    a, b = shells("a"), shells("b")
    (a.folder / "count.wasm").write_bytes(counting(900, SLOW))
    a.node()
    b.node()
    program = a.run("submit", "count.wasm", "--name", "counter").strip()
    reader = subprocess.Popen(
        [sys.executable, "-m", "wasmsr", "logs", "-f", "counter"], env=a.environ,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    until(lambda: a.run("logs", program))
    a.run("migrate", program, b.address)
    b.run("migrate", program, a.address)
    a.run("migrate", program, b.address)
    out, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert out == lines(0, 900)
    said = errors.decode()
    assert said.count(f"the program went to {b.address}") == 2
    assert said.count(f"the program went to {a.address}") == 1
