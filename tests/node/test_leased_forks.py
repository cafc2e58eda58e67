"""Leased programs that begin in a snapshot, and what people see of a lease."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.programs import COUNT, counting, lines, warmed
from tests.node.test_commands import Shell
from tests.node.test_leases import EVERY, LEASE, Leasing, checkpointed, goes_on
from tests.node.test_moves import output, until
from wasmsr.cli.moving.lease_words import lease_cell, lease_sentence
from wasmsr.executor.forking import fork_number
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.leases.lease_terms import LeaseTerms
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.ownership.failures import RegisterAway
from wasmsr.ownership.owner_record import Standing


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Leasing]:
    made = Leasing(tmp_path)
    yield made
    for node in [*made.nodes.values()]:
        node.stop(save=False, seconds=5)


def forked(world: Leasing, binary: bytes, snapshot: Path, *failover: str, **terms: Any) -> str:
    """Submit a leased fork of a snapshot to node a."""
    node = world.nodes["a:1"]
    nodes = tuple(world.nodes[f"{one}:1"].node.hex() for one in failover)
    kept = node.folder.take_snapshot([snapshot.read_bytes()])
    return node.submit(
        [binary], {}, snapshot=kept, every=EVERY, lease=LeaseTerms(LEASE, nodes, **terms)
    )


def slow(tmp_path: Path) -> tuple[bytes, Path]:
    """Return a program that counts for long, and a snapshot in which it has begun."""
    return warmed(tmp_path, COUNT.replace("TOTAL", "100000").replace("WAIT", "2000000"), 3000)


def test_a_leased_fork_survives_its_node(world: Leasing, tmp_path: Path) -> None:
    """It begins in the snapshot, and goes on elsewhere from its own checkpoint."""
    binary, snapshot = slow(tmp_path)
    world.leasing("a"), world.leasing("b")
    program = forked(world, binary, snapshot, "b")
    checkpointed(world, program)
    text = output(world.nodes["a:1"], program)
    first = int(text[:8])
    assert first > 3 and text == lines(first, first + len(text) // 9).decode()
    world.lose("a:1")
    until(lambda: world.standing("b", program) == "running")
    assert world.record(program).epoch == 2
    after = goes_on(world, "b", program)
    assert first < int(after[:8]) <= first + len(text) // 9 + 2000, "not from the snapshot again"


@pytest.mark.full
def test_a_leased_fork_whose_worker_is_lost(world: Leasing, tmp_path: Path) -> None:
    """Each fork goes on from its own checkpoint: the number and the random bytes stay its own."""
    binary, snapshot = warmed(tmp_path)
    a = world.leasing("a")
    programs = [forked(world, binary, snapshot) for _ in range(2)]

    def written(program: str) -> bytes:
        ring = a.find(program).folder.output / "stdout"
        return b"".join(path.read_bytes() for path in sorted(ring.parent.glob("stdout*")))

    for program in programs:
        until(lambda program=program: len(written(program)) >= 28)  # type: ignore[misc]
        checkpointed(world, program)
    before = [written(program) for program in programs]
    assert before[0] != before[1]
    for program, data in zip(programs, before, strict=True):
        number = fork_number(bytes.fromhex(program)).to_bytes(8, "little")
        assert number in data
        a.find(program)._executor.kill()  # type: ignore[union-attr]
        until(lambda program=program: a.find(program).record.life == 2)  # type: ignore[misc]
        until(lambda program=program: world.standing("a", program) == "running")  # type: ignore[misc]
        assert written(program)[-28:] == data[-28:], "it writes nothing again"


def test_a_leased_fork_is_not_restarted(world: Leasing, tmp_path: Path) -> None:
    binary, snapshot = slow(tmp_path)
    a = world.leasing("a")
    with pytest.raises(SubmissionRefused, match="restored elsewhere, and not restarted"):
        forked(world, binary, snapshot, policy="restart")
    assert not a.programs()


@pytest.mark.full
def test_a_leased_fork_ends(world: Leasing, tmp_path: Path) -> None:
    binary, snapshot = warmed(tmp_path, COUNT.replace("TOTAL", "300").replace("WAIT", "0"), 3000)
    a = world.leasing("a")
    program = forked(world, binary, snapshot)
    until(lambda: a.find(program).standing is ProgramStanding.ENDED)
    found = output(a, program)
    assert a.find(program).record.code == 7 and found == lines(int(found[:8]), 300).decode()
    assert world.record(program).standing is Standing.ENDED


# ---- what people see -----------------------------------------------------------------------------


def test_a_lease_in_words(world: Leasing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Owner, epoch, end and register, also while the register is away."""
    a = world.leasing("a")
    program = world.submit("a")
    checkpointed(world, program)
    shown = a.find(program).shown()["lease"]
    assert abs(shown["deadline"] - time.time()) < 60 and shown["register"] == "answers"
    said = lease_sentence(shown)
    for part in ("epoch 1", f"owner {a.node.hex()[:8]}", "state running", "register answers"):
        assert part in said
    assert lease_cell(shown) == "epoch 1" and lease_cell(None) == "-"
    assert a.moves.decisions is not None

    def away(*values: object) -> bool:
        raise RegisterAway("cut off")

    with monkeypatch.context() as cut:
        cut.setattr(a.moves.decisions.register.backend, "compare_and_swap", away)
        cut.setattr(a.moves.decisions.register.backend, "get", away)
        until(lambda: a.find(program).shown()["lease"]["register"] == "away")
        shown = a.find(program).shown()["lease"]
        assert "the register is away" in lease_sentence(shown)
        assert lease_cell(shown) == "epoch 1, register away"
    until(lambda: a.find(program).shown()["lease"]["register"] == "answers")


def test_a_lease_of_which_little_is_known() -> None:
    assert lease_sentence({"epoch": 3, "owner": ""}) == "lease: epoch 3, owner not known here"
    assert "ends -" in lease_sentence({"epoch": 3, "owner": "ab", "deadline": 1e300})


@pytest.mark.full
def test_logs_say_who_owns_the_program(tmp_path: Path) -> None:
    """Also after a takeover, and for a program that began in a snapshot."""
    shell = Shell(tmp_path)
    words = ("--ownership-register", "register.db", "--checkpoints-store", "store")
    _, snapshot = slow(tmp_path)
    (tmp_path / "count.wasm").write_bytes(counting(100_000, 2))
    try:
        shell.node(*words)
        forked = shell.run(
            "submit", "--lease", "1", "--from-snapshot", str(snapshot), str(tmp_path / "warm.wasm")
        ).strip()
        assert shell.ps()[forked]["lease"]["epoch"] == 1
        program = shell.run("submit", "--lease", "1", "--every", "0.3", "count.wasm").strip()
        plain = shell.run("submit", "count.wasm").strip()
        owner = shell.events("node")[0]["id"]
        follower = subprocess.Popen(
            [sys.executable, "-m", "wasmsr", "logs", "-f", program, "--json"], env=shell.environ,
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        assert follower.stdout is not None
        first = json.loads(follower.stdout.readline())["lease"]
        assert (first["owner"], first["epoch"], first["register"]) == (owner, 1, "answers")
        until(lambda: shell.ps()[program]["saved"] is not None)
        worker = shell.ps()[program]["worker"]
        subprocess.run(["kill", "-9", str(worker)], check=True)
        for line in follower.stdout:
            found = json.loads(line)
            if "lease" in found:
                break
        assert found["lease"]["epoch"] == 2
        done = subprocess.run(
            [sys.executable, "-m", "wasmsr", "logs", program], env=shell.environ,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert done.stderr.count("lease: epoch 2") == 1 and owner[:8] in done.stderr
        done = subprocess.run(
            [sys.executable, "-m", "wasmsr", "logs", plain], env=shell.environ,
            capture_output=True, text=True, timeout=60,
        )  # fmt: skip
        assert "lease" not in done.stderr
        for one in (program, forked, plain):
            shell.run("kill", one)
        assert follower.wait(60) == 0
        follower.stdout.close()
    finally:
        shell.end()
