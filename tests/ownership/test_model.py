"""The model of ownership: its states have no violation, and each variant without a rule has one."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.ownership.model.broken import BROKEN, LATE_SWAPS
from tests.ownership.model.caught import DEEP, caught
from tests.ownership.model.explore import Model, Search
from tests.ownership.model.node import Bounds
from wasmsr.ownership.transitions import TRANSITIONS, OwnerEvent, OwnerState

QUICK = (
    "a swap compares owner and epoch, not the whole record",
    "the lease counts from the answer to the renewal",
    "a claim that is repeated counts from the repetition",
    "no pause at two thirds",
    "an owner in doubt only reads",
    "a watch without a margin for clocks",
    "a source without an answer reads, and runs on",
    "a destination keeps the state of an attempt that is over",
    *LATE_SWAPS,
)
"""Variants that are tried in each run, because they are caught fast."""
SOME = random.Random(11).sample(sorted(set(BROKEN) - set(QUICK) - set(DEEP)), 5)
"""What the long tests try besides. `python -m tests.ownership.model --broken` tries all."""


def test_three_nodes_with_faults_and_moves() -> None:
    search = Search(Model(Bounds(nodes=3, epochs=4, attempts=6, faults=2, moves=2)), sample=16)
    assert not search.run(60_000)
    assert search.sampled > 500
    search.walk(40_000, seed=7)


def test_all_states_of_two_nodes_in_small_bounds() -> None:
    """Small enough to be seen whole: two epochs, one fault, no move."""
    bounds = Bounds(nodes=2, epochs=2, attempts=2, faults=0, moves=0, effects=False)
    search = Search(Model(bounds), sample=4)
    assert search.run(400_000), "the bounds are larger than they should be"
    assert len(search.seen) > 5_000


def test_a_source_makes_its_swap_late() -> None:
    """Two nodes, two epochs, one move, in which one end is killed."""
    search = Search(Model(Bounds(2, 2, 2, 1, 1, effects=False)), sample=16, parents=True)
    search.run(40_000)
    assert search.parents is not None
    steps = {name for _, name in search.parents.values()}
    assert steps >= {"asks for the swap late", "ends what its journal offers"}
    assert "reads what became of the attempt" in steps


def test_a_search_is_continued(tmp_path: Path) -> None:
    bounds = Bounds(nodes=2, epochs=2, attempts=2, faults=0, moves=1)
    whole = Search(Model(bounds))
    whole.run(20_000)
    half = Search(Model(bounds))
    half.run(7_000)
    half.save(tmp_path / "search")
    again = Search.load(tmp_path / "search")
    assert again.seen == half.seen
    again.run(20_000)
    assert again.depth == whole.depth and abs(len(again.seen) - len(whole.seen)) < 100


@pytest.mark.parametrize("name", QUICK)
def test_a_variant_without_a_rule(name: str) -> None:
    assert caught(name), "the model does not notice that this rule is missing"


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("name", SOME)
def test_another_variant_without_a_rule(name: str) -> None:
    assert caught(name), "the model does not notice that this rule is missing"


def test_there_are_many_variants() -> None:
    assert len(BROKEN) >= 30


@pytest.mark.full
@pytest.mark.timeout(1200)
def test_many_states() -> None:
    search = Search(Model(Bounds(nodes=3, epochs=4, attempts=6, faults=2, moves=2)))
    search.run(500_000)
    search.walk(100_000, seed=11)


def test_the_table() -> None:
    """Only one state runs programs that the register's answer allows, and every state has a way."""
    running = OwnerState.RUNNING
    into = {e for (s, e), after in TRANSITIONS.items() if after is running and s is not running}
    assert into == {OwnerEvent.GRANTED, OwnerEvent.RENEWED, OwnerEvent.DECIDED}
    for state in OwnerState:
        assert any(before is state for before, _ in TRANSITIONS)
        if state is not OwnerState.NONE:
            assert any(after is state for after in TRANSITIONS.values())
        assert (state, OwnerEvent.CRASH) in TRANSITIONS
    assert {event for _, event in TRANSITIONS} == set(OwnerEvent)
