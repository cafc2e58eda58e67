"""Jobs on servers: the service, its list, and two nodes in this process."""

from __future__ import annotations

import base64
import json
import os
import signal
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

from tests.jobs.programs import COUNTER, UNTIL_STOPPED, numbers, stop
from tests.jobs.test_servers import until
from tests.node.nodes import World
from wasmsr import Node
from wasmsr.interp.modules.module import assemble
from wasmsr.jobs.engines.engine_plan import EnginePlan, PlannedServer
from wasmsr.jobs.engines.engine_port import RunEngine
from wasmsr.jobs.engines.making import cannot_connect, make_engine
from wasmsr.jobs.execution.log import LogFrame, read_log
from wasmsr.jobs.execution.requests import ExecutionRequest
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.servers.server_execution import ServerExecution
from wasmsr.jobs.servers.server_port import Unwanted
from wasmsr.jobs.servers.spread_placement import SpreadPlacement
from wasmsr.jobs.service.client import JobClient, Submission
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.job_service import JobService
from wasmsr.jobs.service.rows import JobRow
from wasmsr.rpc.control.control_server import ControlServer

ENDLESS = 10_000_000
"""Lines of a program that a test ends."""


def counting_job(lines: int, *, slow: int = 1000, text: str = COUNTER, **values: Any) -> bytes:
    text = text.replace("{lines}", str(lines)).replace("{slow}", str(slow))
    module = base64.b64encode(assemble(text.encode())).decode()
    source = {"Type": "inline", "Params": {"URL": f"data:;base64,{module}"}}
    task = {
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m.wasm"}},
        "InputSources": [{"Source": source, "Target": "/m.wasm"}],
        "ResultPaths": [{"Name": "out", "Path": "/outputs"}],
        **values.pop("task", {}),
    }
    return json.dumps({"Name": "count", "Tasks": [task], **values}).encode()


class Servers:
    """Two nodes, and a service whose jobs run there."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.world = folder, World()
        self.sockets: dict[str, str] = {}
        self._controls = []
        for name in ("a:1", "b:1"):
            supervisor = self.world.node(name, folder / name[0])
            self.sockets[name] = f"unix:{folder}/{name[0]}.control"
            self._controls.append(
                ControlServer(supervisor, self.sockets[name], "0", lambda *caller: "tester")
            )
        self.plan = EnginePlan(
            servers=tuple(PlannedServer(one, labels=(("name", one[0]),)) for one in self.sockets)
        )

    def engine(self, plan: EnginePlan, note: Callable[..., None]) -> RunEngine:
        return make_engine(
            plan, self.folder / "jobs", lambda at, proof: Node(self.sockets.get(at, at)), note
        )

    @contextmanager
    def served(self) -> Iterator[JobClient]:
        """Run the jobs as long as the block lasts; their programs outlive it."""
        home = JobHome(self.folder / "state")
        lock = home.lock()
        assert lock is not None
        service = JobService(home, lambda plan: self.engine(plan, service.heard), idle=60)
        thread = threading.Thread(target=service.run, args=(lock,))
        thread.start()
        try:
            with JobClient(home) as client:
                yield client
        finally:
            service.end("the test ends")
            thread.join(60)
            assert not thread.is_alive()

    def submit(self, client: JobClient, data: bytes, **values: Any) -> JobRow:
        return client.submit(Submission(data, engine=self.plan, **values))

    def close(self) -> None:
        for control in self._controls:
            control.stop(0)
        for supervisor in self.world.nodes.values():
            supervisor.stop(save=False, seconds=5)


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[Servers]:
    made = Servers(tmp_path)
    yield made
    made.close()


def runs_at(client: JobClient, job: JobRow) -> list[str]:
    """Return where the executions of a job run, when all do."""
    found = client.jobs.runs(job.id)
    return sorted(one.server for one in found) if all(
        one.state == "Running" and one.server for one in found
    ) else []  # fmt: skip


def log_of(client: JobClient, job: JobRow) -> bytes:
    (run,) = client.jobs.runs(job.id)
    items = list(read_log(client.log(run)))
    return b"".join(one.data for one in items if isinstance(one, LogFrame))


def test_a_job_runs_on_servers_to_its_end(servers: Servers) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(50, Count=4))
        ended = client.wait(job.id, 60)
        assert ended is not None and ended.state == "Completed", client.jobs.history(job.id)
        found = client.jobs.runs(job.id)
        assert {one.server for one in found} == {"a:1", "b:1"}
        for one in found:
            client.get(one, servers.folder / one.id)
            assert (servers.folder / one.id / "out" / "numbers").read_bytes() == numbers(50)


def test_it_moves_and_is_drained(servers: Servers) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS))
        (first,) = until(lambda: runs_at(client, job))
        other = {"a:1": "b:1", "b:1": "a:1"}[first]
        (run,) = client.jobs.runs(job.id)
        client.ask("migrate", run.id, other, 120)
        assert client.jobs.run(run.id).server == other
        moved, left = client.drain(other, 60)
        assert (moved, left) == ([run.id], {})
        assert client.jobs.run(run.id).server == first
        second = servers.submit(client, counting_job(ENDLESS, Count=2))
        assert until(lambda: runs_at(client, second)) == [first, first]
        assert client.drain(other, 60, undo=True) == ([], {})
        third = servers.submit(client, counting_job(ENDLESS))
        assert until(lambda: runs_at(client, third)) == [other]
        for one in (job, second, third):
            assert client.stop(one.id).state == "Stopped"
        log = log_of(client, job)
        assert log and log == numbers(len(log) // 8)


@pytest.mark.full
@pytest.mark.parametrize("when", ["before", "after"])
def test_a_server_is_drained_as_an_execution_is_sent_there(
    servers: Servers, monkeypatch: pytest.MonkeyPatch, when: str
) -> None:
    """`drain` returns when the server has none; one that is just being sent counts."""
    sent, go_on = threading.Event(), threading.Event()
    begin, place = ServerExecution.begin, SpreadPlacement.reserve

    def beginning(self: ServerExecution, *values: Any) -> None:
        sent.set()
        assert go_on.wait(60)
        begin(self, *values)

    def reserving(self: SpreadPlacement, *values: Any, **named: Any) -> Any:
        found = place(self, *values, **named)
        if not sent.is_set():
            sent.set()
            assert go_on.wait(60)
        return found

    if when == "after":
        monkeypatch.setattr(ServerExecution, "begin", beginning)
    else:
        monkeypatch.setattr(SpreadPlacement, "reserve", reserving)
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS))
        assert sent.wait(60)
        (run,) = client.jobs.runs(job.id)
        assert run.server == ("a:1" if when == "after" else "")
        if when == "after":
            assert list(client.drain("a:1", 0)[1]) == [run.id]
        else:
            assert client.drain("a:1", 0) == ([], {})
        go_on.set()
        if when == "after":
            assert client.drain("a:1", 60) == ([run.id], {})
        assert until(lambda: runs_at(client, job)) == ["b:1"]
        there = ["moved"] if when == "after" else []  # the other one says first that it has it
        with Node(servers.sockets["a:1"]) as node:
            until(lambda: [one.standing for one in node.ps()] == there)
        client.stop(job.id)


def test_places_are_counted_by_the_cpus_of_servers() -> None:
    cpus: dict[str, float | None] = {"a:1": 1.0, "b:1": None, "c:1": 7.0}
    asked: list[str] = []

    def ask(address: str) -> float | None:
        asked.append(address)
        return cpus[address]

    planned = [PlannedServer("a:1"), PlannedServer("b:1"), PlannedServer("c:1", 2.0)]
    placement = SpreadPlacement(planned, ask)

    def reserved(cpu: float, **named: Any) -> str:
        request = ExecutionRequest.read(
            {"execution_id": "x", "engine": {"EntryModule": "/m"}, "resources": {"cpu": cpu}}
        )
        return placement.reserve(request, wanted=lambda: False, **named).server

    assert reserved(0, at="c:1") == "c:1" and not asked, "there is no choice"
    away = {"but": lambda: frozenset(("b:1",))}
    assert reserved(1, **away) == "a:1" and asked == ["a:1"]
    assert [reserved(1, **away), reserved(1, **away)] == ["c:1", "c:1"]
    with pytest.raises(Unwanted):
        reserved(0.5, **away)
    assert reserved(5) == "b:1", "it does not say how many CPUs it has"
    cpus["b:1"] = 6.0
    assert reserved(1) == "b:1" and asked == ["a:1", "b:1", "b:1"]
    with pytest.raises(Unwanted):
        reserved(0.5)
    with pytest.raises(JobError, match="7 CPUs"):
        reserved(7)


@pytest.mark.full
def test_nothing_is_left_to_move_to(servers: Servers) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS))
        (first,) = until(lambda: runs_at(client, job))
        other = {"a:1": "b:1", "b:1": "a:1"}[first]
        client.drain(other, 60)
        _, left = client.drain(first, 0)
        (run,) = client.jobs.runs(job.id)
        assert list(left) == [run.id]
        with pytest.raises(JobError) as caught:
            client.ask("migrate", run.id, "nowhere:1", 60)
        assert "nowhere:1" in caught.value.message
        assert client.jobs.run(run.id).state == "Running"
        client.stop(job.id)


@pytest.mark.full
def test_programs_outlive_the_service(servers: Servers) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS))
        (where,) = until(lambda: runs_at(client, job))
        until(lambda: log_of(client, job))
    with Node(servers.sockets[where]) as node:
        assert [one.standing for one in node.ps()] == ["running"]
    with servers.served() as client:
        assert until(lambda: runs_at(client, job)) == [where]
        before = len(log_of(client, job))
        until(lambda: len(log_of(client, job)) > before)
        client.stop(job.id)
        log = log_of(client, job)
        assert log == numbers(len(log) // 8)
        assert [one.epoch for one in client.jobs.runs(job.id)] == [1]


@pytest.mark.full
def test_it_is_stopped_while_no_service_runs(servers: Servers) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS))
        (where,) = until(lambda: runs_at(client, job))
    with JobList(servers.folder / "state" / "jobs.db") as jobs:
        assert jobs.stop(job.id, "Stopped")
    with servers.served() as client:
        ended = client.wait(job.id, 60)
        assert ended is not None and ended.state == "Stopped"
    with Node(servers.sockets[where]) as node:
        assert [one.standing for one in node.ps()] == ["killed"]


@pytest.mark.full
@pytest.mark.parametrize("kind", ["ops", "daemon"])
def test_one_on_every_server_that_matches(servers: Servers, kind: str) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS, Type=kind))
        assert until(lambda: len(runs_at(client, job)) == 2 and runs_at(client, job)) == [
            "a:1",
            "b:1",
        ]
        constraint = [{"Key": "name", "Operator": "=", "Values": ["b"]}]
        one = servers.submit(client, counting_job(ENDLESS, Type=kind, Constraints=constraint))
        assert until(lambda: runs_at(client, one)) == ["b:1"]
        for each in (job, one):
            client.stop(each.id)
        with pytest.raises(JobError) as caught:
            constraint[0]["Values"] = ["c"]
            servers.submit(client, counting_job(1, Type=kind, Constraints=constraint))
        assert caught.value.code == "ExecutorSpecValidationErr"


@pytest.mark.full
def test_a_time_out_and_a_queue(servers: Servers) -> None:
    """A server with one CPU has one execution at a time; the other is stopped as it waits."""
    servers.plan = EnginePlan(servers=(PlannedServer("a:1", 1.0),))
    with servers.served() as client:
        task = {"Resources": {"CPU": "1"}, "Timeouts": {"ExecutionTimeout": 1}}
        first = servers.submit(client, counting_job(ENDLESS, task={"Resources": {"CPU": "1"}}))
        until(lambda: runs_at(client, first))
        second = servers.submit(client, counting_job(ENDLESS, task=task))
        until(lambda: client.jobs.runs(second.id))
        assert client.jobs.runs(second.id)[0].state == "New"
        client.stop(first.id)
        ended = client.wait(second.id, 60)
        assert ended is not None and ended.state == "Failed"
        assert "timed out after 1s" in ended.message
        (run,) = client.jobs.runs(second.id)
        assert run.exit_code == 121
        large = counting_job(1, task={"Resources": {"CPU": "2"}})
        with pytest.raises(JobError) as caught:
            servers.submit(client, large)
        assert "2 CPUs" in caught.value.message


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"ray": "x:1", "servers": (PlannedServer("a:1"),)}, "--ray and --server"),
        ({"servers": (PlannedServer("a:1"), PlannedServer("a:1"))}, "twice"),
        ({"shared": "/x"}, "--shared"),
        ({"compat": True, "ray": "x:1"}, "--compat"),
    ],
)
@pytest.mark.full
def test_plans_that_cannot_be(values: dict[str, Any], words: str) -> None:
    with pytest.raises(JobError) as caught:
        EnginePlan(**values).check()
    assert caught.value.code == "SpecError" and words in caught.value.message


@pytest.mark.full
@pytest.mark.parametrize("text", ["", ",cpu=1", "a:1,cpu=0", "a:1,cpu=x", "a:1,cpu=inf", "a:1,ssd"])
def test_words_that_name_no_server(text: str) -> None:
    with pytest.raises(ValueError):
        PlannedServer.parse(text)


@pytest.mark.full
def test_a_plan_is_plain_data_and_back() -> None:
    plan = EnginePlan(
        servers=(PlannedServer.parse("a:1,cpu=1.5,disk=ssd"), PlannedServer.parse("b:1")),
        shared="/s", lease=2.0, proof=(("token_file", "/t"),),
    )  # fmt: skip
    assert EnginePlan.read(json.loads(json.dumps(plan.as_dict()))) == plan
    assert plan.capacity == float("inf") and plan.is_elsewhere
    assert EnginePlan.read({}) == EnginePlan() and not EnginePlan().is_elsewhere
    wrongs: list[dict[str, Any]] = [
        {"servers": 5},
        {"servers": [{}]},
        {"lease": "x"},
        {"proof": [1]},
    ]
    for wrong in wrongs:
        with pytest.raises(JobError):
            EnginePlan.read(wrong)
    with pytest.raises(JobError):
        cannot_connect("a:1", {})


@pytest.mark.full
def test_a_list_of_the_version_before(tmp_path: Path) -> None:
    """Its jobs are there, and run on this machine."""
    path = tmp_path / "jobs.db"
    with JobList(path) as jobs:
        jobs.add_job(
            JobRow("j-1", "n", "d", "batch", 0, 1, "Queued", "", 1.0, 1.0, b"{}"), 1
        )  # fmt: skip
    with sqlite3.connect(path) as database:
        database.execute("ALTER TABLE jobs DROP COLUMN engine")
        database.execute("ALTER TABLE runs DROP COLUMN server")
        database.execute("DROP TABLE drained")
        database.execute("PRAGMA user_version = 1")
    database.close()
    for _ in range(2):
        with JobList(path) as jobs:
            assert jobs.job("j-1").engine == {} and jobs.runs("j-1")[0].server == ""
            assert jobs.drained() == frozenset()


@pytest.mark.full
def test_a_job_with_servers_of_a_later_version(servers: Servers) -> None:
    with servers.served() as client:
        job = servers.submit(client, counting_job(ENDLESS))
        until(lambda: runs_at(client, job))
        client.stop(job.id)
        row = JobRow(
            "j-later", "n", "d", "batch", 0, 1, "Queued", "", time.time(), time.time(),
            counting_job(1), engine={"servers": [{"mesh": 1}]},
        )  # fmt: skip
        client.jobs.add_job(row, 1)
        client.home.wake()
        ended = client.wait(row.id, 60)
        assert ended is not None and ended.state == "Failed"
        assert "no servers that can be used" in ended.message


@pytest.mark.full
def test_a_lost_worker_begins_again(servers: Servers) -> None:
    """Its first life counts no more: the log is cut, and its end is that of the second."""
    with servers.served() as client:
        job = servers.submit(client, counting_job(1, text=UNTIL_STOPPED))
        (where,) = until(lambda: runs_at(client, job))
        until(lambda: log_of(client, job))
        with Node(servers.sockets[where]) as node:
            (worker,) = [one.worker for one in node.ps()]
            assert worker is not None
            os.kill(worker, signal.SIGKILL)
            until(lambda: [one.standing for one in node.ps()] == ["lost", "running"])
            (run,) = client.jobs.runs(job.id)
            stop(Path(run.folder))
            ended = client.wait(job.id, 60)
            assert [one.standing for one in node.ps()] == ["lost", "ended"]
        assert ended is not None and ended.state == "Completed"
        log = log_of(client, job)
        assert log and log == numbers(len(log) // 8)
        client.get(client.jobs.runs(job.id)[0], servers.folder / "got")
        assert (servers.folder / "got" / "out" / "numbers").read_bytes() == log
