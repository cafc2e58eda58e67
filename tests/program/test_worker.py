"""A program on its worker thread, as whoever steers it sees it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.interp.machines import text
from wasmsr.program.program import Program
from wasmsr.program.state import ProgramState
from wasmsr.runspec.stop_conditions import StopConditions

SPIN = '(module (func (export "_start") (loop $again (br $again))))'


def test_a_wait_that_a_signal_ends_takes_nothing_for_ended() -> None:
    """`Thread.join` that an exception of a signal handler ends forgets that the thread runs."""
    program = Program.launch(text(SPIN))
    program.start()
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        program.wait()
    timer.join()
    time.sleep(0.05)
    assert (program.is_stopped, program.state) == (False, ProgramState.RUNNING)
    assert program.wait(0.05) is None
    assert program.pause(60)
    assert (program.is_stopped, program.state) == (True, ProgramState.PAUSED)
    program.start()
    assert program.pause(60)
    assert program.snapshot().thread.frames


def test_it_stands_when_whoever_listens_was_told() -> None:
    program = Program.launch(text('(module (func (export "_start")))'))
    seen: list[tuple[ProgramState, bool]] = []

    def told() -> None:
        time.sleep(0.05)
        seen.append((program.state, program.is_stopped))

    program.on_stopped = told
    program.start()
    program.wait(60)
    assert seen == [(ProgramState.IDLE, False)]
    assert program.is_stopped


def test_fuel_for_centuries_is_fuel() -> None:
    """A snapshot may grant all the fuel that its format has room for."""
    program = Program.launch(text(SPIN))
    program.stop_conditions = StopConditions(stop=1000, fuel=(1 << 64) - 1)
    program.start()
    program.wait(60)
    snapshot = program.snapshot()
    assert snapshot.limits.fuel == (1 << 64) - 1001
    resumed = Program.resume(snapshot, module=text(SPIN))
    resumed.start()
    assert resumed.pause(60)
    assert resumed.state is ProgramState.PAUSED
