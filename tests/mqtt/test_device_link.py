"""A device whose broker is away or slow."""

from __future__ import annotations

import threading
import time
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("paho", reason="needs paho-mqtt")

from wasmsr.fleet.device.hub import MessageSender
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
        self.number = self.rc = 0
        self.confirm: Any = None

    def publish(self, *_: Any, **__: Any) -> Any:
        self.number = self.number % 65_535 + 1
        if self.confirm is not None:
            self.confirm(None, None, self.number, None, None)
        return self

    def is_connected(self) -> bool:
        return True

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


def plain_link() -> DeviceLink:
    def nothing(*_: object) -> None:
        pass

    return DeviceLink(Line.settings, "d", BrokerEvents(nothing, nothing, nothing, nothing), nothing)


def test_what_the_broker_does_not_have_is_called_back() -> None:
    """The client library would send it on the next connection, when another device has the
    module."""
    link = plain_link()  # it is not connected
    senders = [MessageSender(b"l" * 16, 1, number) for number in range(1, 41)]
    for number, sender in enumerate(senders):
        link.publish("t", b"%d" % number, sender, "one" if number % 2 else "two")
    link.publish("plain", b"", senders[0])
    found = link.recall("one")
    assert [one.data for one in found] == [b"%d" % number for number in range(1, 40, 2)]
    assert [one.sender for one in found] == senders[1::2] and found[0].topic == "t"
    assert not link.recall("one")
    left = [one.payload for one in link._client._out_messages.values()]
    assert left == [*(b"%d" % number for number in range(0, 40, 2)), b""]
    assert len(link._sizes) == 21 and link._waiting == sum(map(len, left))
    assert len(link.recall("two")) == 20
    assert link._client._inflight_messages == 0 and len(link._client._out_messages) == 1


def test_a_message_gets_a_number_that_none_has_that_waits() -> None:
    """The client library takes no message whose number another one has."""
    link = plain_link()  # it is not connected
    first = link.publish("t", b"first")
    for _ in range(10):
        assert link.tell("t", b"a question") is False
    assert link.publish("t", b"second") == first + 1  # questions have taken no numbers
    link._client._last_mid = 0
    third = link.publish("t", b"third")
    waiting = [one.payload for one in link._client._out_messages.values()]
    assert waiting == [b"first", b"second", b"third"] and third not in (first, first + 1)
    assert link._waiting == len(b"firstsecondthird")


def test_what_is_told_once_is_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    link = plain_link()
    assert link.tell("t", b"x") is False  # there is no connection
    client = Client()
    anything: Any = client
    link._client = anything
    assert link.tell("t", b"x")
    link._on_publish(None, None, client.number, None, None)
    client.confirm = link._on_publish  # before `publish` returns
    assert link.tell("t", b"x")
    client.confirm = None
    assert link.tell("t", b"x")  # it is lost with the connection
    monkeypatch.setattr(link, "_events", BrokerEvents(*[lambda *_: None] * 4))
    link._on_disconnect(None, None, None, SimpleNamespace(is_failure=True), None)
    assert not link._told and not link._early and not link._sizes and not link._waiting


def test_a_snapshot_waits_until_the_broker_has_what_was_written(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(device_service, "SETTLE_SECONDS", 0.05)
    link = plain_link()
    first = link.publish("t", b"x", MessageSender(b"l" * 16, 1, 1), "one")
    assert not link.settle("one") and link.settle("two")
    monkeypatch.setattr(device_service, "SETTLE_SECONDS", SECONDS)
    found: list[bool] = []
    thread = threading.Thread(target=lambda: found.append(link.settle("one")))
    thread.start()
    waiters: Any = link._counting
    until(lambda: bool(waiters._waiters))
    link.publish("t", b"later", MessageSender(b"l" * 16, 1, 2), "one")
    assert not found
    link._on_publish(None, None, first, None, None)
    thread.join(SECONDS)
    assert found == [True]
