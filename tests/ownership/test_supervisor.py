"""The supervisor: real workers, checkpoints and output by epoch, adoption, ends."""

from __future__ import annotations

import json
import os
import secrets
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ownership.campaign import COUNT
from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import living
from wasmsr.interp.modules.module import assemble
from wasmsr.ownership.epoch_log import LogFollower, complete, parts
from wasmsr.ownership.failures import OwnershipError, SwapRefused
from wasmsr.ownership.owner_record import FailoverPolicy, Standing
from wasmsr.ownership.register import Register
from wasmsr.ownership.sqlite_backend import SqliteBackend
from wasmsr.ownership.supervision import node_state
from wasmsr.ownership.supervision.leased_run import LeasedRun, read_result
from wasmsr.ownership.supervision.node_state import NodeState
from wasmsr.ownership.supervision.supervisor import Supervisor
from wasmsr.ownership.transitions import OwnerState

SECONDS = 2.0
PROGRAM = b"program of tests"

THREE = COUNT.replace("(br $line)", "(br_if $line (i32.lt_u (local.get $n) (i32.const 40)))")
"""The same program, which ends after 40 lines."""


class Place:
    """A register and folders, and supervisors that are closed at the end."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self.register = Register(SqliteBackend(folder / "register.db"))
        self.made: list[Supervisor] = []
        self.said: list[str] = []
        self.shown = b""
        self.starts: list[int] = []

    def wasm(self, text: str) -> str:
        path = self.folder / "program.wasm"
        path.write_bytes(assemble(text.encode()))
        return str(path)

    def supervisor(self, node: bytes, text: str = COUNT, **values: Any) -> Supervisor:
        workers = self.folder / node.hex()
        workers.mkdir(exist_ok=True)

        def shown(data: bytes | memoryview) -> None:
            self.shown += bytes(data)

        def begun(stream: str, start: int) -> None:
            if stream == "stdout":
                self.starts.append(start)

        run = LeasedRun(
            {"program": self.wasm(text)}, self.store, workers,
            **{"every": 0.3, "shown": {"stdout": shown}, "begun": begun, "wait": 5.0, **values},
        )  # fmt: skip
        made = Supervisor(node, PROGRAM, self.register, run, seconds=SECONDS, say=self.said.append)
        self.made.append(made)
        return made

    def until(self, one: Supervisor, condition: Callable[[], bool], seconds: float = 20) -> None:
        end = time.monotonic() + seconds

        def enough() -> bool:
            assert time.monotonic() < end, ("it did not happen", self.said)
            return condition()

        assert one.run(enough) is None

    def output(self) -> bytes:
        follower, data = LogFollower(self.store, "stdout"), b""
        while (piece := follower.read()) is not None:
            data += piece.data
        return data

    def check(self, data: bytes | None = None) -> int:
        lines = (self.output() if data is None else data).split(b"\n")[:-1]
        total = 0
        for n, line in enumerate(lines):
            total = (total * 31 + n) & 0xFFFFFFFF
            assert line == b"%09d %09d" % (n, total % 1_000_000_000)
        return len(lines)

    def checkpointed(self, least: int = 1, epoch: int = 1) -> Callable[[], bool]:
        def found() -> bool:
            record = self.register.read(PROGRAM)
            last = record.checkpoint if record is not None else None
            return last is not None and last.epoch == epoch and last.output >= least

        return found


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    made = Place(tmp_path)
    yield made
    for one in made.made:
        one.close()
    made.register.close()
    for workers in tmp_path.iterdir():
        for _, process in living(workers) if workers.is_dir() else ():
            os.kill(process, signal.SIGKILL)


A, B = b"a" * 16, b"b" * 16


def test_a_program_ends_and_its_result_counts(place: Place) -> None:
    one = place.supervisor(A, THREE)
    one.begin(failover=(B,))
    status = one.run()
    assert status is not None and (status.ending, status.code) == ("finished", 0)
    record = place.register.read(PROGRAM)
    assert record is not None and record.standing is Standing.ENDED and record.epoch == 1
    assert place.check() == 40 and place.shown == place.output()
    assert read_result(place.store, record) == {
        "epoch": 1, "ending": "finished", "code": 0, "sentence": "", "stdout": 800, "stderr": 0,
    }  # fmt: skip
    assert not living(place.folder / A.hex())
    # Nobody runs it again.
    two = place.supervisor(B, THREE)
    two.take_over()
    with pytest.raises(SwapRefused, match="it has ended"):
        two.run()


def test_a_killed_worker_is_replaced_in_the_next_epoch(place: Place) -> None:
    one = place.supervisor(A)
    one.begin()
    place.until(one, place.checkpointed())
    ((_, worker),) = living(place.folder / A.hex())
    os.kill(worker, signal.SIGKILL)
    place.until(one, place.checkpointed(epoch=2))
    assert place.starts[0] == 0 < place.starts[1]
    assert any("worker is lost" in text for text in place.said)
    place.check()
    # The checkpoints of the epoch before are gone, its output stays.
    assert not (place.store / "000000000001" / "checkpoints").exists()
    assert [part.epoch for part in parts(place.store, "stdout")] == [1, 2]


def test_a_program_is_given_back_and_taken_over_at_once(place: Place) -> None:
    one = place.supervisor(A)
    one.begin(failover=(B,))
    place.until(one, place.checkpointed())
    assert one.give_back()
    record = place.register.read(PROGRAM)
    assert record is not None and record.standing is Standing.RELEASED
    assert record.checkpoint is not None and record.checkpoint.output == len(place.output())
    one.close()
    began = time.monotonic()
    two = place.supervisor(B)
    two.take_over()
    place.until(two, place.checkpointed(epoch=2))
    assert time.monotonic() - began < 10
    # After a planned end no byte comes twice.
    assert place.check() and place.check(place.shown)


def test_a_supervisor_that_dies_leaves_its_worker_to_the_next_one(place: Place) -> None:
    one = place.supervisor(A)
    one.begin()
    place.until(one, place.checkpointed())
    ((_, worker),) = living(place.folder / A.hex())
    # The supervisor ends without a word: only its end of the socket closes.
    one._closed.set()
    one.keeper.close()
    one.guest._executor._end.shutdown(2)  # type: ignore[union-attr]
    two = place.supervisor(A)
    two.take_over()
    assert two.guest._executor is not None and two.guest._executor.pid == worker
    size = len(place.output())
    place.until(two, lambda: len(place.output()) > size + 100)
    assert [part.epoch for part in parts(place.store, "stdout")] == [1], "the epoch goes on"
    place.until(two, place.checkpointed(size))
    place.check()


def test_a_worker_of_an_older_epoch_is_killed(place: Place) -> None:
    one = place.supervisor(A)
    one.begin(failover=(B,))
    place.until(one, place.checkpointed())
    one._closed.set()
    one.keeper.close()
    one.guest._executor._end.shutdown(2)  # type: ignore[union-attr]
    record = place.register.read(PROGRAM)
    assert record is not None
    place.register.swap(
        record, record.next(epoch=2, owner=B, attempt=secrets.token_bytes(16), failover=(A,))
    )
    ((_, worker),) = living(place.folder / A.hex())
    two = place.supervisor(A)
    two.take_over()
    assert worker not in [process for _, process in living(place.folder / A.hex())]
    assert two.keeper.program.state is OwnerState.NONE


def test_output_is_held_back_until_a_checkpoint_counts(place: Place) -> None:
    one = place.supervisor(A, commit=True, every=60)
    one.begin()
    held = place.store / "000000000001" / "stdout-0000000000000000.held"
    place.until(one, place.checkpointed(0))  # the first one is written at once
    record = place.register.read(PROGRAM)
    assert record is not None and record.checkpoint is not None
    counts = record.checkpoint.output
    place.until(one, lambda: held.stat().st_size > counts + 200)
    assert len(place.shown) == counts == len(place.output())
    one.save_soon()
    place.until(one, place.checkpointed(counts + 200))
    place.until(one, lambda: len(place.shown) >= counts + 200)
    # The worker is lost: nobody has seen what comes again.
    ((_, worker),) = living(place.folder / A.hex())
    os.kill(worker, signal.SIGKILL)
    place.until(one, lambda: one.epoch == 2 and len(place.starts) == 2)
    assert place.starts[1] == len(place.shown)
    held = place.store / "000000000002" / f"stdout-{place.starts[1]:016d}.held"
    place.until(one, lambda: held.stat().st_size > 100)
    one.save_soon()
    place.until(one, lambda: len(place.shown) > place.starts[1])
    assert place.check(place.shown) and place.shown == place.output()


def test_held_output_of_a_program_that_ends_is_let_out(place: Place) -> None:
    one = place.supervisor(A, THREE, commit=True, every=60)
    one.begin()
    assert one.run() is not None
    assert place.check() == 40 == place.check(place.shown)


def test_a_successor_completes_what_counts(tmp_path: Path) -> None:
    """The owner was lost after the record named the checkpoint, before it let the output out."""
    from wasmsr.ownership.epoch_log import EpochLog

    log = EpochLog(tmp_path, "stdout", 1, 0, commit=True)
    log.write(b"one two three")
    log.committed(4)
    complete(tmp_path, "stdout", 1, 8)
    log.committed(8)  # the old owner does it too, late: the same bytes at the same place
    log.close()
    assert parts(tmp_path, "stdout")[0].path.read_bytes() == b"one two "
    complete(tmp_path, "stdout", 1, None)
    assert parts(tmp_path, "stdout")[0].path.read_bytes() == b"one two three"


def test_the_policy_restart_begins_again(place: Place) -> None:
    one = place.supervisor(A)
    one.begin(FailoverPolicy.RESTART)
    place.until(one, place.checkpointed(200))
    ((_, worker),) = living(place.folder / A.hex())
    os.kill(worker, signal.SIGKILL)
    place.until(one, place.checkpointed(epoch=2))
    assert place.starts == [0, 0]
    place.check()


def test_the_policy_fail_ends_the_record(place: Place) -> None:
    one = place.supervisor(A)
    one.begin(FailoverPolicy.FAIL)
    place.until(one, place.checkpointed())
    ((_, worker),) = living(place.folder / A.hex())
    os.kill(worker, signal.SIGKILL)
    with pytest.raises(SwapRefused, match="it has ended"):
        one.run()


def test_a_checkpoint_that_is_not_there_is_an_error(place: Place) -> None:
    one = place.supervisor(A)
    one.begin()
    place.until(one, place.checkpointed())
    assert one.give_back()
    for path in place.store.rglob("checkpoint-*.bin"):
        path.unlink()
    two = place.supervisor(A)
    two.take_over()
    with pytest.raises(WasmsrError, match="no checkpoint with the root digest"):
        two.run()
    record = place.register.read(PROGRAM)
    assert record is not None and record.standing is Standing.RELEASED, "others may try"


def test_a_program_that_ends_without_a_register_waits_for_it(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = place.supervisor(A, THREE)
    one.begin()
    swap, away = place.register.swap, threading.Event()

    def broken(old: Any, new: Any) -> None:
        if away.is_set() and new.standing is Standing.ENDED:
            away.clear()
            raise OwnershipError("away", program=new.program)
        swap(old, new)

    away.set()
    monkeypatch.setattr(place.register, "swap", broken)
    assert one.run() is not None
    assert any("the register does not work" in text for text in place.said)
    record = place.register.read(PROGRAM)
    assert record is not None and record.standing is Standing.ENDED


# ---- the node's folder ---------------------------------------------------------------------------


def test_a_node_keeps_its_id_and_a_clone_gets_another(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = NodeState(tmp_path)
    assert NodeState(tmp_path).node == one.node and len(one.node) == 16
    other = tmp_path / "machine-id"
    other.write_text("another host\n")
    monkeypatch.setattr(node_state, "MACHINE", other)
    assert NodeState(tmp_path).node != one.node
    monkeypatch.undo()
    (next(tmp_path.glob("*.node"))).write_text("no id")
    with pytest.raises(OwnershipError, match="has no node id"):
        for path in tmp_path.glob("*.node"):
            path.write_text("no id")
        NodeState(tmp_path)


def test_a_program_has_one_supervisor_of_a_node(tmp_path: Path) -> None:
    state = NodeState(tmp_path)
    with state.locked(PROGRAM):
        again = state.locked(PROGRAM)
        with pytest.raises(OwnershipError, match=f"held by process {os.getpid()}"):
            again.__enter__()
        with state.locked(b"another" + bytes(9)):
            pass
    with state.locked(PROGRAM):
        pass


def test_a_folder_that_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OwnershipError, match="cannot keep"):
        NodeState(tmp_path / "file")


def test_a_damaged_result_is_none(place: Place, tmp_path: Path) -> None:
    one = place.supervisor(A, THREE)
    one.begin()
    one.run()
    record = place.register.read(PROGRAM)
    assert record is not None
    path = place.store / "000000000001" / "result.json"
    assert json.loads(path.read_text())["code"] == 0
    path.write_text("[" * 100_000)
    assert read_result(place.store, record) is None
    path.unlink()
    assert read_result(place.store, record) is None
