"""`wasmsr migrate` and the others, between processes."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.node import move_campaign
from tests.node.programs import counting, lines
from tests.node.test_commands import Shell, until
from wasmsr.migrate.protocol import PeerRefused
from wasmsr.node.security.authority import Authority
from wasmsr.rpc.server import Sender

LINES = 100_000

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


@pytest.mark.full
def test_a_program_moves_between_processes(shells: Callable[[str], Shell], tmp_path: Path) -> None:
    a, b = shells("a"), shells("b")
    (a.folder / "count.wasm").write_bytes(counting(LINES, SLOW))
    a.node()
    b.node()
    program = a.run("submit", "count.wasm").strip()
    until(lambda: a.run("logs", program))
    said = a.run("migrate", program[:8], b.address)
    assert f"moved: went to {b.address}" in said and "downtime" in said
    assert b.ps()[program]["standing"] == "running"
    before = a.run("logs", program)
    assert lines(0, LINES).startswith(before.encode()), "what it wrote here"
    gone = a.ps()[program]
    assert gone["standing"] == "moved" and gone["went"]["address"] == b.address
    assert gone["went"]["epoch"] == 2 and gone["went"]["confirmed"]
    events = [
        json.loads(line) for line in b.run("migrate", "--json", program, a.address).splitlines()
    ]
    moved = next(one for one in events if one.get("event") == "moved")
    assert moved["epoch"] == 3 and moved["rounds"] >= 1 and moved["downtime_wire"] >= 0
    assert events[-1]["standing"] == "moved"
    until(lambda: len(a.run("logs", program)) > len(before) + 900)
    assert lines(0, LINES).startswith(a.run("logs", program).encode()), "each line once"
    a.run("kill", program)
    until(lambda: "it ended" in b.run("ps"))


def test_logs_go_along(shells: Callable[[str], Shell], tmp_path: Path) -> None:
    """A reader that follows the output hears all of it, once, wherever the program is."""
    a, b = shells("a"), shells("b")
    (a.folder / "count.wasm").write_bytes(counting(LINES, SLOW))
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
    before = b.run("logs", program)
    until(lambda: len(b.run("logs", program)) > len(before))
    b.run("kill", program)
    out, errors = reader.communicate(timeout=60)
    assert reader.returncode == 0, errors
    assert len(out) > len(before) and out == lines(0, len(out) // 9)
    assert out == b.run("logs", program).encode()
    said = errors.decode()
    # A slow reader may ask the first node only after the program has come back and left again.
    assert f"the program went to {b.address}" in said


@pytest.mark.full
def test_nodes_with_certificates_drain_to_each_other(
    shells: Callable[[str], Shell], tmp_path: Path
) -> None:
    """A node takes programs of the nodes that its policy names, by their certificates."""
    authority = Authority.create(tmp_path / "ca")
    made = {name: shells(name) for name in ("a", "b", "c")}
    ids, flags = {}, {}
    for name, shell in made.items():
        node, certificate, key = authority.issue("node", ["127.0.0.1"], shell.folder)
        ids[name] = str(node).removeprefix("node ")
        flags[name] = (
            "--tls-certificate", str(certificate), "--tls-key", str(key),
            "--tls-authority", str(authority.folder / "authority.crt"),
        )  # fmt: skip
    a, b, c = made.values()
    a.node(*flags["a"])
    b.node(*flags["b"], "--policy-peers", ids["a"])
    c.node(*flags["c"])
    (a.folder / "count.wasm").write_bytes(counting(LINES, SLOW))
    here = [a.run("submit", "count.wasm").strip() for _ in range(3)]
    said = a.run("drain", "--at-once", "2", b.address)
    assert said.startswith("3 moved, 0 left")
    there = b.ps()
    assert sorted(there) == sorted(here) and {one["epoch"] for one in there.values()} == {2}
    assert {one["went"]["node"] for one in a.ps().values()} == {ids["b"]}
    # The third node has a certificate of the same authority, and is not one of the peers.
    (c.folder / "count.wasm").write_bytes(counting(LINES, SLOW))
    program = c.run("submit", "count.wasm").strip()
    assert "takes nothing from node" in c.run("migrate", program, b.address, code=124)
    assert c.ps()[program]["standing"] == "running"
    for one in here:
        assert lines(0, LINES).startswith(b.run("logs", one).encode()), "each line once"


def test_a_node_speaks_only_for_itself() -> None:
    """A certificate names a node: a call that names another one is refused."""
    sender = Sender(b"A" * 16)
    sender.check(b"A" * 16)
    with pytest.raises(PeerRefused, match="its certificate names node 4141"):
        sender.check(b"B" * 16)
    Sender().check(b"B" * 16)  # without certificates each is who it says


@pytest.mark.full
def test_a_run_of_the_campaign(tmp_path: Path) -> None:
    """A short one; `python -m tests.node.move_campaign` has many."""
    found = move_campaign.one_run(10, programs=2, faults=2)
    assert not found["wrong"], found
