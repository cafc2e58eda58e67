"""Executions that survive the process that runs the jobs: nothing is lost, nothing comes twice."""

from __future__ import annotations

import base64
import json
import os
import signal
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

from tests.jobs.programs import COUNTER, UNTIL_STOPPED, counting, numbers, stop, until_stopped
from tests.jobs.served import jobs_served
from tests.jobs.test_job_commands import Jobs, jobs  # noqa: F401
from wasmsr.errors import WasmsrError
from wasmsr.interp.modules.module import assemble
from wasmsr.jobs import Executor, ExecutorLeft
from wasmsr.jobs.service.client import JobClient, Submission
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import RunRow

LINES = 400


def counting_job(slow: int, text: str = COUNTER, **meta: str) -> bytes:
    """Return a job that counts to `LINES`, with `slow` turns of a loop before each line."""
    text = text.replace("{lines}", str(LINES)).replace("{slow}", str(slow))
    module = base64.b64encode(assemble(text.encode())).decode()
    task = {
        "Engine": {"Type": "wasm", "Params": {"EntryModule": "/m"}},
        "InputSources": [
            {
                "Source": {"Type": "inline", "Params": {"URL": f"data:;base64,{module}"}},
                "Target": "/m",
            }
        ],
        "ResultPaths": [{"Name": "out", "Path": "/out"}],
    }
    keys = meta or {"wasmsr/onLoss": "restore", "wasmsr/snapshotEvery": "0.2s"}
    return json.dumps({"Name": "count", "Meta": keys, "Tasks": [task]}).encode()


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("executions/*/log/frames"))


def until(what: Callable[[], Any]) -> Any:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        if found := what():
            return found
        time.sleep(0.01)
    raise AssertionError("it did not come")


@pytest.mark.parametrize("on_loss", ["restore", "restart", "fail"])
def test_a_service_that_is_ended_leaves_what_it_runs(tmp_path: Path, on_loss: str) -> None:
    """There need not be a checkpoint before: the end of the service writes one."""
    state = tmp_path / "state"
    data = counting_job(1000, UNTIL_STOPPED, **{"wasmsr/onLoss": on_loss})
    with jobs_served(state, lambda compat: Executor(state / "executions")) as client:
        job = client.submit(Submission(data))
        until(lambda: written(state) > 600)
    (run,) = runs_of(state, job.id)
    assert run.state == "Running" and run.epoch == 1
    before = written(state)
    with jobs_served(state, lambda compat: Executor(state / "executions")) as client:
        until(lambda: written(state) > before)
        assert "goes on from its checkpoint" in said(client, job.id)
        log = (Path(run.folder) / "log" / "stdout").read_bytes()
        assert log == numbers(len(log) // 8)
        stop(Path(run.folder))
        found = client.wait(job.id, 60)
        assert found is not None and found.state == "Completed", client.jobs.history(job.id)
        (run,) = client.jobs.runs(job.id)
        assert run.epoch == 2
        client.get(run, tmp_path / "got")
    counted = (tmp_path / "got" / "stdout").read_bytes()
    assert len(counted) > before // 2 and counted == numbers(len(counted) // 8)
    assert (tmp_path / "got" / "out" / "numbers").read_bytes() == counted


def test_an_execution_that_ends_with_its_service_is_not_begun_again(tmp_path: Path) -> None:
    """It has ended before its process could save it: its results count."""
    state = tmp_path / "state"

    class EndsLate(Executor):
        def leave(self) -> dict[str, str]:
            (run,) = runs_of(state, job.id)
            stop(Path(run.folder))
            self.wait(f"{run.id}.1", 60)
            return super().leave()

    with jobs_served(state, lambda compat: EndsLate(state / "executions")) as client:
        job = client.submit(Submission(counting_job(1000, UNTIL_STOPPED)))
        until(lambda: written(state) > 600 and client.jobs.runs(job.id)[0].folder)
    with jobs_served(state, lambda compat: Executor(state / "executions")) as client:
        found = client.wait(job.id, 60)
        assert found is not None and found.state == "Completed", client.jobs.history(job.id)
        (run,) = client.jobs.runs(job.id)
        assert run.epoch == 1


@pytest.mark.full
def test_a_job_is_paused_by_commands_and_stays_paused(jobs: Jobs) -> None:  # noqa: F811
    data = counting_job(1000, UNTIL_STOPPED, **{"wasmsr/onLoss": "restart"})
    (jobs.folder / "count.json").write_bytes(data)
    name = jobs("run", "count.json", "--id-only").strip()
    until(lambda: written(jobs.folder / "state") > 600)
    (run,) = jobs.json("pause", name)["executions"]
    assert (run["state"], run["message"]) == ("Running", "Paused")
    size = written(jobs.folder / "state")
    first = jobs.service()
    assert first is not None
    os.kill(first, signal.SIGTERM)
    until(lambda: jobs.service() != first)
    (run,) = until(
        lambda: [
            one
            for one in jobs.json("executions", name)["executions"]
            if (one["epoch"], one["message"]) == (2, "Paused")
        ]
    )
    assert written(jobs.folder / "state") == size
    assert "Running" in jobs("resume", name)
    until(lambda: written(jobs.folder / "state") > size)
    stop(Path(run["folder"]))
    until(lambda: jobs.json("describe", name)["state"] == "Completed")
    assert "no execution that runs" in jobs("pause", name, code=2)
    said = [one["message"] for one in jobs.json("history", name)["history"]]
    assert "Paused" in said


@pytest.mark.full
def test_an_executor_that_is_left(tmp_path: Path) -> None:
    """A paused execution stays paused, and its time-out counts on."""
    given = until_stopped(
        tmp_path, "one", slow=1000, execution_dir=str(tmp_path / "run"), timeout=2.0
    )
    stdout = tmp_path / "run" / "log" / "stdout"
    with Executor(tmp_path / "first") as first:
        first.start(given)
        until(lambda: stdout.exists() and stdout.stat().st_size > 80)
        first.pause("one")
        waiting = threading.Thread(target=lambda: raised.append(_error_of(first, "one")))
        raised: list[WasmsrError | None] = []
        waiting.start()
        assert first.leave() == {}
        waiting.join(20)
        assert isinstance(raised[0], ExecutorLeft)
        assert first.describe("one").state == "left"
        with pytest.raises(ExecutorLeft):
            first.start({**given, "execution_id": "two", "execution_dir": ""})
    size = stdout.stat().st_size
    with Executor(tmp_path / "second") as second:
        second.recover(given)
        assert second.describe("one").state == "paused"
        assert stdout.stat().st_size == size
        second.resume("one")
        result = second.wait("one", 60)
        assert result.timed_out and result.exit_code == 121, result
    counted = (tmp_path / "run" / "results" / "stdout").read_bytes()
    assert len(counted) > size and counted == numbers(len(counted) // 8)


def _error_of(executor: Executor, id: str) -> WasmsrError | None:
    try:
        executor.wait(id)
    except WasmsrError as error:
        return error
    return None


def test_what_was_left_can_be_lost_later(tmp_path: Path) -> None:
    """Only the end of the executor is no loss: afterwards `on_loss` decides again."""
    given = counting(
        tmp_path, "one", lines=1 << 30, slow=1000, execution_dir=str(tmp_path / "run"),
        on_loss="fail",
    )  # fmt: skip
    with Executor(tmp_path / "first") as first:
        first.start(given)
        first.leave()
    with Executor(tmp_path / "second") as second:
        second.recover(given)
        worker = second.describe("one").worker
        assert worker is not None
        os.kill(worker, signal.SIGKILL)
        result = second.wait("one", 60)
        assert "SIGKILL" in result.error, result


def runs_of(state: Path, job: str) -> list[RunRow]:
    with JobList(state / "jobs.db") as found:
        return found.runs(job)


def said(client: JobClient, job: str) -> str:
    return "\n".join(one.message for one in client.jobs.history(job))


@pytest.mark.full
def test_a_killed_service_goes_on_from_a_checkpoint(jobs: Jobs) -> None:  # noqa: F811
    (jobs.folder / "count.json").write_bytes(counting_job(1_500_000))
    name = jobs("run", "count.json", "--id-only").strip()
    follower = jobs.begin("logs", "-f", name, "--json")
    for number in range(3):
        seen = written(jobs.folder / "state")
        until(
            lambda seen=seen: (
                list(jobs.folder.glob("state/executions/*/saved/point.json"))
                and written(jobs.folder / "state") > seen + 800
            )
        )
        first = jobs.service()
        assert first is not None
        os.kill(first, signal.SIGKILL if number != 1 else signal.SIGTERM)
        until(lambda first=first: jobs.service() != first)
        jobs("list")
    assert json.loads(jobs("run", "count.json", "--wait", "--json"))["state"] == "Completed"
    out, err = follower.communicate(timeout=120)
    assert follower.returncode == 0, err
    read = b""
    items = [json.loads(line) for line in out.splitlines()]
    for item in items:
        if "rewound" in item:
            read = read[: item["rewound"] // 16 * 8]  # a frame is 8 bytes, and a line of 8
        else:
            read += item["text"].encode()
    assert read == numbers(LINES)
    assert any("rewound" in item for item in items)
    jobs("get", name, "--output-dir", "got")
    assert (jobs.folder / "got" / "stdout").read_bytes() == numbers(LINES)
    assert (jobs.folder / "got" / "out" / "numbers").read_bytes() == numbers(LINES)
    (run,) = jobs.json("executions", name)["executions"]
    assert run["epoch"] == 4
