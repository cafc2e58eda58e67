"""The executions that a real peer did, one by one: in its manner, and in ours."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from wasmsr.jobs import Executor, JobError, LogFrame, StillRuns

ROOT = Path(__file__).resolve().parents[2]
PEER = next(
    (
        place
        for place in (one / "shared/vectors/bacalhau" for one in ROOT.parents)
        if place.exists()
    ),
    ROOT.parent / "shared/vectors/bacalhau",
)
VECTORS: list[dict[str, Any]] = []
with suppress(OSError), open(PEER / "vectors.jsonl", encoding="utf-8") as lines:
    VECTORS = [json.loads(line) for line in lines]

pytestmark = pytest.mark.skipif(not VECTORS, reason="needs ../shared/vectors")

FACTS = {
    "unable to find the entrypoint 'nosuch'": ("nosuch", "entrypoint"),
    "unable to find the entrypoint ''": ("''", "entrypoint"),
    "unreachable": ("unreachable",),
    "integer divide by zero": ("integer divide by zero",),
    "stack overflow": ("stack overflow",),
    "min 4 pages (256 Ki) over limit of 1 pages (64 Ki)": ("mem4.wasm", "4 pages", "1 pages"),
    'unknown module "lib"': ("uselib.wasm", "unknown module", "lib"),
    'unknown module "nolib"': ("usemissing.wasm", "unknown module", "nolib"),
    '"nothere" is not exported in module "lib"': ("usemissingf.wasm", "nothere", "lib"),
    'module not found: "/nosuch.wasm"': ("no module", "/nosuch.wasm"),
    'module not found: "/d"': ("no module", "/d"),
    "invalid magic number": ("junk.wasm", "magic"),
}
"""What the peer says, and the facts of it that our sentence must have too."""

START_FACTS = {
    "memory over 4 GiB": ("5.00 GB", "4.00 GB"),
    "empty entry module": ("EntryModule",),
    "input without target": ("no target",),
    "two inputs at one target": ("/x", "twice"),
    "output without path": ("no path",),
    "output clashes with input": ("out",),
}

OURS_CODES = {
    "bad entrypoint": ("EntrypointError", 122),
    "empty entrypoint": ("EntrypointError", 122),
    "memory limit too small for the module": ("ModuleCompileError", 122),
    "import listed with suffix": None,
    "import by target name alone": None,
    "import module missing": ("UnknownModuleError", 122),
    "import function missing": ("ModuleLoadError", 122),
    "entry module missing": ("ModuleNotFound", 122),
    "not a module": ("ModuleCompileError", 122),
    "entry in a directory of many": ("ModuleNotFound", 122),
}
"""What `start` raises in our manner where the peer fails to load; None where we find NAME.wasm."""

LONG = 1.0
"""Seconds after which a program that never ends is not waited for any more."""


@pytest.fixture(scope="module")
def inputs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("peer")
    (folder / "in").mkdir()
    (folder / "in/data.txt").write_bytes(b"line one\nline two\n")
    (folder / "modules").symlink_to(PEER / "modules")
    return folder


MANNERS = [
    pytest.param("bacalhau", id="compat"),
    pytest.param(None, id="ours", marks=pytest.mark.full),  # each module starts a process
]


@pytest.fixture(scope="module", params=MANNERS)
def executor(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Executor, bool]]:
    with Executor(tmp_path_factory.mktemp("jobs"), compat=request.param) as made:
        yield made, request.param is not None


def request_of(vector: Mapping[str, Any], inputs: Path) -> dict[str, Any]:
    job = vector["job"]
    return {
        "execution_id": vector["name"].replace(" ", "-").replace(",", ""),
        "engine": {
            "EntryModule": job.get("Entry", ""),
            "Entrypoint": job.get("Entrypoint", ""),
            "Parameters": job.get("Params", []),
            "ImportModules": job.get("Imports", []),
        },
        "env": job.get("Env", {}),
        "resources": {"memory": job.get("Mem")},
        "inputs": [
            {"source": str(inputs / one["Host"]), "target": one["Target"]}
            for one in job.get("Inputs", [])
        ],
        "outputs": [{"name": one["Name"], "path": one["Path"]} for one in job.get("Outputs", [])],
    }


def files_of(results: Path) -> dict[str, str]:
    found = {"./": ""}
    for path in sorted(results.rglob("*")):
        name = str(path.relative_to(results))
        found[name + "/" if path.is_dir() else name] = (
            "" if path.is_dir() else path.read_bytes().decode()
        )
    return found


def alphabet(count: int) -> str:
    return "".join(chr(ord("a") + i % 26) for i in range(count))


def expected_files(vector: Mapping[str, Any], compat: bool) -> dict[str, str]:
    files = dict(vector["files"])
    if files.get("stdout") == "(3000 bytes)":
        files["stdout"] = alphabet(3000)
    if compat or vector.get("wait_error"):
        return files
    result = vector.get("result", {})
    if vector["name"] == "output by Path":
        return {
            **files, "stdout": "written\n", "out/": "", "out/f": "x", "exitCode": "0"
        }  # fmt: skip
    if "exitCode" not in files:
        if code := OURS_CODES.get(vector["name"]):
            return {**files, "stdout": "", "stderr": "", "exitCode": str(code[1])}
        return files
    if "CancelAfterMS" in vector["job"]:
        files["exitCode"] = "130"
    elif result.get("ErrorMsg"):
        files["exitCode"] = "134"
    elif result["ExitCode"] == -1:
        files["exitCode"] = "0"
    return files


@pytest.mark.parametrize(
    "vector", [one for one in VECTORS if "job" in one], ids=lambda one: one["name"]
)
def test_an_execution(
    executor: tuple[Executor, bool], inputs: Path, vector: dict[str, Any]
) -> None:
    made, compat = executor
    request = request_of(vector, inputs)
    name, results = request["execution_id"], made.folder / request["execution_id"] / "results"
    if expected := vector.get("start_error"):
        with pytest.raises(JobError) as caught:
            made.start(request)
        error = caught.value.as_dict()
        code = "OutputConfigError" if "clashes" in vector["name"] and not compat else ""
        assert error["code"] == (code or expected["code"])
        assert (error["component"], error["retryable"]) == ("WASM", False)
        assert error["http"] == (400 if code else expected["http"])
        assert error["hint"]
        assert all(fact in error["message"] for fact in START_FACTS[vector["name"]])
        made_first = compat and "clashes" in vector["name"]
        assert files_of(results) == (vector["files"] if made_first else {"./": ""})
        return
    ours = OURS_CODES.get(vector["name"])
    if not compat and ours:
        with pytest.raises(JobError) as caught:
            made.start(request)
        assert caught.value.code == ours[0]
        check_facts(vector, caught.value.message)
        assert files_of(results) == expected_files(vector, compat)
        return
    made.start(request)
    if vector.get("wait_error"):
        with pytest.raises(StillRuns):
            made.wait(name, LONG)
        assert files_of(results) == expected_files(vector, compat)
        made.cancel(name)
        return
    if "CancelAfterMS" in vector["job"]:
        made.cancel(name)
    result = made.wait(name, 30)
    if vector["name"] in OURS_CODES and not compat:
        assert (result.exit_code, result.error) == (42, "")
        return
    assert files_of(results) == expected_files(vector, compat)
    check_result(vector, result.as_dict(), compat)
    with pytest.raises(JobError) as caught:
        made.start(request)
    second = caught.value.as_dict()
    assert (second["code"], second["component"], second["http"]) == (
        vector["second_start"]["code"],
        vector["second_start"]["component"],
        vector["second_start"]["http"],
    )
    if first := vector.get("log_stream_first_read_hex"):
        frame = next(iter(made.logs(name)))
        assert isinstance(frame, LogFrame)
        assert frame.encode().hex() == first


def check_facts(vector: Mapping[str, Any], said: str) -> None:
    sentence = vector["result"]["ErrorMsg"]
    facts = [found for text, found in FACTS.items() if text in sentence]
    assert facts, sentence
    assert all(fact in said for fact in facts[0]), said


def check_result(vector: Mapping[str, Any], result: dict[str, Any], compat: bool) -> None:
    expected = vector["result"]
    stdout = expected_files(vector, compat).get("stdout", "")
    if compat:
        assert result["exit_code"] == expected["ExitCode"]
        assert (result["stdout"], result["stderr"]) == (expected["Stdout"], expected["stderr"])
        assert not result["stdout_truncated"]
        assert not result["stderr_truncated"]
        if expected["ErrorMsg"]:
            check_facts(vector, result["error"])
        else:
            assert result["error"] == ""
        return
    assert (result["stdout"], result["stdout_truncated"]) == (stdout[:2048], len(stdout) > 2048)
    if "CancelAfterMS" in vector["job"]:
        assert (result["exit_code"], result["error"]) == (130, "cancelled")
    elif expected["ErrorMsg"]:
        trap = "call stack exhausted" if "overflow" in expected["ErrorMsg"] else ""
        assert result["exit_code"] == 134
        assert trap in result["error"]
        if not trap:
            check_facts(vector, result["error"])
    elif vector["name"] == "output by Path":
        assert (result["exit_code"], result["error"]) == (0, "")
    else:
        code = expected["ExitCode"]
        assert (result["exit_code"], result["error"]) == (0 if code == -1 else code, "")


def test_an_unknown_execution(executor: tuple[Executor, bool]) -> None:
    made, _ = executor
    (expected,) = (one for one in VECTORS if one["name"] == "unknown execution")
    for verb, key in ((made.cancel, "cancel_unknown"), (made.wait, "wait_unknown")):
        with pytest.raises(JobError) as caught:
            verb("nosuch")
        error = caught.value.as_dict()
        assert "nosuch" in error["message"]
        for name in ("code", "component", "http", "retryable"):
            assert error[name] == expected[key][name]
