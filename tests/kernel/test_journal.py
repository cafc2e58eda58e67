"""What a relay remembers: so much, and no more; also on a full disk."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jupyter_client", reason="the extra wasmsr[jupyter] is not installed")
import zmq
from jupyter_client.connect import write_connection_file
from jupyter_client.session import Session

from tests.kernel.test_relay_kills import message
from wasmsr import small_files
from wasmsr.kernel import relay as relays
from wasmsr.kernel import replies, worker
from wasmsr.kernel.journal import REQUESTS, RequestJournal, ShownFile, read_lines
from wasmsr.kernel.ports import ClientPorts
from wasmsr.kernel.relay import KernelRelay
from wasmsr.kernel.settings import ConnectionFile, KernelSettings
from wasmsr.kernel.wire import KernelError


def test_a_journal_is_seldom_written_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written: list[int] = []
    replace = small_files.replace

    def counted(path: Path, data: bytes, mode: int = 0o600) -> None:
        written.append(len(data))
        replace(path, data, mode)

    monkeypatch.setattr(small_files, "replace", counted)
    journal = RequestJournal(tmp_path, keeps=False)
    for number in range(1, 301):
        one = message(f"m{number}")
        journal.got(one)
        journal.begun(one, number, number)
        journal.over(one, number, (number, "x" * 10_000, None))
    journal.close()
    assert len(written) < 10
    assert os.path.getsize(tmp_path / REQUESTS) < 3 * 300 * 10_200
    again = RequestJournal(tmp_path, keeps=True)
    assert [one[0] for one in again.remembered.history] == list(range(1, 301))
    assert (again.remembered.executed, again.remembered.waiting) == (300, {})
    again.close()


def test_the_history_has_a_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(replies, "MOST_CELLS", 5)
    monkeypatch.setattr(replies, "MOST_TEXT", 100)
    journal = RequestJournal(tmp_path, keeps=False)
    for number in range(9):
        journal.over(message("a"), number, (number, "x", None))
    assert [one[0] for one in journal.remembered.history] == [4, 5, 6, 7, 8]
    journal.over(message("a"), 9, (9, "x" * 98, "1"))
    assert [one[0] for one in journal.remembered.history] == [8, 9]
    journal.over(message("a"), 10, (10, "x" * 200, None))
    assert [one[0] for one in journal.remembered.history] == [10]
    journal.close()


def test_a_full_disk_ends_nothing(tmp_path: Path) -> None:
    journal = RequestJournal(tmp_path, keeps=False)
    journal.got(message("a"))
    assert journal.failure() is None
    os.close(journal._file or 0)
    journal._file = os.open("/dev/full", os.O_WRONLY)
    journal.got(message("b"))
    assert "space" in (journal.failure() or "")
    assert journal.failure() is None
    journal.begun(message("a"), 1, 1)  # there is space again
    journal.typed("line")
    journal.close()
    again = RequestJournal(tmp_path, keeps=True).remembered
    assert (list(again.waiting), again.begun, again.lines) == (["a", "b"], "a", ["line"])
    shown = ShownFile(tmp_path)
    shown.begin({"stdout": 0})
    shown.add({"k": "out", "stream": "stdout", "text": "a"})
    os.close(shown._file)
    shown._file = os.open("/dev/full", os.O_WRONLY)
    shown.add({"k": "out", "stream": "stdout", "text": "b"})
    assert [one["text"] for one in read_lines(shown._path)] == ["a"]


def test_what_was_typed_goes_with_its_request(tmp_path: Path) -> None:
    """It may be a password."""
    journal = RequestJournal(tmp_path, keeps=False)
    journal.got(message("a"))
    journal.begun(message("a"), 1, 1)
    journal.typed("secret")
    assert b"secret" in (tmp_path / REQUESTS).read_bytes()
    journal.over(message("a"), 1, None)
    assert b"secret" not in (tmp_path / REQUESTS).read_bytes()
    journal.close()


def test_a_damaged_journal_counts_up_to_the_damage(tmp_path: Path) -> None:
    journal = RequestJournal(tmp_path, keeps=False)
    journal.got(message("a"))
    journal.close()
    with (tmp_path / REQUESTS).open("a") as file:
        file.write('{"got": 5}\n{"over": "a", "executed": 1, "past": null}\n')
    assert list(RequestJournal(tmp_path, keeps=True).remembered.waiting) == ["a"]


def test_what_no_message_can_have_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    reply: dict[str, Any] = {"status": "ok"}
    assert worker.bounded({"text/plain": "x"}, reply) == ({"text/plain": "x"}, reply)
    monkeypatch.setattr(worker, "MOST_TOLD", 1000)
    value, said = worker.bounded({"text/plain": "x" * 1000}, reply)
    assert (value, said["ename"]) == (None, "LimitExceeded")
    assert "1000" in said["evalue"]


@pytest.mark.parametrize("said", [b"\xff\xff\xff\xff", b"\0\0\0\2[]", b"\0\0\0\2{}", b""])
def test_a_worker_ends_with_its_relay(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also if what the relay has sent is no message: nobody else would end the worker."""
    one, other = socket.socketpair()
    ended: list[int] = []
    monkeypatch.setattr(os, "_exit", ended.append)
    made = worker.CellWorker.__new__(worker.CellWorker)
    made._stream = other
    with one, other:
        one.sendall(said)
        one.shutdown(socket.SHUT_WR)
        with suppress(KernelError, LookupError):
            made._listen()
    assert ended == [0]


class Begun:
    """A relay without a worker, and a client's connection with its shell port."""

    def __init__(self, folder: Path) -> None:
        file, about = write_connection_file(str(folder / "kernel.json"), key=b"key")
        self.folder = folder / "states"
        self.ports = ClientPorts(ConnectionFile.read(Path(file)))
        self.session = Session(key=b"key")
        self.socket = zmq.Context.instance().socket(zmq.DEALER)
        self.socket.connect(f"tcp://{about['ip']}:{about['shell_port']}")

    def relay(self, *, goes_on: bool = False) -> KernelRelay:
        return KernelRelay(self.ports, KernelSettings(), self.folder, goes_on=goes_on)


@pytest.fixture
def begun(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Begun]:
    monkeypatch.setattr(KernelRelay, "open_worker", lambda relay: None)
    made = Begun(tmp_path)
    yield made
    made.socket.close(linger=0)
    made.ports.close()


def test_so_many_requests_wait_and_no_more(begun: Begun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(relays, "MOST_WAITING", 5)
    relay = begun.relay()
    monkeypatch.setattr(relay._output, "wait", lambda: 0.01)
    for _ in range(20):
        begun.session.send(begun.socket, "complete_request", {"code": "x"})
    while len(relay._waiting) < 5:
        relay._turn()
    for _ in range(20):
        relay._turn()
    assert len(relay._waiting) == 5
    relay._waiting.clear()
    while len(relay._waiting) < 5:
        relay._turn()


@pytest.mark.parametrize("done", [3, 7])
def test_a_journal_that_is_older_than_the_state_repeats_nothing(begun: Begun, done: int) -> None:
    """The machine has lost power: the state was on the disk, and the journal's end was not."""
    journal = RequestJournal(begun.folder, keeps=False)
    journal.got(message("a"))
    journal.begun(message("a"), 3, 3)
    journal.close()
    relay = begun.relay(goes_on=True)
    sent: list[dict[str, Any]] = []
    relay._tell = lambda **said: sent.append(said)  # type: ignore[method-assign]
    answers: list[dict[str, Any]] = []
    relay._answer = lambda to, content, port: answers.append(content)  # type: ignore[method-assign]
    ok = {"status": "ok", "payload": [], "user_expressions": {}}
    record = {"number": 9, "done": done, "now": 0, "shown": {}, "reply": ok, "value": None}
    relay._opened(record)
    (said,) = answers
    assert (said["status"], sent, relay._now) == ("ok" if done == 3 else "error", [], None)
    assert relay._number == done
    assert json.loads(json.dumps(said)) == said
