"""Sockets: listening ones that a program was started with, and connections that it accepted."""

from __future__ import annotations

import os

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.streams.descriptor import Descriptor, FileKind
from wasmsr.wasi.streams.waiting import IN, OUT, wait

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket


class Listener(Descriptor):
    """A listening socket that the program was started with, the one of number `index`.

    The host's socket does not block, since a connection that made it ready may be gone before it is
    accepted. Calls wait here instead.
    """

    __slots__ = ("index", "socket")
    kind = "listener"

    def __init__(self, listening: socket.socket, index: int) -> None:
        super().__init__(listening.fileno(), FileKind.SOCKET_STREAM)
        self.owned = False
        self.index = index
        self.socket = listening
        listening.setblocking(False)

    def accept(self, caller: Caller, flags: int) -> Connection:
        """Return the next connection; wait for it unless the listener does not block."""
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                connected, _ = self.socket.accept()
            except BlockingIOError:
                if self.nonblocking:
                    raise
                continue
            connected.setblocking(True)
            connection = Connection(connected)
            connection.flags = flags
            return connection

    def stat(self) -> os.stat_result | None:
        """Return the host's attributes."""
        return os.fstat(self.host)


class Connection(Descriptor):
    """A connected stream socket."""

    __slots__ = ("socket",)
    kind = "connection"

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected.fileno(), FileKind.SOCKET_STREAM)
        self.socket = connected

    def close(self) -> None:
        """Close the connection."""
        self.socket.close()

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Receive into buffers; return the number of bytes."""
        return self.receive(caller, buffers, 0)[0]

    def receive(self, caller: Caller, buffers: list[memoryview], flags: int) -> tuple[int, int]:
        """Receive into buffers.

        Args:
            caller: The caller that may wait.
            buffers: Where to.
            flags: The host's MSG_PEEK, or 0.

        Returns:
            The number of bytes, and the host's message flags.
        """
        import socket  # only where there is one: it takes long

        if not any(map(len, buffers)):
            return 0, 0
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                count, _, got, _ = self.socket.recvmsg_into(buffers, 0, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.nonblocking:
                    raise
                continue
            return count, got

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Send as much as the socket takes at once, at least a byte."""
        import socket

        if not any(map(len, buffers)):
            return 0
        while True:
            wait(caller, self.host, OUT, nonblocking=self.nonblocking)
            try:
                return self.socket.sendmsg(buffers, [], socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.nonblocking:
                    raise
