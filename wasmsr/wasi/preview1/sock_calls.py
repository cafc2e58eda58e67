"""The calls on sockets.

A program gets listening sockets when it is started; preview 1 cannot make any. A connection cannot
be saved: `capture` refuses and names the descriptor.
"""

from __future__ import annotations

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.preview1.abi import (
    RECV_DATA_TRUNCATED,
    SIZE,
    Errno,
    Failure,
    FdFlag,
    RiFlag,
    Right,
    span,
    vectors,
)
from wasmsr.wasi.preview1.rights import grant, require
from wasmsr.wasi.process import Process
from wasmsr.wasi.streams.sockets import Connection, Listener

_SHUTDOWN = {1: "SHUT_RD", 2: "SHUT_WR", 3: "SHUT_RDWR"}


def _connection(process: Process, fd: int) -> Connection:
    found = process.get(fd)
    if isinstance(found, Listener):
        raise Failure(Errno.NOTCONN)
    if not isinstance(found, Connection):
        raise Failure(Errno.NOTSOCK)
    return found


def sock_accept(process: Process, caller: Caller, fd: int, flags: int, opened: int) -> None:
    """Accept a connection, and write its descriptor."""
    listener = process.get(fd)
    if not isinstance(listener, Listener):
        raise Failure(Errno.INVAL if isinstance(listener, Connection) else Errno.NOTSOCK)
    require(listener, Right.SOCK_ACCEPT)
    if flags & ~FdFlag.NONBLOCK:
        raise Failure(Errno.INVAL)
    memory = caller.memory
    opened = span(memory, opened, 4)
    connection = listener.accept(caller, flags)
    grant(connection, listener.inheriting)
    SIZE.pack_into(memory, opened, process.add(connection))


def sock_recv(
    process: Process,
    caller: Caller,
    fd: int,
    ri_data: int,
    ri_data_len: int,
    ri_flags: int,
    ro_datalen: int,
    ro_flags: int,
) -> None:
    """Receive into the buffers."""
    connection = _connection(process, fd)
    require(connection, Right.FD_READ)
    if ri_flags & ~RiFlag.ALL:
        raise Failure(Errno.INVAL)
    if ri_flags & RiFlag.WAITALL:
        # Waiting for all of it cannot be given up without losing what came already.
        raise Failure(Errno.NOTSUP)
    memory = caller.memory
    buffers = vectors(memory, ri_data, ri_data_len)
    ro_datalen, ro_flags = span(memory, ro_datalen, 4), span(memory, ro_flags, 2)
    import socket  # only where there is one: it takes long

    peek = socket.MSG_PEEK if ri_flags & RiFlag.PEEK else 0
    count, got = connection.receive(caller, buffers, peek)
    SIZE.pack_into(memory, ro_datalen, count)
    truncated = RECV_DATA_TRUNCATED if got & socket.MSG_TRUNC else 0
    memory[ro_flags : ro_flags + 2] = truncated.to_bytes(2, "little")


def sock_send(
    process: Process,
    caller: Caller,
    fd: int,
    si_data: int,
    si_data_len: int,
    si_flags: int,
    so_datalen: int,
) -> None:
    """Send the buffers."""
    connection = _connection(process, fd)
    require(connection, Right.FD_WRITE)
    if si_flags:
        raise Failure(Errno.INVAL)
    memory = caller.memory
    buffers = vectors(memory, si_data, si_data_len)
    so_datalen = span(memory, so_datalen, 4)
    SIZE.pack_into(memory, so_datalen, connection.write(caller, buffers))


def sock_shutdown(process: Process, caller: Caller, fd: int, how: int) -> None:
    """Shut a connection down, in one direction or both."""
    connection = _connection(process, fd)
    require(connection, Right.SOCK_SHUTDOWN)
    if how not in _SHUTDOWN:
        raise Failure(Errno.INVAL)
    import socket

    connection.socket.shutdown(getattr(socket, _SHUTDOWN[how]))
