"""A memory that is served in this process, and plain sockets that speak to one."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from wasmsr.mem.serving.memory_region import MemoryRegion
from wasmsr.mem.serving.memory_server import MemoryServer
from wasmsr.mem.wire.sp import LAST, LENGTH, REP, REQ, hello, receive_exactly

SECONDS = 30.0
"""How long anything may take on a busy machine."""


class ServedMemory:
    """A server, its bytes, and what it noted."""

    def __init__(self, size: int) -> None:
        self.bytes = bytearray(size)
        self.notes: list[str] = []
        self.region = MemoryRegion(memoryview(self.bytes))
        self.server = MemoryServer(self.region, note=lambda _, words: self.notes.append(words))
        self.server.start()
        self.url = f"tcp://127.0.0.1:{self.server.port}"


@contextmanager
def served(size: int = 1 << 16) -> Iterator[ServedMemory]:
    found = ServedMemory(size)
    try:
        yield found
    finally:
        found.server.stop()


def raw(port: int) -> socket.socket:
    """A connection that has said nothing."""
    sock = socket.create_connection(("127.0.0.1", port), SECONDS)
    sock.settimeout(SECONDS)
    return sock


def greeted(port: int) -> socket.socket:
    """A connection of REQ that has said hello, and heard it."""
    sock = raw(port)
    sock.sendall(hello(REQ))
    said = bytearray(8)
    receive_exactly(sock, memoryview(said))
    assert bytes(said) == hello(REP)
    return sock


def ask(sock: socket.socket, command: bytes, number: int = LAST | 7) -> bytes:
    """Send a command in a message, and return the command of the answer."""
    stack = number.to_bytes(4, "big")
    sock.sendall(LENGTH.pack(4 + len(command)) + stack + command)
    head = bytearray(12)
    receive_exactly(sock, memoryview(head))
    assert bytes(head[8:]) == stack
    rest = bytearray(int.from_bytes(head[:8], "big") - 4)
    receive_exactly(sock, memoryview(rest))
    return bytes(rest)
