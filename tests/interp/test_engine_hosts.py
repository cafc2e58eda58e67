"""The program and the host in each other's hands: call-backs, traps and exits through them, tail
calls into the host, calls across instances, host objects."""

from __future__ import annotations

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import pytest

from tests.interp.machines import encoded, hop, run_by_steps, text
from wasmsr import (
    Bounds,
    Caller,
    Exit,
    Exited,
    Finished,
    Function,
    FuncType,
    Global,
    GlobalType,
    HostError,
    HostFunction,
    Instance,
    Interrupted,
    LinkError,
    Memory,
    MemoryType,
    Paused,
    Retry,
    Snapshot,
    SnapshotError,
    Store,
    Table,
    TableType,
    Trap,
    Trapped,
    UnportableState,
    ValType,
)
from wasmsr.interp.store.instance import Imports

I32 = ValType.I32

NESTED = """
(module
  (import "host" "back" (func $back (param i32) (result i32)))
  (memory (export "memory") 1)
  (func (export "outer") (param i32) (result i32)
    (i32.add (i32.const 1000) (call $back (local.get 0))))
  (func $inner (export "inner") (param i32) (result i32)
    (i32.mul (local.get 0) (i32.const 2)))
  (func (export "deeper") (param i32) (result i32)
    (i32.add (i32.const 100) (call $back (i32.sub (local.get 0) (i32.const 1)))))
  (func (export "trap") (param i32) (result i32) unreachable)
  (func (export "spin") (param i32) (result i32)
    (loop $l (br_if $l (local.tee 0 (i32.sub (local.get 0) (i32.const 1))))) (i32.const 5))
  (func (export "tail") (param i32) (result i32) (return_call $back (local.get 0)))
  (func (export "around") (param i32) (result i32)
    (i32.add (i32.const 7) (call $tail2 (local.get 0))))
  (func $tail2 (param i32) (result i32) (local i64 i64)
    (return_call $back (local.get 0))))
"""


def nested(back: Callable[[Instance, int], Any]) -> tuple[Store, Instance, Imports]:
    """An instance whose import calls `back` with itself."""
    store = Store()
    imports: Imports = {"host": {"back": lambda n: back(store.instances[0], n)}}
    return store, store.instantiate(text(NESTED, name="m"), imports), imports


@pytest.mark.parametrize("entry", ["outer", "tail", "around"])
def test_call_backs(entry: str) -> None:
    added = {"outer": 1000, "tail": 0, "around": 7}[entry]
    _, instance, _ = nested(lambda i, n: i.function("inner")(n) + 1)
    assert instance.function(entry)(20) == added + 41


def test_call_backs_on_many_levels() -> None:
    def back(instance: Instance, n: int) -> int:
        return int(instance.function("deeper")(n)) if n > 0 else 5

    store, instance, _ = nested(back)
    assert instance.function("outer")(10) == 1000 + 10 * 100 + 5
    store.check()
    assert not store.nested


def test_endless_call_backs_end() -> None:
    """Frames are limited by the model, and Python's own recursion by Python: neither crashes."""
    store, instance, _ = nested(lambda i, n: i.function("outer")(n))
    with pytest.raises((HostError, Trap, RecursionError)):
        instance.function("outer")(1)
    assert not store.frames() and not store.nested
    store.check()


@pytest.mark.parametrize("entry", ["outer", "tail", "around"])
def test_traps_in_call_backs(entry: str) -> None:
    store, instance, _ = nested(lambda i, n: i.function("trap")(n))
    with pytest.raises(Trap, match="unreachable") as caught:
        instance.function(entry)(1)
    names = [frame.function for frame in caught.value.backtrace]
    expected = {
        "outer": ["trap", "outer"],
        "tail": ["trap", "tail"],
        "around": ["trap", "tail2", "around"],
    }
    assert names == expected[entry]
    assert not store.frames()
    store.enqueue(instance.function(entry), 1)
    outcome = store.run()
    assert isinstance(outcome, Trapped), "a trap is an outcome of run wherever it happened"
    assert [frame.function for frame in outcome.trap.backtrace] == names


def test_a_host_function_may_catch_a_trap() -> None:
    def back(instance: Instance, n: int) -> int:
        try:
            return int(instance.function("trap")(n))
        except Trap:
            return int(instance.function("inner")(n))

    store, instance, _ = nested(back)
    assert instance.function("outer")(4) == 1008
    store.check()


def test_host_functions_trap() -> None:
    def back(instance: Instance, n: int) -> int:
        raise Trap("not today")

    store, instance, _ = nested(back)
    store.enqueue(instance.function("outer"), 1)
    outcome = store.run()
    assert isinstance(outcome, Trapped) and outcome.trap.code == "not today"
    assert [frame.function for frame in outcome.trap.backtrace] == ["outer"]


def test_exits_through_call_backs() -> None:
    def back(instance: Instance, n: int) -> int:
        if n == 0:
            raise Exit(42)
        return int(instance.function("deeper")(n))

    store, instance, _ = nested(back)
    with pytest.raises(Exit) as caught:
        instance.function("outer")(3)
    assert caught.value.code == 42
    store.enqueue(instance.function("outer"), 3)
    assert store.run() == Exited(42)
    assert not store.frames()


def test_errors_through_call_backs() -> None:
    def back(instance: Instance, n: int) -> int:
        if n == 0:
            raise KeyError("lost")
        return int(instance.function("deeper")(n))

    store, instance, _ = nested(back)
    with pytest.raises(HostError, match="KeyError") as caught:
        instance.function("outer")(3)
    assert isinstance(caught.value.__cause__, KeyError)
    assert not store.frames() and not store.nested
    assert instance.function("inner")(4) == 8


def test_interrupts_leave_a_usable_store() -> None:
    def back(instance: Instance, n: int) -> int:
        raise KeyboardInterrupt

    store, instance, _ = nested(back)
    with pytest.raises(KeyboardInterrupt):
        instance.function("outer")(3)
    store.check()
    assert instance.function("inner")(4) == 8


def test_snapshots_are_refused_while_nested() -> None:
    refused: list[str] = []

    def back(instance: Instance, n: int) -> int:
        with pytest.raises(UnportableState) as caught:
            Snapshot.of(instance.store)
        refused.append(str(caught.value))
        return int(instance.function("deeper")(n - 1)) if n > 0 else 0

    _, instance, _ = nested(back)
    instance.function("outer")(2)
    assert "the program is running" in refused[0] and "called back" in refused[1]


def test_a_pause_waits_for_the_call_back() -> None:
    def back(instance: Instance, n: int) -> int:
        instance.store.pause()
        return int(instance.function("spin")(n))  # though its loop sees the request

    store, instance, _ = nested(back)
    store.enqueue(instance.function("outer"), 50)
    assert store.run() == Finished((1005,), (1005,))  # no canonical point came behind it
    store.enqueue(instance.function("spin"), 50)
    assert store.run() == Paused("requested")
    assert store.run() == Finished((5,), (5,))


def test_a_wait_in_a_call_back_puts_the_pause_off() -> None:
    tries: list[int] = []

    def back(caller: Caller, n: int) -> int:
        if n == 1:
            return int(caller.store.instances[0].function("deeper")(n))
        tries.append(n)
        if len(tries) == 1:
            caller.store.pause()
            assert caller.pause_requested
            raise Retry
        assert not caller.pause_requested
        return 5

    store = Store()
    instance = store.instantiate(text(NESTED), {"host": {"back": back}})
    store.enqueue(instance.function("outer"), 1)
    assert store.run() == Finished((1105,), (1105,))
    assert len(tries) == 2
    # The request still stands, for whatever is run next.
    store.enqueue(instance.function("inner"), 1)
    assert store.run() == Paused("requested")


def test_giving_up_without_a_request_in_a_call_back_is_an_error() -> None:
    def back(caller: Caller, n: int) -> int:
        if n == 1:
            return int(caller.store.instances[0].function("deeper")(n))
        raise Retry

    instance = Store().instantiate(text(NESTED), {"host": {"back": back}})
    with pytest.raises(HostError, match="nobody asked"):
        instance.function("outer")(1)


def test_fuel_of_call_backs() -> None:
    store, instance, _ = nested(lambda i, n: i.function("spin")(n))
    store.enqueue(instance.function("outer"), 10)
    assert store.run(fuel=10_000) == Finished((1005,), (1005,))
    whole = store.executed
    assert whole == 3 + (1 + 10 * 5 + 1) + 1
    for fuel in range(whole):
        store, instance, _ = nested(lambda i, n: i.function("spin")(n))
        store.enqueue(instance.function("outer"), 10)
        outcome = store.run(fuel=fuel)
        assert outcome == Paused("fuel")
        if fuel >= 3:  # it is up within the call-back, which goes on to its end
            assert store.executed == whole - 1
        assert store.run(fuel=1000) == Finished((1005,), (1005,))
        assert store.executed == whole


# ---- host functions ----


def test_results_of_host_functions_are_checked() -> None:
    module = text("""(module
      (import "h" "one" (func $one (result i32)))
      (import "h" "two" (func $two (result i32 f64)))
      (import "h" "none" (func $none))
      (func (export "one") (result i32) call $one)
      (func (export "two") (result i32 f64) call $two)
      (func (export "none") call $none))""")

    def calling(name: str, given: object) -> object:
        imports = {"h": dict.fromkeys(("one", "two", "none"), lambda: given)}
        return Store().instantiate(module, imports).function(name)()

    assert calling("one", -1) == calling("one", 2**32 - 1) == -1
    assert calling("one", True) == 1
    assert calling("two", (1, 2.5)) == calling("two", [1, 2.5]) == (1, 2.5)
    assert calling("none", None) is None
    for name, given in (
        ("one", None),
        ("one", 1.5),
        ("one", 2**32),
        ("one", "x"),
        ("two", (1,)),
        ("two", 1),
        ("none", 1),
    ):
        with pytest.raises(HostError):
            calling(name, given)


def test_host_functions_have_types() -> None:
    module = text('(module (import "h" "f" (func (param i32) (result i32))))')
    right = HostFunction(FuncType((I32,), (I32,)), lambda caller, n: n)
    Store().instantiate(module, {"h": {"f": right}})
    wrong = HostFunction(FuncType((I32,)), lambda caller, n: None)
    with pytest.raises(LinkError, match="incompatible import type"):
        Store().instantiate(module, {"h": {"f": wrong}})
    with pytest.raises(LinkError, match="another store"):
        other = Store().instantiate(text('(module (memory (export "memory") 1))')).memory()
        Store().instantiate(text('(module (import "h" "m" (memory 1)))'), {"h": {"m": other}})


def test_raw_host_functions_get_bits() -> None:
    seen: list[tuple[int, ...]] = []

    def take(caller: Caller, *bits: int) -> int:
        seen.append(bits)
        return 0xFFFFFFFF

    type_ = FuncType((I32, ValType.F32, ValType.I64), (I32,))
    source = """(module (import "h" "f" (func $f (param i32 f32 i64) (result i32)))
      (func (export "g") (result i32)
        (call $f (i32.const -1) (f32.const 1) (i64.const -2))))"""
    imports: Imports = {"h": {"f": HostFunction(type_, take, raw=True)}}
    assert Store().instantiate(text(source), imports).function("g")() == -1
    assert seen == [(0xFFFFFFFF, 0x3F800000, 2**64 - 2)]


@pytest.mark.parametrize("every", [1, 2, 3])
def test_tail_calls_into_host_functions(every: int) -> None:
    source = """(module
      (import "h" "pair" (func $pair (param i32) (result i32 i64)))
      (type $p (func (param i32) (result i32 i64)))
      (table 1 funcref) (elem (i32.const 0) $pair)
      (func $direct (param i32 i32) (result i32 i64) (local i64 i64 i64)
        (return_call $pair (i32.add (local.get 0) (local.get 1))))
      (func $indirect (param i32) (result i32 i64)
        (return_call_indirect (type $p) (local.get 0) (i32.const 0)))
      (func (export "f") (param i32) (result i32 i64 i32 i64)
        (call $direct (local.get 0) (i32.const 1))
        (call $indirect (local.get 0))))"""
    imports: Imports = {"h": {"pair": lambda n: (n * 2, n * 3)}}
    store = Store()
    store.enqueue(store.instantiate(text(source), imports).function("f"), 5)
    outcome, store = run_by_steps(store, every, imports)
    assert isinstance(outcome, Finished) and outcome.results == (12, 18, 10, 15)


def test_host_functions_can_be_invoked_themselves() -> None:
    source = '(module (import "h" "f" (func (param i32) (result i32))) (export "f" (func 0)))'
    imports: Imports = {"h": {"f": lambda n: n + 1}}
    store = Store()
    function = store.instantiate(text(source), imports).function("f")
    assert function(4) == 5
    store.enqueue(function, 6)
    assert hop(store, imports).run() == Finished((7,), (7,))


def test_one_import_given_as_two_functions() -> None:
    """Two instances, each with its own Python function for the same import name."""
    module = text('(module (import "h" "f" (func $f (result i32))) (export "f" (func $f)))')
    store = Store()
    functions = [
        store.instantiate(module, {"h": {"f": lambda n=n: n}}).function("f") for n in range(2)
    ]
    assert [function() for function in functions] == [0, 1]
    one = HostFunction(FuncType((), (I32,)), lambda caller: 7)
    with pytest.raises(SnapshotError, match=r"two host functions for the import h\.f"):
        hop(store, {"h": {"f": one}})


# ---- several instances, things made by the host ----

LIBRARY = """
(module (memory (export "memory") 1) (global $g (export "g") (mut i32) (i32.const 0))
  (func (export "put") (param i32 i32)
    (i32.store8 (local.get 0) (local.get 1))
    (global.set $g (i32.add (global.get $g) (i32.const 1))))
  (func (export "get") (param i32) (result i32) (i32.load8_u (local.get 0))))
"""
USER = """
(module (import "library" "put" (func $put (param i32 i32)))
  (import "library" "get" (func $get (param i32) (result i32)))
  (import "library" "g" (global $g (mut i32)))
  (import "host" "grow" (func $grow))
  (memory (export "memory") 1)
  (func (export "f") (param i32) (result i32 i32 i32 i32)
    (i32.store8 (i32.const 3) (i32.const 50))
    (call $put (i32.const 3) (local.get 0))
    (call $grow)
    (i32.store8 (i32.const 65540) (i32.const 51))
    (call $get (i32.const 3))
    (i32.load8_u (i32.const 3))
    (i32.load8_u (i32.const 65540))
    (global.get $g)))
"""


@pytest.mark.parametrize("every", [None, 1, 3])
def test_calls_across_instances_with_their_own_memories(every: int | None) -> None:
    """The memory of the right instance after each call, also when the host grew it meanwhile."""

    def grow(caller: Caller) -> None:
        assert caller.instance == 1
        caller.store.instances[1].memory().grow(1)
        assert len(caller.memory) == 131072

    imports: dict[str, Any] = {"host": {"grow": grow}}
    store = Store()
    library = store.instantiate(text(LIBRARY), name="library")
    user = store.instantiate(text(USER), {**imports, "library": library.exports})
    store.enqueue(user.function("f"), 77)
    if every is None:
        outcome = store.run()
    else:
        outcome, store = run_by_steps(store, every, imports)
    assert isinstance(outcome, Finished) and outcome.results == (77, 50, 51, 1)
    assert [i.memory().pages for i in store.instances] == [1, 2]
    assert store.instances[0].name == "library"


def test_things_made_by_the_host_are_restored() -> None:
    store = Store()
    unused = Global.new(store, GlobalType(ValType.I64, True), -5)
    memory = Memory.new(store, MemoryType(Bounds(1, 3)))
    table = Table.new(store, TableType(ValType.FUNCREF, Bounds(2, 5)))
    values = Global.new(store, GlobalType(ValType.F64), 2.5)
    spare = Table.new(store, TableType(ValType.EXTERNREF, Bounds(1)))
    module = text(
        """(module (import "h" "m" (memory 1 3)) (import "h" "t" (table 2 5 funcref))
      (import "h" "g" (global f64)) (func $f (export "f") (result f64) (global.get 0))
      (elem (i32.const 1) $f) (memory (export "none") 0) (data (i32.const 9) "x"))""".replace(
            '(memory (export "none") 0)', ""
        )
    )
    imports: Imports = {"h": {"m": memory, "t": table, "g": values}}
    instance = store.instantiate(module, imports)
    late = Memory.new(store, MemoryType(Bounds(1)))
    late.write(5, b"late")
    assert memory.grow(1) == 1 and table.grow(2, instance.function("f")) == 2
    memory.write(65536, b"second page")
    spare[0] = {"plain": ["data", 1, None]}
    restored = hop(store)

    def the(kind: Any, handle: Any) -> Any:
        return kind(restored, handle.address)

    assert the(Global, unused).value == -5 and the(Global, unused).type.mutable
    assert the(Memory, memory).read(65536, 11) == b"second page"
    assert the(Memory, memory).type == MemoryType(Bounds(2, 3))
    assert the(Memory, late).read(5, 4) == b"late"
    assert the(Table, table)[3]() == 2.5 and the(Table, table)[0] is None
    assert the(Table, spare)[0] == {"plain": ["data", 1, None]}
    assert the(Memory, memory).grow(2) == -1 and the(Memory, memory).grow(1) == 2


# ---- references ----

REFERENCES = """
(module (table $t (export "t") 4 externref)
  (global $g (export "g") (mut externref) (ref.null extern))
  (func (export "keep") (param externref) (global.set $g (local.get 0)))
  (func (export "through") (param externref externref) (result externref externref i32)
    (local externref) (local.set 2 (local.get 0))
    (local.get 1) (local.get 2) (ref.is_null (local.get 0))))
"""


def test_objects_go_through() -> None:
    instance = Store().instantiate(text(REFERENCES))
    first, second = object(), [1]
    found = instance.function("through")(first, second)
    assert found[0] is second and found[1] is first and found[2] == 0
    assert instance.function("through")(None, None) == (None, None, 1)


@pytest.mark.parametrize("value", [0, "text", b"bytes", [1, 2.5, None], {"a": [True]}, 2**63])
def test_plain_objects_are_saved(value: object) -> None:
    store = Store()
    instance = store.instantiate(text(REFERENCES))
    instance.function("keep")(value)
    store.enqueue(instance.function("through"), value, "other")
    outcome, store = run_by_steps(store, 1)
    assert isinstance(outcome, Finished) and outcome.results == ("other", value, 0)
    found = store.instances[0].global_("g").value
    assert found == value and type(found) is type(value)


@pytest.mark.parametrize("value", [object(), 2**64, {1, 2}, lambda: 1, Store])
def test_other_objects_are_refused(value: object) -> None:
    store = Store()
    instance = store.instantiate(text(REFERENCES))
    instance.function("keep")(value)
    with pytest.raises(UnportableState, match=r"externref 0 \("):
        encoded(store)
    instance.function("keep")(None)
    hop(store)  # what nothing refers to any more is not saved


def test_functions_are_references_too() -> None:
    module = text("""(module (type $v (func (result i32)))
      (table $t (export "t") 1 funcref)
      (func $seven (export "seven") (result i32) i32.const 7)
      (func (export "same") (param funcref) (result funcref) local.get 0)
      (func (export "call") (result i32) (call_indirect $t (type $v) (i32.const 0))))""")
    store = Store()
    instance = store.instantiate(module)
    seven = instance.function("seven")
    assert instance.function("same")(seven) == seven and instance.function("same")(None) is None
    with pytest.raises(Trap, match="uninitialized element"):
        instance.function("call")()
    instance.table("t")[0] = seven
    assert hop(store).instances[0].function("call")() == 7
    with pytest.raises(TypeError, match="function of this store"):
        instance.table("t")[0] = Function(Store(), 0)


# ---- ends that cannot be pauses ----

ENDLESS = """(module
  (import "host" "back" (func $back (param i32)))
  (memory (export "memory") 1)
  (func (export "spin") (loop $again (i32.store (i32.const 0) (i32.const 7)) (br $again)))
  (func (export "outer") (call $back (i32.const 1)) (loop $again (br $again)))
  (func (export "seven") (result i32) (i32.load (i32.const 0))))"""


@pytest.mark.parametrize("fuel", [None, 1000])
@pytest.mark.parametrize("swallows", [False, True])
def test_an_endless_call_back_can_be_interrupted(fuel: int | None, swallows: bool) -> None:
    """Neither a pause nor empty fuel ends it: the host function stands in between."""

    def back(caller: Caller, _: int) -> None:
        entered.set()
        try:
            caller.store.instances[0].function("spin")()
        except Interrupted:
            if not swallows:
                raise

    entered = threading.Event()
    store = Store()
    instance = store.instantiate(text(ENDLESS), {"host": {"back": back}})
    store.enqueue(instance.function("outer"))
    caught: list[BaseException] = []

    def work() -> None:
        try:
            store.run(fuel=fuel)
        except Interrupted as error:
            caught.append(error)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert entered.wait(60)
    store.pause()
    assert not store.wait(0.2)
    store.interrupt()
    assert store.wait(60)
    thread.join(60)
    assert [str(error) for error in caught] == ["the program was interrupted"]
    store.check()
    # Nothing of it is left, and the store is good for more.
    assert store.frames() == [] and not store.nested
    assert instance.function("seven")() == 7
    store.enqueue(instance.function("seven"))
    store.interrupt()
    with pytest.raises(Interrupted):
        store.run()
    assert instance.function("seven")() == 7


def test_a_closed_store_keeps_nothing() -> None:
    """Callers and host functions refer to it and to the host's objects."""
    store = Store()
    instance = store.instantiate(
        text('(module (import "h" "f" (func $f)) (func (export "g") call $f))'),
        {"h": {"f": lambda: None}},
    )
    instance.function("g")()
    assert store.invoker.callers and store.linker.perform_at
    store.close()
    assert not store.invoker.callers and not store.linker.perform_at and not store.hosts


def test_a_store_that_nothing_refers_to_closes_its_descriptors() -> None:
    gc.collect()
    before = len(os.listdir("/proc/self/fd"))
    store = Store()
    assert store.wake_fd > 2
    del store
    gc.collect()
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_wait_leaves_no_descriptors_after_the_run() -> None:
    seen: list[int] = []
    module = text('(module (import "h" "f" (func $f)) (func (export "run") (call $f)))')

    def waits(caller: Caller) -> None:
        seen.append(caller.wake_fd)
        os.fstat(seen[-1])

    store = Store()
    run = store.instantiate(module, {"h": {"f": HostFunction(FuncType((), ()), waits)}})
    for _ in range(3):
        run.function("run")()
        with pytest.raises(OSError, match="Bad file"):
            os.fstat(seen[-1])
    kept = store.wake_fd
    run.function("run")()
    assert seen[-1] == kept == store.wake_fd, "who asks outside of a run keeps it"
    os.fstat(kept)
