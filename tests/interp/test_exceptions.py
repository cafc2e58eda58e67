"""Exceptions: thrown and caught in both codes, across instances and through the host, kept alive
exactly while something refers to them, and carried by snapshots.

The official scripts test the instructions one by one (tests/spec); here is what they do not ask.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.interp.machines import hop, run_by_steps, text
from tests.interp.test_both_codes import lockstep
from wasmsr import (
    Caller,
    Finished,
    FuncType,
    HostError,
    HostFunction,
    Limits,
    Module,
    Paused,
    Snapshot,
    Store,
    Tag,
    TagType,
    ThrownException,
    Trap,
    Trapped,
    UncaughtException,
    ValType,
)
from wasmsr._ffi import lib
from wasmsr.snapshot.capture import capture

I32 = ValType.I32

LOOP = """(module
  (tag $e (param i32 i64)) (tag $other)
  (table $kept 4 exnref)
  (func $throw (param $i i32)
    (if (i32.rem_u (local.get $i) (i32.const 3)) (then
      (throw $e (local.get $i)
        (i64.mul (i64.extend_i32_u (local.get $i)) (i64.extend_i32_u (local.get $i)))))))
  (func $through (param i32) (result i32)
    (block $h (try_table (catch $other $h) (call $throw (local.get 0)))) (i32.const 1))
  (func (export "run") (param $n i32) (result i64)
    (local $i i32) (local $sum i64) (local $first i32) (local $second i64) (local $x exnref)
    (loop $next
      (block $caught (result i32 i64 exnref)
        (try_table (catch_ref $e $caught)
          (local.set $sum (i64.add (local.get $sum)
            (i64.extend_i32_s (call $through (local.get $i))))))
        (local.set $i (i32.add (local.get $i) (i32.const 1)))
        (br_if $next (i32.lt_u (local.get $i) (local.get $n)))
        (return (local.get $sum)))
      (local.set $x) (local.set $second) (local.set $first)
      (table.set $kept (i32.and (local.get $first) (i32.const 3)) (local.get $x))
      (local.set $sum (i64.add (local.get $sum)
        (i64.sub (local.get $second) (i64.extend_i32_u (local.get $first)))))
      (local.set $i (i32.add (local.get $i) (i32.const 1)))
      (br_if $next (i32.lt_u (local.get $i) (local.get $n))))
    (local.get $sum)))"""


def expected(n: int) -> int:
    """The sum over i of i * i - i where 3 does not divide i, else of 1, in 64 bits."""
    threes = (n + 2) // 3
    squares, plain = (n - 1) * n * (2 * n - 1) // 6, (n - 1) * n // 2
    squares -= 9 * ((threes - 1) * threes * (2 * threes - 1) // 6)
    plain -= 3 * ((threes - 1) * threes // 2)
    total = (squares - plain + threes) % 2**64
    return total - 2**64 if total >> 63 else total


def test_both_codes_stand_in_the_same_states() -> None:
    assert lockstep(text(LOOP), "run", 40) > 100


def test_every_instruction_can_be_moved() -> None:
    store = Store()
    instance = store.instantiate(text(LOOP))
    store.enqueue(instance.function("run"), 7)
    outcome, _ = run_by_steps(store, 1)
    assert isinstance(outcome, Finished) and outcome.results == (expected(7),)


resident_is_known = pytest.mark.skipif(
    not Path("/proc/self/statm").exists() or os.environ.get("WASMSR_SANITIZED") == "1",
    reason="the system shows no such figure, or sanitizers keep what is freed",
)


def resident() -> int:
    """Bytes of this process that are in memory."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096


@resident_is_known
@pytest.mark.parametrize("n", [1_500_000, pytest.param(150_000_000, marks=pytest.mark.full)])
def test_throws_take_no_memory(n: int) -> None:
    """A million, and a hundred of them: two thirds of the rounds throw."""
    store = Store()
    run = store.instantiate(text(LOOP)).function("run")
    run(10_000)
    before = resident()
    assert run(n) == expected(n)
    assert resident() - before < 8 << 20
    assert lib.wsr_exception_count(store.c) == 4  # those in the table


CHAIN = """(module
  (tag $link (param exnref i32)) (global $last (mut exnref) (ref.null exn))
  (func (export "add") (param i32)
    (block $h (result exnref)
      (try_table (catch_all_ref $h) (throw $link (global.get $last) (local.get 0)))
      unreachable)
    (global.set $last))
  (func (export "sum") (result i32) (local $sum i32) (local $x exnref)
    (local.set $x (global.get $last))
    (loop $next
      (if (ref.is_null (local.get $x)) (then (return (local.get $sum))))
      (block $h (result exnref i32)
        (try_table (catch $link $h) (throw_ref (local.get $x)))
        unreachable)
      (local.set $sum (i32.add (local.get $sum)))
      (local.set $x)
      (br $next))
    unreachable)
  (func (export "forget") (global.set $last (ref.null exn))))"""


def test_what_an_exception_refers_to_lives() -> None:
    store = Store()
    instance = store.instantiate(text(CHAIN))
    for i in range(200):
        instance.function("add")(i)
    assert lib.wsr_exception_count(store.c) == 200
    assert instance.function("sum")() == sum(range(200))
    moved = hop(store)
    assert len(capture(moved).exceptions) == 200
    assert moved.instances[0].function("sum")() == sum(range(200))
    instance.function("forget")()
    assert lib.wsr_exception_count(store.c) == 0
    assert capture(store).exceptions == []


def test_long_chains_are_collected_and_saved_without_recursion() -> None:
    store = Store()
    instance = store.instantiate(text(CHAIN))
    for i in range(20_000):
        instance.function("add")(i & 7)
    assert lib.wsr_exception_count(store.c) == 20_000
    assert len(capture(store).exceptions) == 20_000


def test_a_chain_that_would_take_all_memory_is_a_trap() -> None:
    store = Store(limits=Limits(table_elements=10_000))
    instance = store.instantiate(text(CHAIN))
    add = instance.function("add")
    with pytest.raises(Trap, match="take more than the limit of table elements allows"):
        for i in range(1_000_000):
            add(i)
    # Five slots and two of fields; eight for each element, and a mebibyte.
    assert 0.8 < lib.wsr_exception_count(store.c) * 7 * 8 / (80_000 * 8 + (1 << 20)) <= 1
    restored = hop(store)
    with pytest.raises(Trap, match="take more"):
        for i in range(10_000):
            restored.instances[0].function("add")(i)
    instance.function("forget")()
    for i in range(1000):
        add(i)
    assert instance.function("sum")() == sum(range(1000))


def test_shared_exceptions_are_saved_once() -> None:
    source = """(module (tag $e (param i32)) (table $t 3 exnref)
      (global $g (mut exnref) (ref.null exn))
      (func (export "run") (local $x exnref)
        (block $h (result exnref)
          (try_table (catch_all_ref $h) (throw $e (i32.const 5))) unreachable)
        (local.set $x)
        (global.set $g (local.get $x))
        (table.set $t (i32.const 2) (local.get $x))
        (table.set $t (i32.const 0) (local.get $x))))"""
    store = Store()
    store.instantiate(text(source)).function("run")()
    value = capture(store)
    assert [(e.tag, e.fields) for e in value.exceptions] == [(0, [5])]
    assert value.globals[0].value == 1 and value.tags == [bytes([0x7F])]
    hop(store)


def test_a_tag_of_another_instance_catches() -> None:
    store = Store()
    lower = store.instantiate(
        text("""(module (tag $e (export "e") (param i32)) (tag $mine (param i32))
      (func (export "throw") (param i32)
        (if (local.get 0) (then (throw $e (local.get 0)))) (throw $mine (i32.const 1))))""")
    )
    upper = store.instantiate(
        text("""(module (import "m" "e" (tag $e (param i32))) (tag $own (param i32))
      (import "m" "throw" (func $throw (param i32)))
      (func (export "run") (param i32) (result i32)
        (block $h (result i32)
          (block $wrong (result i32)
            (try_table (catch $own $wrong) (catch $e $h) (call $throw (local.get 0)))
            unreachable)
          drop (i32.const -1))))"""),
        {"m": lower.exports},
    )
    assert upper.function("run")(42) == 42
    with pytest.raises(UncaughtException) as caught:
        upper.function("run")(0)
    assert caught.value.fields == (1,)
    assert [frame.function for frame in caught.value.backtrace] == ["throw", "run"]


def test_an_uncaught_exception_is_a_trap_with_its_fields() -> None:
    store = Store()
    instance = store.instantiate(
        text("""(module (tag $e (export "e") (param i32 f64))
      (func (export "run") (throw $e (i32.const -7) (f64.const 2.5))))""")
    )
    store.enqueue(instance.function("run"))
    outcome = store.run()
    assert isinstance(outcome, Trapped) and isinstance(outcome.trap, UncaughtException)
    assert outcome.trap.fields == (-7, 2.5) and outcome.trap.tag == instance.tag("e")
    assert str(outcome.trap.tag.type) == "tag(i32 f64)"
    assert isinstance(outcome.trap.exception, ThrownException)
    assert store.frames() == []
    with pytest.raises(UncaughtException):
        instance.function("run")()


THROUGH_HOST = """(module (import "h" "e" (tag $e (param i32)))
  (import "h" "f" (func $f (param i32) (result i32)))
  (func (export "raise") (param i32) (result i32) (throw $e (local.get 0)))
  (func (export "run") (param i32) (result i32)
    (block $h (result i32)
      (try_table (result i32) (catch $e $h)
        (i32.add (call $f (local.get 0)) (i32.const 1000))))))"""


def test_host_functions_throw_and_let_through() -> None:
    store = Store()
    tag = Tag.new(store, TagType((I32,)))

    def act(caller: Caller, n: int) -> int:
        raises = store.instances[0].function("raise")
        if n == 1:
            tag.throw(5)
        if n == 2:
            return int(raises(77))
        if n == 3:
            try:
                raises(9)
            except UncaughtException as error:
                return int(error.fields[0])
        if n == 4:
            raise ValueError("of the host's own")
        return n

    function = HostFunction(FuncType((I32,), (I32,)), act)
    instance = store.instantiate(text(THROUGH_HOST), {"h": {"e": tag, "f": function}})
    run = instance.function("run")
    assert [run(n) for n in (0, 1, 2, 3)] == [1000, 5, 77, 1009]
    with pytest.raises(HostError):
        run(4)
    assert run(1) == 5
    store.enqueue(run, 1)
    assert isinstance(store.run(fuel=3), Paused)
    with pytest.raises(TypeError, match="fields"):
        tag.throw()


@resident_is_known
def test_throws_of_the_host_take_no_memory() -> None:
    """They are collected too, although the program throws nothing."""
    store = Store()
    tag = Tag.new(store, TagType((I32,) * 60))
    source = f"""(module (import "h" "e" (tag $e (param {"i32 " * 60}))) (import "h" "f" (func $f))
      (func (export "run") (param $n i32)
        (loop $next
          (block $h (try_table (catch_all $h) (call $f)))
          (br_if $next (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))"""
    throw = HostFunction(FuncType((), ()), lambda _: tag.throw(*range(60)))
    run = store.instantiate(text(source), {"h": {"e": tag, "f": throw}}).function("run")
    run(2000)
    before = resident()
    run(30_000)
    assert resident() - before < 8 << 20


def test_exceptions_in_python_stay_alive_and_go_back() -> None:
    store = Store()
    instance = store.instantiate(
        text("""(module (tag $e (param i32))
      (func (export "make") (param i32) (result exnref)
        (block $h (result exnref)
          (try_table (catch_all_ref $h) (throw $e (local.get 0))) unreachable))
      (func (export "nothing"))
      (func (export "rethrow") (param exnref) (throw_ref (local.get 0))))""")
    )
    made = instance.function("make")(8)
    assert isinstance(made, ThrownException) and made.fields == (8,)
    assert lib.wsr_exception_count(store.c) == 1
    with pytest.raises(UncaughtException) as caught:
        instance.function("rethrow")(made)
    assert caught.value.exception == made
    with pytest.raises(TypeError):
        instance.function("rethrow")(5)
    store.enqueue(instance.function("rethrow"), made)
    del made, caught
    assert lib.wsr_exception_count(store.c) == 1  # an argument that waits
    assert len(capture(store).exceptions) == 1
    moved = hop(store)
    assert isinstance(moved.run(), Trapped)
    assert isinstance(store.run(), Trapped)
    instance.function("nothing")()  # a store remembers its last results
    gc.collect()
    store.references.release()
    assert lib.wsr_exception_count(store.c) == 0


def test_a_local_that_only_the_handler_reads_is_live_in_a_call() -> None:
    source = """(module (tag $e)
      (func $down (param i32) (if (i32.eqz (local.get 0)) (then (throw $e)))
        (call $down (i32.sub (local.get 0) (i32.const 1))))
      (func (export "run") (result i32) (local $kept i32)
        (local.set $kept (i32.const 31))
        (block $h
          (try_table (catch $e $h) (call $down (i32.const 3)) )
          (local.set $kept (i32.const 0)))
        (local.get $kept)))"""
    store = Store()
    store.enqueue(store.instantiate(text(source)).function("run"))
    assert isinstance(store.run(fuel=12), Paused)
    moved = hop(store)
    outcome = moved.run()
    assert isinstance(outcome, Finished) and outcome.results == (31,)


RESUME = """import sys
from wasmsr import Module, Snapshot
store = Snapshot.load(sys.argv[1]).restore(modules=[Module.from_file(sys.argv[2])])
print(store.run().results)
"""


def test_a_live_exception_in_a_handler_goes_to_another_process(tmp_path: Path) -> None:
    source = """(module (tag $e (param i32 f64 exnref))
      (func (export "run") (result i32 f64) (local $i i32) (local $x exnref)
        (block $h (result exnref)
          (try_table (catch_all_ref $h)
            (throw $e (i32.const 3) (f64.const 0.5) (ref.null exn)))
          unreachable)
        (local.set $x)
        (loop $spin
          (local.set $i (i32.add (local.get $i) (i32.const 1)))
          (br_if $spin (i32.lt_u (local.get $i) (i32.const 100))))
        (block $again (result i32 f64 exnref)
          (try_table (catch $e $again) (throw_ref (local.get $x))) unreachable)
        drop))"""
    module = text(source)
    store = Store()
    store.enqueue(store.instantiate(module).function("run"))
    assert isinstance(store.run(fuel=50), Paused)
    Snapshot.of(store).save(tmp_path / "s.bin")
    (tmp_path / "m.wasm").write_bytes(module.binary)
    done = subprocess.run(
        [sys.executable, "-c", RESUME, tmp_path / "s.bin", tmp_path / "m.wasm"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "(3, 0.5)\n"


def test_catching_at_a_loop_can_be_paused() -> None:
    source = """(module (tag $e)
      (func (export "run") (loop $again (try_table (catch $e $again) (throw $e)))))"""
    store = Store()
    store.enqueue(store.instantiate(text(source)).function("run"))
    store.pause()
    assert isinstance(store.run(), Paused)
    for _ in range(3):  # it throws for ever, and stops when asked
        lib.wsr_pause(store.c)
        assert isinstance(store.invoker.run_queue(None), Paused)
        store = hop(store)


def test_needs_the_feature() -> None:
    source = '(module (tag $e) (func (export "run") (throw $e)))'
    assert text(source).needed_features >= {"exceptions"}
    with pytest.raises(Exception, match="exceptions"):
        Store(features="-exceptions").instantiate(text(source))
    assert Module(text(source).binary).exports[0].name == "run"
