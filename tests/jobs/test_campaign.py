"""A few runs of the campaigns that kill workers and servers of jobs."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.jobs import judging, server_campaign
from tests.jobs.campaign import JOBS, run


def test_what_campaigns_find_wrong() -> None:
    expected = (7, b"1\n2\n3\n")
    assert judging.wrong_end("a", 7, b"1\n2\n3\n", expected=expected) == []
    assert judging.wrong_end("a", 0, b"1\n2\n4\n", expected=expected, said="why") == [
        "a: code 0 (not 7), 6 bytes (not 6), equal up to 4: why"
    ]
    (cut,) = judging.wrong_end("a", 7, b"1\n", expected=expected)
    assert "2 bytes (not 6), equal up to 2" in cut
    programs = [
        SimpleNamespace(name=name, standing=standing)
        for name, standing in (("a", "ended"), ("a", "moved"), ("b", "ended"), ("b", "ended"),
                               ("c", "killed"))
    ]  # fmt: skip
    assert judging.wrong_counts(programs) == (3, ["b ended 2 times"])
    assert judging.wrong_counts(programs, ["a", "c", "d"]) == (
        3, ["b ended 2 times", "c did not end", "d did not end"],
    )  # fmt: skip


def test_a_campaign_goes_on_after_the_runs_that_it_has(tmp_path: Path) -> None:
    """A line that a killed process has left half is made again; other seeds are other runs."""
    file, made = tmp_path / "file", list[int]()

    def campaign(numbers: range) -> Iterator[judging.Line]:
        for number in numbers:
            made.append(number)
            yield {"number": number, "seed": 1, "wrong": ["it"] * (number == 3)}

    assert judging.carry_out(file, 2, 1, campaign) == 0
    with open(file, "a", encoding="utf-8") as opened:
        opened.write('{"number": 9, "seed": 2, "wrong": []}\n{"number": 2, "se')
    assert judging.carry_out(file, 4, 1, campaign) == 1
    assert made == [0, 1, 2, 3] and judging.earlier(file, 2) == 10
    assert judging.carry_out(file, 4, 1, campaign) == 0


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
