"""A short run of the campaign."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.mqtt.broker import needs_broker
from tests.mqtt.campaign import run

pytestmark = needs_broker


@pytest.mark.full
def test_nodes_are_lost_and_modules_are_not(tmp_path: Path) -> None:
    # A node is away so long that what it would say of its old lease counts as late (`numbers`).
    found = run(tmp_path, 1, nodes=2, modules=3, seconds=12, every=1, hold=4, lease=1)
    assert not found["lost"]
    assert not found["mixed"]
    assert len(found["faults"]) >= 2
