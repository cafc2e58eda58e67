"""Listening sockets: accepting, talking, waiting, and what of it can be saved."""

from __future__ import annotations

import socket
import time
from collections.abc import Iterator

import pytest

from tests.wasi.guest import DATA, IOVS, OUT, OUT2, ROOT, Guest, readable, writable
from tests.wasi.streams.test_waiting import PROMPT, paused
from wasmsr.errors import UnportableState, WasiConfigError
from wasmsr.wasi.preview1.abi import Errno, FdFlag, FileType, Right
from wasmsr.wasi.streams.listen_address import TcpListen, address_of


@pytest.fixture
def server() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        yield listening


def test_sockets(server: socket.socket) -> None:
    guest = Guest(sockets=[server])
    assert guest.fdstat(3)[1][0] == FileType.SOCKET_STREAM
    assert guest.call("fd_prestat_get", 3, OUT) == Errno.BADF
    assert paused(guest, lambda: guest.call("sock_accept", 3, 0, OUT)) < PROMPT
    assert guest.call("fd_fdstat_set_flags", 3, FdFlag.NONBLOCK) == 0
    assert guest.call("sock_accept", 3, 0, OUT) == Errno.AGAIN
    client = socket.create_connection(server.getsockname())
    assert guest.poll(readable(1, 3))[1][0][:3] == (1, 0, 1)
    assert guest.call("sock_accept", 3, FdFlag.SYNC, OUT) == Errno.INVAL
    assert guest.call("sock_accept", 3, 0, OUT) == 0
    fd = guest.u32()
    assert fd == 4
    receive = (fd, *guest.iovecs([2, 100]), 0, OUT, OUT2)
    assert paused(guest, lambda: guest.call("sock_recv", *receive)) < PROMPT
    client.sendall(b"hello")
    assert guest.poll(readable(1, fd))[1] == [(1, 0, 1, 5, 0)]
    assert guest.call("sock_recv", fd, *guest.iovecs([3]), 1, OUT, OUT2) == 0
    assert guest.get(DATA, 3) == b"hel"
    guest.iovecs([2, 100])
    assert guest.call("sock_recv", *receive) == 0
    assert (guest.u32(OUT), guest.get(OUT2, 2), guest.get(DATA, 5)) == (5, b"\0\0", b"hello")
    guest.put(DATA, b"answer")
    assert guest.call("sock_send", fd, *guest.iovecs([2, 4]), 0, OUT) == 0
    assert client.recv(100) == b"answer"
    assert guest.write(fd, b"written") == (0, 7)
    assert client.recv(100) == b"written"
    client.sendall(b"read")
    assert guest.read(fd) == (0, b"read")
    assert guest.call("sock_recv", fd, *guest.iovecs([3]), 4, OUT, OUT2) == Errno.INVAL
    assert guest.call("sock_recv", fd, *guest.iovecs([3]), 2, OUT, OUT2) == Errno.NOTSUP
    assert guest.call("sock_send", fd, *guest.iovecs([3]), 1, OUT) == Errno.INVAL
    assert guest.call("sock_shutdown", fd, 0) == Errno.INVAL
    assert guest.call("sock_shutdown", fd, 2) == 0
    assert client.recv(100) == b""
    client.close()
    assert guest.call("sock_recv", *receive) == 0
    assert guest.u32(OUT) == 0
    assert guest.call("fd_close", fd) == 0
    guest.close()


def test_what_is_no_socket(guest: Guest, server: socket.socket) -> None:
    for fd in (0, 1, ROOT, guest.opened("f", 1)):
        assert guest.call("sock_accept", fd, 0, OUT) == Errno.NOTSOCK
        assert guest.call("sock_recv", fd, IOVS, 1, 0, OUT, OUT2) == Errno.NOTSOCK
        assert guest.call("sock_send", fd, IOVS, 1, 0, OUT) == Errno.NOTSOCK
        assert guest.call("sock_shutdown", fd, 1) == Errno.NOTSOCK
    listening = Guest(sockets=[server])
    assert listening.call("sock_recv", 3, IOVS, 1, 0, OUT, OUT2) == Errno.NOTCONN
    assert listening.call("sock_shutdown", 3, 1) == Errno.NOTCONN
    listening.close()


def test_several_descriptors_and_a_full_connection(server: socket.socket) -> None:
    guest = Guest(sockets=[server])
    clients = [socket.create_connection(server.getsockname()) for _ in range(2)]
    fds = []
    for _ in clients:
        assert guest.call("sock_accept", 3, 0, OUT) == 0
        fds.append(guest.u32())
    clients[1].sendall(b"xyz")
    assert guest.poll(readable(1, fds[0]), readable(2, fds[1]), readable(3, 3))[1] == [
        (2, 0, 1, 3, 0)
    ]
    # Until nothing more goes: a pause ends the waiting, and all that was written arrives.
    sent = full = 0
    guest.call("fd_fdstat_set_flags", fds[0], FdFlag.NONBLOCK)
    while full < 3:
        errno, written = guest.write(fds[0], bytes(16384))
        if errno:
            # The host may still be moving what it has to the other side.
            assert errno == Errno.AGAIN
            time.sleep(0.05)
            full += 1
        else:
            sent += written
            full = 0
    assert guest.poll(writable(1, fds[1]), writable(2, fds[0]))[1][0][0] == 1
    guest.call("fd_fdstat_set_flags", fds[0], 0)
    assert paused(guest, lambda: guest.write(fds[0], b"more")) < PROMPT
    assert paused(guest, lambda: guest.poll(writable(1, fds[0]))) < PROMPT
    sending = ("sock_send", fds[0], *guest.iovecs([4]), 0, OUT)
    assert paused(guest, lambda: guest.call(*sending)) < PROMPT
    got = 0
    while got < sent:
        got += len(clients[0].recv(1 << 20))
    assert got == sent
    clients[0].close()
    assert guest.read(fds[0]) == (0, b"")
    event = guest.poll(readable(1, fds[0]))[1][0]
    assert event[:3] == (1, 0, 1)
    clients[1].close()
    guest.close()


def test_writing_to_a_connection_that_is_gone(server: socket.socket) -> None:
    guest = Guest(sockets=[server])
    client = socket.create_connection(server.getsockname())
    assert guest.call("sock_accept", 3, FdFlag.NONBLOCK, OUT) == 0
    fd = guest.u32()
    assert guest.fdstat(fd)[1][1] == FdFlag.NONBLOCK
    assert guest.read(fd)[0] == Errno.AGAIN
    assert guest.call("sock_shutdown", fd, 2) == 0
    assert guest.write(fd, b"x")[0] == Errno.PIPE
    assert guest.call("sock_send", fd, *guest.iovecs([1]), 0, OUT) == Errno.PIPE
    client.close()
    guest.close()


def test_rights_of_listeners_are_inherited(server: socket.socket) -> None:
    guest = Guest(sockets=[server])
    _, _, base, inheriting = guest.fdstat(3)[1]
    kept = inheriting & ~Right.FD_WRITE
    assert guest.call("fd_fdstat_set_rights", 3, base, kept) == 0
    client = socket.create_connection(server.getsockname())
    assert guest.call("sock_accept", 3, 0, OUT) == 0
    assert guest.write(guest.u32(), b"x")[0] == Errno.BADF
    assert guest.call("fd_fdstat_set_rights", 3, base & ~Right.SOCK_ACCEPT, kept) == 0
    assert guest.call("sock_accept", 3, 0, OUT) == Errno.NOTCAPABLE
    client.close()
    guest.close()


def test_a_connection_that_is_gone_before_it_is_accepted(server: socket.socket) -> None:
    """The listener was ready and is not any more: the program waits on, and can be paused."""
    guest = Guest(sockets=[server])
    client = socket.create_connection(server.getsockname())
    assert guest.poll(readable(1, 3))[1][0][0] == 1
    server.accept()[0].close()
    client.close()
    assert paused(guest, lambda: guest.call("sock_accept", 3, 0, OUT)) < PROMPT
    guest.close()


# Saving


def test_a_listener_gets_a_substitute(server: socket.socket) -> None:
    guest = Guest(sockets=[server])
    assert guest.call("fd_fdstat_set_flags", 3, FdFlag.NONBLOCK) == 0
    state = guest.state()
    kept = next(d for d in state["descriptors"] if d["kind"] == "listener")
    assert (kept["fd"], kept["socket"], kept["address"]) == (3, 0, address_of(server))
    with pytest.raises(
        WasiConfigError, match=f"descriptor 3 .it was {address_of(server)}"
    ) as raised:
        guest.resume(state)
    assert "--tcp-listen" in (raised.value.hint or "")
    with TcpListen("127.0.0.1", 0).open() as other:
        guest.resume(state, sockets=[other])
        assert guest.fdstat(3)[1][:2] == (FileType.SOCKET_STREAM, FdFlag.NONBLOCK)
        assert guest.call("sock_accept", 3, 0, OUT) == Errno.AGAIN
        client = socket.create_connection(other.getsockname())
        assert guest.call("sock_accept", 3, 0, OUT) == 0
        client.close()
    guest.close()


def test_the_second_listener_alone() -> None:
    """Which of the sockets it was is known, whatever its number is now."""
    address = TcpListen("127.0.0.1", 0)
    with address.open() as first, address.open() as second, address.open() as third:
        guest = Guest(sockets=[first, second])
        assert guest.call("fd_renumber", 4, 3) == 0
        state = guest.state()
        with pytest.raises(WasiConfigError, match="descriptor 3"):
            guest.resume(state, sockets=[third])
        guest.resume(state, sockets=[first, third])
        client = socket.create_connection(third.getsockname())
        assert guest.call("sock_accept", 3, 0, OUT) == 0
        client.close()
        guest.close()


def test_open_connections_are_refused_by_name(server: socket.socket) -> None:
    guest = Guest(sockets=[server])
    client = socket.create_connection(server.getsockname())
    assert guest.call("sock_accept", 3, 0, OUT) == 0
    with pytest.raises(UnportableState, match="descriptor 4 is an open connection"):
        guest.state()
    assert guest.call("fd_close", 4) == 0
    guest.state()
    client.close()
    guest.close()


# Addresses


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("127.0.0.1:8080", "127.0.0.1", 8080),
        ("localhost:0", "localhost", 0),
        ("[::1]:80", "::1", 80),
        ("0.0.0.0:65535", "0.0.0.0", 65535),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    found = TcpListen.parse(text)
    assert (found.host, found.port, str(found)) == (host, port, text)


@pytest.mark.parametrize(
    "text", ["", "8080", ":80", "a:", "a:b", "a:65536", "a:-1", "::1:80", "[]:1"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(WasiConfigError, match="not an address"):
        TcpListen.parse(text)


def test_an_address_in_use(server: socket.socket) -> None:
    with pytest.raises(WasiConfigError, match=r"cannot listen on 127\.0\.0\.1:"):
        TcpListen.parse(address_of(server)).open()
