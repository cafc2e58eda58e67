"""The bytes of a memory, and what each command does to them: no sockets, no threads of its own."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

from wasmsr.mem.serving.memory_move import MemoryMove
from wasmsr.mem.serving.page_cut import PAGE_BITS, PAGE_BYTES, PageCut
from wasmsr.mem.wire.commands import (
    CLIENT_ID_BYTES,
    COMMAND_BYTES,
    DATA_AT,
    FENCED,
    LONGEST_ADDRESS,
    MOVED,
    NOT_UNDERSTOOD,
    OK,
    OP_HELLO,
    OP_MOVE,
    OP_NOP,
    OP_READ,
    OP_WRITE,
    OUT_OF_BOUNDS,
    OUT_OF_ORDER,
    PADDING,
    Command,
    CommandError,
    Welcome,
    read_header,
    read_hello,
)

CLIENTS = 65_536
"""Clients whose last answer a memory keeps; those that have been silent longest are forgotten."""


@dataclass
class MemoryClient:
    """What a memory keeps of one client that has said HELLO.

    Attributes:
        ident: Its id, 16 bytes.
        seq: The number of its last command that was answered, or None before the first.
        answer: The header of that answer.
        epoch: The epoch that it has said.
    """

    ident: bytes
    epoch: int
    seq: int | None = None
    answer: Command = field(default_factory=lambda: Command(OP_NOP))


@dataclass
class MemorySession:
    """One connection to a memory.

    Attributes:
        client: Who is at its other end; None until HELLO, and for peers that never say it.
        commands: Commands that were answered.
    """

    client: MemoryClient | None = None
    commands: int = 0


@dataclass(frozen=True)
class MemoryCut:
    """What a memory is at one instant, without its bytes.

    Attributes:
        ident: Its id, 16 bytes.
        size: Its length in bytes.
        epoch: The newest epoch that it has heard of.
        clients: (id, epoch, number of the last command or None, its answer's header) of each
            client, those that have been silent longest first.
    """

    ident: bytes
    size: int
    epoch: int
    clients: tuple[tuple[bytes, int, int | None, Command], ...]

    def said(self) -> dict[str, Any]:
        """Return it as plain data that can be JSON."""
        clients = [
            [ident.hex(), epoch, seq, answer.header().hex()]
            for ident, epoch, seq, answer in self.clients
        ]
        return {"memory": self.ident.hex(), "size": self.size, "epoch": self.epoch,
                "clients": clients}  # fmt: skip

    @classmethod
    def read(cls, said: Any) -> MemoryCut:
        """Return the cut that plain data describe.

        Raises:
            LookupError, TypeError, ValueError: They describe none.
        """
        clients = []
        for ident, epoch, seq, answer in said["clients"]:
            header = bytes.fromhex(answer)
            if len(header) != DATA_AT or not _is_number(epoch, 1 << 64):
                raise ValueError("a client of it is none")
            if seq is not None and not _is_number(seq, 65_536):
                raise ValueError("a client of it is none")
            clients.append((_ident(ident), epoch, seq, read_header(header + PADDING)))
        size, epoch = said["size"], said["epoch"]
        if not _is_number(size, 1 << 46) or not _is_number(epoch, 1 << 64):
            raise ValueError("its size or epoch is none")
        return cls(_ident(said["memory"]), size, epoch, tuple(clients))


class MemoryRegion:
    """The bytes of a memory, its clients, and its epoch.

    Each command is done whole or not at all, and one after the other. A write of a client that has
    said HELLO is done once, however often it arrives.

    Attributes:
        buffer: The bytes; writable.
        ident: An id of 16 bytes, random unless given.
        epoch: The newest epoch that a client has said.
    """

    def __init__(self, buffer: memoryview, ident: bytes = b"") -> None:
        self.buffer = buffer.cast("B")
        self.ident = ident or os.urandom(CLIENT_ID_BYTES)
        self.epoch = 0
        self._clients: OrderedDict[bytes, MemoryClient] = OrderedDict()
        self._lock = threading.Lock()
        self.move = MemoryMove(self, self._lock)
        self.moved = b""
        self._cutting = threading.Lock()
        self._pages: PageCut | None = None
        self._dirty = bytearray(len(self.buffer) + PAGE_BYTES - 1 >> PAGE_BITS)

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.buffer)

    def answer(
        self, session: MemorySession, command: Command, data: memoryview
    ) -> tuple[Command, bytes]:
        """Do one command and return (header of the answer, data of the answer).

        Args:
            session: The connection on which it came.
            command: Its header.
            data: What follows byte 20, with the padding.
        """
        session.commands += 1
        if command.op == OP_HELLO:
            return self._hello(session, command, data)
        if command.op == OP_MOVE:
            status, said = self.move.answer(session, command.addr, data)
            return _answer(command, status), said
        with self._lock:
            self.move.wait(session)
            client = session.client
            if self.moved:
                return _answer(command, MOVED), self.moved
            if client is not None and client.epoch < self.epoch:
                return _answer(command, FENCED), b""
            if client is not None and client.seq is not None:
                if command.seq == client.seq:
                    return self._again(client, command)
                if command.seq != (client.seq + 1) % 65_536:
                    return _answer(command, OUT_OF_ORDER), b""
            answer, read = self._done(command, data)
            if client is not None:
                client.seq, client.answer = command.seq, answer
            return answer, read

    def _done(self, command: Command, data: memoryview) -> tuple[Command, bytes]:
        """Do a command of someone who may; the lock is held."""
        addr, size = command.addr, command.size
        if command.op == OP_WRITE:
            # The last padding may be missing: some peers send 20 + n bytes.
            if len(data) not in (size, size + COMMAND_BYTES - DATA_AT):
                return _answer(command, NOT_UNDERSTOOD), b""
        elif command.op not in (OP_READ, OP_NOP) or len(data) != COMMAND_BYTES - DATA_AT:
            return _answer(command, NOT_UNDERSTOOD), b""
        if command.op == OP_NOP:
            return _answer(command, OK), b""
        if size > len(self.buffer) or addr > len(self.buffer) - size:
            return _answer(command, OUT_OF_BOUNDS), b""
        if command.op == OP_READ:
            return _answer(command, OK), bytes(self.buffer[addr : addr + size])
        if size:
            first, end = addr >> PAGE_BITS, (addr + size - 1 >> PAGE_BITS) + 1
            if self._pages is not None:
                self._pages.keep(first, end)
            self.buffer[addr : addr + size] = data[:size]
            self.move.note(first, end)
            if end - first == 1:
                self._dirty[first] = 1
            else:
                self._dirty[first:end] = b"\1" * (end - first)
        return _answer(command, OK), b""

    def _again(self, client: MemoryClient, command: Command) -> tuple[Command, bytes]:
        """Answer a command that was answered before; a read may see newer bytes.

        What differs from the command of that number is refused, so that a client that counts
        wrongly hears of it.
        """
        before = client.answer
        same = (before.op, before.addr, before.size) == (command.op, command.addr, command.size)
        if not same:
            return _answer(command, OUT_OF_ORDER), b""
        if before.op == OP_READ and before.status == OK:
            return before, bytes(self.buffer[before.addr : before.addr + before.size])
        return before, b""

    def _hello(
        self, session: MemorySession, command: Command, data: memoryview
    ) -> tuple[Command, bytes]:
        try:
            ident, epoch = read_hello(data)
        except CommandError:
            return _answer(command, NOT_UNDERSTOOD), b""
        with self._lock:
            self.move.wait(session)
            if self.moved:
                return _answer(command, MOVED), self.moved
            if epoch < self.epoch:
                return _answer(command, FENCED), self._welcome(None).data()
            self.epoch = epoch
            known = self._clients.pop(ident, None)
            # A connection of the same client that is still open has the same record, so what
            # arrives on it late is a repetition, or is refused.
            client = known or MemoryClient(ident, epoch)
            client.epoch = epoch
            self._clients[ident] = client
            while len(self._clients) > CLIENTS:
                self._clients.popitem(last=False)
            session.client = client
            return _answer(command, OK), self._welcome(known).data()

    def _welcome(self, known: MemoryClient | None) -> Welcome:
        last = None if known is None else known.seq
        return Welcome(self.ident, len(self.buffer), self.epoch, last is not None, last or 0)

    # ---- the memory as a whole -------------------------------------------------------------------

    def begin_cut(self, *, every_page: bool = False) -> tuple[MemoryCut, PageCut]:
        """Return what the memory is now, and the pages that were written since the last cut.

        No command is under way at that instant. The memory goes on at once: the pages are copied
        as they are asked for, or before they are written. `end_cut` must follow; another cut waits
        for it.

        Args:
            every_page: Give all pages: others write to the memory without commands. What they
                write meanwhile may be in the cut.
        """
        self._cutting.acquire()
        try:
            with self._lock:
                count = len(self._dirty)
                wanted = bytearray(b"\1" * count) if every_page else self._dirty
                pages = PageCut(self.buffer, wanted, self._lock)
                self._dirty = bytearray(count)
                self._pages = pages
                return self.cut_now(), pages
        except BaseException:
            self._cutting.release()
            raise

    def cut_now(self) -> MemoryCut:
        """Return what the memory is now, without its bytes; the lock is held."""
        clients = tuple(
            (one.ident, one.epoch, one.seq, one.answer) for one in self._clients.values()
        )
        return MemoryCut(self.ident, len(self.buffer), self.epoch, clients)

    def end_cut(self, pages: PageCut) -> None:
        """End a cut: its pages are copied, or not needed any more."""
        with self._lock:
            if self._pages is not pages:
                return
            self._pages = None
        self._cutting.release()

    def cut(self, *, every_page: bool = False) -> tuple[MemoryCut, dict[int, bytes]]:
        """Return a whole cut: what the memory is, and copies of pages by their numbers.

        Args:
            every_page: As for `begin_cut`.
        """
        cut, pages = self.begin_cut(every_page=every_page)
        try:
            return cut, dict(pages)
        finally:
            self.end_cut(pages)

    def still_dirty(self, pages: Iterable[int]) -> None:
        """Say that pages of the last cut were not saved."""
        with self._lock:
            for page in pages:
                self._dirty[page] = 1

    def take_over(self, cut: MemoryCut) -> None:
        """Become the memory of a cut, whose bytes are in the buffer already."""
        with self._lock:
            self.ident, self.epoch = cut.ident, cut.epoch
            self._clients = OrderedDict(
                (ident, MemoryClient(ident, epoch, seq, answer))
                for ident, epoch, seq, answer in cut.clients
            )

    def fence(self, epoch: int) -> None:
        """Refuse all epochs before this one from now on."""
        with self._lock:
            self.epoch = max(self.epoch, epoch)

    def move_to(self, address: str) -> None:
        """Do no command from now on: answer each with the address where the memory is."""
        words = address.encode()
        if not 0 < len(words) <= LONGEST_ADDRESS:
            raise ValueError(f"an address has 1 to {LONGEST_ADDRESS} bytes")
        with self._lock:
            self.moved = words


def _is_number(value: Any, end: int) -> bool:
    return type(value) is int and 0 <= value < end


def _ident(text: str) -> bytes:
    ident = bytes.fromhex(text)
    if len(ident) != CLIENT_ID_BYTES:
        raise ValueError("an id of it has another length")
    return ident


def _answer(command: Command, status: int) -> Command:
    return Command(command.op, command.addr, command.size, command.seq, status)
