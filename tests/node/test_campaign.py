"""A part of the campaign with fixed seeds; see `campaign.py`."""

from __future__ import annotations

import pytest

from tests.node import lease_campaign
from tests.node.campaign import play


@pytest.mark.full
@pytest.mark.parametrize("seed", [9])
def test_a_node_is_right_after_faults(seed: int) -> None:
    """Supervisors and workers are killed while programs are paused, resumed and saved."""
    found = play(seed)
    assert not found["wrong"], found["wrong"]


@pytest.mark.full
@pytest.mark.parametrize("seed", [3, 21])
def test_leased_programs_are_right_after_faults(seed: int) -> None:
    """Hosts, supervisors and workers are lost, frozen and cut off while programs move."""
    found = lease_campaign.play(seed, slack=3.0)
    assert not found["wrong"], found["wrong"]
