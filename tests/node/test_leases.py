"""Leased programs on nodes: the loss of a node, of a worker, of the register, and moves."""

from __future__ import annotations

import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.node.nodes import Killed, World
from tests.node.programs import counting, lines
from tests.node.test_commands import Shell
from tests.node.test_moves import output, until
from tests.s3 import s3_server
from wasmsr.errors import WasmsrError
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.leases.lease_terms import LeaseTerms
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.ownership.failures import RegisterAway
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.register import Register
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.snapshot.store.folder import NAMES_LOCK
from wasmsr.snapshot.store.store import SnapshotStore

LEASE = 1.0
EVERY = 0.3
LINES = 100_000


class Leasing(World):
    """Two nodes with one register and one store."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder
        self.store: Path | str = folder / "store"
        self.events: list[tuple[str, str, dict[str, Any]]] = []

    def register(self) -> Register:
        return Register(SqliteBackend(self.folder / "register.db", busy=0.3), patience=0.5)

    def leasing(self, name: str) -> NodeSupervisor:
        """Return a node that leases programs, at the address NAME:1."""

        def note(event: str, **values: Any) -> None:
            self.events.append((name, event, values))

        address = f"{name}:1"
        return self.node(
            address, self.folder / name, register=self.register, store=str(self.store),
            advertised=address, note=note, adopt=5.0,
        )  # fmt: skip

    def submit(
        self, at: str, *failover: str, size: int = LINES, lease: float = LEASE, **terms: Any
    ) -> str:
        nodes = tuple(self.nodes[f"{one}:1"].node.hex() for one in failover)
        return self.nodes[f"{at}:1"].submit(
            [counting(size, 2)], {}, every=EVERY, lease=LeaseTerms(lease, nodes, **terms)
        )

    def record(self, program: str) -> OwnerRecord:
        register = self.register()
        try:
            found = register.read(bytes.fromhex(program))
        finally:
            register.close()
        assert found is not None
        return found

    def left(self) -> list[str]:
        """Return what the store keeps of programs: checkpoints, modules and notes."""
        return [one for one in os.listdir(self.folder / "store" / "names") if one != NAMES_LOCK]

    def standing(self, at: str, program: str) -> str:
        found = [one for one in self.nodes[f"{at}:1"].programs() if one.record.program == program]
        return str(found[0].shown()["standing"]) if found else ""


@pytest.fixture
def world(tmp_path: Path) -> Iterator[Leasing]:
    made = Leasing(tmp_path)
    yield made
    for node in [*made.nodes.values()]:
        node.stop(save=False, seconds=5)


def goes_on(world: Leasing, at: str, program: str, lines_more: int = 10) -> str:
    """Wait until a node runs the program and it writes more; return its output there."""
    node = world.nodes[f"{at}:1"]
    until(lambda: world.standing(at, program) == "running", 30)
    before = output(node, program)
    until(lambda: len(output(node, program)) > len(before) + 9 * lines_more, 30)
    found = output(node, program)
    first = int(found[:8])
    assert found == lines(first, first + len(found) // 9).decode(), "each line once"
    return found


def checkpointed(world: Leasing, program: str) -> None:
    """Wait until a checkpoint with output counts."""

    def counts() -> bool:
        last = world.record(program).checkpoint
        return last is not None and last.output > 0

    until(counts)


def test_a_lost_node(world: Leasing) -> None:
    """The other node goes on from the last checkpoint soon, and the first one hears of it."""
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b")
    checkpointed(world, program)
    world.lose("a:1")
    # The promise is lease + 2 s. `lease_campaign` measures it: here other tests have the cores too.
    until(lambda: world.standing("b", program) == "running", LEASE + 20)
    record = world.record(program)
    assert (record.owner, record.epoch) == (b.node, 2)
    goes_on(world, "b", program)
    a = world.leasing("a")
    until(lambda: world.standing("a", program) == "moved")
    went = a.find(program).record.went
    assert went is not None and (went.address, went.node) == ("b:1", b.node.hex())


def test_a_lost_worker_and_a_lost_supervisor(world: Leasing) -> None:
    """The node goes on in the next epoch; a new supervisor adopts the worker."""
    a = world.leasing("a")
    program = world.submit("a")
    checkpointed(world, program)
    os.kill(a.find(program).pid, signal.SIGKILL)
    until(lambda: a.find(program).record.life == 2)
    goes_on(world, "a", program)
    assert world.record(program).epoch == 2
    worker = a.find(program).pid
    world.lose("a:1")
    a = world.leasing("a")
    goes_on(world, "a", program)
    assert a.find(program).pid == worker and world.record(program).epoch == 2
    os.kill(worker, signal.SIGKILL)
    until(lambda: a.find(program).record.life == 3)
    time.sleep(LEASE)  # the new keeper renews, and not the one of the worker that was adopted
    goes_on(world, "a", program)
    assert world.record(program).epoch == 3
    a.find(program).kill()
    assert world.record(program).standing is Standing.ENDED
    assert not [one for one in SnapshotStore(str(world.store)).names() if program in one]


@pytest.mark.full
def test_a_program_that_ends(world: Leasing) -> None:
    a, _ = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b", size=300)
    until(lambda: a.find(program).standing is ProgramStanding.ENDED)
    assert a.find(program).record.code == 7 and output(a, program) == lines(0, 300).decode()
    assert world.record(program).standing is Standing.ENDED
    until(lambda: not world.left())
    time.sleep(LEASE * 1.5)
    assert world.standing("b", program) == ""


@pytest.mark.full
def test_a_node_that_stops_gives_its_programs_back(world: Leasing) -> None:
    """Another node goes on without a gap, and long before the lease ends."""
    a, _ = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b", lease=60.0)
    checkpointed(world, program)
    whole = world.nodes.pop("a:1")
    assert whole is a and a.stop(save=True, seconds=20) == []
    written = len(output(a, program))
    until(lambda: world.record(program).epoch == 2, 30)
    assert int(goes_on(world, "b", program, 1)[:8]) == written // 9


@pytest.mark.full
@pytest.mark.parametrize("policy", ["restart", "fail"])
def test_other_policies(world: Leasing, policy: str) -> None:
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b", policy=policy)
    checkpointed(world, program)
    world.lose("a:1")
    if policy == "fail":
        until(lambda: world.record(program).standing is Standing.ENDED)
        a = world.leasing("a")
        until(lambda: a.find(program).standing is ProgramStanding.LOST)
        assert world.standing("b", program) == ""
    else:
        assert goes_on(world, "b", program).startswith(lines(0, 1).decode())
        assert b.find(program).record.life == 2


@pytest.mark.full
def test_moves_are_decided_by_the_register(world: Leasing) -> None:
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b")
    until(lambda: output(a, program))
    a.moves.migrate(a.find(program), "b:1")
    record = world.record(program)
    assert (record.owner, record.epoch) == (b.node, 2)
    assert goes_on(world, "b", program)[:8] == "0" * 8, "the output came along"
    checkpointed(world, program)
    b.moves.migrate(b.find(program), "a:1")
    goes_on(world, "a", program)
    assert world.record(program).epoch == 3
    world.lose("a:1")
    time.sleep(LEASE)
    goes_on(world, "b", program)
    assert world.record(program).epoch == 4


@pytest.mark.full
@pytest.mark.parametrize("kills", ["finish", "finish done", "commit"])
def test_a_node_that_is_killed_while_it_moves_a_leased_program(world: Leasing, kills: str) -> None:
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b")
    checkpointed(world, program)
    world.kills = kills
    with pytest.raises(Killed):
        a.moves.migrate(a.find(program), "b:1")
    world.kills = ""
    world.lose("a:1")
    until(lambda: world.standing("b", program) == "running", LEASE + 20)
    goes_on(world, "b", program)
    assert world.record(program).owner == b.node
    world.leasing("a")
    until(lambda: world.standing("a", program) == "moved")
    goes_on(world, "b", program)


@pytest.mark.full
def test_a_register_that_is_away(world: Leasing) -> None:
    """The program is paused in time, and runs on in the same epoch when the register is back."""
    a = world.leasing("a")
    program = world.submit("a")
    checkpointed(world, program)
    with sqlite3.connect(world.folder / "register.db", isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        time.sleep(LEASE)
        before = output(a, program)
        time.sleep(LEASE)
        assert output(a, program) == before, "it stands"
        database.execute("ROLLBACK")
    goes_on(world, "a", program)
    assert world.record(program).epoch == 1


def test_what_cannot_have_a_lease(world: Leasing, tmp_path: Path) -> None:
    plain = world.node("plain:1", tmp_path / "plain")
    with pytest.raises(WasmsrError, match="leases no programs"):
        plain.submit([counting(10, 0)], {}, lease=LeaseTerms(LEASE))
    a = world.leasing("a")
    spec = {"mounts": [f"{tmp_path}::/data::host"]}
    with pytest.raises(WasmsrError, match="must not write to the host"):
        a.submit([counting(10, 0)], spec, lease=LeaseTerms(LEASE))
    program = world.submit("a")
    until(lambda: output(a, program))
    with pytest.raises(WasmsrError, match="no register and no store"):
        a.moves.migrate(a.find(program), "plain:1")
    goes_on(world, "a", program)
    with pytest.raises(WasmsrError, match="the register says who owns it"):
        a.adopt(program)


@pytest.mark.full
def test_pausing_a_leased_program(world: Leasing) -> None:
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b")
    until(lambda: output(a, program))
    a.find(program).pause()
    before = output(a, program)
    time.sleep(LEASE * 1.5)
    assert output(a, program) == before and world.record(program).epoch == 1
    assert a.find(program).inspect()["lease"]["owner"] == a.node.hex()
    a.find(program).resume()
    goes_on(world, "a", program)
    a.find(program).pause()
    world.lose("a:1")
    until(lambda: world.standing("b", program) == "paused", 30)
    b.find(program).resume()
    goes_on(world, "b", program)


@pytest.mark.full
def test_output_that_waits_for_its_checkpoint(world: Leasing) -> None:
    """With `commit` no reader is ever ahead of what counts, whoever is lost."""
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b", output="commit", size=1500)
    seen = ""
    while len(seen) < 900:
        read = output(a, program)
        last = world.record(program).checkpoint
        assert last is not None and len(read) <= last.output
        seen = read
        time.sleep(0.05)
    world.lose("a:1")
    until(lambda: world.standing("b", program) == "running")
    assert int(goes_on(world, "b", program)[:8]) * 9 >= len(seen), "nothing comes again"
    until(lambda: b.find(program).standing is ProgramStanding.ENDED)
    assert output(b, program).endswith(lines(1499, 1500).decode()), "the rest comes with the end"


@pytest.mark.full
def test_a_store_that_speaks_s3(world: Leasing, monkeypatch: pytest.MonkeyPatch) -> None:
    with s3_server() as address:
        import s3fs

        monkeypatch.setenv("AWS_ENDPOINT_URL", address)
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
        monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        s3fs.S3FileSystem(use_listings_cache=False).mkdir("leases")
        world.store = "s3://leases/deep"
        world.leasing("a"), world.leasing("b")
        try:
            program = world.submit("a", "b")
            checkpointed(world, program)
            world.lose("a:1")
            goes_on(world, "b", program)
            checkpointed(world, program)
            world.nodes["b:1"].find(program).kill()
            until(lambda: not SnapshotStore("s3://leases/deep").names())
        finally:  # they speak to the server
            for node in world.nodes.values():
                node.stop(save=False, seconds=5)
            world.nodes.clear()


@pytest.mark.parametrize(
    ("terms", "why"),
    [
        ({}, "'seconds'"),
        ({"seconds": "x"}, "could not convert"),
        ({"seconds": float("nan")}, "lasts 0.5 s to"),
        ({"seconds": 1e9}, "lasts 0.5 s to"),
        ({"seconds": 1, "failover": ["ab"]}, "32 hexadecimal digits"),
        ({"seconds": 1, "failover": [7]}, "32 hexadecimal digits"),
        ({"seconds": 1, "failover": 7}, "not iterable"),
        ({"seconds": 1, "failover": [f"{n:032x}" for n in range(65)]}, "at most 64 nodes"),
        ({"seconds": 1, "policy": "hope"}, "'hope'"),
        ({"seconds": 1, "output": "never"}, "`live`"),
        ({"seconds": 1, "unfenced": ["all"]}, "no effect 'all'"),
    ],
)
def test_terms_that_are_none(terms: dict[str, Any], why: str) -> None:
    with pytest.raises(SubmissionRefused, match=why):
        LeaseTerms.read(terms)


@pytest.mark.full
@pytest.mark.parametrize("damage", ["gone", "garbage", "another", "module"])
def test_notes_that_are_damaged(world: Leasing, damage: str) -> None:
    """Nothing is taken over by them, and the node goes on watching."""
    world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b")
    checkpointed(world, program)
    names = world.folder / "store" / "names"
    world.lose("a:1")
    if damage == "module":
        (names / f"{program}.module").write_bytes(b"\0asm\1\0\0\0")
    (note,) = names.glob(f"{program}.*.run")
    data = note.read_bytes()
    other = data.replace(program.encode(), b"ab" * 16)
    changed = {"garbage": b"{", "another": other, "module": data}.get(damage)
    note.unlink() if changed is None else note.write_bytes(changed)
    said = ("not-taken-over",) if damage == "module" else ("trouble",)
    until(lambda: any(event in said and at == "b" for at, event, _ in world.events))
    assert world.standing("b", program) in ("", "resumable")
    record = world.record(program)
    assert damage == "module" or record.epoch == 1


@pytest.mark.full
def test_the_commands(tmp_path: Path) -> None:
    """A lease as a person gives it to a node and sees it there; and what the metrics say."""
    shell = Shell(tmp_path)
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        metrics = f"127.0.0.1:{trial.getsockname()[1]}"
    shell.environ["WASMSR_METRICS"] = metrics
    try:
        node = [sys.executable, "-m", "wasmsr", "node", "--ownership-register", "r.db"]
        done = subprocess.run(node, env=shell.environ, capture_output=True, text=True, timeout=60)
        assert done.returncode == 2 and "ownership.register needs checkpoints.store" in done.stderr
        shell.node("--ownership-register", "register.db", "--checkpoints-store", "store")
        (tmp_path / "count.wasm").write_bytes(counting(LINES, 2))
        said = shell.run("submit", "--policy", "fail", "count.wasm", code=2)
        assert "is for programs with a lease" in said
        said = shell.run("submit", "--lease", "0.1", "count.wasm", code=2)
        assert "a lease lasts 0.5 s" in said
        words = ("--lease", "2", "--failover", "ab" * 16, "--policy", "restart", "--every", "0.3")
        program = shell.run("submit", *words, "--output", "commit", "count.wasm").strip()
        owner = shell.events("node")[0]["id"]
        found = shell.ps()[program]["lease"]
        assert (found["owner"], found["epoch"], found["seconds"]) == (owner, 1, 2.0)
        assert (found["policy"], found["output"], found["failover"]) == (
            "restart", "commit", ["ab" * 16],
        )  # fmt: skip
        assert found["state"] == "running" and found["checkpoint"]["epoch"] == 1
        assert "epoch 1" in shell.run("ps")
        with urllib.request.urlopen(f"http://{metrics}/metrics") as answer:
            text = answer.read().decode()
        assert (
            f'wasmsr_lease_epoch{{owner="{owner}",program="{program}",state="running"}} 1' in text
        )
        assert f'wasmsr_lease_checkpoint_age_seconds{{program="{program}"}}' in text
        shell.run("kill", program)
    finally:
        shell.end()


@pytest.mark.full
@pytest.mark.parametrize(
    ("opened", "says"), [(True, "does not take its first record"), (False, "does not work")]
)
def test_a_register_that_is_away_at_the_beginning(world: Leasing, opened: bool, says: str) -> None:
    """The submission is refused, and nothing runs later; the node had opened it, or had not."""
    a = world.leasing("a")
    world.register().close()
    assert a.moves.decisions is not None
    if opened:
        assert a.moves.decisions.register.programs() == []
    with sqlite3.connect(world.folder / "register.db", isolation_level=None) as database:
        database.execute("BEGIN EXCLUSIVE")
        # A thread of the node may have opened it meanwhile: then the first record is refused.
        with pytest.raises(RegisterAway, match=says if opened else f"{says}|first record"):
            world.submit("a")
        database.execute("ROLLBACK")
    time.sleep(LEASE)
    assert not a.programs() and not world.left()


@pytest.mark.full
def test_an_owner_that_is_cut_off(world: Leasing, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing counts that it does after its lease; it hears of the new owner, and gives up."""
    a, b = world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b")
    checkpointed(world, program)
    assert a.moves.decisions is not None
    backend = a.moves.decisions.register.backend

    def away(*values: object) -> bool:
        raise RegisterAway("cut off")

    with monkeypatch.context() as cut:
        cut.setattr(backend, "compare_and_swap", away)
        cut.setattr(backend, "get", away)
        until(lambda: world.record(program).owner == b.node)
        written = len(output(a, program))
        with pytest.raises(WasmsrError):
            a.find(program).checkpoint()
        with pytest.raises(WasmsrError):
            a.find(program).kill()
        goes_on(world, "b", program)
        last = world.record(program).checkpoint
        assert last is not None and (world.record(program).epoch, last.epoch) != (1, 1)
        assert len(output(a, program)) == written, "it stands"
    until(lambda: world.standing("a", program) == "moved")
    checkpointed(world, program)
    until(lambda: world.record(program).checkpoint.epoch == 2)  # type: ignore[union-attr]
    goes_on(world, "b", program)
    assert all("@2." in one for one in SnapshotStore(str(world.store)).names())


@pytest.mark.full
def test_a_kill_that_the_register_does_not_hear(
    world: Leasing, monkeypatch: pytest.MonkeyPatch
) -> None:
    a = world.leasing("a")
    program = world.submit("a")
    checkpointed(world, program)
    assert a.moves.decisions is not None
    backend = a.moves.decisions.register.backend

    def away(*values: object) -> bool:
        raise RegisterAway("cut off")

    with monkeypatch.context() as cut:
        cut.setattr(backend, "compare_and_swap", away)
        with pytest.raises(WasmsrError, match="has not taken the end"):
            a.find(program).kill()
        assert a.find(program).standing is ProgramStanding.RESUMABLE
    goes_on(world, "a", program)
    a.find(program).kill()
    assert world.record(program).standing is Standing.ENDED
    assert a.find(program).standing is ProgramStanding.KILLED


@pytest.mark.full
def test_a_program_that_has_ended_elsewhere_is_not_lost(world: Leasing) -> None:
    world.leasing("a"), world.leasing("b")
    program = world.submit("a", "b", size=600)
    checkpointed(world, program)
    world.lose("a:1")
    until(lambda: world.record(program).standing is Standing.ENDED)
    a = world.leasing("a")
    until(lambda: world.standing("a", program) == "moved")
    assert "where it has ended" in a.find(program).record.reason
