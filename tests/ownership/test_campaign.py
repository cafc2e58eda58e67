"""A seeded part of the campaign (`campaign.py`): real nodes and workers, with faults."""

from __future__ import annotations

import pytest

from tests.ownership.campaign import run


@pytest.mark.full
@pytest.mark.parametrize("seed", [1])
def test_a_run(seed: int) -> None:
    found = run(seed, faults=2, slack=5)
    assert found["epochs"] >= 1 and found["lines"] > 10


@pytest.mark.full
@pytest.mark.timeout(900)
def test_six_runs() -> None:
    for seed in range(100, 106):
        run(seed, slack=5)
