"""The gate: every host call passes it, whatever way the call comes, and it sees all of the call."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest

from wasmsr import Module, Store
from wasmsr.errors import Exit, Trap
from wasmsr.interp.gate import HostCall, HostEvent, HostGate
from wasmsr.interp.outcomes import Exited, Finished, Paused, Trapped
from wasmsr.interp.store.externs import HostFunction, Memory, Retry
from wasmsr.interp.types import FuncType, ValType

I32 = ValType.I32
MODULE = """(module
  (import "host" "add" (func $add (param i32 i32) (result i32)))
  (import "host" "back" (func $back (param i32) (result i32)))
  (memory (export "memory") 1 2)
  (global (export "cell") (mut i32) (i32.const 0))
  (table (export "table") 2 funcref)
  (export "host add" (func $add))
  (func (export "direct") (result i32) (call $add (i32.const 1) (i32.const 2)))
  (func (export "nested") (result i32) (call $back (i32.const 5)))
  (func (export "inner") (param i32) (result i32) (call $add (local.get 0) (i32.const 10))))"""


class Watching(HostGate):
    """Notes names, arguments and what became of each call."""

    def __init__(self) -> None:
        self.seen: list[tuple[str, tuple[int, ...], Any]] = []
        self.events: list[HostEvent] = []

    def host_call(self, call: HostCall) -> None:
        try:
            call.perform()
        except BaseException as error:
            self.seen.append((call.name, call.arguments, type(error)))
            raise
        self.seen.append((call.name, call.arguments, call.results()))

    def event(self, event: HostEvent) -> None:
        self.events.append(event)


def linked(add: Any = None, gate: HostGate | None = None) -> tuple[Store, Any]:
    """A store with an instance of the module; `add` is performed for the import of that name."""
    store = Store()
    store.gate = gate
    kept: dict[str, Any] = {}

    def back(value: int) -> Any:
        return kept["instance"].function("inner")(value)

    instance = store.instantiate(
        Module.from_text(MODULE), {"host": {"add": add or (lambda a, b: a + b), "back": back}}
    )
    kept["instance"] = instance
    return store, instance


@pytest.mark.parametrize("early", [True, False], ids=["before linking", "after linking"])
def test_every_way_passes(early: bool) -> None:
    gate = Watching()
    store, instance = linked(gate=gate if early else None)
    store.gate = gate
    assert instance.function("direct")() == 3
    assert instance.function("nested")() == 15
    store.enqueue(instance.function("host add"), 20, 3)
    assert store.run() == Finished((23,), (23,))
    assert gate.seen == [
        ("add", (1, 2), (3,)),
        ("add", (5, 10), (15,)),
        ("back", (5,), (15,)),
        ("add", (20, 3), (23,)),
    ]
    store.gate = None
    assert instance.function("direct")() == 3
    assert len(gate.seen) == 4


class Sums(HostGate):
    """Answers itself."""

    def host_call(self, call: HostCall) -> None:
        call.answer((sum(call.arguments) * 100,))


def test_a_gate_can_answer() -> None:
    def never(a: int, b: int) -> int:
        raise AssertionError("the host function is called")

    _, instance = linked(never, Sums())
    assert instance.function("direct")() == 300


@pytest.mark.parametrize(
    ("raised", "outcome"),
    [(Exit(7), Exited), (Trap("unreachable"), Trapped), (Retry(), Paused)],
    ids=["exit", "trap", "retry"],
)
def test_it_sees_how_calls_end(raised: BaseException, outcome: type) -> None:
    gate = Watching()
    again = [raised]

    def add(a: int, b: int) -> int:
        if again:
            raise again.pop()
        return a + b

    store, instance = linked(add, gate)
    store.enqueue(instance.function("direct"))
    assert isinstance(store.run(), outcome)
    assert gate.seen == [("add", (1, 2), type(raised))]
    if outcome is Paused:
        assert store.run() == Finished((3,), (3,))
        assert gate.seen[1:] == [("add", (1, 2), (3,))]


def test_events() -> None:
    gate = Watching()
    store, instance = linked(gate=gate)
    memory, cell, table = (instance.exports[name] for name in ("memory", "cell", "table"))
    assert isinstance(memory, Memory)
    memory.write(3, b"ab")
    memory.grow(1)
    memory.grow(1)
    cell.value = 9
    table[1] = instance.function("direct")
    table.grow(1)
    store.enqueue(instance.function("direct"))
    store.pause()
    assert store.run() == Paused("requested")
    assert store.run(fuel=2) == Paused("fuel")
    kinds = [event.kind for event in gate.events]
    assert kinds == [
        *("edit", "grow", "growth failed", "edit", "edit", "grow", "enqueue"),
        *("pause", "pause"),
    ]
    assert gate.events[0].detail == {"memory": memory.address, "offset": 3, "data": b"ab"}
    assert gate.events[0].instructions is None
    assert (gate.events[-1].detail, gate.events[-1].instructions) == ({"reason": "fuel"}, 2)


def test_declared_writes() -> None:
    def writes(caller: Any, arguments: Any) -> Any:
        return lambda succeeded: [(arguments[0], 4 if succeeded else 8)]

    seen = []

    class Asking(HostGate):
        def host_call(self, call: HostCall) -> None:
            call.perform()
            seen.append((call.written(), call.written(succeeded=False)))

    type_ = FuncType((I32, I32), (I32,))
    add = HostFunction(type_, lambda caller, a, b: a + b, writes=writes)
    _, instance = linked(add, Asking())
    instance.function("direct")()
    assert seen == [([(1, 4)], [(1, 8)])]


GROWING = """
import resource
from wasmsr import Module, Store
from wasmsr.interp.gate import HostGate

class Watching(HostGate):
    def event(self, event):
        print(event.kind, event.detail, event.instructions is not None)

    def host_call(self, call):
        print("call", call.arguments)
        call.perform()

store = Store()
store.gate = Watching()
instance = store.instantiate(Module.from_text('''(module
  (import "host" "note" (func $note (param i32)))
  (memory 1 20000)
  (func (export "grow") (param i32) (call $note (memory.grow (local.get 0)))))'''),
  {"host": {"note": lambda value: None}})
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
# Sanitizers have data of their own, so the limit counts from what there is.
limit = int(status["VmData"].split()[0]) * 1024 + (300 << 20)
resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
for pages in (1, 16000, 30000):
    store.gate, gate = None, store.gate
    store.enqueue(instance.function("grow"), pages)
    store.gate = gate
    store.run(fuel=100)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="other hosts have no such limit")
def test_a_growth_that_the_host_refuses_is_an_event() -> None:
    """One that succeeds is none, and one beyond the limits is the same on every host."""
    done = subprocess.run([sys.executable, "-c", GROWING], capture_output=True, text=True)
    assert done.stdout.splitlines() == [
        "call (1,)",
        "growth failed {'refused': 1} True",
        "call (4294967295,)",
        "call (4294967295,)",
    ], done.stderr
