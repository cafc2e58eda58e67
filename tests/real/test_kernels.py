"""The bench's kernels in fast and precise code side by side: equal at points spread over each.

A quick run compares some hundred states of every kernel, the long one (`-m full`) 10,000.
"""

from __future__ import annotations

import pytest

from bench.build import REPEATS, Missing, kernel
from tests.lockstep import Pair, enqueue
from wasmsr import Module, Paused, Store
from wasmsr.interp import tier

COMPARED = 10_000
SPREAD = 37
"""Canonical points from one comparison to the next, on average."""
ENDLESS = 1_000_000
"""run(n) that no comparison reaches the end of."""


@pytest.mark.parametrize("counted", [False, True], ids=["plain", "counted"])
@pytest.mark.parametrize("name", REPEATS)
@pytest.mark.parametrize(
    "most", [200, pytest.param(COMPARED, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
def test_kernel(name: str, counted: bool, most: int) -> None:
    try:
        module = Module.from_file(kernel(name).wasm)
    except Missing as reason:
        pytest.skip(str(reason))
    stores = Store(), Store()
    for store in stores:
        store.instantiate(module)
    pair = Pair(*stores, counted=counted)
    enqueue(pair, "run", ENDLESS)
    outcome = pair.run(most=most, every=SPREAD, seed=most)
    assert outcome == Paused("requested")
    assert pair.compared == most


@pytest.mark.skipif(tier.refusal() is not None, reason="there is no native code here")
@pytest.mark.parametrize("name", REPEATS)
@pytest.mark.parametrize(
    "most", [100, pytest.param(COMPARED, marks=[pytest.mark.full, pytest.mark.timeout(900)])]
)
def test_kernel_in_native_code(name: str, most: int, native: None) -> None:
    test_kernel(name, False, most)
