"""Streams that others read and write too: nobody waits where a pause cannot end it."""

from __future__ import annotations

import errno
import os
import pty
import socket
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wasi.guest import FakeCaller
from wasmsr.wasi.engine import Retry
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.preview1.abi import FdFlag
from wasmsr.wasi.streams import nonblocking
from wasmsr.wasi.streams.nonblocking import NonblockingStream
from wasmsr.wasi.streams.standard import InputStream, OutputStream
from wasmsr.wasi.streams.waiting import PIPE_PIECE

PATIENCE = 20.0
Ends = tuple[int, int]


def _socket_ends(folder: Path) -> Ends:
    one, other = socket.socketpair()
    return one.detach(), other.detach()


def _fifo_ends(folder: Path) -> Ends:
    os.mkfifo(folder / "fifo")
    reader = os.open(folder / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    writer = os.open(folder / "fifo", os.O_WRONLY)
    os.set_blocking(reader, True)
    return reader, writer


def _terminal_ends(folder: Path) -> Ends:
    master, slave = pty.openpty()
    tty.setraw(slave)
    return slave, master


def _screen_ends(folder: Path) -> Ends:
    slave, master = _terminal_ends(folder)
    return master, slave


KINDS: dict[str, Callable[[Path], Ends]] = {
    "pipe": lambda folder: os.pipe(),
    "fifo": _fifo_ends,
    "socket": _socket_ends,
    "terminal": _terminal_ends,
    "screen": _screen_ends,
}


@pytest.fixture(params=KINDS)
def ends(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Ends]:
    """What is read from, and what is written to: a terminal's keys, and its screen."""
    made = KINDS[request.param](tmp_path)
    yield made
    for descriptor in made:
        os.close(descriptor)


@pytest.fixture
def caller() -> Iterator[Any]:
    made = FakeCaller()
    yield made
    made.close()


@pytest.fixture
def poor(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that has none of it: calls may wait."""
    monkeypatch.setattr(nonblocking, "NOWAIT", 0)
    monkeypatch.setattr(nonblocking, "opened_again", lambda host, access: -1)


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket", "terminal"])
def test_reading_what_is_not_there(kind: str, tmp_path: Path) -> None:
    reader, writer = KINDS[kind](tmp_path)
    stream = NonblockingStream(reader, os.O_RDONLY)
    buffer = bytearray(10)
    for _ in range(2):
        with pytest.raises(BlockingIOError):
            stream.read([memoryview(buffer)])
        os.write(writer, b"abc")
        time.sleep(0.01)  # a terminal gives it in its own time
        assert stream.read([memoryview(buffer)]) == 3
    assert stream.sure and os.get_blocking(reader)
    stream.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket", "screen"])
def test_writing_where_there_is_no_room(kind: str, tmp_path: Path) -> None:
    reader, writer = KINDS[kind](tmp_path)
    stream = NonblockingStream(writer, os.O_WRONLY)
    piece = memoryview(bytes(1 << 16))
    with pytest.raises(BlockingIOError):
        for _ in range(1000):
            stream.write([piece])
    assert stream.sure and os.get_blocking(writer)
    stream.close()
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("number", [errno.ENOSYS, errno.EPERM])
def test_a_host_without_the_call(
    number: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def lacking(*arguments: object) -> int:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "preadv", lacking)
    monkeypatch.setattr(os, "pwritev", lacking)
    reader, writer = os.pipe()
    source, sink = NonblockingStream(reader, os.O_RDONLY), NonblockingStream(writer, os.O_WRONLY)
    with pytest.raises(BlockingIOError):
        source.read([memoryview(bytearray(5))])
    assert sink.write([memoryview(b"abc")]) == 3
    assert source.read([memoryview(bytearray(5))]) == 3
    assert source.sure and sink.sure
    for stream in (source, sink):
        stream.close()
        os.close(stream.host)


def test_the_other_side_of_a_terminal_is_not_opened_anew(tmp_path: Path) -> None:
    slave, master = _terminal_ends(tmp_path)
    stream = NonblockingStream(master, os.O_WRONLY)
    with pytest.raises(BlockingIOError):
        stream.write([memoryview(b"x")])
    assert not stream.sure
    assert stream.write([memoryview(b"x")]) == 1
    assert os.read(slave, 9) == b"x"
    os.close(slave)
    os.close(master)


class Robbed(NonblockingStream):
    """A stream from which somebody takes what has just made it ready."""

    robbed = False

    def read(self, buffers: list[memoryview]) -> int:
        if not self.robbed:
            self.robbed = True
            os.read(self.host, 100)
        return super().read(buffers)


@pytest.mark.parametrize("kind", ["pipe", "fifo", "socket", "terminal"])
def test_a_pause_ends_a_read_that_another_process_came_before(
    kind: str, tmp_path: Path, caller: Any
) -> None:
    reader, writer = KINDS[kind](tmp_path)
    stream = InputStream(reader)
    robbed = stream.nowait = Robbed(reader, os.O_RDONLY)
    threading.Timer(0.1, caller.pause).start()
    os.write(writer, b"abc")
    with pytest.raises(Retry):
        stream.read(caller, [memoryview(bytearray(10))])
    if not robbed.robbed:  # the pause was first, on a machine that is busy
        os.read(reader, 100)
    caller.go_on()
    os.write(writer, b"more")
    assert stream.read(caller, [memoryview(bytearray(10))]) == 4
    stream.close()
    os.close(reader)
    os.close(writer)


def _drain(reader: int, stop: threading.Event, took: list[int]) -> threading.Thread:
    def work() -> None:
        while not stop.is_set():
            took.append(len(os.read(reader, 1 << 16)))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


@pytest.mark.parametrize("sizes", [(1,), (4096,) * 16, (0, 5, 100_000, 0, 1, 300_000)])
def test_all_is_written_in_order(ends: Ends, caller: Any, sizes: tuple[int, ...]) -> None:
    _write_all(ends, caller, sizes)


@pytest.mark.parametrize("sizes", [(1,), (4096,) * 16, (0, 5, 100_000, 0, 1, 300_000)])
def test_the_same_on_a_poorer_host(
    ends: Ends, caller: Any, sizes: tuple[int, ...], poor: None
) -> None:
    _write_all(ends, caller, sizes)


def _write_all(ends: Ends, caller: Any, sizes: tuple[int, ...]) -> None:
    reader, writer = ends
    total = sum(sizes)
    data = bytes(number * 7 % 251 for number in range(total))
    seen = bytearray()

    def work() -> None:
        while len(seen) < total:
            seen.extend(os.read(reader, 1 << 16))

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    stream = OutputStream("stdout", writer)
    buffers, start = [], 0
    for size in sizes:
        buffers.append(memoryview(data)[start : start + size])
        start += size
    assert stream.write(caller, buffers) == total
    thread.join(PATIENCE)
    assert bytes(seen) == data
    stream.close()


def test_a_pause_ends_a_write_that_never_waits(caller: Any) -> None:
    """A reader as fast as we are: there is always room, and the call still makes way."""
    reader, writer = os.pipe()
    stop, took = threading.Event(), [0]
    thread = _drain(reader, stop, took)
    caller.pause()
    written = OutputStream("stdout", writer).write(caller, [memoryview(bytes(100 << 20))])
    assert 0 < written < 1 << 20
    stop.set()
    os.write(writer, b"x")
    thread.join(PATIENCE)
    os.close(reader)
    os.close(writer)


@pytest.mark.parametrize("size", [10, PIPE_PIECE, 1 << 20])
def test_a_full_pipe_and_a_pause_or_a_program_that_does_not_wait(
    caller: Any, size: int, request: pytest.FixtureRequest
) -> None:
    _full(caller, size)
    request.getfixturevalue("poor")
    _full(caller, size)


def _full(caller: Any, size: int) -> None:
    reader, writer = os.pipe()
    stream = OutputStream("stdout", writer)
    room = 65536 - PIPE_PIECE
    os.write(writer, bytes(room))
    first = min(size, PIPE_PIECE)
    stream.flags = FdFlag.NONBLOCK
    assert stream.write(caller, [memoryview(bytes(size))]) == first
    os.read(reader, 1 << 17)
    os.write(writer, bytes(65536))
    with pytest.raises((BlockingIOError, CallError)):
        stream.write(caller, [memoryview(bytes(size))])
    stream.flags = 0
    threading.Timer(0.05, caller.pause).start()
    with pytest.raises(Retry):
        stream.write(caller, [memoryview(bytes(size))])
    caller.go_on()
    stream.close()
    os.close(reader)
    os.close(writer)
