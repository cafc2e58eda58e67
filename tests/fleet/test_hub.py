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
from wasmsr.fleet.device.hub import ChannelHub, HubEvents, MessageSender, WrittenMessage
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.node.failures import NodeError
from wasmsr.ownership.lease import boot_clock

SECONDS = 60.0
LIFE = b"l" * 16


class Hub(ChannelHub):
    """A hub, and what it has asked for."""

    def __init__(self) -> None:
        self.published: list[tuple[str, bytes]] = []
        self.unsent: list[WrittenMessage] = []
        """What the broker does not have of modules with a lease."""
        self.subscribed: list[str] = []
        self.full = False
        self.sent: Callable[[], bool] = lambda: True
        """Whether the broker has what a module with a lease has written."""
        super().__init__(
            HubEvents(
                lambda topic, data, sender, leased: self.published.append((topic, data)),
                self.subscribed.append, self.subscribed.remove, lambda name, count: None,
                lambda: self.full, self._recall, lambda name: self.sent(),
            )
        )  # fmt: skip

    def _recall(self, name: str) -> list[WrittenMessage]:
        found, self.unsent = self.unsent, []
        return found

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


class LeaseEnd:
    """A lease that the test ends and renews."""

    def __init__(self) -> None:
        self.at = boot_clock() + 10**15

    def __call__(self) -> int:
        return self.at


def leased(hub: Hub) -> tuple[Any, LeaseEnd]:
    """A module with a lease, which has opened a channel."""
    ends = LeaseEnd()
    end = hub.add("m", {}, 1, ends)
    end.sendall(frame(conduit.OPEN, 0, b"\2out"))
    until(lambda: bool(hub._members["m"].topics))
    return end, ends


def expire(hub: Hub, ends: LeaseEnd) -> None:
    """End the lease, and wait until the hub has noticed."""
    ends.at = 0
    with hub._lock:
        hub._members["m"].until = 0
    hub._stir()
    until(lambda: hub._members["m"].silent)


def test_a_module_whose_lease_has_ended_says_nothing(hub: Hub) -> None:
    """It is sent in order when the lease is renewed, with what the broker did not have before."""
    end, ends = leased(hub)
    end.sendall(message(1, b"1"))
    until(lambda: hub.published == [("out", b"1")])
    hub.unsent = [WrittenMessage("out", b"2", MessageSender(LIFE, 1, 2))]
    expire(hub, ends)
    end.sendall(message(3, b"3"))
    hub._stir()
    until(lambda: not hub.unsent)
    assert hub.published == [("out", b"1")]
    ends.at = boot_clock() + 10**15
    until(lambda: len(hub.published) == 3)
    assert [data for _, data in hub.published] == [b"1", b"2", b"3"]
    assert not hub._members["m"].silent
    end.close()


def test_what_a_module_has_said_after_its_lease_is_dropped(hub: Hub) -> None:
    end, ends = leased(hub)
    hub.unsent = [WrittenMessage("out", b"2", MessageSender(LIFE, 1, 2))]
    expire(hub, ends)
    end.sendall(message(3, b"3"))
    hub.remove("m")  # another device has it
    other = hub.member("other")
    other.sendall(frame(conduit.OPEN, 0, b"\2out") + message(1, b"other"))
    until(lambda: bool(hub.published))
    assert hub.published == [("out", b"other")]
    end.close(), other.close()


def test_a_snapshot_waits_for_what_was_written_before(hub: Hub) -> None:
    end, ends = leased(hub)
    with hub._lock:  # the thread of the hub does not come to read it
        end.sendall(message(1, b"1") + message(2, b"2"))
        hub.settle("m")
        assert [data for _, data in hub.published] == [b"1", b"2"]
    hub.full = True
    with pytest.raises(NodeError, match="does not take"):
        hub.settle("m")
    hub.full = False
    expire(hub, ends)
    with pytest.raises(NodeError, match="lease of the module has ended"):
        hub.settle("m")
    hub.settle("unknown")
    end.close()


def test_a_snapshot_during_which_messages_were_called_back(hub: Hub) -> None:
    """They are not at the broker: whoever restores the snapshot must write them again."""
    end, ends = leased(hub)

    def lapse() -> bool:
        expire(hub, ends)
        ends.at = boot_clock() + 10**15
        until(lambda: not hub._members["m"].silent)
        return True  # nothing waits for the broker

    hub.sent = lapse
    with pytest.raises(NodeError, match="does not say"):
        hub.settle("m")
    hub.sent = lambda: False
    with pytest.raises(NodeError, match="does not say"):
        hub.settle("m")
    hub.sent = lambda: True
    hub.settle("m")
    end.close()


def test_a_module_that_has_ended_has_said_all(hub: Hub) -> None:
    """Nobody runs it again, so what it wrote counts, also after its lease."""
    end, ends = leased(hub)
    hub.unsent = [WrittenMessage("out", b"1", MessageSender(LIFE, 1, 1))]
    expire(hub, ends)
    end.sendall(message(2, b"2"))
    hub.remove("m", ended=True)
    assert [data for _, data in hub.published] == [b"1", b"2"]
    end.close()


def test_a_worker_that_is_gone_says_nothing_after_its_lease(hub: Hub) -> None:
    """The broker may get what it wrote when the next owner runs, or not at all."""
    end, ends = leased(hub)
    end.sendall(message(1, b"1") + frame(conduit.REPORT, 0, bytes(24)))
    end.close()
    until(lambda: hub._members["m"].gone)
    hub.unsent = [WrittenMessage("out", b"1", MessageSender(LIFE, 1, 1))]
    expire(hub, ends)
    assert not hub.unsent and hub.published == [("out", b"1")]
    assert hub.remove("m") == [bytes(24)]
    assert len(hub.published) == 1


def test_a_module_with_a_lease_has_said_all_before_it_leaves(hub: Hub) -> None:
    end, _ = leased(hub)
    with hub._lock:
        end.sendall(message(1, b"last"))
        hub.remove("m")
    assert hub.published == [("out", b"last")]
    end.close()


@pytest.mark.parametrize("part", ["a\x01", "a\x7f", "a\uffff"], ids=ascii)
def test_names_that_are_no_part_of_a_topic(part: str) -> None:
    with pytest.raises(WireError, match="invalid topic"):
        FleetRealm().topic("stdio", part)
