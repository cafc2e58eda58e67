"""A start that fails leaves nothing open: no store waits for the garbage collector."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from wasmsr import RunSpec, Snapshot, Store
from wasmsr.errors import WasmsrError
from wasmsr.interp.modules.module import Module
from wasmsr.snapshot.restore import restore

FAILING = {
    "no import": '(module (import "other" "f" (func)) (func (export "_start")))',
    "no export": '(module (func (export "other")))',
    "segment": """(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
      (memory 1) (data (i32.const 65536) "x") (func (export "_start")))""",
    "wrong import": """(module (import "wasi_snapshot_preview1" "sched_yield" (func))
      (func (export "_start")))""",
}


@pytest.fixture
def stores(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Store]]:
    """All stores that are made during the test."""
    made: list[Store] = []
    begin = Store.__init__

    def noted(self: Store, **options: Any) -> None:
        begin(self, **options)
        made.append(self)

    monkeypatch.setattr(Store, "__init__", noted)
    yield made


def descriptors() -> list[str]:
    return sorted(os.listdir("/proc/self/fd"))


@pytest.mark.parametrize("name", FAILING)
@pytest.mark.parametrize("how", ["run", "run a spec", "open"])
def test_a_launch(name: str, how: str, stores: list[Store], tmp_path: Path) -> None:
    file = tmp_path / "m.wat"
    file.write_text(FAILING[name])
    spec = RunSpec(program=str(file), mounts=(f"{tmp_path}::/d",), listen=("127.0.0.1:0",))
    before = descriptors()
    with pytest.raises(WasmsrError):
        if how == "run":
            wasmsr.run(file, mounts=[f"{tmp_path}::/d"])
        elif how == "run a spec":
            wasmsr.run(spec)
        else:
            wasmsr.open_program(spec)
    assert all(store.closed for store in stores)
    assert len(stores) == (0 if name == "no export" and how != "run" else 1)
    assert descriptors() == before


def test_a_restore(stores: list[Store]) -> None:
    module = Module.from_text("""(module (import "host" "f" (func)) (memory 1)
      (func (export "g") (loop br 0)))""")
    store = Store()
    store.enqueue(store.instantiate(module, {"host": {"f": lambda: None}}).function("g"))
    store.run(fuel=10)
    snapshot = Snapshot.of(store)
    made = len(stores)
    with pytest.raises(WasmsrError, match="host function"):
        restore(snapshot.state, modules=[module])
    frame = snapshot.state.thread.frames[0]
    frame.offset += 1
    with pytest.raises(WasmsrError):
        restore(snapshot.state, modules=[module], imports={"host": {"f": lambda: None}})
    assert len(stores) == made + 2
    assert [one.closed for one in stores[made:]] == [True, True]
    assert not store.closed
