"""The restored mode is right: it stops where it says, and notices when restoring loses anything."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import pytest

from wasmsr.interp.store.store import Store
from wasmsr.snapshot import capture as capturing
from wasmsr.snapshot import restore as restoring
from wasmsr.snapshot.state import SnapshotState

from . import hopped, restored
from .execute import Runner, Tally
from .hopped import FAST, HoppedSession
from .restored import EVERY, SPREAD, RestoredSession, stops
from .script import Script


@pytest.mark.parametrize("length", [0, 1, 2, EVERY - 1, EVERY, EVERY + 1, EVERY + SPREAD])
def test_short_invocations_stop_everywhere(length: int) -> None:
    assert stops(length) == list(range(length + 1))


@pytest.mark.parametrize("length", [EVERY + SPREAD + 1, 1_500, 5_000, 1_234_567, 10**9])
def test_long_invocations_stop_at_first_everywhere_then_evenly(length: int) -> None:
    places = stops(length)
    assert places == sorted(set(places))
    assert places[: EVERY + 1] == list(range(EVERY + 1))
    assert places[-1] == length
    assert len(places) - (EVERY + 1) >= SPREAD
    # One stop in each of SPREAD equal parts, so no gap is longer than two parts.
    assert max(after - before for before, after in pairwise(places)) <= 2 * (
        (length - EVERY) // SPREAD + 1
    )


def test_a_loop_is_met_at_different_instructions() -> None:
    assert len({place % 8 for place in stops(1_000_000)[EVERY + 1 :]}) == 8


SCRIPT = """
(module
  (import "spectest" "print_i32" (func $print (param i32)))
  (memory 1) (global $g (mut i32) (i32.const 5)) (table 2 funcref)
  (func $inc (export "inc") (result i32)
    (i32.store (i32.const 8) (i32.add (i32.load (i32.const 8)) (i32.const 1)))
    (global.set $g (i32.add (global.get $g) (i32.const 1)))
    (i32.add (global.get $g) (i32.load (i32.const 8))))
  (func (export "outer") (param i32) (result i32) (local $n i32)
    (local.set $n (i32.const 10))
    (call $print (local.get 0))
    (i32.add (i32.mul (call $inc) (local.get $n)) (local.get 0)))
  (func (export "deep") (param i32) (result i32)
    (if (result i32) (local.get 0) (then (unreachable)) (else (i32.const 1))))
  (func (export "nothing"))
  (func (export "same") (param externref) (result externref) (local.get 0)))
(assert_return (invoke "outer" (i32.const 3)) (i32.const 73))
(assert_return (invoke "inc") (i32.const 9))
(assert_trap (invoke "deep" (i32.const 1)) "unreachable")
(invoke "nothing")
(assert_return (invoke "same" (ref.extern 4)) (ref.extern 4))
(module (import "spectest" "print" (func $f)) (start $f))
"""


LONG = """
(module
  (func (export "long") (result i32) (local $i i32)
    (loop $again
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $again (i32.lt_u (local.get $i) (i32.const 1000))))
    (local.get $i)))
(assert_return (invoke "long") (i32.const 1000))
"""


def run(
    text: str = SCRIPT, kind: type[RestoredSession] = RestoredSession
) -> tuple[Tally, RestoredSession]:
    session = kind()
    return Runner(Script("test", text), session).run(), session


def test_a_right_restore_passes_and_is_counted() -> None:
    tally, session = run()
    assert tally.failures == []
    assert tally.assertions == {"passed": 4}
    # The host is called as often as in one straight run: by "outer", and by the start function.
    assert len(session.printed) == 2
    numbers = session.numbers
    # outer 23 (14 of them in inc), inc 14, deep 3, nothing 0, same 1, and the start function's 0.
    assert (numbers.invocations, numbers.instructions) == (6, 41)
    # Before the straight run, before the first instruction, after each; and once more where there
    # is none, after the return.
    assert numbers.restores == 6 * 2 + 41 + 2


def test_a_long_invocation_is_counted() -> None:
    tally, session = run(LONG)
    assert tally.failures == []
    # `loop` once, the 8 of its body a thousand times, and local.get.
    length = 1 + 8 * 1000 + 1
    assert session.numbers.instructions == length
    assert session.numbers.restores == len(stops(length)) + 1


Alter = Callable[[SnapshotState], None]


def _operands(snapshot: SnapshotState) -> None:
    for frame in snapshot.thread.frames:
        frame.values[frame.locals :] = [7] * (len(frame.values) - frame.locals)


def _locals(snapshot: SnapshotState) -> None:
    for frame in snapshot.thread.frames:
        frame.values[: frame.locals] = [0] * frame.locals


def _globals(snapshot: SnapshotState) -> None:
    for item in snapshot.globals:
        if item.mutable:
            item.value = 5


def _memories(snapshot: SnapshotState) -> None:
    for memory in snapshot.memories:
        memory.data = bytes(len(memory.data))


def _queue(snapshot: SnapshotState) -> None:
    snapshot.thread.queue.clear()


@pytest.mark.parametrize("kind", [RestoredSession, HoppedSession])
@pytest.mark.parametrize("alter", [_operands, _locals, _globals, _memories, _queue])
def test_a_capture_that_loses_something_is_noticed(
    alter: Alter, kind: type[RestoredSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = capturing.capture

    def wrong(store: Store, **options: Any) -> SnapshotState:
        snapshot = right(store, **options)
        alter(snapshot)
        return snapshot

    # Such a capture agrees with itself, so only the comparison with the straight run can tell.
    monkeypatch.setattr(capturing, "capture", wrong)
    tally, _ = run(kind=kind)
    assert tally.failures
    assert any("straight" in failure.message for failure in tally.failures)


@pytest.mark.parametrize("kind", [RestoredSession, HoppedSession])
@pytest.mark.parametrize("alter", [_locals, _globals, _memories, _queue])
def test_a_restore_that_loses_something_is_noticed(
    alter: Alter, kind: type[RestoredSession], monkeypatch: pytest.MonkeyPatch
) -> None:
    right = restoring.restore

    def wrong(snapshot: SnapshotState, *args: Any, **options: Mapping[str, Any]) -> Store:
        alter(snapshot)
        return right(snapshot, *args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(restoring, "restore", wrong)
    tally, _ = run(kind=kind)
    assert any("does not capture to" in failure.message for failure in tally.failures)


def test_an_invocation_that_is_longer_than_the_straight_run_is_noticed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(restored, "stops", lambda length: list(range(length)))
    tally, _ = run()
    assert any("not at an end" in failure.message for failure in tally.failures)


def test_hops_in_fast_code_stop_at_calls_and_loops() -> None:
    tally, session = run(LONG, HoppedSession)
    assert tally.failures == []
    numbers = session.numbers
    # The loop's header is met by a branch 999 times: at each of the first EVERY, then less often.
    assert hopped.EVERY < numbers.stops < 250
    assert numbers.entered == numbers.stops * FAST
    tally, session = run(kind=HoppedSession)
    assert tally.failures == []
    # Before the first call in "outer"; the second follows at once on the return from the host,
    # where no run begins anew. Nothing else calls or turns back.
    assert session.numbers.stops == 1
    assert len(session.printed) == 2


def test_the_states_of_hops_are_told_apart() -> None:
    states = {run(LONG.replace("1000", n), HoppedSession)[1].numbers.states for n in ("4", "5")}
    assert len(states) == 2
    assert run(LONG, HoppedSession)[1].numbers.states == run(LONG, HoppedSession)[1].numbers.states
