"""Counting in fast code is exact: any budget ends where precise code, step by step, ends.

A budget below a thousand instructions is spent in precise code, so that a run in small portions is
the reference. Compared are the count, the whole state, and the place of a trap.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.interp.machines import text
from tests.interp.test_both_codes import EXAMPLES, MIXED, SWITCH, TAIL, TRAPS
from wasmsr import Caller, FuncType, HostFunction, Retry
from wasmsr._ffi import lib
from wasmsr.interp.modules.module import Module
from wasmsr.interp.outcomes import Finished, Outcome, Paused, Trapped
from wasmsr.interp.store.store import Store
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import content_digest

PORTION = 900
PLENTY = 1 << 40

PROGRAMS: dict[str, tuple[Module | Path, str, int]] = {
    "mixed": (MIXED, "run", 300),
    "switch": (SWITCH, "run", 600),
    "tail": (TAIL, "run", 3000),
    "traps": (TRAPS, "run", 40),
    "fib": (Path("fib.wasm"), "fib", 16),
}


def begin(name: str) -> Store:
    """A store that is about to run the program."""
    module, export, argument = PROGRAMS[name]
    if isinstance(module, Path):
        module = Module.from_file(EXAMPLES / module)
    store = Store(deterministic=True)
    store.enqueue(store.instantiate(module).function(export), argument)
    return store


def in_portions(store: Store, fuel: int) -> Outcome:
    """Run in precise code."""
    while fuel > PORTION:
        outcome = store.run(fuel=PORTION)
        if outcome != Paused("fuel"):
            return outcome
        fuel -= PORTION
    return store.run(fuel=fuel)


@pytest.mark.parametrize("name", PROGRAMS)
def test_the_whole_run_counts_alike(name: str) -> None:
    one, other = begin(name), begin(name)
    outcome, expected = one.run(fuel=PLENTY), in_portions(other, PLENTY)
    assert one.executed == other.executed
    if isinstance(expected, Trapped):
        assert isinstance(outcome, Trapped)
        assert outcome.trap.backtrace == expected.trap.backtrace
    else:
        assert isinstance(outcome, Finished)
        assert outcome == expected


@pytest.mark.parametrize("name", PROGRAMS)
def test_any_budget_ends_in_the_same_state(name: str) -> None:
    whole = begin(name)
    whole.run(fuel=PLENTY)
    assert whole.executed
    chosen = random.Random(name)
    for _ in range(25):
        fuel = chosen.randrange(min(PORTION, whole.executed - 1), whole.executed)
        one, other = begin(name), begin(name)
        assert one.run(fuel=fuel) == Paused("fuel")
        assert in_portions(other, fuel) == Paused("fuel")
        assert one.executed == other.executed == fuel
        assert content_digest(capture(one)) == content_digest(capture(other))


@pytest.mark.parametrize("name", ["mixed", "switch", "fib"])
def test_budgets_add_up(name: str) -> None:
    whole = begin(name)
    expected = whole.run(fuel=PLENTY)
    store, chosen = begin(name), random.Random(1)
    outcome: Outcome = Paused("fuel")
    while outcome == Paused("fuel"):
        outcome = store.run(fuel=chosen.choice((1, 7, 999, 1000, 1001, 2500)))
    assert outcome == expected
    assert store.executed == whole.executed


@pytest.mark.parametrize("name", ["mixed", "fib"])
def test_runs_with_and_without_fuel_may_alternate(name: str) -> None:
    """What waits in one kind of fast code is not returned to from the other."""
    whole = begin(name)
    expected = whole.run(fuel=PLENTY)
    for fuel in (1000, 1001, 1500, 2000, 5000):
        store = begin(name)
        assert store.run(fuel=fuel) == Paused("fuel")
        assert store.run() == expected
        assert store.executed == fuel
        store = begin(name)
        store.pause()
        store.run(fuel=1)
        while store.run() == Paused("requested"):
            store.run(fuel=2000)
            store.pause()
        assert store.invoker.last == expected


def test_the_core_counts_metered_runs_only_and_a_call_made_again_once() -> None:
    calls = "(call $f)" * 3
    module = text(f'(module (import "m" "f" (func $f)) (func (export "run") {calls}))')
    store = Store()
    seen: list[tuple[int | None, int | None]] = []

    def host(caller: Caller) -> None:
        seen.append((store.executed, store.instructions))
        if len(seen) == 2:
            store.pause()
            raise Retry

    instance = store.instantiate(module, {"m": {"f": HostFunction(FuncType(), host)}})
    store.enqueue(instance.function("run"))
    assert store.run() == Paused("requested")
    assert store.run() == Finished()
    assert seen == [(None, None)] * 4
    assert (store.executed, store.instructions, lib.wsr_executed(store.c)) == (None, None, 0)

    seen.clear()
    store.enqueue(instance.function("run"))
    assert store.run(fuel=PLENTY) == Paused("requested")
    assert store.executed == lib.wsr_executed(store.c) == 1
    assert store.run(fuel=PLENTY) == Finished()
    assert seen == [(None, 1), (None, 2), (1, 2), (1, 3)]
    assert store.executed == lib.wsr_executed(store.c) == 3

    store.enqueue(instance.function("run"))
    assert store.run() == Finished()
    assert store.executed == lib.wsr_executed(store.c) == 3
