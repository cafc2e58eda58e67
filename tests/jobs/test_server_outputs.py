"""Outputs of executions on nodes: they come when the program has ended, whatever is lost."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

import pytest

from tests.jobs.programs import counting, numbers, stop, until_stopped
from tests.jobs.test_servers import Losing, until, whole_log, written
from tests.node.test_node import Here
from wasmsr import Node
from wasmsr.jobs.servers import server_execution
from wasmsr.jobs.servers.server_execution import ServerExecution
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.node.failures import NodeAway, NodeBusy

pytestmark = pytest.mark.full


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Here]:
    (tmp_path / "node").mkdir()
    made = Here(tmp_path / "node")
    yield made
    made.end()


def kept(here: Here) -> list[Path]:
    """Return the files that the node keeps for programs."""
    carried = here.folder / "state" / "carried"
    return [one for one in carried.glob("**/*") if one.is_file()]


class Submitting(Losing):
    def submit(self, *values: Any, **named: Any) -> Any:
        return self._node.submit(*values, **named)


def test_they_are_removed_where_they_were(here: Here, tmp_path: Path) -> None:
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as executor:
        assert executor.run(counting(tmp_path, "a", lines=50)).error == ""
        out = executor.folder / "a" / "results" / "out"
        assert (out / "numbers").read_bytes() == numbers(50)
        assert not kept(here)


def test_a_cancelled_execution_has_what_it_wrote(here: Here, tmp_path: Path) -> None:
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as executor:
        executor.start(until_stopped(tmp_path, "a", slow=1000))
        until(lambda: written(executor, "a") > 80)
        executor.cancel("a")
        assert executor.wait("a", 60).error == "cancelled"
        found = (executor.folder / "a" / "results" / "out" / "numbers").read_bytes()
        assert len(found) >= 80 and found == numbers(len(found) // 8)


def test_a_server_that_is_away_as_they_are_fetched(here: Here, tmp_path: Path) -> None:
    lost: list[str] = []

    class Dropping(Submitting):
        def carried(self, program: str, mount: str, file: IO[bytes]) -> Any:
            if len(lost) < 2:
                lost.append(mount)
                file.write(b"half")
                raise NodeAway("the connection was lost")
            return self._node.carried(program, mount, file)

    with ServerExecutor(tmp_path / "shared", Dropping, [here.address]) as executor:
        assert executor.run(counting(tmp_path, "a", lines=50)).error == ""
        out = executor.folder / "a" / "results" / "out"
        assert (out / "numbers").read_bytes() == numbers(50) and lost == ["/outputs"] * 2


def test_a_server_that_does_not_come_back_with_them(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The execution has failed, although its program has ended well: its results lack something."""
    monkeypatch.setattr(server_execution, "GAP_SECONDS", 0.1)

    class Gone(Submitting):
        def carried(self, program: str, mount: str, file: IO[bytes]) -> Any:
            raise NodeAway("the connection was lost")

    with ServerExecutor(tmp_path / "shared", Gone, [here.address]) as executor:
        result = executor.run(counting(tmp_path, "a", lines=50))
        assert "its outputs are on a server" in result.error and result.exit_code == 1
        assert executor.describe("a").state == "failed"
        assert kept(here), "they are there still"


@pytest.mark.parametrize("kind", ["busy", "late"])
def test_a_server_that_answers_is_waited_for(
    here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    """It sends files to others, or was lost only after it had sent for long."""
    monkeypatch.setattr(server_execution, "GAP_SECONDS", 0.2)
    asked: list[float] = []

    class Slow(Submitting):
        def carried(self, program: str, mount: str, file: IO[bytes]) -> Any:
            asked.append(time.monotonic())
            if kind == "busy" and asked[-1] - asked[0] < 1:
                raise NodeBusy("too many calls at once")
            if kind == "late" and len(asked) == 1:
                time.sleep(0.4)
                raise NodeAway("the connection was lost")
            return self._node.carried(program, mount, file)

    with ServerExecutor(tmp_path / "shared", Slow, [here.address]) as executor:
        assert executor.run(counting(tmp_path, "a", lines=50)).error == ""
        out = executor.folder / "a" / "results" / "out"
        assert (out / "numbers").read_bytes() == numbers(50)
        assert len(asked) >= 2


def test_more_than_the_disk_of_the_request(here: Here, tmp_path: Path) -> None:
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as executor:
        result = executor.run(counting(tmp_path, "a", lines=50, resources={"disk": 300}))
        assert "the output out" in result.error and "more than 300 bytes" in result.error
        assert executor.describe("a").state == "failed"


def test_they_are_fetched_once(here: Here, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The process that watches is lost when the node has them no more: they are in the results."""
    fetched, come_to_end = threading.Event(), ServerExecution._come_to_end
    monkeypatch.setattr(ServerExecution, "_come_to_end", lambda *values: fetched.set())
    given = counting(tmp_path, "a", lines=50, execution_dir=str(tmp_path / "shared" / "a"))
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as first:
        first.start(given)
        assert fetched.wait(60) and not kept(here)
        first.leave()
    monkeypatch.setattr(ServerExecution, "_come_to_end", come_to_end)
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as second:
        second.recover(given)
        assert second.wait("a", 60).error == ""
        out = second.folder / "a" / "results" / "out"
        assert (out / "numbers").read_bytes() == numbers(50)


def test_one_that_begins_again_has_those_of_its_last_life(here: Here, tmp_path: Path) -> None:
    """The node keeps none of the lost life."""
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as executor:
        executor.start(until_stopped(tmp_path, "a", slow=1000, on_loss="restart"))
        until(lambda: written(executor, "a") > 80)
        (program,) = here.node.ps()
        assert program.worker is not None
        os.kill(program.worker, signal.SIGKILL)
        until(lambda: [one.standing for one in here.node.ps()] == ["lost", "running"])
        until(lambda: written(executor, "a"))
        stop(executor.folder / "a")
        assert executor.wait("a", 60).error == ""
        out = executor.folder / "a" / "results" / "out"
        assert (out / "numbers").read_bytes() == whole_log(executor, "a")
        assert not kept(here)
