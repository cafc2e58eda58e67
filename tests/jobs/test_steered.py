"""Executions on nodes that are paused, saved and ended while their nodes answer late, or not."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.jobs.programs import COUNTER, request, until_stopped
from tests.jobs.test_servers import Losing, until, written
from tests.node.test_leases import Leasing
from tests.node.test_node import Here
from wasmsr import Node
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.jobs import JobError
from wasmsr.jobs.execution.archive import ExecutionArchive
from wasmsr.jobs.execution.requests import ExecutionFolder
from wasmsr.jobs.servers import steered_execution
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.jobs.servers.steered_execution import SteeredExecution
from wasmsr.node.failures import NodeAway
from wasmsr.rpc.control.control_server import ControlServer


@pytest.mark.full
def test_a_time_out_of_a_program_that_writes_without_end(tmp_path: Path) -> None:
    """As long as there was output to copy, the time was not looked at."""
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")

    class Endless(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            return self._node.submit(*values, **named)

        def logs(self, program: str, *, follow: bool, had: Any) -> Iterator[Any]:
            had = dict(had)
            while not all(one.is_final for one in self._node.ps()):
                for piece in self._node.logs(program, had=had):
                    had[piece.stream] = (piece.offset + len(piece.data), piece.life)
                    yield piece

    with ServerExecutor(tmp_path / "shared", Endless, [here.address]) as executor:
        executor.start(until_stopped(tmp_path, "a", slow=1000, timeout=1.0))
        assert executor.wait("a", 60).timed_out
    here.end()


@pytest.mark.full
def test_held_output_of_a_leased_execution_is_saved_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its node shows what a checkpoint has: one is written when it stands to be saved."""
    monkeypatch.setattr(steered_execution, "COPY_SECONDS", 20.0)
    world, at = Leasing(tmp_path), f"unix:{tmp_path}/a.control"
    server = ControlServer(world.leasing("a"), at, "0", lambda *caller: "tester")
    text = COUNTER.replace("{lines}", "10000000").replace("{slow}", "1000")
    lease = {"seconds": 10.0, "failover": []}
    try:
        with ServerExecutor(tmp_path / "shared", Node, [at], lease=lease) as executor:
            held: dict[str, Any] = {
                "on_loss": "restore",
                "output": "commit",
                "snapshot_every": 3600,
            }
            executor.start(request(tmp_path, "a", text, **held))
            (program,) = world.nodes["a:1"].programs()
            until(lambda: ring_bounds(program.folder.output, "stdout")[1] > 80)
            executor.snapshot("a", tmp_path / "saved")
            with ExecutionArchive(tmp_path / "saved") as archive:
                assert archive.about.log > 160
            executor.cancel("a")
            restarted = request(tmp_path, "b", text, on_loss="restart")
            with pytest.raises(JobError, match="cannot begin at its beginning") as caught:
                executor.restore(tmp_path / "saved", "b", request=restarted)
            assert "onLoss: restore" in (caught.value.hint or "")
    finally:
        server.stop(0)
        for supervisor in world.nodes.values():
            supervisor.stop(save=False, seconds=5)


@pytest.mark.full
def test_what_stood_to_be_saved_runs_on(tmp_path: Path) -> None:
    """Also if its server does not hear of that at once, or this process ends meanwhile."""
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    lost: list[str] = []

    class Deaf(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            return self._node.submit(*values, **named)

        def resume(self, program: str) -> Any:
            if len(lost) < 2:
                lost.append(program)
                raise NodeAway("the connection was lost")
            return self._node.resume(program)

    given = until_stopped(tmp_path, "a", slow=1000, execution_dir=str(tmp_path / "shared" / "a"))
    with ServerExecutor(tmp_path / "shared", Deaf, [here.address]) as executor:
        executor.start(given)
        until(lambda: written(executor, "a") > 80)
        executor.snapshot("a", tmp_path / "saved")
        size = written(executor, "a")
        until(lambda: written(executor, "a") > size)
        assert len(lost) == 2 and executor.describe("a").state == "running"
        (execution,) = executor.ours()
        with execution._steering:
            execution.pause()
            execution._renote(saving=True)
            execution.leave()
        assert [one.standing for one in here.node.ps()] == ["paused"]
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as second:
        size = written(second, "a")
        second.recover(given)
        until(lambda: written(second, "a") > size)
        second.pause("a")
        (execution,) = second.ours()
        assert not execution._noted.saving and second.describe("a").state == "paused"
        second.cancel("a")
    here.end()


def test_lists_that_are_older_than_an_answer(tmp_path: Path) -> None:
    """A list comes late: it neither pauses an execution again, nor takes it back to a server."""
    told: list[str] = []
    prepared: Any = SimpleNamespace(
        folder=ExecutionFolder(tmp_path), request=SimpleNamespace(execution_id="a")
    )
    servers: Any = None
    execution = SteeredExecution(
        prepared, servers, "a:1", lambda event, id, **values: told.append(values["server"])
    )
    execution._state = "running"

    def said(standing: str, changed: float) -> Any:
        return SimpleNamespace(standing=standing, changed=changed)

    def state() -> str:
        return execution._state

    execution._is_at("a:1", 1)
    execution._is_listed(said("running", 5.0))
    execution._is_said(said("paused", 6.0))
    execution._is_listed(said("running", 5.0))
    assert state() == "paused"
    execution._is_listed(said("paused", 6.0))
    execution._is_listed(said("moving", 6.0))
    assert state() == "paused"
    execution._is_said(said("running", 2.0))  # the clock of its server was set back
    execution._is_listed(said("paused", 6.0))
    assert state() == "running"
    execution._is_at("b:1", 2)
    execution._is_at("a:1", 1)
    assert execution.server == "b:1" and told == ["a:1", "b:1"]
    execution._is_listed(said("paused", 6.0))
    assert state() == "paused", "another server, another clock"
