"""Modules go on elsewhere: devices with a store are killed, frozen, cut off and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

pytest.importorskip("jsonschema")

from tests.mqtt.broker import Peer, TestBroker, needs_broker
from tests.mqtt.campaign import Proxy
from tests.mqtt.numbers import Numbers
from tests.mqtt.served import Orchestrator, until
from tests.mqtt.test_device import COUNTER, Device, create, exited

pytestmark = [needs_broker, pytest.mark.full]
LEASE = "2"
RESTORE = {"fault_crash": "restore", "snapshot_every": 0.3}


class World:
    """An orchestrator and two devices with one store; each is cut off by its proxy."""

    def __init__(self, folder: Path, broker: TestBroker) -> None:
        self.devices: dict[str, Device] = {}
        self.proxies: dict[str, Proxy] = {}
        self.peer = Peer(broker.port, "realm/proc/control/+")
        self.numbers = Numbers(broker.port)
        self.orchestrator = Orchestrator(folder, broker.port, "--lease", LEASE)
        self._folder, self._broker = folder, broker

    def start(self) -> None:
        """Wait until all is there."""
        folder, broker = self._folder, self._broker
        self.orchestrator.until("connected")
        for name in ("kitchen", "attic"):
            place = folder / name
            place.mkdir()
            (place / "counter.wasm").write_bytes(bytes(wasmtime.wat2wasm(COUNTER)))
            self.proxies[name] = Proxy(broker.port)
            self.devices[name] = Device(
                place, self.proxies[name].port, "--name", name,
                "--checkpoints-store", str(folder / "store"),
            )  # fmt: skip
        until(lambda: self.orchestrator.ask("runtimes/")["count"] == 2)

    def begin(self) -> tuple[str, str]:
        """Begin a module; return its UUID and the device that has it, after some snapshots."""
        name = create(
            self.peer, "counter", args=RESTORE,
            channels=[{"path": "out", "mode": "w", "topic": "numbers/m"}],
        )  # fmt: skip
        until(lambda: self.numbers.of("m").number > 100)
        return name, self.where(name)

    def module(self, name: str) -> Any:
        return self.orchestrator.ask(f"modules/{name}/")

    def where(self, name: str) -> str:
        """Return the name of the device that has a module by the list."""
        return str(self.orchestrator.ask(f"runtimes/{self.module(name)['parent']}/")["name"])

    def other(self, device: str) -> str:
        return "attic" if device == "kitchen" else "kitchen"

    def goes_on(self, name: str, at: str) -> None:
        """Wait until a module runs at a device, and is heard."""
        until(lambda: self.module(name)["status"] == "A" and self.where(name) == at)
        epoch = self.module(name)["epoch"]
        until(lambda: self.numbers.of("m").epoch >= epoch)
        last = self.numbers.of("m").number
        until(lambda: self.numbers.of("m").number > last + 50)
        assert not self.numbers.of("m").mixed

    def stop(self) -> None:
        self.numbers.stop(), self.peer.stop()
        for device in self.devices.values():
            device.process.send_signal(signal.SIGCONT)
            device.kill()
            print(device.log.read_text())  # shown if the test fails
        for proxy in self.proxies.values():
            proxy.close()
        if self.orchestrator.process.poll() is None:
            self.orchestrator.stop(signal.SIGKILL)


@pytest.fixture
def world(tmp_path: Path, broker: TestBroker) -> Iterator[World]:
    made = World(tmp_path, broker)
    try:
        made.start()
        yield made
    finally:
        made.stop()


def test_a_module_goes_on_wherever_it_can(world: World) -> None:
    """What becomes of one module, from fault to fault. Its numbers come from one owner at a time,
    and a reader of ours gets each once."""
    name, first = world.begin()
    assert world.module(name)["leased"] is True
    second, log = world.other(first), world.devices[first].log
    for process in world.devices[first].workers():  # its device goes on by itself
        if "warm" not in Path(f"/proc/{process}/comm").read_text():
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
    until(lambda: world.module(name)["epoch"] == 2)
    world.goes_on(name, first)
    create(world.peer, "counter", channels=[{"path": "out", "mode": "w", "topic": "numbers/plain"}])
    until(lambda: world.numbers.of("plain").number > 100)
    world.orchestrator.stop(signal.SIGKILL)  # the module waits, and goes on where it was
    until(lambda: "the register has not renewed its lease" in log.read_text())
    paused, running = world.numbers.of("m").number, world.numbers.of("plain").number
    until(lambda: world.numbers.of("plain").number > running + 100)  # it cannot run twice
    assert world.numbers.of("m").number <= paused + 100
    world.orchestrator.start()
    world.orchestrator.until("connected")
    world.goes_on(name, first)
    world.proxies[first].cut()  # it may not run on when the connection is back
    world.goes_on(name, second)
    world.proxies[first].mend()
    until(lambda: "fleet-left" in log.read_text())
    world.goes_on(name, second)
    world.devices[second].kill()
    world.goes_on(name, first)
    world.devices[second].start()
    until(lambda: world.orchestrator.ask("runtimes/")["count"] == 2)
    world.goes_on(name, first)
    assert world.numbers.of("m").gaps == 0
    world.peer.say("realm/proc/control", "delete", {"type": "module", "uuid": name})
    assert exited(world.peer, name)["reason"] == "killed"
    until(lambda: world.module(name)["status"] == "D")
    names = world.devices[first].folder.parent / "store" / "names"
    until(lambda: not [one for one in names.iterdir() if "@" in one.name])


def test_a_frozen_device_and_a_stopped_one(world: World) -> None:
    """A frozen one keeps its connection; one that stops gives its module back."""
    name, first = world.begin()
    second = world.other(first)
    world.devices[first].process.send_signal(signal.SIGSTOP)
    world.goes_on(name, second)
    world.devices[first].process.send_signal(signal.SIGCONT)
    until(lambda: "fleet-left" in world.devices[first].log.read_text())
    world.goes_on(name, second)
    assert world.devices[second].stop() == 0
    world.goes_on(name, first)
    assert world.numbers.of("m").gaps == 0
