"""A few runs of the campaign that kills workers of jobs."""

from __future__ import annotations

import pytest

from tests.jobs.campaign import JOBS, run


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
