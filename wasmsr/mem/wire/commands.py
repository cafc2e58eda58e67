"""Commands to a memory, as bytes.

A command is a header of 24 bytes and data: `u64 addr, u64 size, u16 seq, u8 status, u8 op`, all
little-endian, and data from byte 20 on. A command without data has four bytes of padding there.
One with n bytes of data has them in bytes 20 to 20 + n, and the padding after them.

Source: wuklab/Scad, `runtime/lib/include/transports/rdma_tcp.h`, and recorded bytes.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct("<QQHBB")
DATA_AT = HEADER.size
"""Offset of the data in bytes: 20."""
COMMAND_BYTES = 24
"""Length of a command without data: the C struct is padded to a multiple of eight bytes."""
PADDING = bytes(COMMAND_BYTES - DATA_AT)

OP_NOP = 0
OP_REP = 1
OP_WRITE = 2
OP_READ = 3
OP_ALLOC = 4
OP_HELLO = 16
"""Ours: who writes, and in which epoch. Its size is 0, so that a peer that takes every unknown
command as a write (Scad's does) writes nothing."""

OP_MOVE = 17
"""Ours too, of size 0: a step of a move of the memory to another place; `addr` says which."""
MOVE_BEGIN, MOVE_ROUND, MOVE_STOP, MOVE_DONE, MOVE_ASK = 1, 2, 3, 4, 5
"""Its steps: begin; which pages were written since; stop, and what the memory is; it is at another
address from now on; whether it is, and if not, the move is given up."""

OP_NAMES = {
    OP_NOP: "NOP", OP_REP: "REP", OP_WRITE: "WRITE", OP_READ: "READ", OP_ALLOC: "ALLOC",
    OP_HELLO: "HELLO", OP_MOVE: "MOVE",
}  # fmt: skip

OK = 0
OUT_OF_BOUNDS = 1
NOT_UNDERSTOOD = 2
FENCED = 3
OUT_OF_ORDER = 4
MOVED = 5

STATUS_WORDS = {
    OK: "done",
    OUT_OF_BOUNDS: "out of bounds: nothing was written",
    NOT_UNDERSTOOD: "the command is unknown or has a wrong length",
    FENCED: "a newer epoch has the memory",
    OUT_OF_ORDER: "the number of the command is neither the next nor the last",
    MOVED: "the memory is at another address",
}
"""Every status of an answer. Peers that do not say HELLO see the first three only."""

HELLO = struct.Struct("<B16sQ")
"""Data of HELLO: version, id of the client, epoch."""
WELCOME = struct.Struct("<B16sQQBH")
"""Data of its answer: version, id of the memory, its size in bytes, its epoch, whether it has
answers of this client, and the number of the last command that it answered."""
HELLO_VERSION = 1
MOVE = struct.Struct("<B16s")
"""Data of MOVE, before what belongs to a step: version, a random number for this move."""
MOVE_VERSION = 1
CLIENT_ID_BYTES = 16
LONGEST_ADDRESS = 300
"""Most bytes of the address in an answer MOVED."""


class CommandError(ValueError):
    """Bytes are no command."""


@dataclass(frozen=True)
class Command:
    """A command or its answer, without its data.

    Attributes:
        op: One of the `OP_` numbers, or another one that a peer has sent.
        addr: Address in the memory in bytes.
        size: Bytes to read or write.
        seq: Number of the command; an answer has that of its command.
        status: 0 in a command; a key of `STATUS_WORDS` in an answer.
    """

    op: int
    addr: int = 0
    size: int = 0
    seq: int = 0
    status: int = 0

    def header(self) -> bytes:
        """Return the first 20 bytes."""
        return HEADER.pack(self.addr, self.size, self.seq, self.status, self.op)

    def alone(self) -> bytes:
        """Return the whole command, if it has no data: 24 bytes."""
        return self.header() + PADDING

    @property
    def carries(self) -> int:
        """Bytes of data that follow the header of this command on its way to the memory."""
        if self.op == OP_WRITE:
            return self.size
        return HELLO.size if self.op == OP_HELLO else 0


def read_header(message: bytes | bytearray | memoryview) -> Command:
    """Return the header of a message.

    Raises:
        CommandError: The message is shorter than a header.
    """
    if len(message) < COMMAND_BYTES:
        raise CommandError(f"{len(message)} bytes are no command; the shortest has {COMMAND_BYTES}")
    addr, size, seq, status, op = HEADER.unpack_from(message)
    return Command(op, addr, size, seq, status)


def whole(command: Command, data: bytes | bytearray | memoryview) -> bytes:
    """Return a command with its data and its padding."""
    return b"".join((command.header(), data, PADDING))


@dataclass(frozen=True)
class Welcome:
    """What a memory says to a client that has said HELLO.

    Attributes:
        memory: The id of the memory, 16 bytes; a moved or restored memory keeps it.
        size: Its length in bytes.
        epoch: The newest epoch that it has heard of.
        known: Whether it remembers this client.
        last: The number of the client's last command that it answered.
    """

    memory: bytes
    size: int
    epoch: int
    known: bool
    last: int

    def data(self) -> bytes:
        """Return its bytes."""
        return WELCOME.pack(
            HELLO_VERSION, self.memory, self.size, self.epoch, self.known, self.last
        )


def read_hello(data: bytes | bytearray | memoryview) -> tuple[bytes, int]:
    """Return (client id, epoch) of the data of HELLO.

    Raises:
        CommandError: The data are too short, or of another version.
    """
    if len(data) < HELLO.size:
        raise CommandError(f"{len(data)} bytes are no HELLO")
    version, client, epoch = HELLO.unpack_from(data)
    if version != HELLO_VERSION:
        raise CommandError(f"version {version} of HELLO is unknown")
    return client, epoch


def read_welcome(data: bytes | bytearray | memoryview) -> Welcome:
    """Return the answer to HELLO.

    Raises:
        CommandError: The data are too short, or of another version.
    """
    if len(data) < WELCOME.size:
        raise CommandError(f"{len(data)} bytes are no answer to HELLO")
    version, memory, size, epoch, known, last = WELCOME.unpack_from(data)
    if version != HELLO_VERSION or known > 1:
        raise CommandError(f"version {version} of HELLO is unknown")
    return Welcome(memory, size, epoch, bool(known), last)
