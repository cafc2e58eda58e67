"""Where the restored mode stops: honestly spread, and not fewer than promised."""

from __future__ import annotations

import pytest

pytest.importorskip("wasmsr._ffi", reason="the engine is not built")

from .restored import EVERY, SPREAD, stops


@pytest.mark.parametrize("length", [0, 1, 2, EVERY - 1, EVERY, EVERY + 1, EVERY + SPREAD])
def test_short_invocations_stop_everywhere(length: int) -> None:
    assert stops(length) == list(range(length + 1))


@pytest.mark.parametrize("length", [EVERY + SPREAD + 1, 1_500, 5_000, 1_234_567, 10**9])
def test_long_invocations_stop_at_first_everywhere_then_evenly(length: int) -> None:
    places = stops(length)
    assert places == sorted(set(places))
    assert places[: EVERY + 1] == list(range(EVERY + 1))
    assert places[-1] == length
    later = places[EVERY + 1 :]
    assert len(later) >= SPREAD
    # One stop in each of SPREAD equal parts, so no gap is longer than two parts.
    gaps = [after - before for before, after in zip([EVERY, *later], later, strict=False)]
    assert max(gaps) <= 2 * ((length - EVERY) // SPREAD + 1)


def test_a_loop_is_met_at_different_instructions() -> None:
    assert len({place % 8 for place in stops(1_000_000)[EVERY + 1 :]}) == 8
