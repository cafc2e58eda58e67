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

from wasmsr.errors import WasmsrError
from wasmsr.fleet.device import device_module
from wasmsr.fleet.device.device import DeviceIdentity, ModuleDevice
from wasmsr.fleet.wire.messages import FleetMessage
from wasmsr.fleet.wire.topics import FleetRealm

SECONDS = 60.0


class Line:
    """Stands for the broker, and for a node whose programs begin when the test lets them."""

    def __init__(self) -> None:
        self.said: list[Any] = []
        self.begin = threading.Event()

    def recall(self, name: str) -> list[Any]:
        return []

    def settle(self, name: str) -> bool:
        return True

    def publish(self, topic: str, payload: bytes, sender: Any = None, leased: Any = None) -> None:
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


class Device(ModuleDevice):
    """A device with two slots."""

    def __init__(self, folder: Path, line: Line) -> None:
        (folder / "m.wasm").write_bytes(b"\0asm\1\0\0\0")
        who = DeviceIdentity("manager", "runtime", "kitchen", slots=2)
        anything: Any = line
        super().__init__(anything, who, FleetRealm(), folder, anything, lambda *_, **__: None)
        self.of = line

    def ask(self, *names: str) -> None:
        for name in names:
            data = {"type": "module", "uuid": name, "name": name, "file": "m.wasm"}
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


@pytest.mark.parametrize("file", ["a\0b", "x" * 4000, "/dev/null/x", "."], ids=ascii)
def test_a_file_that_cannot_be_one(device: Device, file: str) -> None:
    data = {"type": "module", "uuid": "a", "name": "a", "file": file}
    device.control(FleetMessage("create", data).encode())
    until(lambda: len(device.of.said) == 1)
    (said,) = device.of.said
    assert (said["uuid"], said["reason"]) == ("a", "error")
    assert said["message"].rpartition(": ")[0] or "is a folder" in said["message"]
    until(lambda: not device.modules)
