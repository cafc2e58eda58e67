"""What a file descriptor of the program is: one class for each kind.

Between the calls, which check rights and pointers, and the host's system calls. Reading and writing
goes straight between the host and slices of linear memory. Nothing is buffered here but what a
snapshot brought along, so what a program has written is the host's at once.
"""

from __future__ import annotations

import fcntl
import os
import struct
import termios

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.preview1.abi import (
    Errno,
    Failure,
    FdFlag,
)

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Protocol

else:
    Protocol = object


class Descriptor:
    """State that all kinds have.

    `host`: host descriptor, or -1; `flags`: `fdflags`; `rights`, `inheriting`: `rights`;
    `filetype`: `filetype`; `begun`: which read made way for a pause, and how far it had come, no
    part of the program's state (see `read_file`). Closing is the owner's: see `owned`.
    """

    __slots__ = ("begun", "filetype", "flags", "host", "inheriting", "owned", "rights")
    kind: ClassVar[str]
    applicable: ClassVar[int]
    """The rights that mean something for this kind."""
    seekable: ClassVar[bool] = False

    def __init__(self, host: int, filetype: int, rights: int, *, flags: int = 0) -> None:
        self.host = host
        self.filetype = filetype
        self.flags = flags
        self.rights = rights & self.applicable
        self.inheriting = 0
        self.owned = True
        self.begun: tuple[tuple[int, int, int], int] | None = None

    def close(self) -> None:
        if self.owned and self.host >= 0:
            host, self.host = self.host, -1
            os.close(host)

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        raise Failure(Errno.BADF)

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        raise Failure(Errno.BADF)

    def stat(self) -> os.stat_result | None:
        """The host's view of it; None for what has none worth telling."""
        return os.fstat(self.host)

    def set_flags(self, flags: int) -> None:
        """`fd_fdstat_set_flags`, all bits known to be `fdflags`."""
        self.flags = flags

    def available(self, event: int) -> int | None:
        """For `poll_oneoff`: the number of bytes that reading (IN) or writing (OUT) can have at
        once, or None when `host` must be asked."""
        return None

    def pending(self) -> int:
        """... that reading can have when `host` is ready."""
        return pending_input(self.host)

    @property
    def nonblocking(self) -> bool:
        return bool(self.flags & FdFlag.NONBLOCK)


def pending_input(host: int) -> int:
    """Bytes that can be read from `host` now; 0 where the host cannot say."""
    try:
        answer = fcntl.ioctl(host, termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return 0
    return max(0, int(struct.unpack("i", answer)[0]))
