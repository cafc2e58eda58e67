"""A worker of a manager whose modules, or whose manager, do not read."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from wasmsr.channels import conduit
from wasmsr.channels.conduit import ConduitFrame, FrameStream, frame
from wasmsr.channels.table import LARGEST
from wasmsr.fleet.device import silverline
from wasmsr.fleet.device.hub import MOST_WAITING
from wasmsr.fleet.device.silverline import SilverlineWorker, _WorkerConduit
from wasmsr.fleet.wire.frames import FrameReader, FromWorker, ToWorker, WorkerFrame

SECONDS = 60.0


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_module_that_does_not_read_holds_nobody_up() -> None:
    way = _WorkerConduit(0, {"of": "tests"}, lambda one: None)
    way.give(0, bytes(LARGEST + 1))  # no message of a channel; the module would end by it
    try:
        for number in range(100):  # more than may wait; none of these calls waits
            way.give(0, number.to_bytes(4, "little") + bytes(1 << 20 - 1))
        assert len(way._out) <= MOST_WAITING
        frames, found = FrameStream(), list[ConduitFrame]()
        way.theirs.settimeout(SECONDS)
        while len(found) < 50:
            found += frames.feed(way.theirs.recv(1 << 20))  # raises if a part is missing
        assert found[0].kind == conduit.GRANT and json.loads(found[0].payload) == {"of": "tests"}
        numbers = [int.from_bytes(one.payload[28:32], "little") for one in found[1:]]
        assert numbers == list(range(len(numbers)))
    finally:
        way.close()
        way.theirs.close()


def test_what_a_module_says_last_is_heard() -> None:
    sent: list[WorkerFrame] = []
    way = _WorkerConduit(3, {}, sent.append)
    said = [frame(conduit.OPEN, 1, b"\2out")]
    said += [frame(conduit.MESSAGE, 1, bytes(24) + b"%d" % number) for number in range(1000)]
    said += [frame(conduit.REPORT, 0, bytes(24)), frame(conduit.REPORT, 0, bytes(1000))]
    way.theirs.sendall(b"".join(said))
    way.theirs.close()
    way.close()
    assert [one.payload for one in sent if not one.control] == [b"%d" % at for at in range(1000)]
    assert way.reports == [bytes(24)]


def test_a_module_that_lives_on_does_not_keep_its_channels_open() -> None:
    way = _WorkerConduit(3, {}, lambda one: None)
    way.close()
    assert not way._thread.is_alive()
    way.give(0, b"late")
    way.theirs.close()


class Manager:
    """The manager's end, and a worker that serves in a thread."""

    def __init__(self, folder: Path) -> None:
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(folder / "00.s"))
            listening.listen(1)
            supervisor: Any = None
            self.worker = SilverlineWorker(0, supervisor, folder, folder, lambda *_, **__: None)
            self.end, _ = listening.accept()
        self.end.settimeout(SECONDS)
        self.thread = threading.Thread(target=self.worker.serve, daemon=True)
        self.thread.start()

    def close(self) -> None:
        self.end.close()
        self.thread.join(SECONDS)
        assert not self.thread.is_alive()


def test_a_manager_that_does_not_read_is_gone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silverline, "SEND_SECONDS", 0.2)
    manager = Manager(tmp_path)
    for _ in range(100):
        manager.worker.say(20, "x" * 100_000)
    until(lambda: not manager.thread.is_alive())
    manager.worker.stop()  # late, but no error
    manager.close()


def test_a_manager_that_always_speaks_hears_that_its_worker_lives(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(silverline, "KEEPALIVE_SECONDS", 0.2)
    manager, reader = Manager(tmp_path), FrameReader()
    manager.end.settimeout(0.01)
    ends, found = time.monotonic() + SECONDS, list[WorkerFrame]()
    while not any(one.kind == FromWorker.KEEPALIVE for one in found):
        assert time.monotonic() < ends
        manager.end.sendall(WorkerFrame(5, ToWorker.DELETE).encode())
        try:
            found += reader.feed(manager.end.recv(1 << 16))
        except TimeoutError:
            continue
    manager.worker.stop()
    until(lambda: not manager.thread.is_alive())
    manager.close()
