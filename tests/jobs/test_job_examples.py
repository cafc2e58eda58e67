"""The job files of examples/jobs, and those of a real Bacalhau, from submission to results."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")

from tests.jobs.served import jobs_served
from tests.s3 import s3_server
from wasmsr.jobs import Executor
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.service.client import JobClient, Submission

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples" / "jobs"
PEER = ROOT.parent / "shared" / "vectors" / "bacalhau"

CHANGES = {"looptimeout": ("Tasks.0.Timeouts.ExecutionTimeout=1",)}
"""To save the time of the test."""


@pytest.fixture
def client(tmp_path: Path) -> Iterator[JobClient]:
    def engines(plan: EnginePlan) -> Executor:
        return Executor(tmp_path / "state", compat="bacalhau" if plan.compat else None)

    with jobs_served(tmp_path / "state", engines, capacity=4) as found:
        yield found


def example(client: JobClient, name: str, *changes: str) -> Any:
    given = Submission(
        (EXAMPLES / name).read_bytes(), name, EXAMPLES, changes, (str(EXAMPLES.parent),)
    )
    return client.submit(given)


def test_examples(client: JobClient, tmp_path: Path) -> None:
    frames = 'Tasks.0.Engine.Params.Parameters=[--frames, "2", /in/sample.y4m, /film/sample.avi]'
    made = {
        "hello": example(client, "hello.yaml"),
        "cat": example(client, "cat.yaml"),
        "transcoding": example(client, "transcoding.yaml", frames),
    }
    for name, job in made.items():
        ended = client.wait(job.id, 60)
        assert ended is not None and ended.state == "Completed", client.jobs.history(job.id)
        for run in client.jobs.runs(job.id):
            client.get(run, tmp_path / name / str(run.number))
    assert (tmp_path / "hello/0/stdout").read_text() == "hello\n"
    text = (EXAMPLES.parent / "snapshot" / "test.txt").read_bytes()
    assert [(tmp_path / f"cat/{n}/stdout").read_bytes() for n in range(3)] == [text] * 3
    assert (tmp_path / "transcoding/0/film/sample.avi").stat().st_size > 1000


@pytest.mark.full
def test_the_example_with_buckets(
    client: JobClient, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with s3_server() as address:
        import s3fs

        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            monkeypatch.setenv(name, "test")
        files = s3fs.S3FileSystem(endpoint_url=address, use_listings_cache=False)
        for bucket in ("inputs", "results"):
            files.mkdir(bucket)
        files.pipe_file("inputs/texts/test.txt", b"from a bucket\n")
        places = ("InputSources.1.Source.Params", "Publisher.Params")
        ends = [f"Tasks.0.{place}.Endpoint={address}" for place in places]
        job = client.wait(example(client, "s3.yaml", *ends).id, 60)
        assert job is not None and job.state == "Completed", client.jobs.history(job.id)
        (run,) = client.jobs.runs(job.id)
        assert files.find("results") == [f"results/jobs/{job.id}/{run.id}.tar.gz"]
        client.get(run, tmp_path / "got")
        assert (tmp_path / "got" / "stdout").read_bytes() == b"from a bucket\n"


def peer_jobs() -> list[dict[str, Any]]:
    lines = (PEER / "node-vectors.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def peer_job(client: JobClient, name: str, folder: Path) -> Any:
    text = (PEER / "jobs" / f"{name}.yaml").read_text(encoding="utf-8")
    text = text.replace("@MODULES@", str(PEER / "modules")).replace("@DIR@", str(folder))
    paths = (str(PEER / "modules"), str(folder))
    changes = CHANGES.get(name, ())
    return client.submit(Submission(text.encode(), name, folder, changes, paths, compat=True))


@pytest.mark.skipif(not PEER.is_dir(), reason="what the peer did is not in this tree")
def test_jobs_of_the_peer_end_as_there(client: JobClient, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "data.txt").write_text("")
    vectors = {one["name"]: one for one in peer_jobs() if one["name"] != "loop"}
    made = {}
    for name in vectors:
        made[name] = peer_job(client, name, tmp_path)
    for name, job in made.items():
        there, here = vectors[name], client.wait(job.id, 60)
        assert here is not None and here.state == there["job_state"], (name, here)
        beginning = (there["job_message"] or "").partition("\n")[0]
        assert here.message.startswith(beginning), (name, here.message)
        runs = client.jobs.runs(job.id)
        states = {9: "Completed", 10: "Failed"}
        assert [run.state for run in runs] == [states[one["state"]] for one in there["executions"]]
        for run, one in zip(runs, there["executions"], strict=True):
            if one["state"] == 9:
                assert run.result is not None
                assert run.result["exit_code"] == one["output"]["ExitCode"], name
                assert run.result["stdout"].startswith(one["output"]["Stdout"]), name
