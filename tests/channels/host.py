"""The host's end of a conduit, played by a test, and programs that use channels."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.interp.machines import text
from wasmsr.channels import conduit
from wasmsr.channels.conduit import Conduit, ConduitFrame, FrameStream, arrived_frame, frame
from wasmsr.channels.functions import ARGUMENTS
from wasmsr.interp.modules.module import Module

MODULE_ID = "11111111-2222-3333-4444-555555555555"
RUNTIME_ID = "99999999-2222-3333-4444-555555555555"
ABOUT: dict[str, Any] = {
    "module": MODULE_ID,
    "runtime": RUNTIME_ID,
    "realm": "realm",
    "rules": [],
    "period": 0,
}

IMPORTS = "\n".join(
    f'(import "env" "{name}" (func ${name} (param {"i32 " * count}) (result i32)))'
    for name, count in ARGUMENTS.items()
)
CALLS = "\n".join(
    f'(func (export "{name}") (param {"i32 " * count}) (result i32)'
    f" (call ${name} {' '.join(f'(local.get {at})' for at in range(count))}))"
    for name, count in ARGUMENTS.items()
)
"""All functions, for a test to call."""

DRIVER = f"""(module {IMPORTS} (memory (export "memory") 1)
  (data (i32.const 0) "in\\00") (data (i32.const 16) "out\\00") (data (i32.const 32) "$SL/x\\00")
  (data (i32.const 48) "all/#\\00") (data (i32.const 64) "\\00\\00\\00\\00\\01\\00\\00\\00")
  {CALLS})"""

ECHO = f"""(module {IMPORTS} (memory (export "memory") 1)
  (data (i32.const 0) "in\\00") (data (i32.const 16) "out\\00")
  (func (export "_start") (local $in i32) (local $out i32) (local $n i32)
    (local.set $in (call $ch_open (i32.const 0) (i32.const 0) (i32.const 0)))
    (local.set $out (call $ch_open (i32.const 16) (i32.const 1) (i32.const 0)))
    (i32.store (i32.const 64) (local.get $in))
    (loop $again
      (drop (call $ch_poll (i32.const 64) (i32.const 1) (i32.const 0)))
      (loop $more
        (local.set $n (call $ch_read_msg (local.get $in) (i32.const 128) (i32.const 1024)))
        (if (i32.gt_s (local.get $n) (i32.const 0)) (then
          (drop (call $ch_write_msg (local.get $out) (i32.const 128) (local.get $n)))
          (br $more))))
      (br $again))))"""
"""Copies each message of `in` to `out`."""


class Host:
    """The host of one program's channels."""

    def __init__(self, **about: Any) -> None:
        ours, theirs = socket.socketpair()
        self.socket, self.end = ours, theirs
        self.frames = FrameStream()
        self.seen: list[ConduitFrame] = []
        self.socket.settimeout(60)
        self.socket.sendall(frame(conduit.GRANT, 0, json.dumps(ABOUT | about).encode()))

    def conduit(self) -> Conduit:
        """Return the program's end, once."""
        return Conduit(self.end.detach())

    def give(
        self, fd: int, data: bytes, life: bytes = bytes(16), epoch: int = 0, number: int = 0
    ) -> None:
        """Send a message to the program."""
        self.socket.sendall(arrived_frame(fd, data, life, epoch, number))

    def next(self) -> ConduitFrame:
        """Return what the program told or sent next."""
        while not self.seen:
            self.seen += self.frames.feed(self.socket.recv(1 << 16))
        return self.seen.pop(0)

    def close(self) -> None:
        """Close both ends."""
        self.socket.close()
        self.end.close()


@contextmanager
def host(**about: Any) -> Iterator[Host]:
    """Give a host, which is closed at the end."""
    made = Host(**about)
    try:
        yield made
    finally:
        made.close()


def module(source: str) -> Module:
    """Return the module of a text."""
    return text(source)
