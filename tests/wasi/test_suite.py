"""The official tests: WebAssembly/wasi-testsuite, branch prod/testsuite-base, wasm32-wasip1.

`WASMSR_WASI_TESTSUITE` names a checkout; without it they are skipped. Each program runs at one go,
then stopped before every host call and resumed in place, and (among the long tests) by a new
process each time.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wasi.legs import Job, in_place, in_processes, straight

FOLDER = os.environ.get("WASMSR_WASI_TESTSUITE")
PROGRAMS = (
    sorted(Path(FOLDER).glob("tests/*/testsuite/wasm32-wasip1/*.wasm")) if FOLDER else [Path("-")]
)
WAYS: dict[str, Callable[[Job], tuple[int, int]]] = {
    "straight": lambda job: (straight(job), 0),
    "in place": in_place,
    "new processes": in_processes,
}
CALLS_NOTHING = ("proc_exit", "proc_raise")


@pytest.mark.skipif(FOLDER is None, reason="WASMSR_WASI_TESTSUITE is not set")
@pytest.mark.parametrize(
    "way",
    ["straight", "in place", pytest.param("new processes", marks=pytest.mark.full)],
)
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_program(program: Path, way: str, tmp_path: Path) -> None:
    described = program.with_suffix(".json")
    expected = json.loads(described.read_text()) if described.exists() else {}
    out, err = tmp_path / "out", tmp_path / "err"
    job = Job(
        module=str(program),
        stdout=str(out),
        stderr=str(err),
        args=expected.get("args", []),
        env=expected.get("env", {}),
    )
    if "root" in expected:
        folder = tmp_path / "root"
        if (program.parent / expected["root"]).exists():
            shutil.copytree(program.parent / expected["root"], folder)
        else:
            folder.mkdir()
        job.mounts = [(str(folder), "/")]
    code, legs = WAYS[way](job)
    assert code == expected.get("exit_code", 0), err.read_text()
    if "stdout" in expected:
        assert out.read_text() == expected["stdout"]
    assert legs >= 2 or way == "straight" or program.stem.startswith(CALLS_NOTHING)
