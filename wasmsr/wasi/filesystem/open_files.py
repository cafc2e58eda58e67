"""Files and directories that a program has open: one class for each kind.

Reading and writing goes straight between the host and slices of linear memory.
"""

from __future__ import annotations

import errno
import fcntl
import os

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.streams.descriptor import Descriptor, FileKind, StatusFlag, kind_of
from wasmsr.wasi.streams.waiting import IN, OUT, PIPE_PIECE, read_on, wait, write_waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import Protocol
else:
    Protocol = object


class SizeLimit(Protocol):
    """A tree with a limit."""

    def charge(self, size: int) -> None:
        """Count bytes that are about to be written.

        Args:
            size: At most so many bytes.

        Raises:
            CallError: ENOSPC, if that is too much.
        """


class WriteWatch(Protocol):
    """Hears of writes to the files of a tree."""

    def writing(self, host: int, perform: Callable[[], int], position: int | None = None) -> int:
        """Write, and take note of what was written.

        Args:
            host: Descriptor of the file.
            perform: Writes, and returns how many bytes were written.
            position: Where that begins; None for the offset of the descriptor.
        """

    def resized(self, host: int) -> None:
        """Take note that the file has got another size, by its descriptor."""


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

    __slots__ = ("__weakref__", "access", "charged", "place", "watch")
    kind = "file"
    seekable = True

    def __init__(
        self, host: int, place: MountPath, filetype: FileKind, flags: int, access: int
    ) -> None:
        """`access`: os.O_RDONLY, O_WRONLY or O_RDWR, as `host` was opened."""
        super().__init__(host, filetype, flags=flags)
        self.charged: SizeLimit | None = None
        """The tree with a limit to which writes count, or None."""
        self.watch: WriteWatch | None = None
        """What hears of writes while the program leaves, or None."""
        self.place = place
        self.access = access

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read at the offset, and move it on."""
        return read_on(caller, self, buffers)

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Write at the offset, and move it on."""
        if self.charged is not None:
            self.charged.charge(sum(map(len, buffers)))
        if self.watch is not None:
            return self.watch.writing(self.host, lambda: os.writev(self.host, buffers))
        return os.writev(self.host, buffers)

    def write_at(self, buffers: list[memoryview], position: int) -> int:
        """Write at a position; the offset stays."""
        if self.charged is not None:
            self.charged.charge(sum(map(len, buffers)))
        if self.watch is not None:
            return self.watch.writing(
                self.host, lambda: os.pwritev(self.host, buffers, position), position
            )
        return os.pwritev(self.host, buffers, position)

    def set_flags(self, flags: int) -> None:
        """Only APPEND and NONBLOCK can change; the host cannot change how it synchronises."""
        if (flags ^ self.flags) & ~(StatusFlag.APPEND | StatusFlag.NONBLOCK):
            raise CallError(errno.EINVAL)
        if (flags ^ self.flags) & StatusFlag.APPEND:
            of_host = fcntl.fcntl(self.host, fcntl.F_GETFL) & ~os.O_APPEND
            if flags & StatusFlag.APPEND:
                of_host |= os.O_APPEND
            fcntl.fcntl(self.host, fcntl.F_SETFL, of_host)
        self.flags = flags

    def available(self, event: int) -> int | None:
        """Return the bytes up to the end of the file; a write is always possible."""
        if event == OUT:
            return PIPE_PIECE
        rest = os.fstat(self.host).st_size - os.lseek(self.host, 0, os.SEEK_CUR)
        return max(0, rest)


class Device(RegularFile):
    """A FIFO or character device opened by path. It may block and cannot move. Only the memory
    devices, such as /dev/null, are the same on every host.

    `host` is non-blocking, so that opening it did not wait. Reads and writes wait here.
    """

    __slots__ = ()
    kind = "device"
    seekable = False

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read the bytes that are there; wait for some, unless the device does not block."""
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
        """Write all of it if possible."""
        return write_waiting(caller, self, buffers)

    def available(self, event: int) -> int | None:
        """Return None: the host must be asked."""
        return None


class Directory(Descriptor):
    """A directory. `preopen`: the name it was handed to the program under, or None.

    `entries`: the listing that cookies point into, made when the program last read from cookie 0:
    (name, inode, filetype). A cookie is a position in it, so it stays good while files come and go.
    """

    __slots__ = ("entries", "place", "preopen")
    kind = "directory"

    def __init__(self, host: int, place: MountPath, flags: int = 0) -> None:
        super().__init__(host, FileKind.DIRECTORY, flags=flags)
        self.place = place
        self.preopen: bytes | None = None
        self.entries: list[tuple[bytes, int, int]] | None = None

    def available(self, event: int) -> int | None:
        """Return 0: a directory is always ready."""
        return 0


# What every open has: never the kernel's blocking for a FIFO, never a terminal as our own.
_ALWAYS = os.O_NONBLOCK | os.O_NOCTTY
_HOST_FLAGS = (
    (StatusFlag.APPEND, os.O_APPEND),
    (StatusFlag.DSYNC, os.O_DSYNC),
    (StatusFlag.RSYNC, getattr(os, "O_RSYNC", os.O_SYNC)),
    (StatusFlag.SYNC, os.O_SYNC),
)


def open_flags(access: int, status: int) -> int:
    """Return the flags of the host's open.

    Args:
        access: os.O_RDONLY, O_WRONLY or O_RDWR.
        status: Bits of `StatusFlag`.
    """
    flags = access | _ALWAYS
    for flag, of_host in _HOST_FLAGS:
        if status & flag:
            flags |= of_host
    return flags


def descriptor_for(host: int, place: MountPath, flags: int, access: int) -> RegularFile | Directory:
    """Return a descriptor of the right kind for a file that the host has just opened.

    Args:
        host: Descriptor of the host.
        place: Where it was opened.
        flags: Bits of `StatusFlag`.
        access: os.O_RDONLY, O_WRONLY or O_RDWR, as it was opened.
    """
    kind = kind_of(os.fstat(host).st_mode)
    if kind == FileKind.DIRECTORY:
        return Directory(host, place, flags)
    if kind in (FileKind.REGULAR_FILE, FileKind.BLOCK_DEVICE):
        return RegularFile(host, place, kind, flags, access)
    return Device(host, place, kind, flags, access)
