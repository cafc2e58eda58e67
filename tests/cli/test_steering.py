"""`Program`, steered as migration and the command line steer it, within this process."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable

import pytest

from tests.cli.conftest import PATIENCE
from wasmsr.errors import ModuleMismatch
from wasmsr.interp.modules.module import Module, assemble
from wasmsr.interp.outcomes import Finished, Paused
from wasmsr.program.exports import ExportError
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.runspec.grants import HostGrants
from wasmsr.runspec.stop_conditions import StopConditions
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.state import SnapshotState

Path_ = Callable[[str], str]

FOREVER = '(func (export "_start") (loop (br 0)))'


def assembled(text: str) -> Module:
    """A module of these fields."""
    return Module(assemble(f"(module {text})".encode()))


def copied(snapshot: SnapshotState) -> SnapshotState:
    """The same through bytes: it shares nothing with the program."""
    return decode(b"".join(encode(snapshot)))


def test_to_the_end() -> None:
    program = Program.launch(assembled('(func (export "_start"))'))
    assert (program.state, program.pending) == (ProgramState.PAUSED, True)
    program.start()
    assert program.wait(PATIENCE) == Finished((), ())
    assert (program.state, program.pending) == (ProgramState.IDLE, False)


def test_results_of_every_invocation() -> None:
    program = Program.launch(
        assembled('(func (export "id") (param i64) (result i64) (local.get 0))'),
        invoke="id",
        args=[1],
    )
    results: list[tuple[object, ...]] = []
    program.on_result = lambda kind, values: results.append(values)
    program.call("id", 2)
    program.call("id", 3)
    program.start()
    program.wait(PATIENCE)
    assert results == [(1,), (2,), (3,)]


def test_pause_and_go_on() -> None:
    program = Program.launch(assembled(FOREVER))
    program.start()
    for _ in range(20):
        assert program.pause(PATIENCE)
        assert program.state is ProgramState.PAUSED
        assert program.wait(0) == Paused("requested")
        program.start()
        assert program.wait(0.001) is None
    assert program.pause()
    program.close()


def test_pause_before_and_after() -> None:
    program = Program.launch(assembled('(func (export "_start"))'))
    assert program.pause()
    program.start()
    program.wait(PATIENCE)
    assert program.pause()
    program.call("_start")
    # That request is over: it must not stop the next run.
    program.start()
    program.wait(PATIENCE)
    assert program.state is ProgramState.IDLE


def test_a_pause_that_comes_to_nothing_is_withdrawn() -> None:
    """The host function does not yield in time; the program runs on as if nothing had been."""
    module = assembled('(import "env" "slow" (func $slow)) (func (export "_start") (call $slow))')
    release = threading.Event()
    entered = threading.Event()

    def slow() -> None:
        entered.set()
        release.wait(PATIENCE)

    from wasmsr.interp.store.store import Store

    store = Store()
    instance = store.instantiate(module, {"env": {"slow": slow}})
    store.enqueue(instance.function("_start"))
    program = Program(store, module, None, HostGrants())
    program.start()
    assert entered.wait(PATIENCE)
    assert program.pause(0.02) is False
    assert program.state is ProgramState.RUNNING
    release.set()
    assert program.wait(PATIENCE) == Finished((), ())


def test_pauses_among_hops() -> None:
    """The store is another one after each hop; no request is lost between the two.

    A busy machine may take the first step of a start after the request to pause, and no hop then
    comes between the two. So every second round waits for a hop.
    """
    program = Program.launch(assembled(FOREVER))
    program.stop_conditions = StopConditions(hop=50)
    hops: list[float] = []
    program.timings.spans["restore"] = hops
    for number in range(100):
        before = len(hops)
        program.start()
        deadline = time.monotonic() + PATIENCE
        while number % 2 and len(hops) == before:
            assert time.monotonic() < deadline, "no hop"
            time.sleep(0.0005)
        assert program.pause(PATIENCE)
        assert program.state is ProgramState.PAUSED
    assert len(hops) >= 50


def test_marks() -> None:
    program = Program.launch(assembled(FOREVER))
    program.stop_conditions = StopConditions(stop=1000, fuel=2500)
    program.start()
    program.wait(PATIENCE)
    assert (program.state, program.executed) == (ProgramState.STOP, 1000)
    assert program.snapshot().limits.fuel == 1500
    program.passed_stop()
    program.start()
    program.wait(PATIENCE)
    assert (program.state, program.executed) == (ProgramState.FUEL, 2500)


def test_resume() -> None:
    text = """(func $f (export "f") (param i32) (result i32)
        (if (result i32) (local.get 0)
          (then (i32.add (i32.const 1) (call $f (i32.sub (local.get 0) (i32.const 1)))))
          (else (i32.const 0))))"""
    module = assembled(text)
    program = Program.launch(module, invoke="f", args=[500])
    program.call("f", 3)
    program.stop_conditions = StopConditions(stop=900)
    program.start()
    program.wait(PATIENCE)
    snapshot = copied(program.snapshot())
    again = Program.resume(snapshot, module=module)
    results: list[tuple[object, ...]] = []
    again.on_result = lambda kind, values: results.append(values)
    again.start()
    again.wait(PATIENCE)
    assert results == [(500,), (3,)]
    assert again.parent == snapshot.lineage.id
    with pytest.raises(ModuleMismatch):
        Program.resume(snapshot, module=assembled(FOREVER))
    with pytest.raises(ModuleMismatch):
        Program.resume(snapshot)
    embedded = copied(program.snapshot(embed=True))
    assert Program.resume(embedded).module.digest == module.digest


def test_errors_of_the_host_come_from_wait() -> None:
    def fail(*arguments: object) -> None:
        raise OSError("the printer is on fire")

    program = Program.launch(assembled('(func (export "_start"))'))
    program.on_result = fail
    program.start()
    with pytest.raises(OSError, match="printer"):
        program.wait(PATIENCE)
    assert program.state is ProgramState.FAILED


def test_exports() -> None:
    with pytest.raises(ExportError, match="'_start'") as caught:
        Program.launch(assembled('(func (export "a")) (memory (export "_start") 1)'))
    assert caught.value.hint is not None
    assert "it exports a" in caught.value.hint


def test_blocked_read_pauses_at_once(module: Path_) -> None:
    read, write = os.pipe()
    program = Program.launch(Module.from_file(module("read")), grants=HostGrants(stdin=read))
    program.start()
    time.sleep(0.05)
    began = time.monotonic()
    assert program.pause(PATIENCE)
    assert time.monotonic() - began < 5
    snapshot = copied(program.snapshot())
    program.close()
    os.write(write, b"Q")
    again = Program.resume(
        snapshot, module=program.module, grants=HostGrants(stdin=read), live=True
    )
    again.start()
    outcome = again.wait(PATIENCE)
    assert getattr(outcome, "code", None) == ord("Q")
    again.close()
    os.close(read)
    os.close(write)
