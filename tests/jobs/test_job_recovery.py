"""Executions that survive the process that runs the jobs: nothing is lost, nothing comes twice."""

from __future__ import annotations

import base64
import json
import os
import signal
import time
from pathlib import Path

import pytest

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

from tests.jobs.programs import COUNTER, numbers
from tests.jobs.served import jobs_served
from tests.jobs.test_job_commands import Jobs, jobs  # noqa: F401
from wasmsr.interp.modules.module import assemble
from wasmsr.jobs import Executor
from wasmsr.jobs.service.client import JobClient, Submission
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import RunRow

LINES = 400


def counting(slow: int, **meta: str) -> bytes:
    """Return a job that counts to `LINES`, with `slow` turns of a loop before each line."""
    text = COUNTER.replace("{lines}", str(LINES)).replace("{slow}", str(slow))
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
    keys = {"wasmsr/onLoss": "restore", "wasmsr/snapshotEvery": "0.2s", **meta}
    return json.dumps({"Name": "count", "Meta": keys, "Tasks": [task]}).encode()


def written(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("executions/*/log/frames"))


def test_a_service_that_is_ended_leaves_what_it_runs(tmp_path: Path) -> None:
    state = tmp_path / "state"
    with jobs_served(state, lambda compat: Executor(state / "executions")) as client:
        job = client.submit(Submission(counting(60_000)))
        for _ in range(1000):
            if written(state) > 600:
                break
            time.sleep(0.01)
        assert client.job(job.id).state == "Running"
    (run,) = runs_of(state, job.id)
    assert run.state == "Running" and run.epoch == 1
    with jobs_served(state, lambda compat: Executor(state / "executions")) as client:
        found = client.wait(job.id, 60)
        assert found is not None and found.state == "Completed", client.jobs.history(job.id)
        (run,) = client.jobs.runs(job.id)
        assert run.epoch == 2 and "goes on from its checkpoint" in said(client, job.id)
        client.get(run, tmp_path / "got")
    assert (tmp_path / "got" / "stdout").read_bytes() == numbers(LINES)
    assert (tmp_path / "got" / "out" / "numbers").read_bytes() == numbers(LINES)


def runs_of(state: Path, job: str) -> list[RunRow]:
    with JobList(state / "jobs.db") as found:
        return found.runs(job)


def said(client: JobClient, job: str) -> str:
    return "\n".join(one.message for one in client.jobs.history(job))


@pytest.mark.full
def test_a_killed_service_goes_on_from_a_checkpoint(jobs: Jobs) -> None:  # noqa: F811
    (jobs.folder / "count.json").write_bytes(counting(1_500_000))
    name = jobs("run", "count.json", "--id-only").strip()
    follower = jobs.begin("logs", "-f", name, "--json")
    for number in range(3):
        seen = written(jobs.folder / "state")
        for _ in range(1000):
            points = list(jobs.folder.glob("state/executions/*/saved/point.json"))
            if points and written(jobs.folder / "state") > seen + 800:
                break
            time.sleep(0.01)
        first = jobs.service()
        assert first is not None
        os.kill(first, signal.SIGKILL if number != 1 else signal.SIGTERM)
        time.sleep(0.3)
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
