"""A memory that comes from another process: its pages in rounds, then the rest while it stands."""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Callable, Iterable

from wasmsr.errors import printable, reason
from wasmsr.mem.failures import RemoteMemoryAway, RemoteMemoryError
from wasmsr.mem.memory_link import PREFIX, parse_url
from wasmsr.mem.serving.memory_move import STOP_SECONDS, read_stop
from wasmsr.mem.serving.memory_region import MemoryCut, MemoryRegion
from wasmsr.mem.serving.page_cut import PAGE_BITS
from wasmsr.mem.wire.commands import (
    COMMAND_BYTES,
    HEADER,
    MOVE,
    MOVE_ASK,
    MOVE_BEGIN,
    MOVE_DONE,
    MOVE_ROUND,
    MOVE_STOP,
    MOVE_VERSION,
    MOVED,
    OK,
    OP_MOVE,
    OP_READ,
    OUT_OF_ORDER,
    PADDING,
    Command,
    CommandError,
    read_header,
    whole,
)
from wasmsr.mem.wire.sp import (
    HELLO_BYTES,
    ID,
    LAST,
    REP,
    REQ,
    check_hello,
    hello,
    receive_exactly,
    send_parts,
    set_timeouts,
)

ROUNDS = 8
"""Rounds at most, before the memory stands."""
FEW = 64
"""So few pages are left for the time in which it stands."""
PIECE = 16
"""Pages that are read at a time."""
DOUBT_SECONDS = 30.0
"""How long the other process is asked whether the memory has moved."""
MOST_PAGES = 1 << 30
"""Pages of a memory at most."""
WRONG = (LookupError, TypeError, ValueError, ArithmeticError, RecursionError)
"""What reading an answer of another form may raise."""


class MoveFailed(RemoteMemoryError):
    """A memory was not moved; it goes on where it was."""


class MoveInDoubt(RemoteMemoryError):
    """Nobody says whether a memory has moved, so it is not served here."""


class ArrivingMemory:
    """The destination's side of one move.

    Attributes:
        url: Where the memory is.
        size: Its length in bytes, 0 before it is known.
    """

    def __init__(self, url: str) -> None:
        """Make it; `begin` or `settle` follows.

        Args:
            url: `tcp://HOST:PORT`, where the memory is.

        Raises:
            TransportError: The text is no address.
        """
        parse_url(url)
        self.url = url
        self.size = 0
        self._token = os.urandom(16)
        self._sock: socket.socket | None = None
        self._request = int.from_bytes(os.urandom(4), "big") | LAST

    def begin(self) -> None:
        """Ask the memory to move here; `size` is its length then.

        Raises:
            MoveFailed: It refuses.
            RemoteMemoryError: It is away, or is no memory.
        """
        try:
            self._connect()
            status, said = self._ask(MOVE_BEGIN)
            if status != OK:
                raise self._refused(status, said)
            self.size = int(json.loads(said)["size"])
            if not 0 < self.size <= MOST_PAGES << PAGE_BITS:
                raise ValueError(f"a memory of {self.size} bytes")
        except (OSError, EOFError) as error:
            self.close()
            raise RemoteMemoryAway(f"{self._shown} is away: {reason(error)}", since=None) from error
        except WRONG as error:
            self.close()
            raise MoveFailed(f"{self._shown} gave a wrong answer: {reason(error)}") from error
        except BaseException:
            self.close()
            raise

    @property
    def _shown(self) -> str:
        return f"the memory at {printable(self.url)}"

    def close(self) -> None:
        """Close the connection; a move that is not finished is given up."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None

    def take(
        self, region: MemoryRegion, address: str, saved: Callable[[MemoryRegion], object]
    ) -> None:
        """Fill a memory, whose bytes are zero, and have it be here.

        Args:
            region: The memory, of `size` bytes.
            address: Where clients find it from now on, `tcp://HOST:PORT`.
            saved: Called before the memory stands, and again before it is here.

        Raises:
            MoveFailed: It goes on where it was.
            MoveInDoubt: The connection broke, and the other process cannot be asked.
        """
        parse_url(address)
        try:
            self._rounds(region)
            saved(region)
            status, said = self._ask(MOVE_STOP)
            if status != OK:
                raise self._refused(status, said)
            pages, what = read_stop(said, self.size)
            self._copy(region, _ones(pages))
            region.take_over(MemoryCut.read(what))
            saved(region)
        except (OSError, EOFError) as error:
            self.close()
            raise MoveFailed(f"{self._shown} stays: {reason(error)}") from error
        except WRONG as error:
            self.close()
            raise MoveFailed(f"{self._shown} gave a wrong answer: {reason(error)}") from error
        self._decide(address.encode(), MOVE_DONE)

    def settle(self, address: str) -> None:
        """Find out whether a memory has moved to an address: this process was ended before.

        Raises:
            MoveFailed: It has not; it goes on where it was.
            MoveInDoubt: The other process cannot be asked.
        """
        self._decide(address.encode(), MOVE_ASK)

    def _rounds(self, region: MemoryRegion) -> None:
        for _ in range(ROUNDS):
            status, said = self._ask(MOVE_ROUND)
            if status != OK:
                raise self._refused(status, said)
            pages = _ones(said)
            self._copy(region, pages)
            if len(pages) <= FEW:
                return

    def _copy(self, region: MemoryRegion, pages: list[int]) -> None:
        """Read pages; those that are next to each other together."""
        at = 0
        while at < len(pages):
            count = 1
            while count < PIECE and at + count < len(pages) and (
                pages[at + count] == pages[at] + count
            ):  # fmt: skip
                count += 1
            first = pages[at] << PAGE_BITS
            data = self._read(first, min(count << PAGE_BITS, self.size - first))
            place = region.buffer[first : first + len(data)]
            if place != data:  # zeros take no memory as long as nobody writes them
                place[:] = data
                region.still_dirty(pages[at : at + count])
            at += count

    def _decide(self, address: bytes, step: int) -> None:
        """Say that the memory is here, or ask, until it is known whether it is."""
        ends = time.monotonic() + DOUBT_SECONDS
        while True:
            try:
                if self._sock is None:
                    self._connect()
                status, said = self._ask(step, address if step == MOVE_DONE else b"")
            except (OSError, EOFError, ValueError, RemoteMemoryError) as error:
                self.close()
                step = MOVE_ASK  # if it has not heard of it, it gives the move up now
                if time.monotonic() > ends:
                    raise MoveInDoubt(
                        f"{self._shown} does not say whether it has moved: {reason(error)}",
                        hint="start this one again with its --folder when that one answers",
                    ) from error
                time.sleep(0.2)
                continue
            if (status == MOVED and said == address) or (status == OK and step == MOVE_DONE):
                return self.close()
            self.close()
            if status == OK:
                raise MoveFailed(f"{self._shown} stays: it heard of no decision")
            raise self._refused(status, said)

    def _refused(self, status: int, said: bytes) -> RemoteMemoryError:
        if status == MOVED:
            where = printable(said.decode("utf-8", "replace"), 100)
            return MoveFailed(f"{self._shown} has moved to {where} already", status=status)
        if status == OUT_OF_ORDER:
            return MoveFailed(
                f"{self._shown} does not move now: another move is under way, it stood for too "
                "long, or processes share it (--shm)", status=status,
            )  # fmt: skip
        return MoveFailed(f"{self._shown} does not move (status {status})", status=status,
                          hint="only a memory of this version of wasmsr does")  # fmt: skip

    # ---- the connection --------------------------------------------------------------------------

    def _connect(self) -> None:
        host, port = parse_url(self.url)
        sock = socket.create_connection((host, port), timeout=5.0)
        try:
            set_timeouts(sock, STOP_SECONDS)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            sock.sendall(hello(REQ))
            said = bytearray(HELLO_BYTES)
            receive_exactly(sock, memoryview(said))
            check_hello(bytes(said), REP)
        except BaseException:
            sock.close()
            raise
        self._sock = sock

    def _ask(self, step: int, more: bytes = b"") -> tuple[int, bytes]:
        data = MOVE.pack(MOVE_VERSION, self._token) + more
        most = 1 << 28
        answer, said = self._round(whole(Command(OP_MOVE, addr=step), data), most)
        if answer.op != OP_MOVE:
            raise MoveFailed(f"{self._shown} is not one of ours")
        return answer.status, said

    def _read(self, addr: int, size: int) -> bytes:
        command = Command(OP_READ, addr, size)
        answer, data = self._round(command.alone(), size)
        if answer.status != OK or len(data) != size:
            raise self._refused(answer.status, data)
        return data

    def _round(self, command: bytes, most: int) -> tuple[Command, bytes]:
        """Send a command and return (header, data) of its answer."""
        sock = self._sock
        assert sock is not None
        self._request = (self._request + 1) & 0xFFFFFFFF | LAST
        send_parts(sock, (PREFIX.pack(ID.size + len(command), self._request), command))
        head = memoryview(bytearray(PREFIX.size + HEADER.size))
        receive_exactly(sock, head)
        length, answered = PREFIX.unpack_from(head)
        length -= ID.size
        if answered != self._request or not COMMAND_BYTES <= length <= COMMAND_BYTES + most:
            raise ValueError("an answer of another length, or to another request")
        rest = bytearray(length - HEADER.size)
        receive_exactly(sock, memoryview(rest))
        try:
            header = read_header(bytes(head[PREFIX.size :]) + PADDING)
        except CommandError as error:
            raise ValueError(str(error)) from None
        return header, bytes(rest[: len(rest) - len(PADDING)])


def _ones(flags: Iterable[int]) -> list[int]:
    return [at for at, flag in enumerate(flags) if flag]


__all__ = ["ArrivingMemory", "MoveFailed", "MoveInDoubt"]
