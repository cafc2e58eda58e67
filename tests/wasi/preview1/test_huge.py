"""Reads and writes of more than a u32 can count, and other sums that must fit in one.

The buffers are the same memory many times over, so a guest of 64 MiB can ask for any total. What
Linux, or the library's user, would take whole is cut short: every program must expect that.
"""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.wasi.guest import IOVS, OUT, OUT2, FakeCaller, Guest
from wasmsr.wasi.clocks import Clocks, Random
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.filesystem.open_files import Device, MountPath, RegularFile
from wasmsr.wasi.preview1.abi import MOST_BYTES, U32, Errno, Failure, Right
from wasmsr.wasi.preview1.process_calls import args_sizes_get, environ_sizes_get
from wasmsr.wasi.preview1.rights import FILE_RIGHTS, grant
from wasmsr.wasi.process import Process
from wasmsr.wasi.streams.descriptor import FileKind
from wasmsr.wasi.streams.sockets import Connection
from wasmsr.wasi.streams.standard import InputStream, OutputStream

BUFFER = 64 << 20
START = 65536


class Big(FakeCaller):
    """A caller with a memory of a little more than 64 MiB."""

    def __init__(self) -> None:
        super().__init__()
        self.buffer = bytearray(START + BUFFER)
        self.memory = memoryview(self.buffer)


@pytest.fixture
def guest() -> Iterator[Guest]:
    made = Guest(mounts=[Mount.memory("/data")])  # holes are read fastest there
    made.caller.close()
    made.caller = Big()
    yield made
    made.close()


def vector(guest: Guest, count: int, length: int = BUFFER) -> tuple[int, int]:
    """`count` buffers, all of them the same memory."""
    guest.put(IOVS, struct.pack("<II", START, length) * count)
    return IOVS, count


def give(guest: Guest, descriptor: Any) -> int:
    grant(descriptor)
    return guest.wasi.process.add(descriptor)


class Null:
    """A sink that counts."""

    def __init__(self) -> None:
        self.count = 0

    def write(self, data: memoryview) -> None:
        self.count += len(data)


def test_reading_a_large_file(guest: Guest) -> None:
    private = guest.wasi.process.trees[b"/data"].private
    assert private is not None
    path = private.path / "large"
    path.touch()
    os.truncate(path, 5 << 30)
    with open(path, "r+b") as file:
        file.seek(MOST_BYTES - 3)
        file.write(b"abcdef")
    fd = guest.opened("large", 0, FILE_RIGHTS & ~Right.FD_WRITE)
    assert guest.call("fd_read", fd, *vector(guest, 65), OUT) == 0
    assert guest.u32() == MOST_BYTES
    assert guest.seek(fd, 0, 1) == (0, MOST_BYTES)
    last = START + (MOST_BYTES - 1) % BUFFER
    assert guest.get(last - 2, 4) == b"abc\0"
    assert guest.read(fd, 3) == (0, b"def")
    # From an offset near the end, what is left is read and the rest of the buffers stays.
    assert guest.call("fd_pread", fd, *vector(guest, 65), (5 << 30) - 7, OUT) == 0
    assert guest.u32() == 7


def test_writing_to_a_stream(guest: Guest) -> None:
    sink = Null()
    fd = give(guest, OutputStream("stdout", sink))
    assert guest.call("fd_write", fd, *vector(guest, 65), OUT) == 0
    assert guest.u32() == sink.count == MOST_BYTES


def test_writing_to_a_device(guest: Guest) -> None:
    host = os.open("/dev/null", os.O_WRONLY)
    device = FileKind.CHARACTER_DEVICE
    fd = give(guest, Device(host, MountPath(b"/data", (b"null",)), device, 0, os.O_WRONLY))
    assert guest.call("fd_write", fd, *vector(guest, 1000), OUT) == 0
    assert guest.u32() == MOST_BYTES


def test_reading_from_a_source(guest: Guest) -> None:
    asked = []

    class Endless:
        def read(self, size: int) -> bytes:
            asked.append(size)
            return b"x" * 10

    fd = give(guest, InputStream(-1, source=Endless()))
    assert guest.call("fd_read", fd, *vector(guest, 1024), OUT) == 0
    assert (guest.u32(), asked) == (10, [MOST_BYTES])


def test_a_socket_takes_what_it_has_room_for(guest: Guest) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        fd = give(guest, Connection(ours))
        assert guest.call("sock_send", fd, *vector(guest, 65), 0, OUT) == 0
        assert 0 < guest.u32() < U32
        theirs.send(b"answer")
        assert guest.call("sock_recv", fd, *vector(guest, 1024), 0, OUT, OUT2) == 0
        assert (guest.u32(), guest.get(START, 6)) == (6, b"answer")


def test_writing_to_a_pipe(guest: Guest) -> None:
    """The other end has all that the program is told of, and no more."""
    reading, writing = os.pipe()
    taken = 0

    def drain() -> None:
        nonlocal taken
        scratch = bytearray(1 << 20)
        while count := os.readv(reading, [scratch]):
            taken += count

    thread = threading.Thread(target=drain)
    thread.start()
    fd = give(guest, OutputStream("stdout", writing))
    errno = guest.call("fd_write", fd, *vector(guest, 65), OUT)
    os.close(writing)
    thread.join()
    os.close(reading)
    assert (errno, guest.u32()) == (0, taken)
    assert taken == MOST_BYTES


@pytest.mark.parametrize("call", ["fd_pwrite", "fd_write"])
def test_writing_a_file_up_to_its_limit(guest: Guest, call: str) -> None:
    """A file that counts against a limit is charged what a call can write at most."""
    charged = []

    class Limit:
        def charge(self, size: int) -> None:
            charged.append(size)

    host = os.open("/dev/null", os.O_RDWR)
    file = RegularFile(host, MountPath(b"/data", (b"f",)), FileKind.REGULAR_FILE, 0, os.O_RDWR)
    file.charged = Limit()
    fd = give(guest, file)
    more = (0,) if call == "fd_pwrite" else ()
    assert guest.call(call, fd, *vector(guest, 1024), *more, OUT) == 0
    assert 0 < guest.u32() <= MOST_BYTES
    assert charged == [MOST_BYTES]


def test_a_buffer_outside_of_memory_behind_the_limit(guest: Guest) -> None:
    vector(guest, 70)
    guest.put(IOVS + 8 * 69, struct.pack("<II", START + 1, BUFFER))
    fd = give(guest, OutputStream("stdout", Null()))
    assert guest.call("fd_write", fd, IOVS, 70, OUT) == Errno.FAULT


@pytest.mark.parametrize("call", [args_sizes_get, environ_sizes_get])
def test_strings_of_more_bytes_than_can_be_told(call: Any) -> None:
    class Huge(bytes):
        def __len__(self) -> int:
            return 1 << 31

    process = Process(Clocks(), Random())
    process.args = process.environ = (Huge(), Huge())
    caller = FakeCaller()
    with pytest.raises(Failure) as caught:
        call(process, caller, OUT, OUT2)
    assert caught.value.errno == Errno.OVERFLOW
    caller.close()
