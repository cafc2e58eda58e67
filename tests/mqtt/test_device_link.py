"""A device whose broker is away or slow."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

pytest.importorskip("paho", reason="needs paho-mqtt")

from wasmsr.fleet.settings import BrokerSettings
from wasmsr.fleet.wire.messages import FleetMessage
from wasmsr.mqtt.device_service import DeviceService

SECONDS = 60.0


class Line:
    """Stands for the connection; says how often it was asked."""

    settings = BrokerSettings()

    def __init__(self) -> None:
        self.there = True
        self.asked = 0
        self.said: list[str] = []

    @property
    def connected(self) -> bool:
        self.asked += 1
        return self.there

    def publish(self, topic: str, payload: bytes) -> None:
        self.said.append(topic)


class Said:
    """Stands for the device."""

    def registrations(self) -> list[tuple[str, FleetMessage]]:
        return [("reg", FleetMessage("create", {}))]

    def keepalive(self) -> tuple[str, FleetMessage]:
        return "keepalive", FleetMessage("update", {})


def until(condition: Any) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_a_device_without_its_broker_waits() -> None:
    service = DeviceService(Line.settings, "d", lambda *_, **__: None)
    line: Any = Line()
    device: Any = Said()
    service.link, service._device, service._again = line, device, False
    service._every = 0.01
    thread = threading.Thread(target=service._serve)
    thread.start()
    service._connected()
    until(lambda: "keepalive" in line.said)
    line.there = False
    time.sleep(0.05)
    before, line.said = line.asked, []
    time.sleep(0.5)  # its words are late by now
    assert line.asked - before < 50 and not line.said
    line.there = True
    service._connected()
    until(lambda: {"reg", "keepalive"} <= set(line.said))
    with service._lock:
        service._ended = True
        service._lock.notify_all()
    thread.join(SECONDS)
    assert not thread.is_alive()
