"""When a program is stopped for its move."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.migrate.counter import PIECE
from tests.migrate.test_faults import Session
from wasmsr.migrate.handover import destination
from wasmsr.migrate.protocol import ABILITIES, AHEAD
from wasmsr.migrate.rounds.convergence import PLACING, Convergence, MovePolicy
from wasmsr.migrate.rounds.speeds import LineSpeed

MIB = 1 << 20


def simulate(
    policy: MovePolicy, *, pages: int, dirty: float, rate: float, round_trip: float = 0.001
) -> tuple[Convergence, int]:
    """The rounds of a program that writes `dirty` bytes a second, over a line of `rate`.

    Returns what was decided, and the pages of the last round.
    """
    made = Convergence(policy, round_trip=round_trip, sync=0.001)
    left = pages
    while not made.stays(left):
        span = left * 4096 / rate + round_trip
        made.sent(left * 4096, left * 4096, span, span, 0.0)
        left = min(pages, int(dirty * (1 - made.share) * span / 4096))
        assert made.rounds < 2000
    return made, left


def test_a_program_that_writes_little_is_stopped_when_little_is_left() -> None:
    made, left = simulate(MovePolicy(), pages=262144, dirty=10 * MIB, rate=100 * MIB)
    assert made.reason == "downtime" and made.rounds <= 5
    assert left * 4096 / (100 * MIB) < 0.06
    assert made.predicted is not None and made.predicted <= 0.052


def test_a_program_that_writes_faster_than_the_line_is_stopped_soon() -> None:
    made, _ = simulate(MovePolicy(), pages=4096, dirty=40 * MIB, rate=10 * MIB)
    assert made.reason == "not shrinking" and made.rounds <= 5


def test_a_program_that_is_held_back_converges() -> None:
    policy = MovePolicy(auto_converge=True)
    made, left = simulate(policy, pages=65536, dirty=25 * MIB, rate=20 * MIB)
    assert made.reason == "downtime"
    assert 0.2 <= made.share <= 0.8
    assert left * 4096 / (20 * MIB) < 0.06


def test_a_program_that_cannot_be_held_back_enough_is_stopped_all_the_same() -> None:
    policy = MovePolicy(auto_converge=True, max_rounds=100)
    made, _ = simulate(policy, pages=4096, dirty=4000 * MIB, rate=10 * MIB)
    assert made.reason == "not shrinking" and made.share == pytest.approx(0.8)


def test_rounds_are_limited() -> None:
    policy = MovePolicy(max_downtime=1e-9, max_rounds=4)
    made, _ = simulate(policy, pages=65536, dirty=9 * MIB, rate=10 * MIB)
    assert made.reason == "rounds" and made.rounds == 4


def test_stop_and_copy_has_one_round() -> None:
    made, left = simulate(MovePolicy(stop_and_copy=True), pages=1000, dirty=0, rate=MIB)
    assert (made.reason, made.rounds, left) == ("stop-and-copy", 1, 1000)


def test_a_tiny_program_is_stopped_at_once() -> None:
    made, _ = simulate(MovePolicy(), pages=3, dirty=0, rate=MIB)
    assert (made.reason, made.rounds) == ("downtime", 1)


def test_a_line_that_is_known_is_trusted() -> None:
    made = Convergence(MovePolicy(), round_trip=0.001, sync=0.001, line=LineSpeed(wire=100 * MIB))
    assert made.stays(40) and made.reason == "downtime"


def test_a_short_downtime_is_made_shorter_while_rounds_shrink() -> None:
    for pages in ([1000, 100, 40], [1000, 600], [1000, 100, 60]):
        line = LineSpeed(wire=100 * MIB)
        made = Convergence(MovePolicy(), round_trip=0.001, sync=0.001, line=line)
        assert [made.stays(count) for count in pages] == [False] * (len(pages) - 1) + [True]
        assert made.reason == "downtime"
    made = Convergence(MovePolicy(max_rounds=1), round_trip=0.0, sync=0.0, line=line)
    assert made.stays(1000) and made.reason == "downtime"


def test_a_round_in_which_this_end_only_waits_shows_the_line() -> None:
    line = LineSpeed()
    line.learn(40 * MIB, 10 * MIB, busy=1.0, waited=0.8)
    assert line.wire == 10 * MIB
    assert line.work == pytest.approx(200 * MIB)
    line.learn(40 * MIB, 36 * MIB, busy=1.8, waited=1.5)
    assert 18 * MIB < line.wire < 20 * MIB
    assert line.seconds(4 * MIB, MIB) == pytest.approx(MIB / line.wire)


def test_a_round_of_work_or_a_small_one_shows_that_the_line_is_at_least_as_fast() -> None:
    line = LineSpeed(wire=10 * MIB)
    line.learn(200 * MIB, 40 * MIB, busy=1.0, waited=0.0)
    assert line.wire == 40 * MIB
    assert line.seconds(100 * MIB, 4 * MIB) == pytest.approx(0.5)  # this end's work
    for busy in (1.0, 1e-9):
        line.learn(4096, 4096, busy=busy, waited=busy)
        assert line.wire >= 40 * MIB and line.work == 200 * MIB


def test_what_goes_over_the_wire_counts_on_a_slow_line() -> None:
    made = Convergence(MovePolicy(), round_trip=0.04, sync=0.001, line=LineSpeed(wire=10 * MIB))
    assert not made.stays(2560, 10 * MIB, 10 * MIB)  # a second
    assert made.stays(2560, 10 * MIB, MIB // 4) and made.reason == "downtime"


def test_the_last_pages_are_written_while_the_program_is_restored() -> None:
    """Only what takes longer than the restore is added to the downtime."""
    line = LineSpeed(wire=100 * MIB)
    made = Convergence(MovePolicy(), round_trip=0.0, sync=0.0, restore=0.004, line=line)
    made.sent(16 * MIB, 16 * MIB, 0.21, 0.21, 0.002, 0.034)  # 2 ms for each MiB

    def beside(size: int) -> float:
        predicted = made.predict(size, size)
        assert predicted is not None
        return predicted - line.seconds(size, size)

    assert beside(2 * MIB) == pytest.approx(beside(0))
    assert beside(4 * MIB) - beside(0) == pytest.approx(0.004)


def test_files_count_in_what_is_left_and_in_the_downtime() -> None:
    """They go over the line like pages, and the other end puts them in their place."""
    line = LineSpeed(wire=100 * MIB)
    made = Convergence(MovePolicy(), round_trip=0.0, sync=0.0, line=line)
    plain = made.predict(0, 0)
    made.files = 150 * MIB
    placed = made.predict(0, 0)
    assert plain is not None and placed is not None
    assert placed - plain == pytest.approx(150 * MIB / PLACING)
    made.files = 0
    assert not made.stays(2560, 10 * MIB, 10 * MIB)  # 10 MiB of files, and no page


@pytest.mark.parametrize("ahead", [True, False])
def test_files_that_are_made_between_the_rounds_cost_nothing_in_the_stop(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ahead: bool
) -> None:
    """A destination that cannot do that puts all of them in their place at the end."""
    seen: list[int] = []
    stays = Convergence.stays

    def note(made: Convergence, *given: int) -> bool:
        seen.append(made.files)
        return stays(made, *given)

    monkeypatch.setattr(Convergence, "stays", note)
    if not ahead:
        some = tuple(one for one in ABILITIES if one != AHEAD)
        monkeypatch.setattr(destination, "ABILITIES", some)
    session = Session(tmp_path, [])
    session.begin()
    session.move()
    session.check()
    session.close()
    assert seen == [0, 0 if ahead else len(PIECE)]
