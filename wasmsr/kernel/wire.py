"""Messages between the relay and its worker: JSON in frames, over a pair of sockets.

A frame is four bytes with the length, in big-endian order, and the JSON of one object. The relay
asks with an `op`, the worker answers with a kind `k`. `n` is the number of the client's request.

| to the worker | |
|---|---|
| `execute` | `n`, `code`, `count`, `silent`, `stdin`, `expressions`; `goes_on`: with the state |
| `complete`, `inspect`, `is_complete` | `n`, `code`, `cursor`, `detail` |
| `input` | `value`: the line that was asked for |
| `cancel` | `n`: end this cell |
| `end` | end the process |

| from the worker | |
|---|---|
| `ready`, `failed` | it takes requests, `record`: the state it has; it cannot start, and `why` |
| `out` | `n`, `stream`, `text` |
| `show` | `n`, `data`: by MIME type, bytes in base64 |
| `input` | `n`, `at`, `prompt`, `password`: it waits for the line of this number |
| `done` | `n`, `reply`: its content; `value`: as `data`, or None; `parks`: the worker ends |
"""

from __future__ import annotations

import json
import logging
import socket
import struct
import subprocess
import sys
from collections import deque
from pathlib import Path
from typing import Any

from wasmsr.errors import EXIT_USAGE, WasmsrError

LONGEST = 256 << 20
"""Bytes of one frame."""
_log = logging.getLogger(__name__)
_SIZE = struct.Struct(">I")


class KernelError(WasmsrError):
    """The kernel cannot do what was asked of it, or one of its files is wrong."""

    exit_code = EXIT_USAGE


def frame(message: dict[str, Any]) -> bytes:
    """Return the bytes of a message. Raises KernelError: It is too long."""
    data = json.dumps(message).encode()
    if len(data) > LONGEST:
        raise KernelError(f"a message of {len(data)} bytes is too long for the kernel")
    return _SIZE.pack(len(data)) + data


class MessageReader:
    """Finds messages in bytes that come in pieces."""

    def __init__(self) -> None:
        self._text = bytearray()

    def feed(self, data: bytes) -> list[dict[str, Any]]:
        """Take bytes, and return the messages that are whole. Raises KernelError."""
        self._text += data
        found: list[dict[str, Any]] = []
        at = 0
        while len(self._text) - at >= _SIZE.size:
            (size,) = _SIZE.unpack_from(self._text, at)
            if size > LONGEST:
                raise KernelError(f"a message of {size} bytes is too long for the kernel")
            begin = at + _SIZE.size
            if len(self._text) - begin < size:
                break
            at = begin + size
            message = json.loads(self._text[begin:at])
            if type(message) is not dict:
                raise KernelError("a message between the parts of the kernel is no object")
            found.append(message)
        del self._text[:at]
        return found


def receive(stream: socket.socket, reader: MessageReader) -> list[dict[str, Any]] | None:
    """Return the next messages of a socket that has some bytes; None at its end."""
    try:
        data = stream.recv(1 << 20)
    except (ConnectionError, BlockingIOError) as error:
        return [] if isinstance(error, BlockingIOError) else None
    return reader.feed(data) if data else None


class CellProcess:
    """The process that has the sandbox.

    Args:
        settings: What it is told, as `KernelSettings.text` gives it.
        folder: Where its states are.
    """

    def __init__(self, settings: str, folder: Path) -> None:
        self.ready = False
        """Whether it has said what its state is."""
        self.stream, other = socket.socketpair()
        with other:
            words = [sys.executable, "-m", "wasmsr.kernel.worker", str(other.fileno())]
            self.process = subprocess.Popen(
                [*words, settings, str(folder)],
                pass_fds=[other.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._reader = MessageReader()
        self._frames: deque[bytes] = deque()
        self._sends = False

    def send(self, **message: Any) -> None:
        """Send a message; a worker that has ended does not get it.

        The handler of a signal may send one while another is half sent: it comes behind it.
        """
        self._frames.append(frame(message))
        while self._frames and not self._sends:
            self._sends = True
            try:
                self.stream.sendall(self._frames.popleft())
            except OSError:
                _log.info("the worker has ended before it got a message")
            finally:
                self._sends = False

    def receive(self) -> list[dict[str, Any]] | None:
        """Return the messages that are there; None if the worker has ended."""
        return receive(self.stream, self._reader)

    def close(self) -> int:
        """End it, and return its exit code."""
        self.stream.close()  # it ends when it sees that
        try:
            return self.process.wait(5)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return self.process.wait()
