"""What a device does with requests that it cannot carry out: it says so, and goes on."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from wasmsr.channels import conduit
from wasmsr.channels.conduit import frame
from wasmsr.errors import WasmsrError
from wasmsr.fleet.device import device_module
from wasmsr.fleet.device.device import ModuleDevice
from wasmsr.fleet.device.device_identity import DeviceIdentity
from wasmsr.fleet.device.device_module import LONGEST_MESSAGE
from wasmsr.fleet.wire.messages import FleetMessage
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.ownership.failures import RecordDamaged
from wasmsr.ownership.owner_record import OwnerRecord

SECONDS = 60.0


class Line:
    """Stands for the broker, and for a node whose programs begin when the test lets them."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.topics: list[str] = []
        self.begin = threading.Event()

    def recall(self, name: str) -> list[Any]:
        return []

    def settle(self, name: str) -> bool:
        return True

    def publish(self, topic: str, payload: bytes, sender: Any = None, leased: Any = None) -> None:
        self.topics.append(topic)
        if topic == "realm/proc/control/runtime":
            self.said.append(json.loads(payload)["data"])

    def subscribe(self, text: str) -> None:
        pass

    unsubscribe = subscribe

    def full(self) -> bool:
        return False

    def programs(self) -> list[Any]:
        return []

    def submit(self, *_: Any, **__: Any) -> None:
        assert self.begin.wait(SECONDS)
        raise WasmsrError("this node begins nothing")


class Owners:
    """The leases of a node that owns nothing; the register answers when the test lets it."""

    def __init__(self) -> None:
        self.asked, self.answers = threading.Event(), threading.Event()
        self.damaged = False

    def owner(self, run: Any) -> OwnerRecord:
        self.asked.set()
        assert self.answers.wait(SECONDS)
        if self.damaged:
            raise RecordDamaged("it is damaged")
        return OwnerRecord(bytes(16), bytes(16), 1, bytes(16), 1, 10_000, 1)

    def is_ours(self, record: OwnerRecord) -> bool:
        return False

    def here(self, run: Any) -> None:
        return None


class Device(ModuleDevice):
    """A device with two slots."""

    def __init__(self, folder: Path, line: Line) -> None:
        (folder / "m.wasm").write_bytes(b"\0asm\1\0\0\0")
        who = DeviceIdentity("manager", "runtime", "kitchen", slots=2)
        anything: Any = line
        super().__init__(anything, who, FleetRealm(), folder, anything, lambda *_, **__: None)
        self.of, self.owners = line, Owners()
        leases: Any = self.owners
        self.leases = leases

    def ask(self, *names: str, **more: Any) -> None:
        for name in names:
            data = {"type": "module", "uuid": name, "name": name, "file": "m.wasm"} | more
            self.control(FleetMessage("create", data).encode())


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    made = Device(tmp_path, Line())
    yield made
    made.of.begin.set()
    made.owners.answers.set()
    made.close()


def test_one_module_more_than_there_are_slots(device: Device) -> None:
    device.ask("a", "b", "c", "a")
    (said,) = device.of.said
    assert (said["uuid"], said["reason"], said["exit_code"]) == ("c", "error", 1)
    assert said["message"] == "kitchen runs 2 modules, its most"
    device.of.begin.set()
    until(lambda: len(device.of.said) == 3 and not device.modules)
    device.ask("d")  # there is room again
    until(lambda: len(device.of.said) == 4)
    assert device.of.said[-1]["message"] == "this node begins nothing"


def test_no_descriptors_are_left(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(*_: Any) -> Any:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr(device_module.os, "pipe2", none)
    device.ask("a", "b")
    assert [one["uuid"] for one in device.of.said] == ["a", "b"]
    assert "no room for it: Too many open files" in device.of.said[0]["message"]


def test_no_thread_is_left(device: Device, monkeypatch: pytest.MonkeyPatch) -> None:
    def none(_: Any) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", none)
    device.ask("a")
    assert [(one["uuid"], one["reason"]) for one in device.of.said] == [("a", "error")]
    assert not device.modules


def test_a_module_that_is_there_already_is_taken_once(device: Device) -> None:
    device.ask("a", "a")
    assert len(device.modules) == 1 and not device.of.said


def test_another_module_with_a_uuid_that_has_ended(device: Device) -> None:
    device.of.begin.set()
    device.ask("a", index=1, epoch=1)
    until(lambda: len(device.of.said) == 1 and not device.modules)
    device.of.begin.clear()
    device.ask("a", index=1, epoch=1)  # the same request, late
    assert not device.modules
    device.ask("a", index=2, epoch=1)
    assert len(device.modules) == 1


def test_modules_have_no_part_in_the_register(device: Device) -> None:
    """One could answer in its place, and make two owners of a module."""
    end = device.hub.add("m", {}, 1)
    topics = ("realm/proc/register", "realm/proc/register/x", "other/proc/register/x", "last")
    for fd, topic in enumerate(topics):
        end.sendall(frame(conduit.OPEN, fd, b"\3" + topic.encode()))
        end.sendall(frame(conduit.MESSAGE, fd, bytes(16) + (1).to_bytes(8, "little")))
    until(lambda: device.of.topics == ["last"])
    for topic in topics:
        device.hear(topic, topic.encode(), None)
    end.settimeout(SECONDS)
    came = b""
    while not came.endswith(b"last"):
        came += end.recv(1 << 16)
    assert b"register" not in came
    end.close()


def test_an_heir_is_relieved_and_asked_again(device: Device) -> None:
    """The second request comes before the first one has left."""
    lease = {"program": "70" * 16, "seconds": 10}
    device.ask("a", epoch=2, lease=lease)
    (first,) = device.modules
    assert device.owners.asked.wait(SECONDS)
    device.delete("a")
    device.ask("a", epoch=2, lease=lease)
    assert device.modules == [first]
    device.owners.answers.set()
    until(lambda: bool(device.modules) and device.modules != [first])
    device.ask("a", epoch=2, lease=lease)  # the orchestrator is not sure
    (second,) = device.modules
    device.ask("a", epoch=3, lease=lease | {"program": "71" * 16})
    until(lambda: bool(device.modules) and device.modules != [second])
    assert [one.run.program for one in device.modules] == ["71" * 16]
    assert not device.of.said


def test_an_heir_that_has_failed_is_asked_again(device: Device) -> None:
    lease = {"program": "70" * 16, "seconds": 10}
    device.owners.damaged = True
    device.owners.answers.set()
    device.ask("a", epoch=2, lease=lease)
    until(lambda: len(device.of.said) == 1 and not device.modules)
    assert device.of.said[0]["program"] == "70" * 16
    device.owners.answers.clear()
    device.owners.damaged = False
    device.ask("a", epoch=2, lease=lease)
    assert len(device.modules) == 1


@pytest.mark.parametrize("file", ["a\0b", "x" * 4000, "x" * 4096, "/dev/null/x", "."], ids=ascii)
def test_a_file_that_cannot_be_one(device: Device, file: str) -> None:
    data = {"type": "module", "uuid": "a", "name": "a", "file": file}
    device.control(FleetMessage("create", data).encode())
    until(lambda: len(device.of.said) == 1)
    (said,) = device.of.said
    assert (said["uuid"], said["reason"]) == ("a", "error")
    assert FleetMessage("exited", said).kind("control") == "exit"
    reason = said["message"].rpartition(": ")[0] or "is a folder" in said["message"]
    assert reason or len(said["message"]) == LONGEST_MESSAGE
    until(lambda: not device.modules)
