"""Messages over TCP as nanomsg and nng frame them: scalability protocols, REQ and REP.

Each end says hello in eight bytes: `00 'S' 'P' 00`, its protocol as u16 big-endian, and two bytes
0. A message is its length as u64 big-endian, and so many bytes. A request begins with a stack of
u32 big-endian; the last of them has bit 31 set. The answer begins with the same stack.

Source: nanomsg, RFC "sp-tcp-mapping-01" and "sp-request-reply-01".
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Sequence

from wasmsr.errors import printable
from wasmsr.mem.failures import OtherProtocolError

REQ = 0x30
REP = 0x31
HELLO_BYTES = 8
LENGTH = struct.Struct(">Q")
ID = struct.Struct(">I")
LAST = 0x80000000
"""Bit 31: this u32 is the last of its stack."""
DEEPEST = 8
"""Entries of a stack at most: a request has passed fewer devices than that."""

PROTOCOLS = {
    0x10: "PAIR", 0x11: "PAIR 1", 0x20: "PUB", 0x21: "SUB", REQ: "REQ", REP: "REP", 0x50: "PUSH",
    0x51: "PULL", 0x62: "SURVEYOR", 0x63: "RESPONDENT",
    0x70: "BUS",
}  # fmt: skip
"""Numbers of the scalability protocols."""

SPEAKERS = (
    (b"GET ", "an HTTP client"),
    (b"POST", "an HTTP client"),
    (b"HEAD", "an HTTP client"),
    (b"PUT ", "an HTTP client"),
    (b"HTTP", "an HTTP server"),
    (b"PRI ", "a client of HTTP/2 or gRPC"),
    (b"\x00\x00\x12\x04", "a server of HTTP/2 or gRPC"),
    (b"SSH-", "an SSH server"),
    (b"\x16\x03", "a client of TLS"),
    (b"\x15\x03", "a server of TLS"),
    (b"220 ", "a server of mail or files"),
    (b"-ERR", "a Redis server"),
    (b"\xff\x00\x00\x00", "a ZeroMQ socket"),
)
"""How other protocols begin, and who says that first."""


def hello(protocol: int) -> bytes:
    """Return what an end of this protocol says first."""
    return b"\x00SP\x00" + protocol.to_bytes(2, "big") + b"\x00\x00"


def check_hello(said: bytes, wanted: int) -> None:
    """Check what the other end has said first.

    Raises:
        OtherProtocolError: It is no end of `wanted`; the message says what it is.
    """
    if said == hello(wanted):
        return
    name = PROTOCOLS[wanted]
    if said[:4] == b"\x00SP\x00":
        number = int.from_bytes(said[4:6], "big")
        what = f"a nanomsg socket of {PROTOCOLS.get(number, f'protocol {number:#x}')}"
    else:
        what = next(
            (who for start, who in SPEAKERS if said.startswith(start)),
            f"something else, which began with {said.hex(' ')}" if said else "nothing",
        )
    raise OtherProtocolError(
        f"{printable(what)} is speaking, and not a nanomsg socket of {name}",
        hint="a memory element is served by `wasmsr memory PORT`",
    )


def stack_of(message: bytes | bytearray | memoryview) -> int:
    """Return how many bytes at the beginning of a message are its stack.

    Raises:
        OtherProtocolError: The stack has no end within `DEEPEST` entries.
    """
    for depth in range(min(DEEPEST, len(message) // ID.size)):
        if ID.unpack_from(message, depth * ID.size)[0] & LAST:
            return (depth + 1) * ID.size
    raise OtherProtocolError("a message has no request id")


def set_timeouts(sock: socket.socket, seconds: float) -> None:
    """Bound how long one call may wait; then it raises BlockingIOError.

    The system does it. Python's own time-outs cost two more calls of the system each time.
    """
    whole = int(seconds)
    value = struct.pack("@ll", whole, int((seconds - whole) * 1e6))
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, value)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, value)


def receive_exactly(sock: socket.socket, into: memoryview) -> None:
    """Fill a buffer from a socket.

    Raises:
        EOFError: The other end has closed the connection.
        OSError: The connection is broken, or silent for longer than its time-out (BlockingIOError).
    """
    at = 0
    while at < len(into):
        got = sock.recv_into(into[at:])
        if not got:
            raise EOFError("the other end closed the connection")
        at += got


def send_parts(sock: socket.socket, parts: Sequence[bytes | bytearray | memoryview]) -> None:
    """Send buffers one after the other, if possible in one call of the system.

    Raises:
        OSError: The connection is broken, or takes nothing for longer than its time-out.
    """
    left = [memoryview(part) for part in parts if len(part)]
    while left:
        sent = sock.sendmsg(left)
        while left and sent >= len(left[0]):
            sent -= len(left.pop(0))
        if sent:
            left[0] = left[0][sent:]
