"""One connection to a memory, from its first byte to its end, and the bytes that all may hold."""

from __future__ import annotations

import socket
import threading
import time

from wasmsr.mem.serving.memory_region import MemoryRegion, MemorySession
from wasmsr.mem.wire.commands import (
    COMMAND_BYTES,
    DATA_AT,
    OP_READ,
    PADDING,
    Command,
    CommandError,
    read_header,
)
from wasmsr.mem.wire.sp import (
    DEEPEST,
    HELLO_BYTES,
    ID,
    LENGTH,
    REP,
    REQ,
    check_hello,
    hello,
    receive_exactly,
    send_parts,
    set_timeouts,
    stack_of,
)

SMALL = 1 << 16
"""Bytes of a message that each connection may always hold."""
LARGE_BYTES = 1 << 28
"""Bytes that all larger messages together may hold, if the memory is not larger itself."""
SPARE_BYTES = 1 << 22
"""Bytes of a buffer that is kept for the next large message."""
SPARES = 8
"""Such buffers at most."""
HELLO_SECONDS = 10.0
"""How long a new connection may say nothing."""
STALL_SECONDS = 30.0
"""How long a peer in the middle of a message may send or take nothing."""
SLOWEST = 1 << 16
"""Bytes a second that a message must have on average, after `STALL_SECONDS`."""


class MessageBytes:
    """What large messages may hold together: who would hold too much waits."""

    def __init__(self, total: int) -> None:
        self._left = total
        self._changed = threading.Condition()
        self._spares: list[bytearray] = []

    def take(self, count: int) -> None:
        """Wait until so many bytes are free, and take them."""
        with self._changed:
            self._changed.wait_for(lambda: self._left >= count)
            self._left -= count

    def give(self, count: int) -> None:
        """Give bytes back."""
        with self._changed:
            self._left += count
            self._changed.notify_all()

    def borrow(self, length: int) -> bytearray:
        """Return a buffer for a message; one that was used is faster than a new one.

        The system gives a new buffer its memory as it is written: a length alone takes none.
        """
        with self._changed:
            if length <= SPARE_BYTES and self._spares:
                return self._spares.pop()
        return bytearray(max(length, SPARE_BYTES))

    def give_back(self, buffer: bytearray) -> None:
        """Keep a buffer for the next message, if it is one of those that are kept."""
        with self._changed:
            if len(buffer) == SPARE_BYTES and len(self._spares) < SPARES:
                self._spares.append(buffer)


class MemoryConversation:
    """Answers the commands of one connection, one after the other."""

    def __init__(self, sock: socket.socket, region: MemoryRegion, held: MessageBytes) -> None:
        self._sock = sock
        self._region = region
        self._held = held
        self._session = MemorySession()
        self._small = memoryview(bytearray(LENGTH.size + SMALL))
        self._have = 0
        self._longest = DEEPEST * ID.size + COMMAND_BYTES + region.size

    def run(self) -> None:
        """Answer until the peer closes the connection; a move that it made is given up then.

        Raises:
            OtherProtocolError: The peer speaks something else.
            CommandError: A message is too long, or too short for a command.
            BlockingIOError: The peer is silent or slow in the middle of a message.
            OSError: The connection is broken.
        """
        try:
            self._run()
        finally:
            self._region.move.left(self._session)

    def _run(self) -> None:
        """Answer until the peer closes the connection."""
        set_timeouts(self._sock, HELLO_SECONDS)
        self._sock.sendall(hello(REP))
        said = bytearray(HELLO_BYTES)
        receive_exactly(self._sock, memoryview(said))
        check_hello(bytes(said), REQ)
        set_timeouts(self._sock, STALL_SECONDS)
        while self._begin():
            self._fill(LENGTH.size)
            (length,) = LENGTH.unpack_from(self._small)
            if length > self._longest:
                raise CommandError(
                    f"a message of {length} bytes; {self._longest} are enough for all of the memory"
                )
            if length > SMALL:
                self._large_message(length)
                continue
            self._fill(LENGTH.size + length)
            end = LENGTH.size + length
            self._exchange(self._small[LENGTH.size : end])
            left = self._have - end
            if left:
                self._small[:left] = bytes(self._small[end : self._have])
            self._have = left

    def _begin(self) -> bool:
        """Wait for the first bytes of a message; False at the end of the connection."""
        while not self._have:
            try:
                self._have = self._sock.recv_into(self._small)
            except BlockingIOError:  # between two messages a client may compute for hours
                continue
            if not self._have:
                return False
        return True

    def _fill(self, count: int) -> None:
        """Receive until so many bytes of the message are here."""
        while self._have < count:
            got = self._sock.recv_into(self._small[self._have :])
            if not got:
                raise EOFError("the other end closed the connection")
            self._have += got

    def _large_message(self, length: int) -> None:
        self._held.take(length)
        try:
            buffer = self._held.borrow(length)
            message = memoryview(buffer)[:length]
            at = min(length, self._have - LENGTH.size)
            message[:at] = self._small[LENGTH.size : LENGTH.size + at]
            left = self._have - LENGTH.size - at
            self._small[:left] = bytes(self._small[self._have - left : self._have])
            self._have = left
            ends = time.monotonic() + STALL_SECONDS + length / SLOWEST
            while at < length:
                got = self._sock.recv_into(message[at:])
                if not got:
                    raise EOFError("the other end closed the connection")
                at += got
                if time.monotonic() > ends:
                    raise BlockingIOError
            self._exchange(message)
            self._held.give_back(buffer)
        finally:
            self._held.give(length)

    def _exchange(self, message: memoryview) -> None:
        """Answer one message."""
        at = stack_of(message)
        stack, body = bytes(message[:at]), message[at:]
        command = read_header(body)
        long = SMALL < command.size <= self._region.size
        if command.op == OP_READ and long and len(body) == COMMAND_BYTES:
            self._held.take(command.size)
            try:
                self._send(stack, command, body)
            finally:
                self._held.give(command.size)
        else:
            self._send(stack, command, body)

    def _send(self, stack: bytes, command: Command, body: memoryview) -> None:
        answer, data = self._region.answer(self._session, command, body[DATA_AT:])
        length = len(stack) + COMMAND_BYTES + len(data)
        head = LENGTH.pack(length) + stack + answer.header()
        if len(data) < SMALL:
            self._sock.sendall(b"".join((head, data, PADDING)))
        else:
            send_parts(self._sock, (head, data, PADDING))
