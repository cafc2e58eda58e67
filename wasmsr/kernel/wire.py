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
import socket
import struct
from typing import Any

from wasmsr.errors import EXIT_USAGE, WasmsrError

LONGEST = 256 << 20
"""Bytes of one frame."""
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
