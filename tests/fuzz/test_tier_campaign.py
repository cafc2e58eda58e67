"""The campaign of native code against precise code, for a few seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.fuzz.tier_campaign import KINDS, campaign, main, trial
from wasmsr.interp import tier

pytestmark = pytest.mark.skipif(tier.refusal() is not None, reason="no native code here")


@pytest.mark.parametrize("kind", KINDS)
def test_a_few_seeds(kind: str) -> None:
    passed = [trial(kind, seed) for seed in range(7000, 7006)]
    assert sum(compared for _, compared in passed) >= 3 * len(passed)


def test_it_goes_on_where_it_ended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "done.json"
    first = campaign(file, 1, 60)
    assert first["seed"] == 1
    assert json.loads(file.read_text()) == first
    assert main(["--points", str(first["points"] + 1), "--file", str(file)]) == 0
    assert json.loads(file.read_text())["seed"] > 1
    assert capsys.readouterr().out.endswith("seeds: equal\n")


def test_a_frame_that_waits_in_a_try_has_all_its_locals() -> None:
    """Code with counts has no canonical point at a call; its locals stayed in registers."""
    assert trial("exceptions", 5075)[1] >= 3
