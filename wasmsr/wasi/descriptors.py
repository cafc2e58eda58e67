"""What a file descriptor of the program is: one class for each kind.

Between the calls, which check rights and pointers, and the host's system calls. Reading and writing
goes straight between the host and slices of linear memory. Nothing is buffered here but what a
snapshot brought along, so what a program has written is the host's at once.
"""

from __future__ import annotations

import fcntl
import os
import stat
import struct
import termios

from wasmsr.wasi.abi import (
    CONNECTION_RIGHTS,
    DIRECTORY_RIGHTS,
    FILE_RIGHTS,
    LISTENER_RIGHTS,
    STREAM_RIGHTS,
    Errno,
    Failure,
    FdFlag,
    FileType,
    Right,
)
from wasmsr.wasi.engine import Caller
from wasmsr.wasi.nowait import Nowait
from wasmsr.wasi.waiting import IN, OUT, PIECE, PIPE_PIECE, read_file, wait, write_waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from typing import ClassVar, Protocol

    from wasmsr.wasi.relayed import Relayed
else:
    Protocol = object


class Sink(Protocol):
    """Where a library's user lets output go: anything with `write`, such as io.BytesIO."""

    def write(self, data: memoryview, /) -> int | None: ...


class Source(Protocol):
    """Where a library's user lets input come from: anything with `read`, such as io.BytesIO."""

    def read(self, size: int, /) -> bytes | None: ...


class Charged(Protocol):
    """A tree with a limit."""

    def charge(self, size: int) -> None:
        """At most so many bytes are about to be written; Failure(NOSPC) if that is too much."""


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


def _read_on(caller: Caller, file: Descriptor, buffers: list[memoryview]) -> int:
    """Read a regular file at its offset, and move that on."""
    if sum(map(len, buffers)) <= PIECE:
        return os.readv(file.host, buffers)
    start = os.lseek(file.host, 0, os.SEEK_CUR)
    done = read_file(caller, file, buffers, start)
    os.lseek(file.host, start + done, os.SEEK_SET)
    return done


class InputStream(Descriptor):
    """Standard input: bytes that were read but not consumed before a snapshot, then the host's.

    `unread` comes first. `host` is -1 for an input that ends there, or comes from `source` then. A
    regular file is read at the host's own offset, which `capture` looks up; it never has to be
    waited for. `ended`: nothing follows `unread`, wherever the program goes.
    """

    __slots__ = ("ended", "nowait", "regular", "source", "unread")
    kind = "stdin"
    applicable = STREAM_RIGHTS | Right.FD_READ

    def __init__(
        self,
        host: int,
        unread: bytes = b"",
        *,
        owned: bool = False,
        source: Source | None = None,
    ) -> None:
        mode = os.fstat(host).st_mode if host >= 0 else 0
        terminal = host >= 0 and stat.S_ISCHR(mode) and os.isatty(host)
        kind = FileType.CHARACTER_DEVICE if terminal else FileType.UNKNOWN
        super().__init__(host, kind, self.applicable)
        self.owned = owned
        self.regular = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        self.unread = unread
        self.source = source
        self.nowait: Nowait | None = None
        self.ended = False

    def end(self) -> None:
        """Nothing follows what is `unread`."""
        self.close()
        self.host = -1
        self.source = None
        self.ended = True

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        if self.unread:
            return self._read_unread(buffers)
        if self.source is not None and any(map(len, buffers)):
            # What a caller cannot take at once is unread, as after a snapshot.
            self.unread = self.source.read(sum(map(len, buffers))) or b""
            return self._read_unread(buffers)
        if self.host < 0 or not any(map(len, buffers)):
            return 0
        if self.regular:
            return _read_on(caller, self, buffers)
        if self.nowait is None:
            self.nowait = Nowait(self.host, os.O_RDONLY)
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                return self.nowait.read(buffers)
            except BlockingIOError:
                # Somebody else took what was there.
                if self.nonblocking:
                    raise

    def close(self) -> None:
        if self.nowait is not None:
            self.nowait.close()
        super().close()

    def _read_unread(self, buffers: list[memoryview]) -> int:
        done = scatter(self.unread, buffers)
        self.unread = self.unread[done:]
        return done

    def relayed(self) -> Relayed | None:
        """Where the program stands in an input that is relayed, for a snapshot; what of it is here
        is `unread` from then on."""
        return None

    def go_on(self, state: Relayed) -> None:
        """The input is that one, if it can be: see `relayed.RelayedInput`."""

    def stat(self) -> os.stat_result | None:
        return None

    def available(self, event: int) -> int | None:
        if self.unread or self.host < 0:
            return len(self.unread)
        if self.regular:
            rest = os.fstat(self.host).st_size - os.lseek(self.host, 0, os.SEEK_CUR)
            return max(0, rest)
        return None


class OutputStream(Descriptor):
    """Standard output or error: a host descriptor or a `Sink`."""

    __slots__ = ("name", "nowait", "regular", "sink")
    kind = "stdout"
    applicable = STREAM_RIGHTS | Right.FD_WRITE

    def __init__(self, name: str, target: int | Sink) -> None:
        self.sink = None if isinstance(target, int) else target
        host = target if isinstance(target, int) else -1
        mode = os.fstat(host).st_mode if host >= 0 else 0
        terminal = host >= 0 and stat.S_ISCHR(mode) and os.isatty(host)
        kind = FileType.CHARACTER_DEVICE if terminal else FileType.UNKNOWN
        super().__init__(host, kind, self.applicable)
        self.owned = False
        self.name = name
        self.regular = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        # A terminal that is ready may still not take all of a write, and block (Ctrl-S, Ctrl-Q).
        self.nowait = Nowait(host, os.O_WRONLY)

    def close(self) -> None:
        self.nowait.close()

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        if self.regular:
            return os.writev(self.host, buffers)
        if self.sink is None:
            return write_waiting(caller, self, buffers, self.nowait)
        done = 0
        for buffer in buffers:
            taken = self.sink.write(buffer)
            done += len(buffer) if taken is None else taken
            if taken is not None and taken < len(buffer):
                break
        return done

    def stat(self) -> os.stat_result | None:
        return None

    def available(self, event: int) -> int | None:
        return PIPE_PIECE if self.host < 0 or self.regular else None


class Place:
    """Where a file or directory was opened: the mount's guest name, and the components below it.

    The path is free of links and `..`, as the walk found it.
    """

    __slots__ = ("mount", "path")

    def __init__(self, mount: bytes, path: tuple[bytes, ...]) -> None:
        self.mount = mount
        self.path = path

    def __str__(self) -> str:
        return os.fsdecode(b"/".join((self.mount.rstrip(b"/"), *self.path)) or b"/")


class File(Descriptor):
    """A regular file (or block device). The offset is the host descriptor's own."""

    __slots__ = ("__weakref__", "access", "charged", "place")
    kind = "file"
    applicable = FILE_RIGHTS
    seekable = True

    def __init__(
        self, host: int, place: Place, filetype: int, rights: int, flags: int, access: int
    ) -> None:
        """`access`: os.O_RDONLY, O_WRONLY or O_RDWR, as `host` was opened."""
        super().__init__(host, filetype, rights, flags=flags)
        self.charged: Charged | None = None
        """The tree whose limit what is written counts against, where it has one."""
        self.place = place
        self.access = access
        if access == os.O_RDONLY:
            self.rights &= ~(Right.FD_ALLOCATE | Right.FD_FILESTAT_SET_SIZE)

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        return _read_on(caller, self, buffers)

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


class Device(File):
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
        self, host: int, place: Place, rights: int, inheriting: int, flags: int = 0
    ) -> None:
        super().__init__(host, FileType.DIRECTORY, rights, flags=flags)
        self.inheriting = inheriting
        self.place = place
        self.preopen: bytes | None = None
        self.entries: list[tuple[bytes, int, int]] | None = None

    def available(self, event: int) -> int | None:
        return 0


class Listener(Descriptor):
    """A listening socket that the program was started with, the one of number `index`.

    The host's socket does not block, since a connection that made it ready may be gone before it is
    accepted; waiting is ours.
    """

    __slots__ = ("index", "socket")
    kind = "listener"
    applicable = LISTENER_RIGHTS

    def __init__(self, listening: socket.socket, index: int) -> None:
        super().__init__(listening.fileno(), FileType.SOCKET_STREAM, LISTENER_RIGHTS)
        self.inheriting = CONNECTION_RIGHTS
        self.owned = False
        self.index = index
        self.socket = listening
        listening.setblocking(False)

    def accept(self, caller: Caller, flags: int) -> Connection:
        """The next connection; waits for it unless the listener is non-blocking."""
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                connected, _ = self.socket.accept()
            except BlockingIOError:
                if self.nonblocking:
                    raise
                continue
            connected.setblocking(True)
            connection = Connection(connected)
            connection.rights &= self.inheriting
            connection.flags = flags
            return connection

    def stat(self) -> os.stat_result | None:
        return os.fstat(self.host)


class Connection(Descriptor):
    """A connected stream socket."""

    __slots__ = ("socket",)
    kind = "connection"
    applicable = CONNECTION_RIGHTS

    def __init__(self, connected: socket.socket) -> None:
        super().__init__(connected.fileno(), FileType.SOCKET_STREAM, CONNECTION_RIGHTS)
        self.socket = connected

    def close(self) -> None:
        self.socket.close()

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        return self.receive(caller, buffers, 0)[0]

    def receive(self, caller: Caller, buffers: list[memoryview], flags: int) -> tuple[int, int]:
        """(bytes, the host's message flags); `flags`: the host's MSG_PEEK."""
        import socket  # only where there is one: it takes long

        if not any(map(len, buffers)):
            return 0, 0
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                count, _, got, _ = self.socket.recvmsg_into(buffers, 0, flags | socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.nonblocking:
                    raise
                continue
            return count, got

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        """As much as the socket takes at once, at least a byte."""
        import socket

        if not any(map(len, buffers)):
            return 0
        while True:
            wait(caller, self.host, OUT, nonblocking=self.nonblocking)
            try:
                return self.socket.sendmsg(buffers, [], socket.MSG_DONTWAIT)
            except BlockingIOError:
                if self.nonblocking:
                    raise


def scatter(data: bytes, buffers: list[memoryview]) -> int:
    """Copies as much of `data` as there is room for; the number of bytes."""
    done = 0
    for buffer in buffers:
        piece = data[done : done + len(buffer)]
        buffer[: len(piece)] = piece
        done += len(piece)
    return done


def pending_input(host: int) -> int:
    """Bytes that can be read from `host` now; 0 where the host cannot say."""
    try:
        answer = fcntl.ioctl(host, termios.FIONREAD, b"\0\0\0\0")
    except OSError:
        return 0
    return max(0, int(struct.unpack("i", answer)[0]))
