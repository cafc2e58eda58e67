"""A host function can be bound to a memory and a realloc function by address."""

from __future__ import annotations

import pytest

from tests.interp.machines import hop, text
from wasmsr import (
    Caller,
    Finished,
    FuncType,
    HostError,
    HostFunction,
    Paused,
    Retry,
    Store,
)
from wasmsr.interp.gate import HostCall, HostGate

TYPE = FuncType((), ())
OWNER = """(module (memory (export "memory") 1) (global $at (mut i32) (i32.const 64))
  (func (export "realloc") (param i32 i32 i32 i32) (result i32)
    (local.set 0 (global.get $at))
    (global.set $at (i32.add (global.get $at) (local.get 3))) (local.get 0)))"""
CALLER = """(module (import "m" "f" (func $f)) (memory (export "memory") 1)
  (func (export "run") (call $f)))"""


def _write(caller: Caller) -> None:
    at = 8 if caller.realloc is None else caller.realloc(0, 0, 1, 4)
    assert isinstance(at, int)
    caller.memory[at : at + 4] = b"data"


class _Gate(HostGate):
    def __init__(self) -> None:
        self.seen: list[int | None] = []

    def host_call(self, call: HostCall) -> None:
        self.seen.append(call.caller.bound_memory)
        call.perform()


@pytest.mark.parametrize("gated", [False, True])
@pytest.mark.parametrize("bound", [False, True])
def test_a_bound_function_uses_its_own_memory_and_realloc(bound: bool, gated: bool) -> None:
    store = Store()
    owner = store.instantiate(text(OWNER))
    memory = owner.memory("memory")
    address = memory.address if bound else None
    realloc = owner.function("realloc").address if bound else None
    f = HostFunction(TYPE, _write, memory=address, realloc=realloc)
    caller = store.instantiate(text(CALLER), {"m": {"f": f}})
    gate = _Gate()
    store.gate = gate if gated else None
    caller.function("run")()
    assert gate.seen == ([address] if gated else [])
    theirs = caller.memory("memory")
    if bound:
        assert memory.read(64, 4) == b"data" and not any(theirs.data)
    else:
        assert theirs.read(8, 4) == b"data" and not any(memory.data)


def test_the_binding_holds_after_a_restore_because_it_is_an_address() -> None:
    calls = []

    def write(caller: Caller) -> None:
        calls.append(caller.store)
        if len(calls) == 1:
            caller.store.pause()
            raise Retry
        _write(caller)

    def imports() -> dict[str, dict[str, HostFunction]]:
        return {"m": {"f": HostFunction(TYPE, write, memory=0, realloc=0)}}

    store = Store()
    modules = text(OWNER), text(CALLER)
    store.instantiate(modules[0])
    store.enqueue(store.instantiate(modules[1], imports()).function("run"))
    assert store.run() == Paused("requested")
    restored = hop(store, imports(), modules)
    assert restored.run() == Finished()
    views = [bytes(restored.memory_view(address)) for address in (0, 1)]
    assert views[0][64:68] == b"data" and not any(views[1])
    assert calls == [store, restored]


@pytest.mark.parametrize(
    ("memory", "realloc", "said"),
    [
        (7, None, "memory 7, and the store has 2 memories"),
        (-1, None, "memory -1"),
        (0, 1 << 40, "function 1099511627776"),
        (0, -1, "function -1"),
    ],
)
def test_an_address_that_the_store_lacks_is_an_error(
    memory: int, realloc: int | None, said: str
) -> None:
    store = Store()
    store.instantiate(text(OWNER))
    f = HostFunction(TYPE, _write, memory=memory, realloc=realloc)
    run = store.instantiate(text(CALLER), {"m": {"f": f}}).function("run")
    with pytest.raises(HostError, match=said):
        run()
