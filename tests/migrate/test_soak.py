"""A short soak, and what the long one (`python -m tests.migrate.soak`) makes of its figures."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.migrate import soak
from tests.migrate.soak import Reading, SoakResult

EARLY = Reading(50, (100 << 20, 90 << 20), (30, 20), (12, 12))
RESULT = SoakResult("writer", 500, EARLY, replace(EARLY, moves=500), True, 1.0)


def test_growth_is_a_fault() -> None:
    assert RESULT.faults() == []
    grown = replace(EARLY, moves=500, memory=(106 << 20, 94 << 20), descriptors=(30, 21))
    assert replace(RESULT, late=grown).faults() == [
        "end a has 106 MiB after 500 moves, 100 MiB after 50",
        "end b has 21 descriptors, and had 20",
    ]
    assert replace(RESULT, late=replace(EARLY, threads=(13, 1))).faults() == [
        "end a has 13 threads, and had 12"
    ]
    assert replace(RESULT, right=False).faults() == ["writer did not end right"]


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("lease", [None, 10.0])
def test_programs_that_move_at_once(tmp_path: Path, lease: float | None) -> None:
    """Eight programs that check themselves, two processes, gRPC: right at the end, none lost."""
    for seconds in (4, 40):  # on a busy machine the first moves take as long as the programs
        folder = tmp_path / str(seconds)
        folder.mkdir()
        found = soak.many(8, folder, seconds=seconds, every=0.2, memory=4, rate=200, lease=lease)
        assert not found.wrong
        if found.moves >= 8:
            break
    assert found.moves >= 8, "they hardly moved"


def test_a_slow_program_is_seen() -> None:
    found = soak.ManyResult(8, 16, ((1.0, 1.9), (1.0, 2.1)), ())
    assert found.slow == 1


@pytest.mark.full
@pytest.mark.timeout(120)
def test_a_short_soak(monkeypatch: pytest.MonkeyPatch) -> None:
    """A program that checks itself moves a few times; the ends are looked at meanwhile."""
    monkeypatch.setattr(soak.SoakWriter, "memory", 4)
    result = soak.soak("writer", 20, 0.1, print)
    assert result.right
    assert result.moves >= 20
    assert result.early.moves == 2 and result.late.moves == 20
    for reading in (result.early, result.late):
        assert all(5 < count < 200 for count in (*reading.descriptors, *reading.threads))
        assert all(20 << 20 < size < 2 << 30 for size in reading.memory)
