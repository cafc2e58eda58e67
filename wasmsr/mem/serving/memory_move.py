"""A memory that leaves: another process copies it while it is used, then it stops for a moment.

The other process asks, step by step, on one connection. If that ends before the last step, the
memory goes on here as if nothing had been.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Protocol

from wasmsr.mem.serving.page_cut import PAGE_BITS, PAGE_BYTES
from wasmsr.mem.wire.commands import (
    LONGEST_ADDRESS,
    MOVE,
    MOVE_ASK,
    MOVE_BEGIN,
    MOVE_DONE,
    MOVE_ROUND,
    MOVE_STOP,
    MOVE_VERSION,
    MOVED,
    NOT_UNDERSTOOD,
    OK,
    OUT_OF_ORDER,
    PADDING,
)

STOP_SECONDS = 30.0
"""How long a memory may stand for a move. Then it goes on here, and the move fails."""


SILENT_SECONDS = 600.0
"""How long a mover may say nothing. Then another one may have the memory, for its machine may be
lost."""


class LeavingMemory(Protocol):
    """What a move needs of a memory: its bytes, where it has moved to, and what it is."""

    buffer: memoryview
    moved: bytes

    def cut_now(self) -> Any:
        """Return what the memory is, as a `MemoryCut`; the lock is held."""


class MemoryMove:
    """The source's side of moves of one memory, one at a time.

    Attributes:
        decide: Called with the new address before the memory is there; if it raises OSError, the
            memory stays. None where the memory cannot move: others write to it without commands.
    """

    def __init__(self, region: LeavingMemory, lock: threading.Lock) -> None:
        self.decide: Callable[[str], None] | None = lambda address: None
        self._region, self._lock = region, lock
        self._goes_on = threading.Condition(lock)
        self._mover: object | None = None
        self._token = b""
        self._written: bytearray | None = None
        self._ends = 0.0
        self._heard = 0.0

    def note(self, first: int, end: int) -> None:
        """Note that pages from `first` to `end` are written; the lock is held."""
        if self._written is not None:
            self._written[first:end] = b"\1" * (end - first)

    def wait(self, session: object) -> None:
        """Wait while the memory stands, unless the session is the mover's; the lock is held."""
        if session is self._mover:
            self._heard = time.monotonic()
        while self._ends and session is not self._mover:
            left = self._ends - time.monotonic()
            if left <= 0:
                self._give_up()
                return
            self._goes_on.wait(left)

    def left(self, session: object) -> None:
        """Give the move up that a connection made which has ended."""
        with self._lock:
            if session is self._mover:
                self._give_up()

    def _give_up(self) -> None:
        self._mover, self._token, self._written, self._ends = None, b"", None, 0.0
        self._goes_on.notify_all()

    def answer(self, session: object, step: int, data: memoryview) -> tuple[int, bytes]:
        """Do a step and return (status, data of the answer).

        Args:
            session: The connection on which it came.
            step: One of the `MOVE_` numbers.
            data: The data of the command, with the padding.
        """
        if len(data) < MOVE.size + len(PADDING):
            return NOT_UNDERSTOOD, b""
        version, token = MOVE.unpack_from(data)
        rest = bytes(data[MOVE.size : len(data) - len(PADDING)])
        if version != MOVE_VERSION:
            return NOT_UNDERSTOOD, b""
        with self._lock:
            if self._region.moved:
                return MOVED, self._region.moved
            if step == MOVE_ASK:
                self._give_up()  # who asks may be another process, and no decision may follow
                return OK, b""
            if step == MOVE_BEGIN:
                return self._begin(session, token)
            if session is not self._mover or token != self._token:
                return OUT_OF_ORDER, b""
            self._heard = time.monotonic()
            if step == MOVE_ROUND and not self._ends:
                return OK, self._since()
            if step == MOVE_STOP and not self._ends:
                self._ends = time.monotonic() + STOP_SECONDS
                said = json.dumps(self._region.cut_now().said()).encode()
                return OK, self._since() + said
            if step == MOVE_DONE and self._ends:
                return self._done(rest)
            return OUT_OF_ORDER, b""

    def _begin(self, session: object, token: bytes) -> tuple[int, bytes]:
        now = time.monotonic()
        if self.decide is None or (self._mover is not None and now < self._heard + SILENT_SECONDS):
            return OUT_OF_ORDER, b""
        self._give_up()
        self._heard = now
        count = len(self._region.buffer) + PAGE_BYTES - 1 >> PAGE_BITS
        self._mover, self._token = session, token
        self._written = bytearray(b"\1" * count)
        return OK, json.dumps({"size": len(self._region.buffer)}).encode()

    def _since(self) -> bytes:
        """Return a byte for each page, 1 if it was written since the last time."""
        assert self._written is not None
        found, self._written = bytes(self._written), bytearray(len(self._written))
        return found

    def _done(self, address: bytes) -> tuple[int, bytes]:
        """Have the memory be at another address, as far as it is here."""
        if not 0 < len(address) <= LONGEST_ADDRESS or time.monotonic() > self._ends:
            self._give_up()
            return OUT_OF_ORDER, b""
        try:
            assert self.decide is not None
            self.decide(address.decode())
        except (OSError, ValueError):
            self._give_up()
            return OUT_OF_ORDER, b""
        self._region.moved = address
        self._give_up()
        return OK, b""


def read_stop(data: bytes, size: int) -> tuple[bytes, Any]:
    """Return (a byte for each page, what the memory is) of the answer to `MOVE_STOP`.

    Raises:
        ValueError: It is none.
    """
    count = size + PAGE_BYTES - 1 >> PAGE_BITS
    if len(data) < count:
        raise ValueError("the answer is too short")
    with suppress(RecursionError):
        return data[:count], json.loads(data[count:])
    raise ValueError("the answer is nested too deep")
