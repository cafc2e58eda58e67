"""The official scripts in fast and precise code side by side (`lockstep`)."""

from __future__ import annotations

import pytest

from wasmsr.interp import tier

from . import suite
from .convert import has_wabt
from .lockstep import run_script

absence = suite.absence()
needs_scripts = pytest.mark.skipif(absence is not None, reason=absence or "")
QUICK = (
    "address1",
    "address64",
    "br_table",
    "call_indirect",
    "fac",
    "local_tee",
    "loop",
    "memory_fill",
    "relaxed_min_max",
    "return_call",
    "simd_lane",
    "simd_load",
)


def run(name: str, *, counted: bool) -> None:
    if name.startswith("legacy/") and not has_wabt():
        pytest.skip("wabt's wat2wasm, which takes the old exception instructions, is not installed")
    tally, session = run_script(name, counted=counted)
    assert not tally.failures, "\n".join(map(str, tally.failures))
    assert tally.assertions["passed"] >= suite.floor().get(name, 0)
    assert session.pair.compared >= session.invocations


@needs_scripts
@pytest.mark.parametrize("name", [name for name in QUICK if name in suite.names()])
def test_some_in_lockstep(name: str) -> None:
    run(name, counted=True)


@needs_scripts
@pytest.mark.skipif(tier.refusal() is not None, reason="there is no native code here")
@pytest.mark.parametrize("name", [name for name in QUICK if name in suite.names()])
def test_some_in_native_code(name: str, native: None) -> None:
    run(name, counted=False)


@needs_scripts
@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.skipif(tier.refusal() is not None, reason="there is no native code here")
@pytest.mark.parametrize("name", suite.names())
def test_in_native_code(name: str, native: None) -> None:
    run(name, counted=False)


@needs_scripts
@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("counted", [False, True], ids=["plain", "counted"])
@pytest.mark.parametrize("name", suite.names())
def test_in_lockstep(name: str, counted: bool) -> None:
    run(name, counted=counted)
