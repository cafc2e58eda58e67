"""A device whose broker is away or slow."""

from __future__ import annotations

import threading
import time
from typing import Any

import pytest

pytest.importorskip("paho", reason="needs paho-mqtt")

from wasmsr.fleet.settings import BrokerSettings
from wasmsr.fleet.wire.messages import FleetMessage
from wasmsr.mqtt import device_service
from wasmsr.mqtt.broker import BrokerEvents
from wasmsr.mqtt.device_service import DeviceLink, DeviceService

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


class Client:
    """Stands for the client library: gives numbers, and may confirm at once."""

    def __init__(self) -> None:
        self.number = 0
        self.confirm: Any = None

    def publish(self, *_: Any, **__: Any) -> Any:
        self.number = self.number % 65_535 + 1
        if self.confirm is not None:
            self.confirm(None, None, self.number, None, None)
        return self

    @property
    def mid(self) -> int:
        return self.number


def test_a_link_says_that_too_much_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(*_: object) -> None:
        pass

    monkeypatch.setattr(device_service, "MOST_MESSAGES", 10)
    events = BrokerEvents(nothing, nothing, nothing, nothing)
    link = DeviceLink(Line.settings, "d", events, nothing)
    client = Client()
    anything: Any = client
    link._client = anything
    numbers = [link.publish("t", bytes(33 << 20))]
    assert link.full()
    link._on_publish(None, None, numbers.pop(), None, None)
    assert not link.full()
    while not link.full():
        numbers.append(link.publish("t", b""))
    assert len(numbers) == 11
    for number in numbers:
        link._on_publish(None, None, number, None, None)
    client.confirm = link._on_publish  # before `publish` returns
    for _ in range(200_000):
        link.publish("t", b"x")
    assert not link.full() and not link._sizes and not link._early and not link._waiting


def test_a_message_that_nobody_foresaw_ends_no_connection() -> None:
    noted: list[str] = []
    service = DeviceService(Line.settings, "d", lambda event, **more: noted.append(more["error"]))

    class Realm:
        def find(self, topic: str) -> None:
            return None

    class Fails:
        realm = Realm()

        def hear(self, *_: object) -> None:
            raise RuntimeError("nobody foresaw this")

    device: Any = Fails()
    service._device = device
    service._heard("t", b"", None)
    assert noted == ["RuntimeError: nobody foresaw this"]


def test_a_module_does_not_end_what_its_device_listens_to() -> None:
    def nothing(*_: object) -> None:
        pass

    asked: list[tuple[str, str]] = []

    class Broker:
        def is_connected(self) -> bool:
            return True

        def subscribe(self, text: str, **_: object) -> None:
            asked.append(("subscribe", text))

        def unsubscribe(self, text: str) -> None:
            asked.append(("unsubscribe", text))

    link = DeviceLink(Line.settings, "d", BrokerEvents(nothing, nothing, nothing, nothing), nothing)
    anything: Any = Broker()
    link._client = anything
    link.subscribe("realm/proc/control/runtime")  # the device
    link.subscribe("realm/proc/control/runtime")  # a module
    link.subscribe("x")
    link.unsubscribe("realm/proc/control/runtime")
    assert asked == [("subscribe", "realm/proc/control/runtime"), ("subscribe", "x")]
    link.unsubscribe("x")
    link.unsubscribe("realm/proc/control/runtime")
    assert asked[2:] == [("unsubscribe", "x"), ("unsubscribe", "realm/proc/control/runtime")]
    assert not link._wanted
