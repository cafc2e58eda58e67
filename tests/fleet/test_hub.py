"""The hub of a device's channels: what modules say last, and what they may say."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from wasmsr.channels import conduit
from wasmsr.channels.conduit import ConduitFrame, FrameStream, frame
from wasmsr.channels.table import LARGEST
from wasmsr.fleet.device.hub import ChannelHub, HubEvents
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.topics import FleetRealm

SECONDS = 60.0
LIFE = b"l" * 16


class Hub(ChannelHub):
    """A hub, and what it has asked for."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.subscribed: list[str] = []
        self.full = False
        super().__init__(
            HubEvents(
                lambda topic, data, sender: self.published.append((topic, data)),
                self.subscribed.append, self.subscribed.remove, lambda name, count: None,
                lambda: self.full,
            )
        )  # fmt: skip

    def member(self, name: str = "m") -> Any:
        """Return the end of a module that is new."""
        return self.add(name, {}, 1)


def message(number: int, data: bytes, fd: int = 0) -> bytes:
    return frame(conduit.MESSAGE, fd, LIFE + number.to_bytes(8, "little") + data)


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


@pytest.fixture
def hub() -> Iterator[Hub]:
    found = Hub()
    yield found
    found.close()


def test_what_a_module_says_last_is_sent(hub: Hub) -> None:
    end = hub.member()
    with hub._lock:  # the thread of the hub does not come to read it
        said = [message(number, b"%d" % number) for number in range(1, 1001)]
        said = [frame(conduit.OPEN, 0, b"\2out"), *said, frame(conduit.REPORT, 0, bytes(24))]
        end.sendall(b"".join(said))  # in one piece, which fits into the socket
        end.close()
        assert hub.remove("m") == [bytes(24)]
    assert hub.published == [("out", b"%d" % number) for number in range(1, 1001)]


def test_a_module_that_begins_again_has_said_all_of_before(hub: Hub) -> None:
    first = hub.member()
    with hub._lock:
        first.sendall(frame(conduit.OPEN, 0, b"\2out") + message(1, b"before"))
        second = hub.member()
    second.sendall(frame(conduit.OPEN, 0, b"\2out") + message(2, b"after"))
    until(lambda: len(hub.published) == 2)
    assert [data for _, data in hub.published] == [b"before", b"after"]
    first.close(), second.close()


def test_modules_wait_while_the_broker_takes_nothing(hub: Hub) -> None:
    """What they write stays with them, and does not fill the memory of the node."""
    writer, reader = hub.member("writer"), hub.member("reader")
    writer.sendall(frame(conduit.OPEN, 0, b"\2out"))
    reader.sendall(frame(conduit.OPEN, 0, b"\1in"))
    until(lambda: hub.subscribed == ["in"] and bool(hub._members["writer"].topics))
    hub.full = True
    hub._stir()
    until(lambda: not any(one.data for one in hub._selector.get_map().values()))
    writer.setblocking(False)
    written = 0
    with pytest.raises(BlockingIOError):
        while True:
            written += writer.send(message(1, bytes(1 << 16)))
    assert not hub.published and written < 1 << 22
    hub.take("in", b"comes even so", None)
    reader.settimeout(SECONDS)
    came = b""
    while b"comes even so" not in came:
        came += reader.recv(1 << 16)
    hub.full = False
    until(lambda: bool(hub.published))
    writer.close(), reader.close()


def test_a_message_that_is_too_long_ends_no_module(hub: Hub) -> None:
    end = hub.member()
    end.sendall(frame(conduit.OPEN, 0, b"\1in"))
    until(lambda: bool(hub.subscribed))
    for size in (LARGEST + 1, LARGEST):
        hub.take("in", b"m" * size, None)  # 2 MiB come from a broker
    frames, found = FrameStream(), list[ConduitFrame]()
    end.settimeout(SECONDS)
    while len(found) < 2:
        found += frames.feed(end.recv(1 << 20))
    assert [one.kind for one in found] == [conduit.GRANT, conduit.MESSAGE]
    assert found[1].payload[28:] == b"m" * LARGEST
    assert hub._members["m"].lost == 1
    end.close()


def test_records_of_periods_have_one_length(hub: Hub) -> None:
    end = hub.member()
    end.sendall(frame(conduit.REPORT, 0, bytes(1 << 20)) + frame(conduit.REPORT, 0, b"r" * 24))
    until(lambda: bool(hub._members["m"].reports))
    assert hub.remove("m") == [b"r" * 24]
    end.close()


def test_a_topic_that_would_end_the_connection_of_the_device(hub: Hub) -> None:
    end = hub.member()
    for fd, topic in enumerate((b"\1a\1", b"\1$share/g/t", b"\2" + b"a/" * 200, b"\1good")):
        end.sendall(frame(conduit.OPEN, fd, topic))
    until(lambda: bool(hub.subscribed))
    assert hub.subscribed == ["good"]
    end.close()
    until(lambda: not hub.subscribed)


@pytest.mark.parametrize("part", ["a\x01", "a\x7f", "a\uffff"], ids=ascii)
def test_names_that_are_no_part_of_a_topic(part: str) -> None:
    with pytest.raises(WireError, match="invalid topic"):
        FleetRealm().topic("stdio", part)
