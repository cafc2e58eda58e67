"""What all kinds of descriptors have, in terms of our own.

The calls check rights and pointers, and then use a descriptor, which makes the host's system calls.
A front has other numbers for kinds of files and status flags, and translates them.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import termios
from enum import IntEnum

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.errors import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Final


class FileKind(IntEnum):
    """What a descriptor or a name refers to."""

    UNKNOWN = 0
    BLOCK_DEVICE = 1
    CHARACTER_DEVICE = 2
    DIRECTORY = 3
    REGULAR_FILE = 4
    SOCKET_DGRAM = 5
    SOCKET_STREAM = 6
    SYMBOLIC_LINK = 7


KINDS: Final = {
    stat.S_IFBLK: FileKind.BLOCK_DEVICE,
    stat.S_IFCHR: FileKind.CHARACTER_DEVICE,
    stat.S_IFDIR: FileKind.DIRECTORY,
    stat.S_IFREG: FileKind.REGULAR_FILE,
    stat.S_IFSOCK: FileKind.SOCKET_STREAM,
    stat.S_IFLNK: FileKind.SYMBOLIC_LINK,
}
"""The host's file type (`stat.S_IFMT`) to ours. A FIFO has none."""


def kind_of(mode: int) -> FileKind:
    """Return the kind of file for a host's `st_mode`."""
    return KINDS.get(stat.S_IFMT(mode), FileKind.UNKNOWN)


class StatusFlag:
    """Flags of an open descriptor, one bit each."""

    APPEND: Final = 1
    DSYNC: Final = 2
    NONBLOCK: Final = 4
    RSYNC: Final = 8
    SYNC: Final = 16


class Descriptor:
    """State that all kinds have.

    Attributes:
        host: Descriptor of the host, or -1.
        filetype: What the program sees it as.
        flags: Bits of `StatusFlag`.
        rights, inheriting: What the program may do with it, and with what it opens by it. Numbers
            of the front; nothing below a front reads them.
        owned: Whether `close` closes `host`.
        begun: Which long read made way for a pause, and how far it had come (see
            `waiting.read_file`). It is no part of the program's state.
    """

    __slots__ = ("begun", "filetype", "flags", "host", "inheriting", "owned", "rights")
    kind: ClassVar[str]
    seekable: ClassVar[bool] = False

    def __init__(self, host: int, filetype: FileKind, *, flags: int = 0) -> None:
        self.host = host
        self.filetype = filetype
        self.flags = flags
        self.rights = 0
        self.inheriting = 0
        self.owned = True
        self.begun: tuple[tuple[int, int, int], int] | None = None

    def close(self) -> None:
        """Close the descriptor."""
        if self.owned and self.host >= 0:
            host, self.host = self.host, -1
            os.close(host)

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read into buffers; return the number of bytes."""
        raise CallError(errno.EBADF)

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Write buffers; return the number of bytes."""
        raise CallError(errno.EBADF)

    def stat(self) -> os.stat_result | None:
        """Return the host's attributes, or None if they have no meaning for the program."""
        return os.fstat(self.host)

    def set_flags(self, flags: int) -> None:
        """Set the flags, bits of `StatusFlag`."""
        self.flags = flags

    def available(self, event: int) -> int | None:
        """Return how many bytes reading (IN) or writing (OUT) can have at once.

        Returns:
            None if only the host can say.
        """
        return None

    def pending(self) -> int:
        """Return how many bytes reading can have when `host` is ready."""
        return pending_input(self.host)

    @property
    def nonblocking(self) -> bool:
        """Whether calls that would wait fail instead."""
        return bool(self.flags & StatusFlag.NONBLOCK)


def pending_input(host: int) -> int:
    """Return how many bytes can be read from `host` now; 0 if the host cannot say."""
    try:
        answer = fcntl.ioctl(host, termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return 0
    return max(0, int(struct.unpack("i", answer)[0]))
