"""A sample of the official scripts, on the core as a WebAssembly module."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.anywhere.engines import NODE, WASMTIME, Engine, needed
from tests.anywhere.script_session import AnywhereSession
from tests.spec import suite
from tests.spec.execute import Runner

QUICK = {"i32": 364}
"""Scripts without host functions, and how many results of each are compared at least."""
LONG = {
    "i64": 374,
    "f32": 2500,
    "f64": 2500,
    "f32_bitwise": 360,
    "br_table": 152,
    "call_indirect": 115,
    "memory_redundancy": 4,
    "memory_grow": 47,
    "nop": 70,
    "switch": 26,
    "if": 127,
    "loop": 74,
    "labels": 25,
    "conversions": 526,
    "simd_i32x4_arith": 181,
    "simd_f64x2_arith": 1806,
}
pytestmark = pytest.mark.skipif(suite.absence() is not None, reason=str(suite.absence()))


def _compare(name: str, least: int, engine: Engine, folder: Path) -> None:
    session = AnywhereSession(needed(engine), folder)
    tally = Runner(suite.load(name), session).run()
    session.flush()
    assert not tally.failures and not session.differences, session.differences[:3]
    assert session.compared >= least


@pytest.mark.parametrize("name", QUICK)
def test_quick_script(name: str, tmp_path: Path) -> None:
    _compare(name, QUICK[name], NODE, tmp_path)


@pytest.mark.full
@pytest.mark.parametrize("engine", [WASMTIME, NODE], ids=lambda one: one.name)
@pytest.mark.parametrize("name", LONG)
def test_long_script(name: str, engine: Engine, tmp_path: Path) -> None:
    _compare(name, LONG[name], engine, tmp_path)
