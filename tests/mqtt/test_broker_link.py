"""What a connection to a broker does when the broker does not behave."""

from __future__ import annotations

import queue
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.mqtt.broker import SECONDS, Peer, TestBroker, free_port, needs_broker
from tests.mqtt.served import Orchestrator
from wasmsr.fleet.settings import BrokerSettings
from wasmsr.mqtt.broker import BrokerEvents, BrokerLink
from wasmsr.runspec.address import Address

CONNACK = bytes((0x20, 3, 0, 0, 0))
SUBACK = bytes((0x90, 4, 0, 1, 0, 1))


class Strange:
    """A broker that answers with given bytes, to one client after the other."""

    def __init__(self, *answers: bytes) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._socket.getsockname()[1])
        self.clients: queue.Queue[int] = queue.Queue()
        self._answers = answers
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        with suppress(OSError):
            for number in range(1000):
                client, _ = self._socket.accept()
                self.clients.put(number)
                with client, suppress(OSError):
                    for answer in self._answers:
                        client.recv(4096)
                        client.sendall(answer)
                    while client.recv(4096):
                        pass

    def stop(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(SECONDS)


def link(port: int, heard: queue.Queue[tuple[str, str]], *, lasts: bool = True) -> BrokerLink:
    events = BrokerEvents(
        lambda topic, payload, again: heard.put(("message", topic)),
        lambda: heard.put(("connected", "")),
        lambda reason: heard.put(("lost", reason)),
        lambda number: None,
    )
    settings = BrokerSettings(Address("127.0.0.1", port))
    return BrokerLink(settings, "me", events, {"x": 1}, lasts=lasts)


@pytest.fixture
def heard() -> Iterator[queue.Queue[tuple[str, str]]]:
    yield queue.Queue()


@pytest.mark.parametrize(
    "answers",
    [
        (CONNACK, SUBACK + bytes((0x32, 4, 0xFF, 0xFF, 0, 0))),  # a topic longer than its packet
        (CONNACK, bytes((0x90, 0))),  # an answer without content
        (bytes((0x20, 1, 0)),),
    ],
)
def test_packets_of_no_protocol(
    answers: tuple[bytes, ...], heard: queue.Queue[tuple[str, str]]
) -> None:
    """The connection ends, and there is a next one."""
    broker = Strange(*answers)
    one = link(broker.port, heard)
    one.start()
    try:
        for number in range(2):
            assert broker.clients.get(timeout=SECONDS) == number
        while heard.get(timeout=SECONDS)[0] != "lost":
            pass
    finally:
        one.stop()
        broker.stop()


def test_a_topic_that_is_no_text(heard: queue.Queue[tuple[str, str]]) -> None:
    bad, good = bytes((0x30, 4, 0, 1, 0xFF, 0)), bytes((0x30, 4, 0, 1, 0x78, 0))
    broker = Strange(CONNACK, SUBACK + bad + good)
    one = link(broker.port, heard)
    one.start()
    try:
        assert heard.get(timeout=SECONDS) == ("connected", "")
        assert heard.get(timeout=SECONDS) == ("message", "x")
    finally:
        one.stop()
        broker.stop()


def test_a_host_that_is_no_name(heard: queue.Queue[tuple[str, str]]) -> None:
    settings = BrokerSettings(Address("a..b", 1883))
    events = BrokerEvents(
        lambda *_: None, lambda: None, lambda why: heard.put(("lost", why)), lambda number: None
    )
    one = BrokerLink(settings, "me", events)
    one.start()
    assert heard.get(timeout=SECONDS)[0] == "lost"
    one.stop()


def test_a_command_without_a_broker_waits_and_says_so(heard: queue.Queue[tuple[str, str]]) -> None:
    one = link(free_port(), heard, lasts=False)
    one.start()
    assert not one.deliver("x", b"y", 0.2)
    one.stop()


def test_numbers_of_messages_are_not_used_twice(heard: queue.Queue[tuple[str, str]]) -> None:
    one = link(free_port(), heard)
    assert one.publish("x", b"first") == 1
    one._client._last_mid = 0  # as after 65,535 messages
    assert one.publish("x", b"second") == 2


@needs_broker
def test_what_the_broker_retains_is_not_done_again(
    orchestrator: Orchestrator, broker: TestBroker
) -> None:
    peer = Peer(broker.port, "realm/proc/log/#")
    wrong = b'{"object_id": "1", "action": "delete", "type": "req", "data": {"type": "module"}}'
    peer.say_raw("realm/proc/control", wrong, retain=True)
    assert peer.hear("error")
    orchestrator.stop()
    orchestrator.start()
    orchestrator.until("connected")
    peer.say_raw("realm/proc/control", b"[]")
    assert peer.hear("error")[1]["data"]["desc"] == "invalid JSON"
    peer.stop()
