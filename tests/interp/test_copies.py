"""Copies of stores: they share what does not change, nothing that does, and end as the original."""

from __future__ import annotations

import gc
import threading
from collections.abc import Iterator

import pytest

from tests.interp.machines import text
from tests.interp.test_exceptions import LOOP
from wasmsr import (
    Caller,
    Finished,
    FuncType,
    HostFunction,
    LinkError,
    Paused,
    Store,
    ValType,
    WasmsrError,
)

I32 = ValType.I32

STATE = text("""(module
  (import "host" "add" (func $add (param i32 i32) (result i32)))
  (memory (export "memory") 1 10) (table (export "table") 2 20 funcref)
  (global $g (export "g") (mut i32) (i32.const 0))
  (data $a "abc") (data $b "def") (elem $e func $one $two)
  (func $one (result i32) (i32.const 1)) (func $two (result i32) (i32.const 2))
  (type $r (func (result i32)))
  (func (export "write") (param i32)
    (global.set $g (local.get 0)) (i32.store (i32.const 8) (local.get 0))
    (table.init $e (i32.const 0) (i32.const 0) (i32.const 2)))
  (func (export "drop") (data.drop $a) (elem.drop $e))
  (func (export "a") (memory.init $a (i32.const 0) (i32.const 0) (i32.const 3)))
  (func (export "b") (memory.init $b (i32.const 0) (i32.const 0) (i32.const 3)))
  (func (export "grow") (result i32) (drop (table.grow (ref.null func) (i32.const 5)))
    (memory.grow (i32.const 2)))
  (func (export "sum") (result i32)
    (call $add (global.get $g) (i32.load (i32.const 8))))
  (func (export "called") (param i32) (result i32) (call_indirect (type $r) (local.get 0))))""")


def add(caller: Caller, a: int, b: int) -> int:
    return a + b


HOST = {"host": {"add": add}}


def with_bytes(source: Store, **options: object) -> Store:
    """A copy of a store with its memories."""
    made = source.copied(**options)  # type: ignore[arg-type]
    for address in range(source.state.counts.memories):
        made.memory_view(address)[:] = source.memory_view(address)
    made.check()
    return made


@pytest.fixture
def store() -> Iterator[Store]:
    with Store() as made:
        made.instantiate(STATE, HOST).function("write")(7)
        yield made


def sums(*stores: Store) -> list[int]:
    return [one.instances[0].function("sum")() for one in stores]


def test_nothing_that_changes_is_shared(store: Store) -> None:
    other = with_bytes(store)
    assert sums(store, other) == [14, 14]
    other.instances[0].function("write")(5)
    other.instances[0].function("drop")()
    assert other.instances[0].function("grow")() == 1
    assert sums(store, other) == [14, 10]
    store.instances[0].function("a")()
    with pytest.raises(WasmsrError, match="out of bounds"):
        other.instances[0].function("a")()
    other.instances[0].function("b")()
    assert len(store.instances[0].table("table")) == 2
    assert len(other.instances[0].table("table")) == 7
    again = with_bytes(other)
    with pytest.raises(WasmsrError, match="out of bounds"):
        again.instances[0].function("a")()
    assert again.instances[0].function("grow")() == 3
    assert [one.state.memory_size(0).size for one in (store, other, again)] == [1, 3, 5]


def test_a_copy_outlives_the_store(store: Store) -> None:
    other, held = with_bytes(store), store.copied(memories=False)
    store.close()
    gc.collect()
    assert sums(other) == [14]
    assert other.instances[0].function("called")(1) == 2
    last = held.copied()
    held.close()
    assert sums(last) == [7], "its memory is all zeros"


def test_what_one_store_adds_the_others_do_not_have(store: Store) -> None:
    user = text("""(module (import "m" "f" (func $f (result i32)))
      (import "m" "g" (func $g (param i64 f64) (result f32)))
      (type $t (func (param f32) (result i64)))
      (func (export "u") (result i32) (i32.add (call $f) (i32.const 100)))
      (func (export "v") (result f32) (call $g (i64.const 3) (f64.const 2))))""")
    copies = [with_bytes(store) for _ in range(3)]
    for number, one in enumerate([*copies, store]):
        made = one.instantiate(
            user,
            {
                "m": {
                    "f": one.instances[0].exports["sum"] if number % 2 else lambda n=number: n,
                    "g": lambda a, b: a + b,
                }
            },
        )
        assert made.function("u")() == (114 if number % 2 else 100 + number)
        assert made.function("v")() == 5
        one.check()
    fresh = with_bytes(copies[1])
    copies[1].close()
    assert fresh.instances[1].function("u")() == 114
    assert sums(fresh, copies[0], store) == [14, 14, 14]
    assert fresh.function_type(0) == FuncType((I32, I32), (I32,))


def test_a_copy_is_linked_with_functions_of_its_own(store: Store) -> None:
    other = with_bytes(store, imports={"host": {"add": lambda a, b: a * b}})
    assert sums(store, other) == [14, 49]
    with pytest.raises(LinkError, match=r"host\.add"):
        store.copied({"host": {}})
    wrong = HostFunction(FuncType((), ()), lambda caller: None)
    with pytest.raises(LinkError, match=r"host\.add"):
        store.copied({"host": {"add": wrong}})


def test_functions_with_an_identity_are_found_by_it() -> None:
    type_ = FuncType((), (I32,))
    module = text("""(module (import "a" "f" (func $f (result i32)))
      (import "b" "f" (func $g (result i32)))
      (func (export "run") (result i32)
        (i32.sub (i32.mul (call $f) (i32.const 10)) (call $g))))""")

    def given(first: int, second: int) -> dict[str, dict[str, HostFunction]]:
        return {
            "a": {"f": HostFunction(type_, lambda caller: first, identity="one")},
            "b": {"f": HostFunction(type_, lambda caller: second, identity="two")},
        }

    with Store() as store:
        store.instantiate(module, given(4, 2))
        renamed = given(6, 3)
        other = store.copied({"x": {"q": renamed["b"]["f"]}, "y": {"p": renamed["a"]["f"]}})
        assert [one.instances[0].function("run")() for one in (store, other)] == [38, 57]


@pytest.mark.parametrize("pieces", [1, 7, 400])
def test_a_copy_ends_as_the_original(pieces: int) -> None:
    """At every pause of a program that throws; exceptions are in its tables and frames."""
    module = text(LOOP)
    with Store() as whole:
        whole.enqueue(whole.instantiate(module).function("run"), 40)
        wanted = whole.run()
    assert isinstance(wanted, Finished)
    store = Store()
    store.enqueue(store.instantiate(module).function("run"), 40)
    ends = []
    for turn in range(60):
        copy = store.copied()
        copy.check()
        if turn % 5 == 0:
            ends.append(copy.run())
            copy.check()
        outcome = copy.run(fuel=pieces)
        store.close()
        store = copy
        if not isinstance(outcome, Paused):
            break
    ends.append(store.run())
    assert {one.results for one in ends if isinstance(one, Finished) and one.results} == {
        wanted.results
    }


def test_a_store_goes_back(store: Store) -> None:
    held = store.copied(memories=False)
    instance = store.instances[0]
    for _ in range(3):
        instance.function("write")(1)
        instance.function("drop")()
        instance.function("grow")()
        store.enqueue(instance.function("write"), 9)
        store.instantiate(STATE, HOST, name="another")
        memory = store.memory_view(0)
        store.assign(held)
        store.check()
        assert len(memory) == 3 << 16, "who had it sees it as it was"
        assert store.state.memory_size(0).size == store.state.counts.memories == 1
        assert len(store.instances) == 1 and not store.queue
        assert store.memory_view(0)[8] == 1, "bytes are for the caller"
        store.memory_view(0)[8] = 7
        assert sums(store) == [14]
        store.instances[0].function("a")()
        assert store.instances[0].function("called")(1) == 2


def test_a_store_goes_between_branches(store: Store) -> None:
    """Each branch has other instances and memories under the same numbers."""
    first = text('(module (memory (export "m") 2 5) (global (export "g") i64 (i64.const 3)))')
    second = text('(module (memory (export "m") 1 9) (memory 4 4) (func (export "f")))')
    held = [store.copied(memories=False)]
    store.instantiate(first)
    held.append(store.copied(memories=False))
    store.assign(held[0])
    store.instantiate(second)
    held.append(store.copied(memories=False))
    for turn in (1, 2, 0, 2, 1, 0, 1):
        store.assign(held[turn])
        store.check()
        assert store.state.counts.memories == (1, 2, 3)[turn]
        assert len(store.instances) == (1, 2, 2)[turn]
        if turn == 1:
            assert store.instances[1].memory("m").grow(3) == 2
            assert store.instances[1].exports["g"].value == 3  # type: ignore[union-attr]
        elif turn == 2:
            store.memory_view(1)[65535] = 1
            store.instances[1].function("f")()


def test_only_a_store_at_rest_is_copied(store: Store) -> None:
    seen: list[BaseException] = []

    def within() -> None:
        for attempt in (store.copied, lambda: store.assign(held)):
            try:
                attempt()
            except WasmsrError as error:
                seen.append(error)

    held = store.copied(memories=False)
    module = text('(module (import "h" "f" (func $f)) (func (export "run") (call $f)))')
    store.instantiate(module, {"h": {"f": within}}).function("run")()
    assert ["running" in str(one) for one in seen] == [True, True]


def test_copies_run_beside_each_other(store: Store) -> None:
    """They publish code in tables that they share."""
    copies = [with_bytes(store) for _ in range(8)]
    found: list[int] = []
    threads = [
        threading.Thread(target=lambda one=one: found.extend(sums(one) * 50)) for one in copies
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [14] * 400
