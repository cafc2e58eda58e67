"""Frames between a manager of a node and a worker: `[u32 LE length][h1][h2][payload]`.

Bit 7 of `h1` says that the frame is control; the low bits are the module's number. `h2` of a
control frame is its kind; of any other it is the descriptor of the channel of a message.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from wasmsr.fleet.wire.failures import WireError

HEADER: Final = struct.Struct("<IBB")
CONTROL: Final = 0x80
LARGEST: Final = 16 << 20
"""Bytes of a payload."""
MODULES: Final = 128
DESCRIPTORS: Final = 256
LOG: Final = 0x80
"""Bit of the byte before the text of a log line; the low bits are the level of Python's logging."""


class ToWorker(IntEnum):
    """Kinds of control frames that a manager sends."""

    CREATE = 0
    DELETE = 1
    STOP = 2


class FromWorker(IntEnum):
    """Kinds of control frames that a worker sends."""

    KEEPALIVE = 0
    LOG = 1
    EXITED = 2
    OPEN = 3
    CLOSE = 4
    MODULE_LOG = 5
    PROFILE = 6


@dataclass(frozen=True)
class WorkerFrame:
    """A frame.

    Attributes:
        module: The module's number at its worker, below 128.
        kind: Of a control frame, its kind; of a message, the descriptor of its channel.
        payload: At most 16 MiB.
        control: Whether it is a control frame.
    """

    module: int
    kind: int
    payload: bytes = b""
    control: bool = True

    def encode(self) -> bytes:
        """Return its bytes.

        Raises:
            WireError: A number or the payload is too large.
        """
        if not 0 <= self.module < MODULES or not 0 <= self.kind < DESCRIPTORS:
            raise WireError("number does not fit a frame", [self.module, self.kind])
        _check_size(len(self.payload))
        first = self.module | (CONTROL if self.control else 0)
        return HEADER.pack(len(self.payload), first, self.kind) + self.payload


class FrameReader:
    """Finds frames in a stream of bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._rest = bytearray()

    @property
    def waiting(self) -> int:
        """Bytes of a frame that is not whole yet."""
        return len(self._rest)

    def feed(self, data: bytes) -> list[WorkerFrame]:
        """Take bytes, and return the frames that are whole now.

        Raises:
            WireError: A frame says that it is larger than 16 MiB. The stream is of no use then.
        """
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= HEADER.size:
            size, first, kind = HEADER.unpack_from(self._rest, at)
            _check_size(size)
            end = at + HEADER.size + size
            if end > len(self._rest):
                break
            payload = bytes(self._rest[at + HEADER.size : end])
            found.append(
                WorkerFrame(first & ~CONTROL, kind, payload, control=bool(first & CONTROL))
            )
            at = end
        del self._rest[:at]
        return found


@dataclass(frozen=True)
class ChannelOpening:
    """The payload of `FromWorker.OPEN`.

    Attributes:
        descriptor: The descriptor that the module has for it.
        reads: Whether the module gets its messages.
        writes: Whether the module writes messages.
        topic: The topic, or `$SL/...` for one of the module's own.
        terminated: Whether a zero byte follows the topic, as workers in C send it.
    """

    descriptor: int
    reads: bool
    writes: bool
    topic: str
    terminated: bool = False

    def encode(self) -> bytes:
        """Return the payload."""
        flags = self.reads | self.writes << 1
        return bytes((self.descriptor, flags)) + self.topic.encode() + b"\0" * self.terminated

    @classmethod
    def decode(cls, payload: bytes) -> ChannelOpening:
        """Read a payload.

        Raises:
            WireError: It is too short, has other flags, or its topic is no text.
        """
        if len(payload) < 3 or payload[1] not in (1, 2, 3):
            raise WireError("invalid channel", payload[:64].hex())
        terminated = payload[-1] == 0
        try:
            topic = payload[2 : len(payload) - terminated].decode()
        except UnicodeDecodeError:
            raise WireError("invalid channel", payload[:64].hex()) from None
        if not topic or "\0" in topic:
            raise WireError("invalid channel", payload[:64].hex())
        return cls(payload[0], bool(payload[1] & 1), bool(payload[1] & 2), topic, terminated)


@dataclass(frozen=True)
class WorkerLog:
    """The payload of `FromWorker.LOG`.

    Attributes:
        level: The level, as Python's `logging` counts: 10 is DEBUG, 50 is CRITICAL.
        text: The line; bytes that are no UTF-8 are escaped as `surrogateescape` does.
    """

    level: int
    text: str

    def encode(self) -> bytes:
        """Return the payload.

        Raises:
            WireError: The level does not fit.
        """
        if not 0 <= self.level < LOG:
            raise WireError("invalid level", self.level)
        return bytes((LOG | self.level,)) + self.text.encode(errors="surrogateescape")

    @classmethod
    def decode(cls, payload: bytes) -> WorkerLog:
        """Read a payload.

        Raises:
            WireError: It has no level.
        """
        if not payload or not payload[0] & LOG:
            raise WireError("invalid log line", payload[:64].hex())
        return cls(payload[0] & ~LOG, payload[1:].decode(errors="surrogateescape"))


def _check_size(size: int) -> None:
    if size > LARGEST:
        raise WireError("frame too large", size, hint=f"a payload has at most {LARGEST} bytes")
