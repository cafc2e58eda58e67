"""What is done between two instructions of a program that runs: `Program.visit`."""

from __future__ import annotations

import threading
import time

import pytest

from wasmsr import Module
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState

COUNT = """(module (memory (export "memory") 1)
  (func (export "_start") (local $i i32)
    (loop $l
      (i32.store (i32.const 0) (local.tee $i (i32.add (local.get $i) (i32.const 1))))
      (br_if $l (i32.ne (local.get $i) (i32.const {end}))))))"""


def counter(end: int = -1) -> Program:
    return Program.launch(Module.from_text(COUNT.format(end=end)))


def number(program: Program) -> int:
    return int.from_bytes(program.store.memory_view(0)[:4], "little")


def test_a_program_stands_during_a_visit_and_runs_on() -> None:
    program = counter()
    program.start()
    worker: list[threading.Thread] = []
    seen: list[int] = []

    def look() -> bool:
        worker.append(threading.current_thread())
        assert not program.store.running
        seen.append(number(program))
        time.sleep(0.02)
        assert number(program) == seen[-1]
        return False

    # On a busy machine it may get no time between two visits, or between twenty.
    deadline = time.monotonic() + 60
    while len(seen) < 20 or (len(set(seen)) == 1 and time.monotonic() < deadline):
        assert program.visit(look, 10)
        assert program.state is ProgramState.RUNNING
    assert seen == sorted(seen) and len(set(seen)) > 1
    assert {thread.name for thread in worker} == {"wasmsr-program"}
    assert program.pause(10)
    program.close()


def test_a_visit_can_keep_the_program_paused() -> None:
    program = counter()
    program.start()
    assert program.visit(lambda: True, 10)
    assert program.is_stopped and program.state is ProgramState.PAUSED
    before = number(program)
    assert program.visit(lambda: False, 10)  # of a program that stands
    assert number(program) == before and program.is_stopped
    program.start()
    assert program.pause(10) and number(program) >= before
    program.close()


def test_what_a_visit_raises_is_raised_and_the_program_runs_on() -> None:
    program = counter()
    program.start()

    def fail() -> bool:
        raise ValueError("so")

    with pytest.raises(ValueError, match="so"):
        program.visit(fail, 10)
    assert program.state is ProgramState.RUNNING
    assert program.pause(10)
    program.close()


def test_visits_while_the_program_ends() -> None:
    for _ in range(50):
        program = counter(20_000)
        program.start()
        visits = 0
        while program.wait(0) is None:
            assert program.visit(lambda: False, 10)
            visits += 1
        assert program.visit(lambda: False, 10)
        assert program.is_stopped and program.state is not ProgramState.RUNNING
        program.close()


def test_visits_and_pauses_from_several_threads() -> None:
    program = counter()
    program.start()
    done = [0, 0]

    def visit() -> None:
        for _ in range(200):
            assert program.visit(lambda: False, 10)
            done[0] += 1

    thread = threading.Thread(target=visit)
    thread.start()
    for _ in range(50):
        assert program.pause(10)
        program.start()
        done[1] += 1
    thread.join(60)
    assert done == [200, 50]
    assert program.pause(10)
    program.close()
