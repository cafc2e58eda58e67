"""`Store.push_call`: a call above paused frames, which can be saved like everything else."""

from __future__ import annotations

from typing import Any

import pytest

from tests.interp.machines import hop, text
from wasmsr import Caller, Exited, Finished, HostFunction, Paused, Store, Trap, Trapped, WasmsrError
from wasmsr.errors import FormatError
from wasmsr.interp.gate import HostEvent, HostGate
from wasmsr.interp.outcomes import Limits
from wasmsr.interp.store.externs import Retry
from wasmsr.interp.store.instance import Imports
from wasmsr.interp.types import FuncType, ValType
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.inspect.describe import describe
from wasmsr.snapshot.restore import restore

WAT = """(module
  (import "host" "tick" (func $tick (param i32) (result i32)))
  (import "host" "leave" (func $leave))
  (memory (export "memory") 1)
  (global $pushed (export "pushed") (mut i32) (i32.const 0))
  (tag $e (export "e") (param i32))
  (func $fib (export "fib") (param i32) (result i32)
    (if (result i32) (i32.lt_u (local.get 0) (i32.const 2))
      (then (local.get 0))
      (else (i32.add (call $fib (i32.sub (local.get 0) (i32.const 1)))
                     (call $fib (i32.sub (local.get 0) (i32.const 2)))))))
  (func (export "work") (param $n i32) (result i32) (local $sum i32)
    (block $out (try_table (catch_all $out)
      (loop $again
        (local.set $sum (i32.add (local.get $sum)
          (i32.add (call $fib (i32.const 4)) (call $tick (local.get $n)))))
        (memory.fill (i32.const 0) (local.get $n) (i32.const 300))
        (br_if $again (local.tee $n (i32.sub (local.get $n) (i32.const 1)))))))
    (local.get $sum))
  (func (export "hook") (param $number i32) (param $seed i64) (result i32 f64 v128)
    (global.set $pushed (i32.add (global.get $pushed) (call $fib (local.get $number))))
    (i32.store (i32.const 1000) (call $tick (i32.wrap_i64 (local.get $seed))))
    (i32.const -1) (f64.const 2) (v128.const i64x2 3 4))
  (func (export "trap") unreachable)
  (func (export "throw") (throw $e (i32.const 9)))
  (func (export "exit") (call $leave))
  (func (export "deep") (call 6)))"""


class Host:
    """The host of a program: it notes its calls."""

    def __init__(self) -> None:
        self.calls: list[int] = []

    @property
    def imports(self) -> Any:
        def tick(caller: Caller, number: int) -> int:
            self.calls.append(number)
            return number & 1

        def leave(caller: Caller) -> None:
            from wasmsr import Exit

            raise Exit(5)

        kind = FuncType((ValType.I32,), (ValType.I32,))
        return {"host": {"tick": HostFunction(kind, tick), "leave": leave}}


def started(n: int = 3) -> tuple[Store, Host]:
    host = Host()
    store = Store()
    store.enqueue(store.instantiate(text(WAT), host.imports).function("work"), n)
    return store, host


def function(store: Store, name: str) -> Any:
    return store.instances[0].function(name)


def undisturbed() -> tuple[Any, list[int], int]:
    store, host = started()
    outcome = store.run(fuel=1 << 40)
    assert store.executed is not None
    return outcome, host.calls, store.executed


def test_a_call_can_be_pushed_at_every_instruction_and_saved_in_it() -> None:
    outcome, calls, executed = undisturbed()
    lengths = set()
    for at in range(1, executed, 17):
        store, host = started()
        assert store.run(fuel=at) == Paused("fuel")
        below, memory = store.frames(dead_locals=False), bytearray(store.memory_view(0))
        store.push_call(function(store, "hook"), 3, 77)
        store.check()
        steps = 0
        while store.state.pushed_calls:
            store = hop(store, host.imports)
            assert store.frames(dead_locals=False)[: len(below)] == below
            assert store.state.pushed_calls == [len(below)]
            assert store.run(fuel=1) == Paused("fuel")
            store.check()
            steps += 1
        lengths.add(steps)
        assert store.frames(dead_locals=False) == below
        memory[1000:1004] = b"\x01\0\0\0"
        assert store.memory_view(0) == memory
        assert store.instances[0].exports["pushed"].value == 2
        assert store.run(fuel=1 << 40) == outcome
        assert store.executed == executed + steps
        host.calls.remove(77)
        assert host.calls == calls
    assert len(lengths) == 1 and min(lengths) > 20


@pytest.mark.parametrize("fuel", [None, 1 << 40])
def test_in_fast_code_it_is_the_same(fuel: int | None) -> None:
    outcome, calls, executed = undisturbed()
    for at in range(1, executed, 4):
        store, host = started()
        store.run(fuel=at)
        store.push_call(function(store, "hook"), 7, 78)
        store.push_call(function(store, "hook"), 5, 79)  # above the first, so before it
        assert len(store.state.pushed_calls) == 2
        store = hop(store, host.imports)
        assert store.run(fuel=fuel) == outcome
        assert store.instances[0].exports["pushed"].value == 13 + 5
        assert [call for call in host.calls if call > 70] == [79, 78]
        assert [call for call in host.calls if call < 70] == calls
        assert not store.frames() and not store.state.pushed_calls


def test_a_call_above_a_host_call_that_waits() -> None:
    waiting = [True]

    def tick(caller: Caller, number: int) -> int:
        if number == 3 and waiting[0]:
            caller.store.pause()
            raise Retry
        return number

    kind = FuncType((ValType.I32,), (ValType.I32,))
    imports: Imports = {"host": {"tick": HostFunction(kind, tick), "leave": lambda: None}}
    store = Store()
    store.enqueue(store.instantiate(text(WAT), imports).function("work"), 3)
    assert store.run() == Paused("requested")
    store.push_call(function(store, "hook"), 2, 1)
    store = hop(store, imports)
    assert store.run() == Paused("requested")  # the hook has run, the call waits again
    assert store.instances[0].exports["pushed"].value == 1
    waiting[0] = False
    assert store.run() == Finished((15,), (15,))


@pytest.mark.parametrize("hopped", [False, True])
def test_what_ends_the_call_ends_the_program(hopped: bool) -> None:
    for name in ("trap", "throw", "exit", "deep"):
        store, host = started()
        store.run(fuel=40)
        store.push_call(function(store, name))
        if hopped:
            store = hop(store, host.imports)
        outcome = store.run()
        if name == "exit":
            assert outcome == Exited(5)
        else:
            assert isinstance(outcome, Trapped)
            names = [frame.function for frame in outcome.trap.backtrace]
            own = ["throw", "deep"] if name == "deep" else [name]
            assert names[: len(own)] == own and names[-1] == "work"
        assert not store.frames() and not store.queue and not store.state.pushed_calls
        assert function(store, "fib")(6) == 8


def test_the_gate_hears_of_it() -> None:
    class Events(HostGate):
        """Keeps events."""

        def __init__(self) -> None:
            self.events: list[HostEvent] = []

        def event(self, event: HostEvent) -> None:
            self.events.append(event)

    store, _ = started()
    store.gate = gate = Events()
    store.run(fuel=40)
    hook = function(store, "hook")
    store.push_call(hook, 3, -1)
    assert gate.events[-1] == HostEvent(
        "push", 40, {"function": hook.address, "slots": (3, 2**64 - 1)}
    )


def test_what_cannot_be_pushed_changes_nothing() -> None:
    store, _ = started()
    hook = function(store, "hook")
    with pytest.raises(WasmsrError, match="no call of the store is paused"):
        store.push_call(hook, 1, 2)
    store.run(fuel=40)
    frames = store.frames()
    with pytest.raises(TypeError, match="2 arguments, not 1"):
        store.push_call(hook, 1)
    with pytest.raises(OverflowError):
        store.push_call(hook, 1 << 40, 1)
    tick = next(iter(store.hosts))
    from wasmsr import Function

    with pytest.raises(WasmsrError, match="host function cannot be pushed"):
        store.push_call(Function(store, tick), 1)
    assert store.frames() == frames and not store.state.pushed_calls
    assert store.run() == undisturbed()[0]


def test_a_stack_without_room_refuses() -> None:
    host = Host()
    store = Store(limits=Limits(stack_frames=2))
    instance = store.instantiate(text(WAT), host.imports)
    store.enqueue(instance.function("work"), 1)
    while len(store.frames()) < 2:
        assert store.run(fuel=1) == Paused("fuel")
    with pytest.raises(Trap, match="exhausted"):
        store.push_call(instance.function("hook"), 1, 1)
    store.check()
    assert not store.state.pushed_calls


def test_a_running_program_takes_no_call() -> None:
    caught: list[str] = []

    def tick(caller: Caller, number: int) -> int:
        try:
            caller.store.push_call(hook, 1, 1)  # type: ignore[attr-defined]
        except WasmsrError as error:
            caught.append(str(error))
        return number

    kind = FuncType((ValType.I32,), (ValType.I32,))
    store = Store()
    imports: Imports = {"host": {"tick": HostFunction(kind, tick), "leave": lambda: None}}
    instance = store.instantiate(text(WAT), imports)
    hook = instance.function("hook")
    instance.function("work")(1)
    assert caught == ["the store is running; one thread at a time may use it"]


@pytest.mark.parametrize("wrong", [[0], [1, 1], [-1], [2, 1], [50], [2**70], [1]])
def test_a_lying_snapshot_is_refused(wrong: list[int]) -> None:
    store, host = started()
    store.run(fuel=40)
    store.push_call(function(store, "hook"), 3, 1)
    state = decode(b"".join(encode(capture(store))))
    own = len(state.thread.frames) - 1
    assert state.thread.pushed == [own] and own > 1
    for pushed in (wrong, [own, *wrong], [own, own + 1], []):
        state.thread.pushed = pushed
        with pytest.raises(FormatError):
            restore(state, modules=[store.instances[0].module], imports=host.imports)


def test_it_is_shown() -> None:
    store, _ = started()
    store.run(fuel=40)
    assert "pushed_calls" not in describe(capture(store))
    store.push_call(function(store, "hook"), 3, 1)
    assert describe(capture(store))["pushed_calls"] == [len(store.frames()) - 1]
