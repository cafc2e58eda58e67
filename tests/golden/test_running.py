"""A program frozen in its run, with every kind of state alive, goes on to the same answer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.golden.running import EVERYTHING, EXECUTED, RESULTS, alive
from wasmsr import Finished, Paused, Snapshot, Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.restore import restore

SAMPLES = sorted(Path(__file__).parent.glob("v*-running.bin"))
of_each_version = pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)


@of_each_version
def test_everything_is_alive_in_it(path: Path) -> None:
    assert alive(Snapshot.load(path).state) == EVERYTHING


@of_each_version
def test_it_is_restored_to_the_very_state(path: Path) -> None:
    saved = Snapshot.load(path).state
    store = restore(saved)
    store.check()
    again = capture(store, embed=True)
    assert content_digest(replace(again, lineage=saved.lineage)) == content_digest(saved)


@of_each_version
@pytest.mark.parametrize("fuel", [None, 10**6])
def test_it_goes_on_to_its_answer(path: Path, fuel: int | None) -> None:
    """In fast code, and counted."""
    store = Snapshot.load(path).restore()
    outcome = store.run(fuel=fuel)
    assert isinstance(outcome, Finished) and outcome.raw == RESULTS
    assert fuel is None or store.executed == EXECUTED


@of_each_version
def test_it_goes_on_by_hops(path: Path) -> None:
    """Saved and restored a hundred times on its way."""
    store: Store = Snapshot.load(path).restore()
    while isinstance(outcome := store.run(fuel=139), Paused):
        store = restore(capture(store), modules=[i.module for i in store.instances])
        store.check()
    assert isinstance(outcome, Finished) and outcome.raw == RESULTS
    assert store.executed == EXECUTED
