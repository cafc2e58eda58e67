"""A program that stands between two invocations is saved, hops and goes on like any other."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from wasmsr import Finished, Module, Paused, Store
from wasmsr.interp.tracer import Tracer
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.runspec.stop_conditions import StopConditions
from wasmsr.snapshot.format import decode, encode

PLAIN = """(module (global $n (mut i32) (i32.const 0)) {start}
  (func $add (global.set $n (i32.add (global.get $n) (i32.const 7))))
  (func (export "_initialize") call $add)
  (func (export "r") (result i32) call $add (global.get $n)))"""
MODULES = {
    "start section": PLAIN.format(start="(start $add)"),
    "reactor": PLAIN.format(start=""),
    "start section that is long": PLAIN.format(
        start="(start $s) (func $s (local i32) (loop (br_if 0 (i32.lt_u (local.tee 0"
        " (i32.add (local.get 0) (i32.const 1))) (i32.const 9)))) call $add)"
    ),
    "empty functions": """(module (start $e) (func $e) (func (export "_initialize"))
      (func (export "r") (result i32) (i32.const 5)))""",
}


def noted(program: Program) -> list[object]:
    """The results of its invocations, as they come."""
    results: list[object] = []
    program.on_result = lambda _, values: results.append(tuple(values))
    return results


def finish(program: Program) -> list[object]:
    """Lets it run to its end, with three calls of `r` in all; gives the results."""
    results = noted(program)
    program.call("r")
    program.call("r")
    program.start()
    outcome = program.wait(30)
    assert program.state is ProgramState.IDLE and isinstance(outcome, Finished), outcome
    return results


def launched(name: str, **marks: Any) -> Program:
    program = Program.launch(Module.from_text(MODULES[name]), invoke="r")
    program.stop_conditions = StopConditions(**marks)
    return program


def straight(name: str) -> list[object]:
    results = finish(launched(name))
    assert results[-3:] != [] and len(results) in (4, 5)
    return results


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("hop", [1, 2, 3, 4, 5, 7])
def test_hops_between_invocations(name: str, hop: int) -> None:
    assert finish(launched(name, hop=hop)) == straight(name)


@pytest.mark.parametrize("name", MODULES)
def test_hops_and_a_trace_together(name: str) -> None:
    lines: list[str] = []
    program = launched(name)
    program.tracer = Tracer(lines.append)
    assert finish(program) == straight(name)
    hopped: list[str] = []
    program = launched(name, hop=1)
    program.tracer = Tracer(hopped.append)
    assert finish(program) == straight(name)
    assert hopped == lines and lines


@pytest.mark.parametrize("name", MODULES)
def test_saved_at_every_instruction_and_resumed(name: str) -> None:
    wanted = straight(name)
    for stop in range(200):
        program = launched(name, stop=stop)
        results = noted(program)
        program.call("r")
        program.call("r")
        program.start()
        program.wait(30)
        if program.state is ProgramState.IDLE:
            break
        assert program.state is ProgramState.STOP
        saved = decode(b"".join(encode(program.snapshot())))
        later = Program.resume(saved, module=program.module)
        later.stop_conditions.hop = 1
        later.on_result = program.on_result
        later.start()
        later.wait(30)
        assert later.state is ProgramState.IDLE
        assert results == wanted, stop
        program.passed_stop()
        del results[:]
    assert 2 < stop < 150


@pytest.mark.parametrize("name", MODULES)
def test_fuel_that_ends_between_invocations(name: str) -> None:
    wanted = straight(name)
    for fuel in range(200):
        program = launched(name, fuel=fuel)
        results = noted(program)
        program.call("r")
        program.call("r")
        program.start()
        program.wait(30)
        if program.state is ProgramState.IDLE:
            break
        assert program.state is ProgramState.FUEL
        later = Program.resume(program.snapshot(), module=program.module)
        assert later.stop_conditions.fuel == 0
        later.stop_conditions.fuel = None
        later.on_result = program.on_result
        later.start()
        later.wait(30)
        assert results == wanted, fuel
    assert 2 < fuel < 150


def test_a_store_with_a_queue_is_saved_between_its_invocations() -> None:
    module = Module.from_text(MODULES["reactor"])
    store = Store()
    r = store.instantiate(module).function("r")
    for _ in range(3):
        store.enqueue(r)
    steps = 0
    while isinstance(store.run(fuel=1), Paused):
        saved = wasmsr.Snapshot.of(store)
        store = saved.restore(modules=[module])
        steps += 1
    assert store.run() == Finished((21,), (21,))
    assert steps == 17


HOST = """(module (import "e" "f" (func $f (result i32))) (export "f" (func $f))
  (func (export "g") (result i32) (i32.const 4)))"""


def test_host_functions_that_are_invocations_themselves() -> None:
    """Enqueued twice with an ordinary function in between, and saved in every gap."""
    module = Module.from_text(HOST)
    calls: list[int] = []

    def f() -> int:
        calls.append(1)
        return len(calls)

    for fuel in range(4):
        calls.clear()
        store = Store()
        instance = store.instantiate(module, {"e": {"f": f}})
        for name in "fgf":
            store.enqueue(instance.function(name))
        if isinstance(store.run(fuel=fuel), Paused):
            store = wasmsr.Snapshot.of(store).restore(modules=[module], imports={"e": {"f": f}})
            assert store.run() == Finished((2,), (2,))
        assert len(calls) == 2


def test_a_host_function_that_traps_is_not_called_again() -> None:
    module = Module.from_text(HOST)

    def f() -> int:
        raise wasmsr.Trap("of the host's own")

    store = Store()
    instance = store.instantiate(module, {"e": {"f": f}})
    store.enqueue(instance.function("f"))
    assert isinstance(store.run(), wasmsr.Trapped)
    assert not store.queue
    assert instance.function("g")() == 4


def test_an_idle_program_is_called_again_after_a_move() -> None:
    program = launched("reactor")
    first = finish(program)
    moved = Program.resume(program.snapshot(), module=program.module)
    assert moved.state is ProgramState.IDLE and not moved.pending
    moved.stop_conditions.hop = 1
    results = noted(moved)
    for _ in range(2):
        moved.call("r")
        moved.start()
        moved.wait(30)
        assert moved.state is ProgramState.IDLE
    assert first[-1] == (28,) and results == [(35,), (42,)]


@pytest.mark.parametrize("name", MODULES)
def test_on_the_command_line(tmp_path: Path, name: str) -> None:
    file = tmp_path / "m.wat"
    file.write_text(MODULES[name])

    def run(*options: str) -> object:
        line = [sys.executable, "-m", "wasmsr", "run", str(file), "--json", *options]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout.splitlines()[-1])["results"]

    assert run("--invoke", "r") == run("--hop", "1", "--invoke", "r")


def test_the_key_r_after_r(tmp_path: Path) -> None:
    file = tmp_path / "m.wat"
    file.write_text(MODULES["reactor"])
    line = [sys.executable, "-m", "wasmsr", "run", str(file), "--interactive", "--hop", "1"]
    done = subprocess.run(
        [*line, "--invoke", "r"], input="rrr\n", capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["14", "21", "28", "35"], done.stderr
