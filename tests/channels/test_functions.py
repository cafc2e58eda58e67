"""The functions of `env`, one call at a time."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.channels.host import DRIVER, MODULE_ID, RUNTIME_ID, Host, host, module
from wasmsr.channels import conduit
from wasmsr.channels.conduit import written_message
from wasmsr.channels.functions import Channels
from wasmsr.channels.grant import is_topic
from wasmsr.channels.table import LARGEST, OVERHEAD
from wasmsr.interp.store.store import Store

IN, OUT, OWN, ALL, FDS, AT = 0, 16, 32, 48, 64, 256
READ, WRITE, BOTH = 0, 1, 2


class Guest:
    """A module whose functions a test calls."""

    def __init__(self, at: Host) -> None:
        made = module(DRIVER)
        self.channels = Channels(at.conduit().grant())
        self.store = Store()
        self.instance = self.store.instantiate(
            made, {"env": self.channels.imports([made])}, start=False
        )

    @property
    def memory(self) -> memoryview:
        return self.store.memory_view(0)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        return self.instance.function(name)

    def read(self, fd: int, size: int = 64) -> bytes:
        """Read a message."""
        count = self.ch_read_msg(fd, AT, size)
        assert count >= 0
        return bytes(self.memory[AT : AT + count])


@pytest.fixture
def at() -> Iterator[Host]:
    with host() as made:
        yield made


@pytest.fixture
def guest(at: Host) -> Guest:
    return Guest(at)


def test_one_path_has_one_descriptor(at: Host, guest: Guest) -> None:
    assert guest.ch_open(IN, READ, 0) == 0
    assert guest.ch_open(OUT, WRITE, 0) == 1
    assert guest.ch_open(IN, READ, 0) == 0
    assert guest.ch_open(IN, WRITE, 0) == 0  # may be written too from now on
    frames = [at.next() for _ in range(3)]
    assert [(one.kind, one.fd, one.payload) for one in frames] == [
        (conduit.OPEN, 0, b"\x01in"), (conduit.OPEN, 1, b"\x02out"), (conduit.OPEN, 0, b"\x03in")
    ]  # fmt: skip
    assert guest.ch_close(0) == 0
    assert at.next().kind == conduit.CLOSE
    assert guest.ch_close(0) == -1
    assert guest.ch_open(OWN, BOTH, 0) == 0  # the lowest free one
    assert at.next().payload == b"\x03realm/x/" + MODULE_ID.encode()


def test_what_cannot_be_opened(guest: Guest) -> None:
    assert guest.ch_open(ALL, WRITE, 0) == -1  # a wildcard in what is written
    assert guest.ch_open(ALL, BOTH, 0) == -1
    assert guest.ch_open(ALL, READ, 0) == 0
    assert guest.ch_open(ALL, WRITE, 0) == -1  # it would be written too
    assert guest.ch_open(IN, 3, 0) == -1
    assert guest.ch_open(IN, -1, 0) == -1
    assert guest.ch_open(65535, READ, 0) == -1  # an empty path
    assert guest.ch_open(1 << 20, READ, 0) == -1
    guest.memory[1024] = 0xFF
    assert guest.ch_open(1024, READ, 0) == -1  # no text


def test_rules_replace_the_beginning_and_bind_the_mode() -> None:
    with host(rules=[["in", 1, "kitchen/in"], ["$SL", 3, "$SL"]]) as at:
        guest = Guest(at)
        assert guest.ch_open(IN, WRITE, 0) == -1
        assert guest.ch_open(OUT, READ, 0) == -1
        assert guest.ch_open(IN, READ, 0) == 0
        assert at.next().payload == b"\x01kitchen/in"
        assert guest.ch_open(OWN, WRITE, 0) == 1
        assert at.next().payload == b"\x02realm/x/" + MODULE_ID.encode()


def test_messages_come_in_order_and_rests_stay(at: Host, guest: Guest) -> None:
    fd = guest.ch_open(IN, READ, 0)
    assert guest.read(fd) == b""
    at.give(fd, b"hello")
    at.give(fd, b"world")
    assert guest.ch_poll(FDS, 1, 60_000) == 1
    assert guest.read(fd, 3) == b"hel"
    assert guest.read(fd, 3) == b"lo"
    assert guest.read(fd) == b"world"
    assert guest.read(fd) == b""
    assert guest.ch_poll(FDS, 1, 1) == 0


def test_poll_counts_channels(at: Host, guest: Guest) -> None:
    assert (guest.ch_open(IN, READ, 0), guest.ch_open(OUT, READ, 0)) == (0, 1)
    for data in (b"1", b"2"):
        at.give(1, data)
    assert guest.ch_poll(FDS, 2, 0) == 1
    at.give(0, b"3")
    while guest.ch_poll(FDS, 2, 0) < 2:
        time.sleep(0.001)
    assert guest.ch_poll(FDS, 0, 1) == 0


def test_what_calls_refuse(guest: Guest) -> None:
    fd = guest.ch_open(IN, READ, 0)
    other = guest.ch_open(OUT, WRITE, 0)
    assert guest.ch_write_msg(fd, AT, 1) == -1
    assert guest.ch_read_msg(other, AT, 1) == -1
    assert guest.ch_read_msg(9, AT, 1) == -1
    assert guest.ch_read_msg(fd, 65536, 1) == -1
    assert guest.ch_write_msg(other, 65530, 7) == -1
    assert guest.ch_write_msg(other, 0, LARGEST + 1) == -1
    assert guest.ch_write_msg(other, 0, -1) == -1
    assert guest.ch_poll(FDS, 2, 1) == -1  # the second one is not read
    assert guest.ch_poll(FDS, 257, 1) == -1
    assert guest.ch_poll(65535, 1, 1) == -1
    assert guest.module_get_uuid(65500) == -1
    assert guest.period_end() == -1
    assert guest.period_yield() == -1


def test_written_messages_have_numbers(at: Host, guest: Guest) -> None:
    fd = guest.ch_open(OUT, WRITE, 0)
    at.next()
    guest.memory[AT : AT + 3] = b"abc"
    assert guest.ch_write_msg(fd, AT, 3) == 3
    assert guest.ch_write_msg(fd, AT, 0) == 0
    found = [written_message(at.next().payload)[1:] for _ in range(2)]
    assert found == [(1, b"abc"), (2, b"")]


def test_our_senders_reach_it_once(at: Host, guest: Guest) -> None:
    fd = guest.ch_open(IN, READ, 0)
    life, other = b"l" * 16, b"o" * 16
    for number, epoch, one in ((1, 1, life), (2, 1, life), (2, 1, life), (1, 1, other),
                               (1, 2, life), (3, 2, life), (4, 1, life), (5, 2, life)):  # fmt: skip
        at.give(fd, bytes((number, epoch)), one, epoch, number)
    at.give(fd, b"end")
    found = []
    while (data := guest.read(fd)) != b"end":
        found += [tuple(data)] if data else []
    assert found == [(1, 1), (2, 1), (1, 1), (3, 2), (5, 2)]


def test_uuids(guest: Guest) -> None:
    assert guest.module_get_uuid(AT) == 0
    assert bytes(guest.memory[AT : AT + 37]) == MODULE_ID.encode() + b"\0"
    assert guest.runtime_get_uuid(AT) == 0
    assert bytes(guest.memory[AT : AT + 37]) == RUNTIME_ID.encode() + b"\0"


def test_periods_are_reported() -> None:
    with host(period=20_000_000) as at:
        guest = Guest(at)
        assert guest.period_set_flags(7) == 0
        began = time.monotonic()
        assert guest.period_start() == 0
        assert guest.period_yield() == 0
        assert time.monotonic() - began >= 0.015
        assert guest.period_end() == 0
        reports = [at.next() for _ in range(2)]
        assert [one.kind for one in reports] == [conduit.REPORT] * 2
        wall = int.from_bytes(reports[0].payload[8:16], "little")
        assert wall < 20_000_000_000
        assert guest.channels.table.flags == 7


def test_functions_may_have_no_result() -> None:
    source = """(module (import "env" "period_start" (func $start))
      (import "env" "ch_open" (func (param i32 i64 i32) (result i32)))
      (export "start" (func $start)))"""
    with host() as at:
        made = module(source)
        channels = Channels(at.conduit().grant())
        imports = channels.imports([made])
        assert list(imports) == ["period_start"]  # the other one has another type
        assert imports["period_start"].type.results == ()


REFUSED = [
    "a\x01b", "a\x7fb", "a\x9fb", "a\ufffeb", "a\U0001ffffb", "a\ufdd0b", "a\ud800b", "a/" * 200,
    "$share/group/a", "",
]  # fmt: skip


@pytest.mark.parametrize("path", REFUSED, ids=ascii)
def test_a_topic_for_which_a_broker_ends_the_connection_is_none(path: str) -> None:
    assert not is_topic(path, wild=True) and not is_topic(path, wild=False)


def test_topics_of_the_broker_are_read_only() -> None:
    assert is_topic("$SYS/broker/uptime", wild=True)
    assert not is_topic("$SYS/broker/uptime", wild=False)
    assert is_topic("$SL/out", wild=False)  # where the host makes the topic itself
    assert is_topic("a" + "/b" * 199, wild=False) and is_topic("Küche/\U0001f600", wild=False)


def test_a_long_message_is_read_in_small_parts_without_copies(at: Host, guest: Guest) -> None:
    assert guest.ch_open(IN, READ, 0) == 0
    at.next()
    data = bytes(range(256)) * (LARGEST // 256)
    thread = threading.Thread(target=at.give, args=(0, data))
    thread.start()
    guest.memory[FDS : FDS + 4] = bytes(4)
    assert guest.ch_poll(FDS, 1, 0) == 1
    thread.join()
    parts = [guest.read(0, 16) for _ in range(1000)]
    assert b"".join(parts) == data[:16_000]
    (rest,) = guest.channels.table.open[0].waiting
    (kept,) = (one for _, one in guest.channels.table.capture()["messages"])
    assert type(kept) is bytes and kept == rest == data[16_000:]
    assert isinstance(rest, memoryview) and rest.nbytes == LARGEST - 16_000
    assert guest.channels.table.size == len(rest) + OVERHEAD


def test_what_a_program_tells_does_not_fill_its_host_s_memory(at: Host, guest: Guest) -> None:
    """The host is slow: periods are not all reported."""
    for _ in range(60_000):
        assert guest.period_start() == 0 == guest.period_end()
    conduit_ = guest.channels.grant.port
    assert len(conduit_._out) < 2 << 20
    thread = threading.Thread(target=lambda: [at.next() for _ in range(100)], daemon=True)
    thread.start()
    assert guest.ch_open(IN, READ, 0) == 0
    thread.join(60)
    assert not thread.is_alive()
