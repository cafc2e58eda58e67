"""The commands of `wasmsr job`, with the process that runs the jobs and real programs."""

from __future__ import annotations

import base64
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("yaml")
pytest.importorskip("jsonschema")
wasmtime = pytest.importorskip("wasmtime")

HELLO = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)
  (data (i32.const 8) "\\10\\00\\00\\00\\06\\00\\00\\00hello\\0a")
  (func (export "_start")
    (drop (call $write (i32.const 1) (i32.const 8) (i32.const 1) (i32.const 0)))
    (call $exit (i32.const 7)))
  (func (export "spin") (loop $on (br $on))))"""


class Jobs:
    """The command line, with a folder of jobs of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        module = base64.b64encode(wasmtime.wat2wasm(HELLO)).decode()
        source = {"Type": "inline", "Params": {"URL": f"data:;base64,{module}"}}
        for name, entry in (("hello", "_start"), ("spin", "spin")):
            engine = {"Type": "wasm", "Params": {"EntryModule": "/m", "Entrypoint": entry}}
            task = {"Engine": engine, "InputSources": [{"Source": source, "Target": "/m"}]}
            (folder / f"{name}.json").write_text(json.dumps({"Name": name, "Tasks": [task]}))

    def begin(self, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "wasmsr", "job", *words],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=self.folder,
            env={**os.environ, "WASMSR_STATE_DIR": str(self.folder / "state")},
        )  # fmt: skip

    def __call__(self, *words: str, code: int = 0) -> str:
        running = self.begin(*words)
        out, err = running.communicate(timeout=60)
        assert running.returncode == code, (words, running.returncode, out, err)
        return err if code and not out else out

    def json(self, *words: str, code: int = 0) -> Any:
        return json.loads(self(*words, "--json", code=code))

    def service(self) -> int | None:
        """Return the process that runs the jobs."""
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                words = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"service" in words and os.fsencode(self.folder / "state") in words:
                return int(folder.name)
        return None


@pytest.fixture
def jobs(tmp_path: Path) -> Iterator[Jobs]:
    made = Jobs(tmp_path)
    yield made
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = made.service()
        if found is None:
            return
        with suppress(ProcessLookupError):  # it has just ended
            os.kill(found, signal.SIGTERM)
        time.sleep(0.05)
    raise AssertionError("the process that runs the jobs does not end")


def test_a_job_from_submission_to_results(jobs: Jobs) -> None:
    assert jobs("run", "hello.json", "--follow", code=7) == "hello\n"
    name = jobs("run", "hello.json", "--id-only", "--wait", code=7).strip()
    assert jobs("logs", name) == "hello\n"
    assert jobs("get", name[:12], "--output-dir", "got") == "got\n"
    files = {path.name: path.read_text() for path in (jobs.folder / "got").iterdir()}
    assert files == {"stdout": "hello\n", "stderr": "", "exitCode": "7"}
    assert "it is there already" in jobs("get", name, "--output-dir", "got", code=1)
    found = jobs.json("describe", name)
    assert (found["state"], found["executions"][0]["exit_code"]) == ("Completed", 7)
    assert jobs.json("list")["jobs"][0]["id"] == name
    again = jobs.json("rerun", name, "--wait", code=7)
    assert again["origin"] == name and again["executions"][0]["state"] == "Completed"
    assert "there is no job 'x'" in jobs("describe", "x", code=2)


@pytest.mark.full
def test_killed_and_found_again(jobs: Jobs) -> None:
    name = jobs("run", "spin.json", "--id-only").strip()
    follower = jobs.begin("logs", "-f", name)
    deadline = time.monotonic() + 60
    while jobs.json("executions", name)["executions"][0]["state"] != "Running":
        assert time.monotonic() < deadline
    first = jobs.service()
    assert first is not None
    os.kill(first, signal.SIGKILL)
    assert jobs.json("list")["jobs"][0]["state"] == "Running"
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        (run,) = jobs.json("executions", name)["executions"]
        if run["epoch"] == 2 and run["state"] == "Running":
            break
    assert run["epoch"] == 2 and jobs.service() not in (None, first)
    assert "is Stopped" in jobs("stop", name)
    _, err = follower.communicate(timeout=60)
    assert follower.returncode == 0 and "rewound to 0" in err
    said = [one["message"] for one in jobs.json("history", name)["history"]]
    assert "the process that ran it has ended; it is begun again" in said


@pytest.mark.full
def test_several_commands_at_once(jobs: Jobs) -> None:
    running = [jobs.begin("run", "hello.json", "--wait", "--id-only") for _ in range(5)]
    for one in running:
        _, err = one.communicate(timeout=60)
        assert one.returncode == 7, err
    found = jobs.json("list")["jobs"]
    assert [one["state"] for one in found] == ["Completed"] * 5
    assert len({one["id"] for one in found}) == 5


def test_paths_and_changes(jobs: Jobs) -> None:
    task = json.loads((jobs.folder / "hello.json").read_text())
    source = {"Type": "localDirectory", "Params": {"SourcePath": "data"}}
    task["Tasks"][0]["InputSources"].append({"Source": source, "Target": "/in"})
    (jobs.folder / "local.json").write_text(json.dumps(task))
    (jobs.folder / "data").mkdir()
    assert "not below an allowed one" in jobs("run", "local.json", code=2)
    found = jobs.json(
        "run", "local.json", "--allow-path", "data", "--wait",
        "--set", "Name=other", "--set", "Count=2", code=7,
    )  # fmt: skip
    assert (found["name"], len(found["executions"])) == ("other", 2)
    jobs("get", found["id"], "--output-dir", "both")
    assert len(list((jobs.folder / "both").iterdir())) == 2
    wrong = jobs("run", "local.json", "--set", "Tasks.0.Engin.Type=wasm", code=2)
    assert "did you mean Engine?" in wrong
