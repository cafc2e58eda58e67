"""The service that runs the jobs of one machine, with an executor that a test steers."""

from __future__ import annotations

import json
import os
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

from tests.jobs.served import jobs_served
from wasmsr.http.metrics_server import serve_metrics
from wasmsr.jobs.description.job import Constraint
from wasmsr.jobs.failures import ExecutorLeft, JobError
from wasmsr.jobs.service import scheduling
from wasmsr.jobs.service.client import JobClient, Submission, job_exit_code
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.list_metrics import JOB_ROWS, JobListMetrics
from wasmsr.jobs.service.rows import JobRow
from wasmsr.runspec.address import Address

INLINE = {"Source": {"Type": "inline", "Params": {"URL": "data:,x"}}, "Target": "/m.wasm"}


def job_bytes(task: dict[str, Any] | None = None, **values: Any) -> bytes:
    engine = {"Type": "wasm", "Params": {"EntryModule": "/m.wasm"}}
    whole = {"Engine": engine, "InputSources": [INLINE], **(task or {})}
    return json.dumps({"Name": "try", "Tasks": [whole], **values}).encode()


@dataclass
class Result:
    exit_code: int = 0
    error: str = ""
    timed_out: bool = False

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


@dataclass
class Info:
    state: str
    server: str = ""


class FakeEngine:
    """Runs nothing: `script` says how an execution ends, or it runs until it is cancelled."""

    def __init__(self, script: Callable[[str], Result | None]) -> None:
        self.script = script
        self.requests: dict[str, dict[str, Any]] = {}
        self.order: list[str] = []
        self.states: dict[str, str] = {}
        self.over: dict[str, threading.Event] = {}
        self.peak = 0

    def start(self, request: dict[str, Any], /) -> None:
        name = request["execution_id"]
        assert name not in self.requests, "an id is started once"
        results = Path(request["execution_dir"]) / "results"
        results.mkdir(parents=True)
        (results / "exitCode").write_text("0")
        self.requests[name] = request
        self.order.append(request["job_id"])
        self.states[name], self.over[name] = "running", threading.Event()
        self.peak = max(self.peak, list(self.states.values()).count("running"))

    def recover(self, request: dict[str, Any], /) -> None:
        raise JobError("ExecutionNotFound", "there is no checkpoint")

    def wait(self, id: str, timeout: float | None = None) -> Result:
        result = self.script(id)
        if result is None:
            self.over[id].wait()
            if self.states[id] == "left":
                raise ExecutorLeft("the engine was ended")
            return Result(130, "cancelled")
        self.states[id] = "failed" if result.error else "ended"
        return result

    def describe(self, id: str) -> Info:
        return Info(self.states[id])

    def cancel(self, id: str) -> None:
        self.states[id] = "cancelled"
        self.over[id].set()

    def snapshot(self, id: str, file: str) -> None:
        Path(file).write_text(id)

    def leave(self) -> dict[str, str]:
        for name, over in self.over.items():
            if not over.is_set():
                self.states[name] = "left"
                over.set()
        return {}

    def close(self) -> None:
        for name, over in self.over.items():
            self.states[name] = "cancelled"
            over.set()


@contextmanager
def serving(
    folder: Path, script: Callable[[str], Result | None], **settings: Any
) -> Iterator[tuple[JobClient, FakeEngine]]:
    """Run a service with a `FakeEngine`, as long as the block lasts."""
    engine = FakeEngine(script)
    with jobs_served(folder, lambda plan: engine, **settings) as client:
        yield client, engine


def submitted(client: JobClient, data: bytes, **settings: Any) -> JobRow:
    return client.submit(Submission(data, **settings))


def ended(client: JobClient, job: JobRow) -> JobRow:
    found = client.wait(job.id, 60)
    assert found is not None, client.jobs.history(job.id)
    return found


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come")


def test_a_batch_job(tmp_path: Path) -> None:
    task = {"Timeouts": {"ExecutionTimeout": 7}, "Env": {"A": "1"}, "Resources": {"Memory": "1MiB"}}
    with serving(tmp_path, lambda name: Result()) as (client, engine):
        job = submitted(client, job_bytes(task, Count=3))
        assert ended(client, job).state == "Completed"
        runs = client.jobs.runs(job.id)
        assert [run.state for run in runs] == ["Completed"] * 3
        assert sorted(run.number for run in runs) == [0, 1, 2]
        request = engine.requests[f"{runs[0].id}.1"]
        assert (request["timeout"], request["env"], request["on_loss"]) == (
            7,
            {"A": "1"},
            "restart",
        )
        assert request["resources"].memory == 1 << 20
        client.get(runs[0], tmp_path / "got")
        assert (tmp_path / "got" / "exitCode").read_text() == "0"
        assert [one.state for one in client.jobs.history(job.id) if not one.execution] == [
            "Queued", "Running", "Completed",
        ]  # fmt: skip
        assert not list((tmp_path / "executions").glob("*.inputs")), "inputs are removed"


def test_each_execution_comes_to_its_end(tmp_path: Path) -> None:
    results = iter([Result(134, "trap: unreachable"), Result(5), Result()])
    with serving(tmp_path, lambda name: next(results), capacity=0.5) as (client, _):
        job = ended(client, submitted(client, job_bytes(Count=3)))
        runs = client.jobs.runs(job.id)
        assert job.state == "Failed"
        assert job.message == "trap: unreachable (1 of 3 executions failed)"
        assert [run.state for run in runs] == ["Failed", "Completed", "Completed"]
        assert [run.exit_code for run in runs] == [134, 5, 0]
        assert job_exit_code(job, runs) == 134
        client.get(runs[0], tmp_path / "failed")
        assert (tmp_path / "failed" / "exitCode").exists(), "a failed execution has its results"


def test_an_input_that_is_not_there_fails_the_job(tmp_path: Path) -> None:
    source = {"Source": {"Type": "inline", "Params": {"URL": "no"}}, "Target": "/x"}
    with serving(tmp_path, lambda name: Result()) as (client, engine):
        job = ended(client, submitted(client, job_bytes({"InputSources": [INLINE, source]})))
        assert job.state == "Failed" and "is no data URL" in job.message
        assert not engine.requests
        assert job_exit_code(job, client.jobs.runs(job.id)) == 2


def test_priority_and_capacity(tmp_path: Path) -> None:
    gate = threading.Event()

    def script(name: str) -> Result:
        gate.wait(20)
        return Result()

    with serving(tmp_path, script, capacity=1) as (client, engine):
        first = submitted(client, job_bytes({"Resources": {"CPU": "1"}}))
        until(lambda: engine.requests)
        low = submitted(client, job_bytes({"Resources": {"CPU": "1"}}))
        high = submitted(client, job_bytes({"Resources": {"CPU": "1"}}, Priority=5))
        assert client.job(high.id).state == "Queued"
        gate.set()
        for job in (first, low, high):
            assert ended(client, job).state == "Completed"
        assert engine.order == [first.id, high.id, low.id]
        assert engine.peak == 1


def test_stop(tmp_path: Path) -> None:
    with serving(tmp_path, lambda name: None, capacity=1) as (client, engine):
        running = submitted(client, job_bytes({"Resources": {"CPU": "1"}}))
        until(lambda: engine.requests)
        queued = submitted(client, job_bytes())
        for job in (queued, running):
            assert client.stop(job.id[:20]).state == "Stopped"
            (run,) = client.jobs.runs(job.id)
            assert (run.state, run.exit_code) == ("Cancelled", 130)
        with pytest.raises(JobError, match="has ended already: Stopped"):
            client.stop(queued.id)


def test_timeouts(tmp_path: Path) -> None:
    def script(name: str) -> Result | None:
        return None

    with serving(tmp_path, script, capacity=1) as (client, engine):
        total = {"Timeouts": {"TotalTimeout": 1}, "Resources": {"CPU": "1"}}
        long = submitted(client, job_bytes(total))
        until(lambda: engine.requests)
        queued = submitted(client, job_bytes({"Timeouts": {"QueueTimeout": 1}}, Priority=-1))
        found = ended(client, long)
        assert (found.state, found.message) == ("Failed", "Job timed out after 1s (TotalTimeout)")
        assert job_exit_code(found, client.jobs.runs(long.id)) == 121
        late = client.jobs.job(queued.id)
        if late.state == "Failed":  # the place was not free in time
            assert "QueueTimeout" in late.message
        else:
            client.stop(queued.id)


def test_overdue() -> None:
    row = JobRow("j-1", "", "default", "batch", 0, 1, "Queued", "", 100.0, 100.0, b"")
    assert scheduling.overdue(row, (0, 0), False, 1e9) is None
    assert scheduling.overdue(row, (5, 0), False, 104.9) is None
    assert "QueueTimeout" in str(scheduling.overdue(row, (5, 0), False, 105.0))
    assert scheduling.overdue(row, (5, 0), True, 105.0) is None, "it has been started in time"
    assert "TotalTimeout" in str(scheduling.overdue(row, (5, 9), True, 109.0))


def test_daemons_are_started_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "BACKOFF_FIRST", 0.02)
    monkeypatch.setattr("wasmsr.jobs.service.job_service.KEPT_RUNS", 3)
    with serving(tmp_path, lambda name: Result(3)) as (client, engine):
        job = submitted(client, job_bytes(Type="daemon", Count=4))
        until(lambda: len(engine.requests) >= 5)
        assert client.job(job.id).state == "Running"
        client.stop(job.id)
        runs = client.jobs.runs(job.id)
        assert len(runs) <= 4 and {run.number for run in runs} == {0}
        assert len(list((tmp_path / "results").iterdir())) <= 4


def test_backoff_doubles_up_to_a_minute() -> None:
    assert [scheduling.backoff(n) for n in (0, 1, 2, 5, 6, 100)] == [1, 2, 4, 32, 60, 60]


def test_a_service_has_count_executions(tmp_path: Path) -> None:
    with serving(tmp_path, lambda name: None, capacity=4) as (client, engine):
        job = submitted(client, job_bytes(Type="service", Count=3))
        until(lambda: len(engine.requests) == 3)
        with pytest.raises(JobError, match="has 3 executions"):
            client.execution(job.id)
        client.stop(job.id)


def test_requests(tmp_path: Path) -> None:
    with serving(tmp_path, lambda name: None) as (client, _):
        job = submitted(client, job_bytes())
        run = client.execution(job.id)
        until(lambda: client.jobs.run(run.id).state == "Running")
        client.ask("snapshot", run.id, str(tmp_path / "saved"))
        assert (tmp_path / "saved").read_text() == f"{run.id}.1"
        for kind, argument, said in (
            ("snapshot", str(tmp_path / "none" / "x"), "No such file"),
            ("pause", "", "cannot pause"),
            ("order", "", "cannot order"),  # an attribute, and no verb
            ("close", "", "cannot close"),
        ):
            with pytest.raises(JobError, match=said):
                client.ask(kind, run.id, argument)
        client.stop(job.id)
        with pytest.raises(JobError, match="does not run now"):
            client.ask("snapshot", run.id, "x")


def test_what_a_killed_service_leaves(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.jobs.service.job_service.WORKERS_END_SECONDS", 0)
    jobs = {}
    with serving(tmp_path, lambda name: None, capacity=9) as (client, engine):
        for policy in ("fail", "restart"):
            jobs[policy] = submitted(client, job_bytes(Meta={"wasmsr/onLoss": policy}))
        jobs["stopping"] = submitted(client, job_bytes())
        until(lambda: len(engine.requests) == 3)
        until(lambda: all(run.state == "Running" for run in client.jobs.runs()))
    with JobList(JobHome(tmp_path).list_file) as plain, plain.changing():
        plain.stop(jobs["stopping"].id, "stop")
    with serving(tmp_path, lambda name: Result()) as (client, engine):
        assert ended(client, jobs["fail"]).message == "the process that ran it has ended"
        assert ended(client, jobs["restart"]).state == "Completed"
        (again,) = client.jobs.runs(jobs["restart"].id)
        assert again.epoch == 2 and f"{again.id}.2" in engine.requests
        assert str(again.published).count("-e2"), "its results have the name of its epoch"
        assert ended(client, jobs["stopping"]).state == "Stopped"


def test_an_older_epoch_changes_nothing(tmp_path: Path) -> None:
    with JobList(tmp_path / "jobs.db") as jobs:
        jobs.add_job(JobRow("j-1", "", "default", "batch", 0, 1, "Queued", "", 1, 1, b""), 1)
        (old,) = jobs.runs("j-1")
        new = jobs.set_run(old, "New", epoch=2)
        assert jobs.set_run(old, "Completed", exit_code=0) == new
        assert jobs.set_run(new, "Failed", "why").state == "Failed"
        assert jobs.set_run(new, "Completed").state == "Failed", "an end is for good"


def test_with_compat_a_job_fails_as_the_peers(tmp_path: Path) -> None:
    with serving(tmp_path, lambda name: Result(1, "wasm error: unreachable")) as (client, _):
        job = ended(client, submitted(client, job_bytes(), compat=True))
        assert job.state == "Failed"
        assert job.message.startswith("not enough nodes to run job. requested: 1, available: 1")
        runs = client.jobs.runs(job.id)
        assert [run.message for run in runs] == ["wasm error: unreachable"] * 2


def test_constraints_and_size(tmp_path: Path) -> None:
    with serving(tmp_path, lambda name: Result()) as (client, _):
        here = [{"Key": "zone", "Operator": "in", "Values": ["a", "b"]}]
        with pytest.raises(JobError, match=r"no server matches.*no such label"):
            submitted(client, job_bytes(Constraints=here))
        with pytest.raises(JobError, match="zone=c"):
            submitted(client, job_bytes(Constraints=here), labels=("zone=c",))
        job = submitted(client, job_bytes(Constraints=here, Type="ops"), labels=("zone=b",))
        assert ended(client, job).state == "Completed"
        again = client.rerun(job.id)
        assert again.origin == job.id and ended(client, again).state == "Completed"
        with pytest.raises(JobError, match="asks for 9999 CPUs"):
            submitted(client, job_bytes({"Resources": {"CPU": "9999"}}))
        with pytest.raises(JobError, match="is no label"):
            submitted(client, job_bytes(), labels=("zone",))
    assert Constraint("Operating-System", "exists").holds(scheduling.machine_labels())


def test_ids_can_be_short(tmp_path: Path) -> None:
    with JobList(tmp_path / "jobs.db") as jobs:
        for name in ("j-abc1", "j-abc2", "j-b"):
            jobs.add_job(JobRow(name, "", "default", "batch", 0, 1, "Queued", "", 1, 1, b""), 0)
        for short, whole in (
            ("b", "j-b"),
            ("J-B", "j-b"),
            ("abc1", "j-abc1"),
            ("j-abc2", "j-abc2"),
        ):
            assert jobs.job(short).id == whole
        for wrong, said in (
            ("abc", "more than one job begins with 'abc': j-abc1, j-abc2"),
            ("x", "there is no job 'x'"), ("", "there is no job"), ("j-", "there is no job"),
            ("%", "there is no job"), ("abc3", "there is no job"), ("é\0", "there is no job"),
        ):  # fmt: skip
            with pytest.raises(JobError, match=said) as caught:
                jobs.job(wrong)
            assert caught.value.code == "ExecutionNotFound"


def test_other_files_are_no_list(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"no database" * 100)
    with pytest.raises(JobError, match="is damaged"):
        JobList(tmp_path / "text")
    import sqlite3

    other = sqlite3.connect(tmp_path / "other")
    other.execute("CREATE TABLE a (b)")
    other.commit()
    other.close()
    with pytest.raises(JobError, match="is a database, but no list of jobs"):
        JobList(tmp_path / "other")
    with JobList(tmp_path / "newer") as jobs:
        jobs._database.execute("PRAGMA user_version = 9")
    with pytest.raises(JobError, match="has version 9"):
        JobList(tmp_path / "newer")


def test_many_writers(tmp_path: Path) -> None:
    def write(number: int) -> None:
        with JobList(tmp_path / "jobs.db") as jobs:
            for turn in range(10):
                name = f"j-{number}-{turn}"
                row = JobRow(name, "", "default", "batch", 0, 1, "Queued", "", 1, 1, b"x" * 1000)
                jobs.add_job(row, 2)
                (run, _) = jobs.runs(name)
                jobs.set_run(run, "Failed", "why")

    threads = [threading.Thread(target=write, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    with JobList(tmp_path / "jobs.db") as jobs:
        assert len(jobs.jobs()) == 40 and len(jobs.runs()) == 80
        assert sum(run.state == "Failed" for run in jobs.runs()) == 40
        assert len(jobs.history("j-3-9")) == 4


def test_metrics(tmp_path: Path) -> None:
    with serving(tmp_path, lambda name: None) as (client, _):
        job = submitted(client, job_bytes(Count=2))
        until(lambda: [run.state for run in client.jobs.runs(job.id)] == ["Running"] * 2)
        found = JobListMetrics(client.jobs, lambda: job.created + 5)
        assert found.numbers("wasm_active_executions") == {(): 2.0}
        assert found.numbers("wasmsr_jobs_oldest_open_seconds") == {(): 5.0}
        lines = list(found.lines())
        assert 'wasmsr_jobs{state="Running"} 1' in lines
        assert 'wasmsr_executions{state="Failed"} 0' in lines
        parser = pytest.importorskip("prometheus_client.parser")
        shown = parser.text_string_to_metric_families("\n".join(lines) + "\n")
        assert [family.name for family in shown] == [row.name for row in JOB_ROWS]
        client.stop(job.id)
        assert found.numbers("wasm_active_executions") == {(): 0.0}
        assert found.numbers("wasmsr_jobs_oldest_open_seconds") == {(): 0.0}
        with_port = serve_metrics(found, Address("127.0.0.1", 0), JOB_ROWS)
        try:
            address = f"http://127.0.0.1:{with_port.port}/metrics"
            with urllib.request.urlopen(address, timeout=10) as answer:
                assert b"wasm_active_executions 0.0" in answer.read()
        finally:
            with_port.stop()


def test_commands_that_look_keep_nobody_from_the_lock(tmp_path: Path) -> None:
    home = JobHome(tmp_path / "jobs")
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            home.is_served()

    lookers = [threading.Thread(target=look) for _ in range(2)]
    for one in lookers:
        one.start()
    try:
        for _ in range(5):
            lock = home.lock()
            assert lock is not None
            assert home.is_served() and home.lock() is None
            os.close(lock)
    finally:
        over.set()
        for one in lookers:
            one.join()
    assert not home.is_served()
