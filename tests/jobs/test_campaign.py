"""A few runs of the campaigns that kill workers and servers of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest

from tests.jobs import server_campaign
from tests.jobs.campaign import JOBS, run


@pytest.mark.full
def test_servers_that_are_killed_and_frozen() -> None:
    """The first run of a seed of `server_campaign`."""
    (found,) = server_campaign.campaign(range(1), jobs=4, faults=2, seed=7)
    assert found["wrong"] == [] and found["jobs"] == 4


def test_a_counter_that_is_killed() -> None:
    (line,) = run(["counter"], 1, 7, set())
    assert line["right"], line


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", JOBS)
def test_real_programs_that_are_killed(name: str) -> None:
    lines = list(run([name], 6, 7, set()))
    if "skipped" in lines[0]:
        pytest.skip(lines[0]["skipped"])
    assert all(line["right"] for line in lines), lines
    assert any(line["losses"] for line in lines)


@pytest.mark.full
@pytest.mark.timeout(600)
def test_a_ray_cluster_whose_servers_are_lost(tmp_path: Path) -> None:
    """The first run of a seed of `cluster_campaign`; Ray reads its settings when it is imported."""
    if find_spec("ray") is None:
        pytest.skip("ray is not installed: pip install 'wasmsr[ray]'")
    words = "--jobs 3 --seed 3 --every 10 --slack 30 --shortest 100 --longest 200 --cpus 2"
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.jobs.cluster_campaign"),
            *("--file", str(tmp_path / "found"), *words.split()),
        ],
        capture_output=True, text=True, timeout=400,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = json.loads((tmp_path / "found").read_text())
    assert found["wrong"] == [] and found["executions"] >= 3
