"""Files that a generator made are what it makes today (house rule: generated files are checked)."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

GENERATORS = {
    "instruction table": ["-m", "scripts.generate", "--check"],
    "protocol": ["proto/generate.py", "--check"],
    "command line reference": ["-m", "scripts.reference", "--check"],
    "settings and metrics of a node": ["-m", "scripts.node_reference", "--check"],
    "keys of a job file": ["-m", "scripts.job_reference", "--check"],
    "examples": ["examples/snapshot/build.py", "--check"],
    "core as a module": ["scripts/core_wasm.py", "--check"],
    "WASI programs": ["tests/wasi/programs/build.py", "--check"],
    "WASI document": ["-m", "wasmsr.wasi.preview1.functions", "--check", "docs/wasi.md"],
}


SLOW = ("core as a module",)
"""`make check` has them; `make test` does not."""


@pytest.mark.parametrize(
    "name", [pytest.param(one, marks=pytest.mark.full if one in SLOW else ()) for one in GENERATORS]
)
def test_current(name: str, root: Path) -> None:
    if name == "protocol" and importlib.util.find_spec("grpc_tools") is None:
        pytest.skip("grpcio-tools is not installed (it is in the dev extra; `make check` has it)")
    done = subprocess.run(
        [sys.executable, *GENERATORS[name]], cwd=root, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
