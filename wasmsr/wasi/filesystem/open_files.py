"""Files and directories that a program has open: one class for each kind.

Reading and writing goes straight between the host and slices of linear memory.
"""

from __future__ import annotations

import fcntl
import os

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.preview1.abi import (
    DIRECTORY_RIGHTS,
    FILE_RIGHTS,
    Errno,
    Failure,
    FdFlag,
    FileType,
    Right,
)
from wasmsr.wasi.streams.descriptor import Descriptor
from wasmsr.wasi.streams.waiting import IN, OUT, PIPE_PIECE, read_on, wait, write_waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class SizeLimit(Protocol):
    """A tree with a limit."""

    def charge(self, size: int) -> None:
        """At most so many bytes are about to be written; Failure(NOSPC) if that is too much."""


class MountPath:
    """Where a file or directory was opened: the mount's guest name, and the components below it.

    The path is free of links and `..`, as the walk found it.
    """

    __slots__ = ("mount", "path")

    def __init__(self, mount: bytes, path: tuple[bytes, ...]) -> None:
        self.mount = mount
        self.path = path

    def __str__(self) -> str:
        return os.fsdecode(b"/".join((self.mount.rstrip(b"/"), *self.path)) or b"/")


class RegularFile(Descriptor):
    """A regular file (or block device). The offset is the host descriptor's own."""

    __slots__ = ("__weakref__", "access", "charged", "place")
    kind = "file"
    applicable = FILE_RIGHTS
    seekable = True

    def __init__(
        self, host: int, place: MountPath, filetype: int, rights: int, flags: int, access: int
    ) -> None:
        """`access`: os.O_RDONLY, O_WRONLY or O_RDWR, as `host` was opened."""
        super().__init__(host, filetype, rights, flags=flags)
        self.charged: SizeLimit | None = None
        """The tree whose limit what is written counts against, where it has one."""
        self.place = place
        self.access = access
        if access == os.O_RDONLY:
            self.rights &= ~(Right.FD_ALLOCATE | Right.FD_FILESTAT_SET_SIZE)

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        return read_on(caller, self, buffers)

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        if self.charged is not None:
            self.charged.charge(sum(map(len, buffers)))
        return os.writev(self.host, buffers)

    def set_flags(self, flags: int) -> None:
        """Only APPEND and NONBLOCK can change; the host cannot change how it synchronises."""
        if (flags ^ self.flags) & ~(FdFlag.APPEND | FdFlag.NONBLOCK):
            raise Failure(Errno.INVAL)
        if (flags ^ self.flags) & FdFlag.APPEND:
            of_host = fcntl.fcntl(self.host, fcntl.F_GETFL) & ~os.O_APPEND
            if flags & FdFlag.APPEND:
                of_host |= os.O_APPEND
            fcntl.fcntl(self.host, fcntl.F_SETFL, of_host)
        self.flags = flags

    def available(self, event: int) -> int | None:
        if event == OUT:
            return PIPE_PIECE
        rest = os.fstat(self.host).st_size - os.lseek(self.host, 0, os.SEEK_CUR)
        return max(0, rest)


class Device(RegularFile):
    """A FIFO or character device opened by path: what may block and cannot be moved, but for the
    memory devices (/dev/null and its like), which are the same everywhere.

    `host` is non-blocking, so that opening did not wait; waiting is ours.
    """

    __slots__ = ()
    kind = "device"
    seekable = False

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        if not any(map(len, buffers)):
            return 0
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                return os.readv(self.host, buffers)
            except BlockingIOError:
                if self.nonblocking:
                    raise

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        return write_waiting(caller, self, buffers)

    def available(self, event: int) -> int | None:
        return None


class Directory(Descriptor):
    """A directory. `preopen`: the name it was handed to the program under, or None.

    `entries`: the listing that cookies point into, made when the program last read from cookie 0:
    (name, inode, filetype). A cookie is a position in it, so it stays good while files come and go.
    """

    __slots__ = ("entries", "place", "preopen")
    kind = "directory"
    applicable = DIRECTORY_RIGHTS

    def __init__(
        self, host: int, place: MountPath, rights: int, inheriting: int, flags: int = 0
    ) -> None:
        super().__init__(host, FileType.DIRECTORY, rights, flags=flags)
        self.inheriting = inheriting
        self.place = place
        self.preopen: bytes | None = None
        self.entries: list[tuple[bytes, int, int]] | None = None

    def available(self, event: int) -> int | None:
        return 0
