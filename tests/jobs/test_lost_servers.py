"""Executions on nodes whose answers, programs or folders are lost: there are never two of one."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import pytest

from tests.jobs.programs import counting, numbers, stop, until_stopped
from tests.jobs.test_servers import Losing, until, written
from tests.node.test_node import Here
from wasmsr import Node
from wasmsr.jobs import JobError, LogFrame
from wasmsr.jobs.executor import JobExecutor, StillRuns
from wasmsr.jobs.servers import server_execution
from wasmsr.jobs.servers.server_executor import ServerExecutor
from wasmsr.node.failures import NodeAway, SubmissionRefused
from wasmsr.node.supervision.program_record import ProgramStanding

pytestmark = pytest.mark.full


@pytest.mark.parametrize(("on_loss", "late"), [("restart", ""), ("restart", "late"), ("fail", "")])
def test_a_server_that_has_lost_its_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, on_loss: str, late: str
) -> None:
    """No server has the program any more: it begins again, also if the first answer is lost.

    If the server has its folder again, the program that runs there is ended: there are never two.
    Also if that is late, when the execution has ended.
    """
    monkeypatch.setattr(server_execution, "GONE_SECONDS", 0.1)
    monkeypatch.setattr(server_execution, "ABSENT_SECONDS", 0.1)
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    deaf: list[str] = []

    class Deaf(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            deaf.append("once more")
            if len(deaf) == 2:
                raise NodeAway("the connection was lost")
            return self._node.submit(*values, **named)

    with ServerExecutor(tmp_path / "shared", Deaf, [here.address]) as executor:
        executor.start(until_stopped(tmp_path, "a", slow=1000, on_loss=on_loss))
        until(lambda: written(executor, "a"))
        (program,) = here.supervisor.programs()
        programs = here.supervisor.programs
        here.supervisor.programs = lambda: [  # type: ignore[method-assign]
            one for one in programs() if one is not program
        ]
        until(lambda: executor._servers.heard("job.a") is None)
        until(lambda: executor.describe("a").losses == 1)
        if on_loss == "fail":
            assert "any more" in executor.wait("a", 60).error
            del here.supervisor.programs
        else:
            until(lambda: [one.standing for one in here.node.ps()] == ["running"])
            assert len(deaf) == 3 and program.standing is ProgramStanding.RUNNING
            if late:
                executor.cancel("a")
                assert executor.wait("a", 60).error == "cancelled"
            del here.supervisor.programs
            if late:
                until(lambda: [one.standing for one in here.node.ps()] == ["killed"] * 2)
                return here.end()
            until(lambda: [one.standing for one in here.node.ps()] == ["killed", "running"])
            stop(executor.folder / "a")
            assert executor.wait("a", 60).error == ""
            log = b"".join(one.data for one in executor.logs("a") if isinstance(one, LogFrame))
            assert log and log == numbers(len(log) // 8)
    here.end()


def test_a_server_whose_answer_is_lost(tmp_path: Path) -> None:
    """The program runs there; a caller that tried again would have two."""
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    with ServerExecutor(tmp_path / "shared", Losing, [here.address]) as executor:
        assert executor.run(counting(tmp_path, "a", lines=50)).error == ""
        here.end()
        until(executor._servers.away)
        with pytest.raises(JobError, match="no server takes it"):
            executor.start(counting(tmp_path, "b", lines=50))


def test_a_server_that_is_lost_before_it_has_taken_a_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody knows whether it runs; when all say that they have none, it is sent again."""
    monkeypatch.setattr(server_execution, "ABSENT_SECONDS", 0.2)
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    lost: list[str] = []

    class Dropping(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            if lost:
                return self._node.submit(*values, **named)
            lost.append("the question")
            raise NodeAway("the connection was lost")

        def ps(self) -> Any:
            if len(lost) < server_execution.TAKEN_TRIES + 1:
                lost.append("an answer")
                raise NodeAway("the connection was lost")
            return self._node.ps()

    monkeypatch.setattr(server_execution, "AGAIN_SECONDS", 0.02)
    with ServerExecutor(tmp_path / "shared", Dropping, [here.address]) as executor:
        assert executor.run(counting(tmp_path, "a", lines=50)).error == ""
        with Node(here.address) as node:
            assert [one.standing for one in node.ps()] == ["ended"]
    here.end()


def test_a_cancel_that_a_server_does_not_hear_is_made_later(tmp_path: Path) -> None:
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    lost: list[str] = []

    class Deaf(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            return self._node.submit(*values, **named)

        def kill(self, program: str) -> Any:
            if len(lost) < 3:
                lost.append(program)
                raise NodeAway("the connection was lost")
            return self._node.kill(program)

    with ServerExecutor(tmp_path / "shared", Deaf, [here.address]) as executor:
        executor.start(until_stopped(tmp_path, "a", slow=1000))
        until(lambda: written(executor, "a"))
        with pytest.raises(NodeAway):
            executor.cancel("a")
        assert executor.wait("a", 60).error == "cancelled"
        assert executor.describe("a").state == "cancelled"
    here.end()


def test_what_no_server_has_taken_is_cancelled_and_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_execution, "ABSENT_SECONDS", 1.0)
    monkeypatch.setattr(server_execution, "AGAIN_SECONDS", 0.02)
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    sent: list[str] = []

    class Dropping(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            sent.append("the question")
            raise NodeAway("the connection was lost")

        def ps(self) -> Any:
            if len(sent) < server_execution.TAKEN_TRIES + 1:
                sent.append("an answer")
                raise NodeAway("the connection was lost")
            return self._node.ps()

    with ServerExecutor(tmp_path / "shared", Dropping, [here.address]) as executor:
        executor.start(counting(tmp_path, "a", lines=50))
        executor.cancel("a")
        assert executor.wait("a", 60).error == "cancelled"
        assert sent.count("the question") == 1
        with Node(here.address) as node:
            assert not node.ps()
    here.end()


def test_what_no_server_has_taken_is_sent_by_the_next_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its server is away when that process begins, and has never had the program."""
    monkeypatch.setattr(server_execution, "ABSENT_SECONDS", 0.2)
    monkeypatch.setattr(server_execution, "AGAIN_SECONDS", 0.02)
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    away = threading.Event()

    class Leaving(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            away.set()
            raise NodeAway("the connection was lost")

        def ps(self) -> Any:
            if away.is_set():
                raise NodeAway("the connection was lost")
            return self._node.ps()

    class Coming(Leaving):
        def submit(self, *values: Any, **named: Any) -> Any:
            return self._node.submit(*values, **named)

        def watch(self) -> Any:
            if away.is_set():
                raise NodeAway("the connection was lost")
            return self._node.watch()

    given = counting(tmp_path, "a", lines=50, execution_dir=str(tmp_path / "shared" / "a"))
    with ServerExecutor(tmp_path / "shared", Leaving, [here.address]) as first:
        first.start(given)
        with pytest.raises(NodeAway):  # a list of before is no answer
            first._servers.find("job.a")
        first.leave()
    with ServerExecutor(tmp_path / "shared", Coming, [here.address]) as second:
        second.recover(given)
        with pytest.raises(StillRuns):
            second.wait("a", 0.1)
        away.clear()
        assert second.wait("a", 60).error == ""
        with Node(here.address) as node:
            assert [one.standing for one in node.ps()] == ["ended"]
    here.end()


def test_what_no_server_shows_at_first_is_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process that began it and its server may have been lost together."""
    monkeypatch.setattr(server_execution, "AGAIN_SECONDS", 0.02)
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    given = until_stopped(tmp_path, "a", slow=1000, execution_dir=str(tmp_path / "shared" / "a"))

    def recovered(executor: JobExecutor, errors: list[JobError]) -> threading.Thread:
        def recover() -> None:
            try:
                executor.recover(given)
            except JobError as error:
                errors.append(error)

        thread = threading.Thread(target=recover)
        thread.start()
        until(lambda: "a" in executor._executions and asked)
        return thread

    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as first:
        first.start(given)
        until(lambda: written(first, "a"))
        first.leave()
    programs, asked = here.supervisor.programs, list[str]()

    def none() -> list[Any]:
        asked.append("once more")
        return []

    here.supervisor.programs = none  # type: ignore[method-assign]
    errors: list[JobError] = []
    monkeypatch.setattr(server_execution, "GONE_SECONDS", 2.0)
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as second:
        thread = recovered(second, errors)
        second.cancel("a")
        thread.join(60)
        assert errors[0].code == "ExecutionAlreadyCancelled"
    monkeypatch.setattr(server_execution, "GONE_SECONDS", 60.0)
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as third:
        thread = recovered(third, errors)
        del here.supervisor.programs
        thread.join(60)
        assert third.describe("a").state == "running" and len(errors) == 1
        third.leave()
    here.supervisor.programs = none  # type: ignore[method-assign]
    monkeypatch.setattr(server_execution, "GONE_SECONDS", 0.3)
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as fourth:
        with pytest.raises(JobError, match="no server has the execution") as caught:
            fourth.recover(given)
        assert caught.value.code == "ExecutionNotFound"
    monkeypatch.setattr(server_execution, "GONE_SECONDS", 60.0)
    with ServerExecutor(tmp_path / "shared", Node, [here.address]) as fifth:
        thread = recovered(fifth, errors)
        fifth.cancel("a")  # what shows itself after that is ended: nobody else would end it
        here.supervisor.programs = programs  # type: ignore[method-assign]
        thread.join(60)
        assert fifth.wait("a", 60).error == "cancelled" and len(errors) == 1
        assert [one.standing for one in here.node.ps()] == ["killed"]
    here.end()


@pytest.mark.parametrize("taken", [True, False])
def test_what_is_cancelled_as_it_is_sent_is_ended(tmp_path: Path, taken: bool) -> None:
    """If the server does not take it, its id is free, and not cancelled in advance."""
    (tmp_path / "node").mkdir()
    here = Here(tmp_path / "node")
    asked, answer, errors = threading.Event(), threading.Event(), list[JobError]()

    class Slow(Losing):
        def submit(self, *values: Any, **named: Any) -> Any:
            asked.set()
            assert answer.wait(60)
            if not taken and not errors:
                raise SubmissionRefused("not this one")
            return self._node.submit(*values, **named)

    def start() -> None:
        try:
            executor.start(until_stopped(tmp_path, "a", slow=1000))
        except JobError as error:
            errors.append(error)

    with ServerExecutor(tmp_path / "shared", Slow, [here.address]) as executor:
        thread = threading.Thread(target=start)
        thread.start()
        assert asked.wait(60)
        executor.cancel("a")
        answer.set()
        thread.join(60)
        if taken:
            assert executor.wait("a", 60).error == "cancelled"
            assert [one.standing for one in here.node.ps()] == ["killed"]
        else:
            assert "not this one" in errors[0].message
            assert executor.run(counting(tmp_path, "a", lines=50)).error == ""
    here.end()
