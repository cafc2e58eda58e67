"""Functions are compiled when they are first called, and make way for a pause while they are."""

from __future__ import annotations

import threading
import time

import pytest

from wasmsr import Finished, Module, Paused, Store
from wasmsr.interp.modules.module import assemble
from wasmsr.interp.store.externs import Global, HostFunction
from wasmsr.interp.types import FuncType

TERMS = 600_000
"""Additions in the large function: a tenth of a second of compiling."""
LARGE = f"""(module
  (import "host" "here" (func $here))
  (import "host" "there" (func $there))
  (global $go (export "go") (mut i32) (i32.const 0))
  (func $large (param i32) (result i32)
    local.get 0 {"i32.const 3 i32.add " * TERMS})
  (func (export "main") (result i32) (local i32)
    call $here
    i32.const 1
    call $large
    local.set 0
    call $there
    (loop $wait global.get $go i32.eqz br_if $wait)
    local.get 0))"""


class Run:
    """The program on a thread of its own, from `here` on."""

    def __init__(self, binary: bytes) -> None:
        self.passed: dict[str, float] = {}
        self.here, self.there = threading.Event(), threading.Event()
        self.store = Store()
        self.found: list[object] = []
        instance = self.store.instantiate(
            Module(binary), {"host": {"here": self.says("here"), "there": self.says("there")}}
        )
        self.store.enqueue(instance.function("main"))
        self.thread = threading.Thread(target=lambda: self.found.append(self.store.run()))
        self.thread.start()
        assert self.here.wait(60)

    def says(self, name: str) -> HostFunction:
        def call(caller: object) -> None:
            self.passed[name] = time.process_time()
            getattr(self, name).set()

        return HostFunction(FuncType(), call)

    def pause(self) -> int:
        """Make it stand; the value of its local."""
        self.store.pause()
        return self.stands()

    def stands(self) -> int:
        self.thread.join(60)
        assert self.found == [Paused("requested")]
        self.store.check()
        (frame,) = self.store.frames()
        (value,) = frame.locals
        assert isinstance(value, int)
        return value


def test_a_pause_does_not_wait_for_a_large_function_to_be_compiled() -> None:
    binary = assemble(LARGE.encode())
    undisturbed = Run(binary)
    assert undisturbed.there.wait(60)
    assert undisturbed.pause() == 1 + 3 * TERMS
    compiling = undisturbed.passed["there"] - undisturbed.passed["here"]

    for _ in range(20):
        run = Run(binary)
        while time.process_time() < run.passed["here"] + compiling / 4:
            time.sleep(0.001)
        run.store.pause()
        asked = time.process_time()  # later than the request, should this thread lose its turn
        in_time = asked < run.passed["here"] + compiling / 2
        value = run.stands()
        spent = time.process_time() - asked
        go = run.store.instances[-1].exports["go"]
        assert isinstance(go, Global)
        go.value = 1
        result = 1 + 3 * TERMS
        if in_time:
            assert value == 0 and not run.there.is_set()
            assert spent < compiling / 3, f"{spent:.4f} s; all takes {compiling:.4f} s of CPU time"
        assert run.store.run() == Finished((result,), (result,))
        if in_time:
            return
    pytest.skip("the machine is too busy: this thread never had its turn while it compiled")
