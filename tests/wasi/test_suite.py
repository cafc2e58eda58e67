"""The official tests: WebAssembly/wasi-testsuite, branch prod/testsuite-base, wasm32-wasip1.

`WASMSR_WASI_TESTSUITE` names a checkout; without it they are skipped. Each program runs twice, the
second time with all of WASI captured and restored before every call.
"""

from __future__ import annotations

import io
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgpack
import pytest

from wasmsr.interp.machine import Caller, Exited, Finished, HostFunction, Store
from wasmsr.interp.module import Module
from wasmsr.wasi.functions import FUNCTIONS, MODULE
from wasmsr.wasi.mounts import Mount
from wasmsr.wasi.preview1 import Wasi

FOLDER = os.environ.get("WASMSR_WASI_TESTSUITE")
PROGRAMS = (
    sorted(Path(FOLDER).glob("tests/*/testsuite/wasm32-wasip1/*.wasm")) if FOLDER else [Path("-")]
)


class Hopping:
    """Imports that go through a snapshot of WASI before every call."""

    def __init__(self, wasi: Wasi, **settings: Any) -> None:
        self.wasi = wasi
        self.settings = settings
        self.hops = 0

    def imports(self) -> dict[str, dict[str, HostFunction]]:
        return {MODULE: {row.name: self._function(row.name, row.type) for row in FUNCTIONS}}

    def _function(self, name: str, type_: Any) -> HostFunction:
        def call(caller: Caller, *arguments: int) -> Any:
            state = msgpack.unpackb(msgpack.packb(self.wasi.capture()))
            restored = Wasi.restore(state, **self.settings)
            self.wasi.close()
            self.wasi = restored
            self.hops += 1
            function: Callable[..., Any] = self.wasi.imports[MODULE][name].call
            return function(caller, *arguments)

        return HostFunction(type_, call, raw=True)


@pytest.mark.skipif(FOLDER is None, reason="WASMSR_WASI_TESTSUITE is not set")
@pytest.mark.parametrize("hops", [False, True], ids=["straight", "hops"])
@pytest.mark.parametrize("program", PROGRAMS, ids=lambda path: path.stem)
def test_program(program: Path, hops: bool, tmp_path: Path) -> None:
    described = program.with_suffix(".json")
    expected = json.loads(described.read_text()) if described.exists() else {}
    mounts = []
    if "root" in expected:
        folder = tmp_path / "root"
        if (program.parent / expected["root"]).exists():
            shutil.copytree(program.parent / expected["root"], folder)
        else:
            folder.mkdir()
        mounts = [Mount(folder, "/")]
    out, err = io.BytesIO(), io.BytesIO()
    streams: dict[str, Any] = {"mounts": mounts, "stdout": out, "stderr": err}
    wasi = Wasi(
        args=[program.name, *expected.get("args", [])], env=expected.get("env", {}), **streams
    )
    store = Store()
    hopping = Hopping(wasi, **streams)
    instance = store.instantiate(
        Module.from_file(program), hopping.imports() if hops else wasi.imports
    )
    store.enqueue(instance.function("_start"))
    outcome = store.run()
    hopping.wasi.close()
    code = outcome.code if isinstance(outcome, Exited) else 0
    assert isinstance(outcome, (Exited, Finished)), outcome
    assert code == expected.get("exit_code", 0), err.getvalue().decode()
    if "stdout" in expected:
        assert out.getvalue().decode() == expected["stdout"]
    if hops and "proc_exit" not in program.stem:
        assert hopping.hops
