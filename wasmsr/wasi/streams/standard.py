"""Standard streams: input with what a snapshot brought along, output to a descriptor or a writer.

The calls check rights and pointers, and then use these streams. The only buffer is for input that
is in a snapshot. So the host gets at once what a program writes.
"""

from __future__ import annotations

import os
import stat

from wasmsr.record import record
from wasmsr.wasi.engine import Caller
from wasmsr.wasi.streams.descriptor import Descriptor, FileKind
from wasmsr.wasi.streams.nonblocking import NonblockingStream
from wasmsr.wasi.streams.waiting import IN, PIPE_PIECE, read_on, wait, write_waiting

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Protocol
else:
    Protocol = object


class ByteSink(Protocol):
    """Where output of a library's user goes: anything with `write`, such as io.BytesIO."""

    def write(self, data: memoryview, /) -> int | None:
        """Take bytes; return how many were taken, None for all."""


class ByteSource(Protocol):
    """Where input of a library's user comes from: anything with `read`, such as io.BytesIO."""

    def read(self, size: int, /) -> bytes | None:
        """Return at most `size` bytes; none at the end."""


class InputStream(Descriptor):
    """Standard input: bytes that were read but not consumed before a snapshot, then the host's.

    `unread` comes first. `host` is -1 for an input that ends there, or comes from `source` then. A
    regular file is read at the host's own offset, which `capture` looks up; it never has to be
    waited for. `ended`: nothing follows `unread`, wherever the program goes.
    """

    __slots__ = ("ended", "nowait", "regular", "source", "unread")
    kind = "stdin"

    def __init__(
        self,
        host: int,
        unread: bytes = b"",
        *,
        owned: bool = False,
        source: ByteSource | None = None,
    ) -> None:
        mode = os.fstat(host).st_mode if host >= 0 else 0
        terminal = host >= 0 and stat.S_ISCHR(mode) and os.isatty(host)
        kind = FileKind.CHARACTER_DEVICE if terminal else FileKind.UNKNOWN
        super().__init__(host, kind)
        self.owned = owned
        self.regular = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        self.unread = unread
        self.source = source
        self.nowait: NonblockingStream | None = None
        self.ended = False

    def end(self) -> None:
        """End the input after what is `unread`."""
        self.close()
        self.host = -1
        self.source = None
        self.ended = True

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read the bytes in `unread` first, then those of the host."""
        if self.unread:
            return self._read_unread(buffers)
        if self.source is not None and any(map(len, buffers)):
            # Bytes for which the buffers have no room stay in `unread`, as after a snapshot.
            self.unread = self.source.read(sum(map(len, buffers))) or b""
            return self._read_unread(buffers)
        if self.host < 0 or not any(map(len, buffers)):
            return 0
        if self.regular:
            return read_on(caller, self, buffers)
        if self.nowait is None:
            self.nowait = NonblockingStream(self.host, os.O_RDONLY)
        while True:
            wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                return self.nowait.read(buffers)
            except BlockingIOError:
                # Another reader has taken the bytes.
                if self.nonblocking:
                    raise

    def close(self) -> None:
        """Close the descriptors that were opened for the stream."""
        if self.nowait is not None:
            self.nowait.close()
        super().close()

    def _read_unread(self, buffers: list[memoryview]) -> int:
        done = scatter(self.unread, buffers)
        self.unread = self.unread[done:]
        return done

    def relayed(self) -> RelayPosition | None:
        """Return how far the program has come in an input that is relayed.

        What of the input is here is `unread` from then on.
        """
        return None

    def go_on(self, state: RelayPosition) -> None:
        """Make the input the one of that state, if it can be; see `RelayedInput`."""

    def stat(self) -> os.stat_result | None:
        """Return None: attributes of the host's stream are not the program's."""
        return None

    def available(self, event: int) -> int | None:
        """Return the bytes that are there; None if only the host can say."""
        if self.unread or self.host < 0:
            return len(self.unread)
        if self.regular:
            rest = os.fstat(self.host).st_size - os.lseek(self.host, 0, os.SEEK_CUR)
            return max(0, rest)
        return None


class OutputStream(Descriptor):
    """Standard output or error: a host descriptor or a `ByteSink`."""

    __slots__ = ("name", "nowait", "regular", "sink")
    kind = "stdout"

    def __init__(self, name: str, target: int | ByteSink) -> None:
        self.sink = None if isinstance(target, int) else target
        host = target if isinstance(target, int) else -1
        mode = os.fstat(host).st_mode if host >= 0 else 0
        terminal = host >= 0 and stat.S_ISCHR(mode) and os.isatty(host)
        kind = FileKind.CHARACTER_DEVICE if terminal else FileKind.UNKNOWN
        super().__init__(host, kind)
        self.owned = False
        self.name = name
        self.regular = stat.S_ISREG(mode) or stat.S_ISBLK(mode)
        # A terminal that is ready may still not take all of a write, and block (Ctrl-S, Ctrl-Q).
        self.nowait = NonblockingStream(host, os.O_WRONLY)

    def close(self) -> None:
        """Close the descriptors that were opened for the stream; the host's stream stays open."""
        self.nowait.close()

    def write(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Write to the host, or to the `ByteSink`."""
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
        """Return None: attributes of the host's stream are not the program's."""
        return None

    def available(self, event: int) -> int | None:
        """Return how many bytes a write can take; None if only the host can say."""
        return PIPE_PIECE if self.host < 0 or self.regular else None


def scatter(data: bytes, buffers: list[memoryview]) -> int:
    """Copy as much of `data` as there is room for; return the number of bytes."""
    done = 0
    for buffer in buffers:
        piece = data[done : done + len(buffer)]
        buffer[: len(piece)] = piece
        done += len(piece)
    return done


@record(frozen=True)
class RelayPosition:
    """The state of such an input.

    `position`: bytes and ends of input that came before what is not in the snapshot; `terminal`:
    whether the input is one.
    """

    position: int
    terminal: bool
