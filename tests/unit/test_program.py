"""A program on its worker thread, as whoever steers it sees it."""

from __future__ import annotations

import os
import signal
import threading
import time

import pytest

from tests.unit.machines import text
from wasmsr.program import Program, Stand

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
    assert (program.stands, program.stand) == (False, Stand.RUNNING)
    assert program.wait(0.05) is None
    assert program.pause(60)
    assert (program.stands, program.stand) == (True, Stand.PAUSED)
    program.start()
    assert program.pause(60)
    assert program.snapshot().thread.frames


def test_it_stands_when_whoever_listens_was_told() -> None:
    program = Program.launch(text('(module (func (export "_start")))'))
    seen: list[tuple[Stand, bool]] = []

    def told() -> None:
        time.sleep(0.05)
        seen.append((program.stand, program.stands))

    program.on_stand = told
    program.start()
    program.wait(60)
    assert seen == [(Stand.IDLE, False)]
    assert program.stands
