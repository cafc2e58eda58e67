"""Random modules in fast code: lockstep with precise code, and the end as under Wasmtime.

Every module runs straight in fast code, in precise code, and in both side by side with stops at
canonical points, at all of them or past calls, fast code with and without counting; results, traps,
memory, globals and at the stops whole states must be equal.
"""

from __future__ import annotations

import os
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.fuzz.generate import Generator
from tests.fuzz.stacks import source
from tests.fuzz.test_generated_programs import End, _end, _fresh, oracle, straight
from tests.lockstep import Pair
from wasmsr import Module, Paused
from wasmsr.interp import tier

ROUNDS = int(os.environ.get("WASMSR_FUZZ", "60"))


def trial(text: str, seed: int) -> tuple[End, int]:
    """Run one module in all ways; its end, and how many states were compared."""
    module = Module.from_text(text)
    plain, _, metered = straight(module)
    assert metered == plain
    assert oracle(module) == plain
    compared = 0
    for through_calls, counted in ((False, True), (True, False), (None, bool(seed % 2))):
        pair = Pair(_fresh(module), _fresh(module), counted=counted)
        outcome = pair.run(most=400, seed=seed, through_calls=through_calls)
        if outcome == Paused("requested"):  # the rest in large steps
            outcome = pair.run(most=100_000, every=1000, seed=seed, through_calls=through_calls)
        assert _end(pair.fast, outcome) == plain
        compared += pair.compared
    return plain, compared


@settings(
    max_examples=ROUNDS,
    deadline=None,
    derandomize="WASMSR_FUZZ" not in os.environ,
    suppress_health_check=list(HealthCheck),
)
@given(st.data())
def test_shrinkable_modules(data: st.DataObject) -> None:
    trial(source(lambda n: data.draw(st.integers(0, n - 1))), 0)


def test_modules_of_instructions() -> None:
    ends = [trial(source(random.Random(seed).randrange), seed) for seed in range(3 * ROUNDS)]
    assert sum(end.trap is None for end, _ in ends) > ROUNDS
    assert sum(compared for _, compared in ends) > 10 * ROUNDS


def test_modules_of_expressions() -> None:
    for seed in range(2000, 2000 + ROUNDS):
        trial(Generator(random.Random(seed).randrange).module(), seed)


@pytest.mark.skipif(tier.refusal() is not None, reason="there is no native code here")
def test_modules_in_native_code(native: None) -> None:
    for seed in range(4000, 4000 + ROUNDS):
        trial(source(random.Random(seed).randrange), seed)
        trial(Generator(random.Random(seed).randrange).module(), seed)


@pytest.mark.full
@pytest.mark.skipif(tier.refusal() is not None, reason="there is no native code here")
@pytest.mark.parametrize("part", range(4))
def test_many_modules_in_native_code(part: int, native: None) -> None:
    for seed in range(20_000 + 1500 * part, 20_000 + 1500 * (part + 1)):
        trial(source(random.Random(seed).randrange), seed)


@pytest.mark.full
@pytest.mark.parametrize("part", range(4))
def test_many_modules(part: int) -> None:
    for seed in range(10_000 + 1500 * part, 10_000 + 1500 * (part + 1)):
        trial(source(random.Random(seed).randrange), seed)
