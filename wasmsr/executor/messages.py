"""Messages between an executor and its worker: a length, msgpack, and descriptors beside them."""

from __future__ import annotations

import array
import os
import socket
import struct
from typing import Any

import msgpack

from wasmsr.executor.port import ExecutorError

LARGEST = 1 << 24
"""Bytes of one message at most."""

DESCRIPTORS = 8
"""Descriptors that come with one message at most."""

METHODS: dict[str, tuple[str, ...]] = {
    "start": ("streams",),
    "adopt": ("snapshot", "streams"),
    "restore": ("streams",),
    "snapshot": ("file",),
    **dict.fromkeys(("programs", "wait", "pause", "resume", "cancel", "logs", "stats"), ()),
    **dict.fromkeys(("lease", "called"), ()),
    "checkpoint": (),
    **dict.fromkeys(("run_to", "step", "frames", "read_memory", "mark", "rewind"), ()),
    **dict.fromkeys(("describe", "sync"), ()),
    "leave": ("end",),
    "arrive": ("end", "image", "file"),
}
"""The methods of the port (`MovesPrograms`), each with its arguments that are descriptors."""

VERSION = 4
"""The version of these messages. A supervisor and a worker of different versions do not talk."""

_LENGTH = struct.Struct("<I")


def send(end: socket.socket, message: Any, descriptors: list[int] | None = None) -> None:
    """Send a message; `descriptors` are duplicated for the other process.

    Raises:
        ExecutorError: The message is too large, or the other process is gone.
    """
    data = msgpack.packb(message)
    if len(data) > LARGEST:
        raise ExecutorError(f"a message of {len(data)} bytes; {LARGEST} are the most")
    view = memoryview(_LENGTH.pack(len(data)) + data)
    try:
        if descriptors:
            rights = (socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))
            view = view[end.sendmsg([view], [rights]) :]
        end.sendall(view)
    except OSError as error:
        raise ExecutorError(f"the other process does not listen: {error.strerror}") from error


def receive(end: socket.socket) -> tuple[Any, list[int]] | None:
    """Return the next message and its descriptors, or None at the end.

    Raises:
        ExecutorError: What came is no message.
    """
    descriptors: list[int] = []
    try:
        head = _exactly(end, _LENGTH.size, descriptors)
        if head is None:
            return None
        (size,) = _LENGTH.unpack(head)
        if size > LARGEST:
            raise ExecutorError(f"a message of {size} bytes; {LARGEST} are the most")
        data = _exactly(end, size, descriptors)
        if data is None:
            raise ExecutorError("the other process broke a message off")
        return msgpack.unpackb(data, use_list=True, strict_map_key=False), descriptors
    except BaseException as error:
        for descriptor in descriptors:
            os.close(descriptor)
        if isinstance(error, (ValueError, OSError)):
            raise ExecutorError(f"not a message: {error}") from error
        raise


def hello() -> list[Any]:
    """Return the first message of a worker: what it is, its version and its process id."""
    return ["wasmsr worker", VERSION, os.getpid()]


def check_hello(message: Any) -> int:
    """Return the process id in the first message of a worker.

    Raises:
        ExecutorError: It is no worker, or one of another version.
    """
    if not isinstance(message, list) or len(message) != 3 or message[0] != "wasmsr worker":
        raise ExecutorError("what answers is no worker of wasmsr")
    if message[1] != VERSION:
        raise ExecutorError(
            f"the worker speaks version {message[1]!r}, and this wasmsr version {VERSION}",
            hint="end the worker; its programs go on from their checkpoints",
        )
    if type(message[2]) is not int:
        raise ExecutorError("the worker does not say which process it is")
    return message[2]


def _exactly(end: socket.socket, size: int, descriptors: list[int]) -> bytes | None:
    """Return so many bytes, or None if there are none at all; descriptors are added."""
    data = bytearray()
    while len(data) < size:
        piece, rights, _, _ = end.recvmsg(
            size - len(data), socket.CMSG_SPACE(DESCRIPTORS * 4), socket.MSG_CMSG_CLOEXEC
        )
        for level, kind, value in rights:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                numbers = array.array("i")
                numbers.frombytes(value[: len(value) - len(value) % 4])
                descriptors += numbers
        if not piece:
            if data:
                raise ExecutorError("the other process broke a message off")
            return None
        data += piece
    return bytes(data)
