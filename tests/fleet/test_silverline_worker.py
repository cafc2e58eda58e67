"""`wasmsr worker --silverline`: a manager of the Silverline tools is played by the test."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from tests.channels.host import ECHO
from tests.mqtt.test_device import MODULES
from wasmsr.fleet.wire.frames import (
    ChannelOpening,
    FrameReader,
    FromWorker,
    ToWorker,
    WorkerFrame,
    WorkerLog,
)

SECONDS = 60.0


class Manager:
    """A manager: it listens, and has one worker."""

    def __init__(self, folder: Path, command: tuple[str, ...] = ("-m", "wasmsr")) -> None:
        for name, source in (MODULES | {"echo": ECHO}).items():
            (folder / f"{name}.wasm").write_bytes(bytes(wasmtime.wat2wasm(source)))
        self._listening = socket.socket(socket.AF_UNIX)
        self._listening.bind(str(folder / "03.s"))
        self._listening.listen(1)
        self._listening.settimeout(SECONDS)
        self.process = subprocess.Popen(
            [sys.executable, *command, "worker", "--silverline", "3",
             "--sockets", str(folder)], cwd=folder,
        )  # fmt: skip
        self.end, _ = self._listening.accept()
        self.end.settimeout(SECONDS)
        self._reader = FrameReader()
        self._found: list[WorkerFrame] = []

    def send(self, module: int, kind: int, payload: bytes = b"", *, control: bool = True) -> None:
        self.end.sendall(WorkerFrame(module, kind, payload, control).encode())

    def create(self, module: int, file: str, **more: Any) -> None:
        data = {
            "type": "module", "index": module, "uuid": f"uuid-{module}", "name": file,
            "parent": "rt", "file": f"{file}.wasm", "apis": ["wasm", "wasi"], "args": {},
            "channels": [], "status": "A",
        }  # fmt: skip
        self.send(module, ToWorker.CREATE, json.dumps(data | more).encode())

    def next(self, *kinds: int, control: bool = True) -> WorkerFrame:
        """Return the next frame of one of these kinds."""
        while True:
            for at, one in enumerate(self._found):
                if one.control == control and one.kind in kinds:
                    return self._found.pop(at)
            data = self.end.recv(1 << 16)
            assert data, "the worker is gone"
            self._found += self._reader.feed(data)

    def close(self) -> None:
        self.end.close()
        self._listening.close()


@pytest.fixture
def manager(tmp_path: Path) -> Iterator[Manager]:
    made = Manager(tmp_path)
    yield made
    made.close()
    made.process.kill()
    made.process.wait(SECONDS)


def test_modules_of_a_peers_manager(manager: Manager) -> None:
    assert WorkerLog.decode(manager.next(FromWorker.LOG).payload).level == 20
    manager.create(0, "hello")
    opened = manager.next(FromWorker.OPEN)
    assert ChannelOpening.decode(opened.payload).topic == "$SL/proc/stdio"
    stdio = opened.payload[0]
    assert manager.next(stdio, control=False).payload == b"hello\n"
    for number, (name, code, reason) in enumerate(
        (("hello", 0, "exit"), ("exit5", 5, "exit"), ("trap", 134, "trap"), ("none", 1, "error"))
    ):
        if number:
            manager.create(number, name)
        end = manager.next(FromWorker.EXITED)
        data = json.loads(end.payload)
        assert (end.module, data["status"], data["exit_code"], data["reason"]) == (
            number, "exited", code, reason,
        )  # fmt: skip
    # Standard input, and the end of a loop that never ends by itself.
    manager.create(5, "cat")
    manager.send(5, stdio, b"one", control=False)
    assert manager.next(stdio, control=False).payload == b"one"
    manager.create(6, "loop")
    manager.send(6, ToWorker.DELETE)
    end = manager.next(FromWorker.EXITED)
    assert (end.module, json.loads(end.payload)["reason"]) == (6, "killed")
    # Channels go to the manager as the module opens them.
    manager.create(7, "echo")
    while True:
        opened = manager.next(FromWorker.OPEN)
        opening = ChannelOpening.decode(opened.payload)
        if opened.module == 7 and opening.topic == "out":
            break
    manager.send(7, 0, b"ping", control=False)
    message = manager.next(opening.descriptor, control=False)
    assert (message.module, message.payload) == (7, b"ping")
    # What is no module is said, and the worker goes on.
    manager.send(8, ToWorker.CREATE, b"{")
    assert json.loads(manager.next(FromWorker.EXITED).payload)["reason"] == "error"
    manager.send(8, 77)
    manager.send(0, ToWorker.STOP)
    assert manager.process.wait(SECONDS) == 0


@pytest.mark.full
def test_a_worker_ends_with_its_manager(manager: Manager) -> None:
    manager.create(0, "loop")
    manager.next(FromWorker.OPEN)
    manager.close()
    assert manager.process.wait(SECONDS) == 0


SLOW_WAKE = """
import time
from wasmsr.cli.running.terminal import Events
wake = Events.wake
def slow(self):
    wake(self)
    time.sleep(1.0)
Events.wake = slow
from wasmsr.cli.entry import main
main()
"""
"""A command whose threads live on for a while when they have said that they are done."""


@pytest.mark.full
def test_a_thread_that_has_woken_the_worker_may_still_live(tmp_path: Path) -> None:
    manager = Manager(tmp_path, ("-c", SLOW_WAKE))
    try:
        manager.next(FromWorker.LOG)
        manager.send(0, ToWorker.STOP)
        assert manager.process.wait(SECONDS) == 0
    finally:
        manager.close()
        manager.process.kill()
        manager.process.wait(SECONDS)


@pytest.mark.full
def test_a_manager_that_is_not_there(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "wasmsr", "worker", "--silverline", "0", "--sockets", str(tmp_path)],
        capture_output=True, text=True, timeout=SECONDS,
    )  # fmt: skip
    assert done.returncode != 0
    assert "no manager listens at" in done.stderr
