"""States that no store can have come to, as a snapshot may claim them with all checksums right, and
states that cost more than they should: findings of tests/fuzz, one small test each.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from tests.unit.machines import text
from wasmsr import FormatError, Store
from wasmsr.snapshot.capture import capture, restore

LIMITS = {
    "memory_pages": (1 << 28) + 1,
    "table_elements": (1 << 28) + 1,
    "stack_slots": 1 << 32,
    "stack_frames": (1 << 64) - 1,
}


@pytest.mark.parametrize("name", LIMITS)
def test_limits_that_no_store_has(name: str) -> None:
    snapshot = capture(Store())
    changed: Any = {name: LIMITS[name]}
    with pytest.raises(FormatError, match=f"the limit {name} must lie between"):
        restore(replace(snapshot, limits=replace(snapshot.limits, **changed)))


def test_arguments_that_wait_are_of_their_types() -> None:
    module = text('(module (func (export "f") (param i64 i32 v128 f32)))')
    store = Store()
    store.enqueue(store.instantiate(module).function("f"), 1, 2, 3, 4.0)
    snapshot = capture(store)
    address, slots = snapshot.thread.queue[0]
    assert restore(snapshot, modules=[module]).queue == [(address, tuple(slots))]
    for place in (1, 4):
        wrong = list(slots)
        wrong[place] += 1 << 32
        snapshot.thread.queue = [(address, wrong)]
        with pytest.raises(FormatError, match=r"a value that is no .32"):
            restore(snapshot, modules=[module])


def test_exceptions_that_refer_to_one_many_times() -> None:
    """Each of 200 has 300 references to the one before: once it took half a minute to save them."""
    fields = "exnref " * 300
    module = text(f"""(module
      (tag $e (param {fields}))
      (global $last (mut exnref) (ref.null exn))
      (func (export "run") (param $n i32)
        (loop $next
          (block $h (result exnref)
            (try_table (catch_all_ref $h) {"(global.get $last) " * 300} (throw $e)) unreachable)
          (global.set $last)
          (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))""")
    store = Store()
    store.instantiate(module).function("run")(200)
    began = time.process_time()
    exceptions = capture(store).exceptions
    assert time.process_time() - began < 3
    assert [set(e.fields) for e in exceptions] == [{i} for i in range(200)]
