"""States that no store can have come to, as a snapshot may claim them with all checksums right, and
states that cost more than they should: findings of tests/fuzz, one small test each.
"""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from tests.interp.machines import hop, text
from wasmsr import (
    Finished,
    FormatError,
    Global,
    GlobalType,
    Module,
    Paused,
    Store,
    Table,
    TableType,
    ValType,
)
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.restore import restore

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


def test_a_count_that_has_no_room_for_more() -> None:
    module = text('(module (func (export "f") (loop (br 0))))')
    store = Store()
    store.enqueue(store.instantiate(module).function("f"))
    store.run(fuel=10)
    snapshot = replace(capture(store), executed=2**64 - 3)
    restored = restore(snapshot, modules=[module])
    assert restored.run(fuel=10) == Paused("fuel")
    assert hop(restored).executed == 2**64 - 2, "the largest that a snapshot can say"


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


def test_tables_and_globals_of_the_host_keep_their_exact_types() -> None:
    """They were saved with the code of their types alone, and refused when restored."""
    types = "(type $f (func (result i32))) (type $g (func (param i32) (result i32)))"
    library = text(f"""(module {types} (func $five (export "five") (type $f) (i32.const 5))
      (global (export "const") (ref $f) (ref.func $five)) (table (export "table") 1 (ref null $f))
      (global (export "var") (mut (ref null $f)) (ref.null $f)))""")
    user = text(f"""(module {types}
      (import "h" "const" (global $const (ref func)))
      (import "h" "const" (global (ref null $f)))
      (import "h" "var" (global $var (mut (ref null $f))))
      (import "h" "table" (table $table 1 (ref null $f)))
      (func (export "run") (result i32)
        (drop (global.get $const))
        (i32.add (call_ref $f (global.get $var))
          (call_ref $f (table.get $table (i32.const 0))))))""")
    store = Store()
    exports = store.instantiate(library).exports
    five = exports["five"]
    table = exports["table"].type
    assert isinstance(table, TableType)
    made: dict[str, Any] = {"table": Table.new(store, table)}
    for name in ("const", "var"):
        type_ = exports[name].type
        assert isinstance(type_, GlobalType)
        made[name] = Global.new(store, type_, five)
    made["table"][0] = five
    store.enqueue(store.instantiate(user, {"h": made}).function("run"))
    assert isinstance(store.run(fuel=1), Paused)
    moved = hop(store)
    for address in range(4):
        assert Global(moved, address).type == Global(store, address).type
    for end in (moved.run(), store.run()):
        assert isinstance(end, Finished) and end.results == (10,)


OPERANDS = (
    ("i64.const 1", "i64"),
    ("v128.const i64x2 1 2", "v128"),
    ("ref.func $f", "funcref"),
    ("f32.const 1", "f32"),
    ("local.get $x", "exnref"),
)


def _deep(calls: int) -> tuple[Module, list[bytes]]:
    """A function that waits for itself at so many of its calls, then loops; its frames' operands'
    types. Code that is never reached lies between."""
    body, types = [], []
    for k in range(calls):
        chosen = [OPERANDS[(k * 3 + i) % 5] for i in range(k % 7)]
        body.append(f"local.get 0 i32.const {k} i32.eq if")
        body += [code for code, _ in chosen]
        body.append(
            "block (result i32) i32.const 3 br 0 i64.add drop i32.const 3 end drop" * (k % 2)
        )
        body.append(f"i32.const {k + 1} call $f drop {'drop ' * len(chosen)}")
        body.append("br 0 i32.add drop" * (k % 3 == 0) + " end")
        types.append(bytes(ValType[name.upper()] for _, name in chosen))
    source = f"""(module (func $f (export "f") (param i32) (result i32) (local $x exnref)
      {" ".join(body)} loop br 0 end i32.const 1))"""
    return text(source), types


@pytest.mark.parametrize("calls", [30, 300])
def test_frames_at_many_positions_of_one_function(calls: int) -> None:
    module, types = _deep(calls)
    store = Store()
    store.enqueue(store.instantiate(module).function("f"), 0)
    assert store.run(fuel=100_000 + 10 * calls * calls) == Paused("fuel")
    moved = hop(hop(store))
    for found in (store.frames(), moved.frames()):
        assert [f.types[len(f.locals) :] for f in found[:-1]] == types


def test_many_positions_cost_one_walk() -> None:
    """Of 10,000 frames that wait at as many calls of a function, each once took a walk over it."""
    module, _ = _deep(10_000)
    store = Store()
    store.enqueue(store.instantiate(module).function("f"), 0)
    store.run(fuel=250_000_000)
    began = time.process_time()
    snapshot = capture(store)
    assert len(snapshot.thread.frames) > 8_000
    restore(snapshot, modules=[module]).check()
    assert time.process_time() - began < 8
