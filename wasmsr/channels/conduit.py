"""The two ends of a socket between a program's channels and their host.

A frame is its kind, a descriptor, a size, and so many bytes. The first frame that the host sends is
the grant. A program's end is used by the program's thread alone.
"""

from __future__ import annotations

import json
import select
import socket
from contextlib import suppress
from struct import Struct

from wasmsr.channels.grant import Arrived, ChannelGrant
from wasmsr.channels.table import LARGEST
from wasmsr.errors import HostError
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Final

OPEN: Final = 0
CLOSE: Final = 1
MESSAGE: Final = 2
REPORT: Final = 3
GRANT: Final = 4

_HEAD = Struct("<BBI")
_SENT = Struct("<16sQ")
_NUMBERED = Struct("<16sIQ")
LONGEST_FRAME: Final = _HEAD.size + _NUMBERED.size + LARGEST
"""Bytes of a frame."""
_PIECE: Final = 1 << 18
_GRANT_SECONDS: Final = 10.0
_FLUSH_SECONDS: Final = 10.0
_GRANT_BYTES: Final = 1 << 20
_REPORTS_WAITING: Final = 1 << 20
_TOLD_WAITING: Final = 4 << 20


@record(frozen=True)
class ConduitFrame:
    """What came through a conduit.

    Attributes:
        kind: `OPEN`, `CLOSE`, `MESSAGE`, `REPORT` or `GRANT`.
        fd: The descriptor of the channel.
        payload: The rest.
    """

    kind: int
    fd: int
    payload: bytes


class FrameStream:
    """Finds frames in bytes that come in pieces."""

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, data: bytes) -> list[ConduitFrame]:
        """Take bytes, and return the frames that are whole now.

        Raises:
            HostError: What comes is no frame.
        """
        self._rest += data
        found, at = [], 0
        while len(self._rest) - at >= _HEAD.size:
            kind, fd, size = _HEAD.unpack_from(self._rest, at)
            if kind > GRANT or _HEAD.size + size > LONGEST_FRAME:
                raise HostError("what came through the conduit of channels is no frame of it")
            end = at + _HEAD.size + size
            if end > len(self._rest):
                break
            found.append(ConduitFrame(kind, fd, bytes(self._rest[at + _HEAD.size : end])))
            at = end
        del self._rest[:at]
        return found


def frame(kind: int, fd: int, payload: bytes = b"") -> bytes:
    """Return the bytes of a frame."""
    return _HEAD.pack(kind, fd, len(payload)) + payload


def arrived_frame(fd: int, data: bytes, life: bytes, epoch: int, number: int) -> bytes:
    """Return the frame of a message for a program."""
    return frame(MESSAGE, fd, _NUMBERED.pack(life, epoch, number) + data)


def written_message(payload: bytes) -> tuple[bytes, int, bytes]:
    """Return the writer's life, the number and the content of a message of a program.

    Raises:
        HostError: It has no number.
    """
    if len(payload) < _SENT.size:
        raise HostError("a message of a program has no number")
    life, number = _SENT.unpack_from(payload)
    return life, number, payload[_SENT.size :]


class Conduit:
    """A program's end: the port of its channels."""

    def __init__(self, descriptor: int) -> None:
        """Take a connected socket; `grant` gives the rest."""
        self._socket = socket.socket(fileno=descriptor)
        self._frames = FrameStream()
        self._out = bytearray()
        self._first: list[ConduitFrame] = []
        self._over = False

    def grant(self) -> ChannelGrant:
        """Return what the host gives: its first frame says it.

        Raises:
            HostError: It does not come.
        """
        self._socket.settimeout(_GRANT_SECONDS)
        try:
            while not self._first:
                data = self._socket.recv(_PIECE)
                if not data:
                    raise HostError("the host of channels has gone")
                self._first = self._frames.feed(data)
            first = self._first.pop(0)
            if first.kind != GRANT or len(first.payload) > _GRANT_BYTES:
                raise HostError("the host of channels does not say what it gives")
            about: dict[str, Any] = json.loads(first.payload)
        except (OSError, ValueError) as error:
            raise HostError(f"the host of channels does not say what it gives: {error}") from error
        self._socket.setblocking(False)
        return ChannelGrant.of(self, about)

    @property
    def gone(self) -> bool:
        """Whether the other end is closed."""
        return self._over

    def fileno(self) -> int:
        """Return the descriptor of the socket."""
        return self._socket.fileno()

    def open(self, fd: int, flags: int, topic: str) -> None:
        """Tell that a channel is open."""
        self._make_room()
        self._tell(frame(OPEN, fd, bytes((flags,)) + topic.encode()))

    def close(self, fd: int) -> None:
        """Tell that it is closed."""
        self._make_room()
        self._tell(frame(CLOSE, fd))

    def report(self, record: bytes) -> None:
        """Tell of a period, unless the host is too far behind."""
        self._write()
        if len(self._out) < _REPORTS_WAITING:
            self._tell(frame(REPORT, 0, record))

    def send(self, fd: int, life: bytes, number: int, data: bytes) -> bool:
        """Take a message, if those before it are on their way."""
        self._write()
        if self._out:
            return False
        self._tell(frame(MESSAGE, fd, _SENT.pack(life, number) + data))
        return True

    def receive(self) -> list[Arrived]:
        """Return what has come."""
        found, self._first = self._first, []
        while not self._over:
            try:
                data = self._socket.recv(_PIECE)
            except BlockingIOError:
                break
            except OSError:
                data = b""
            if not data:
                self._over = True
                break
            found += self._frames.feed(data)
            if len(data) < _PIECE // 2:
                break
        came = []
        for one in found:
            if one.kind == MESSAGE and len(one.payload) >= _NUMBERED.size:
                life, epoch, number = _NUMBERED.unpack_from(one.payload)
                came.append(Arrived(one.fd, one.payload[_NUMBERED.size :], life, epoch, number))
        return came

    def flush(self) -> None:
        """Wait until the host has read what was told. Raises OSError."""
        poll = select.poll()
        poll.register(self._socket, select.POLLOUT)
        while self._out:
            if self._over:
                raise BrokenPipeError("the host of channels is gone")
            if not poll.poll(_FLUSH_SECONDS * 1000):
                raise TimeoutError("the host of channels does not read")
            self._write()

    def shut(self) -> None:
        """Close the socket."""
        self._socket.close()

    def _make_room(self) -> None:
        """Wait for a host that is far behind: a program could open and close without end."""
        if len(self._out) >= _TOLD_WAITING:
            with suppress(OSError):
                self.flush()

    def _tell(self, data: bytes) -> None:
        self._out += data
        self._write()

    def _write(self) -> None:
        """Send what waits, as far as there is room."""
        try:
            while self._out:
                del self._out[: self._socket.send(self._out)]
        except BlockingIOError:
            return
        except OSError:
            self._over = True


__all__ = [
    "CLOSE", "GRANT", "LONGEST_FRAME", "MESSAGE", "OPEN", "REPORT", "Conduit", "ConduitFrame",
    "FrameStream", "arrived_frame", "frame", "written_message",
]  # fmt: skip
