"""Where a program's standard streams are while it is away from where it started.

Between `hosting` and the two ends. Output goes to the new host, or is sent back as it is written
(`Relay`): each piece waits for the answer that it was taken, so nothing is buffered and nothing can
be lost or come twice. Of an input that is a file, what the program has not read yet is part of the
move; all other input stays where it is, see `inputs`.
"""

from __future__ import annotations

import errno
import os
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal

from wasmsr.errors import SnapshotError, UnportableState
from wasmsr.migrate.ports import Say
from wasmsr.migrate.protocol import PeerLost, PeerRefused
from wasmsr.program.program import Program
from wasmsr.wasi.filesystem.unnoticed import UnnoticedReader
from wasmsr.wasi.state.capture import UNLINKED_LIMIT
from wasmsr.wasi.streams.relayed_input import RelayedInput
from wasmsr.wasi.streams.standard import InputStream

PIECE: Final = 65536
AGAIN: Final = 0.2
"""Seconds until a peer that did not answer is asked again."""
NOTHING: Final[Mapping[str, object]] = {}
STREAMS: Final = {"stdout": 1, "stderr": 2}

StdinAfterMove = Literal["relay", "eof"]
"""What follows after a move: the rest of the input, or its end."""
PATIENCE: Final = 3.0
"""Seconds after which a peer that does not answer is complained of."""
Send = Callable[[str, int, bytes], int]
"""Shows a piece of a stream (its name, bytes sent before, bytes) where the program started; the
bytes before it that the process there has not shown. Raises PeerLost or PeerRefused."""


class Relay:
    """An output stream (`wasi.descriptors.Sink`) that is shown where the program started. A peer
    that does not answer makes the program wait, as a full pipe does."""

    def __init__(self, stream: str, send: Send, say: Say | None = None) -> None:
        """`say` tells people of this end what becomes of the output."""
        self._stream = stream
        self._send = send
        self._say = say
        self._sent = 0
        self._unseen = 0
        self._lost = 0
        self._closed = threading.Event()

    def write(self, data: memoryview, /) -> int:
        """Write a piece. Raises OSError when the other end cannot show it, or after `close`."""
        piece = bytes(data[:PIECE])
        began, told = time.monotonic(), False
        while piece:
            try:
                self._seen(self._send(self._stream, self._sent, piece))
                break
            except PeerLost as error:
                if not told and time.monotonic() - began > PATIENCE:
                    told = True
                    self._tell("output-waits", f"the program waits to write: {error}")
                # It may have been shown: the same piece at the same place is shown once.
                if self._closed.wait(AGAIN):
                    raise OSError(errno.EIO, os.strerror(errno.EIO)) from None
            except PeerRefused as error:
                if not self._lost:
                    self._tell(
                        "output-cut",
                        f"{self._stream} of the program is lost from byte {self._sent} on, counted "
                        f"from its arrival here: {error}",
                        {"from": self._sent},
                    )
                self._lost += len(piece)
                raise OSError(errno.EPIPE, error.message) from error
        self._sent += len(piece)
        return len(piece)

    def _seen(self, unseen: int) -> None:
        """Report that the end that shows the output was started again."""
        if unseen == self._unseen:
            return
        self._unseen = unseen
        self._tell(
            "output-gap",
            f"the end that shows the program's {self._stream} was started again and shows it from "
            f"byte {unseen} on; the {unseen} bytes before, from byte 0 after it came here, were "
            "for the process that was killed there, and what that has not shown is lost",
            {"from": 0, "bytes": unseen},
        )

    def _tell(self, kind: str, text: str, values: Mapping[str, object] = NOTHING) -> None:
        if self._say is not None:
            self._say(kind, text, {"stream": self._stream, **values})

    def close(self) -> None:
        """Give up waiting."""
        self._closed.set()
        lost, self._lost = self._lost, 0
        if lost:
            text = f"{lost} bytes of the program's {self._stream} were lost"
            self._tell("output-cut", text, {"bytes": lost})


class Shown:
    """What this end has shown of the streams of programs that started here and are elsewhere."""

    def __init__(self, write: Callable[[int, bytes], int] = os.write) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._offsets: dict[tuple[bytes, str], int] = {}
        self._unseen: dict[tuple[bytes, str], int] = {}

    def show(self, attempt: bytes, stream: str, offset: int, data: bytes) -> int:
        """Show what has not been shown yet of a piece that stands at `offset` of the stream since
        that move. The first piece that comes may stand anywhere: what was before it was for an
        earlier process; returns how many bytes that is. Raises OSError, and ValueError for a piece
        that does not follow."""
        with self._lock:
            if stream not in STREAMS:
                raise ValueError("a piece of output does not follow what was shown")
            unseen = self._unseen.setdefault((attempt, stream), offset)
            done = self._offsets.setdefault((attempt, stream), offset)
            if offset > done:
                raise ValueError("a piece of output does not follow what was shown")
            rest = data[done - offset :]
            while rest:
                taken = self._write(STREAMS[stream], rest)
                rest = rest[taken:]
                done += taken
                self._offsets[attempt, stream] = done
            return unseen


def input_along(program: Program, wasi: dict[str, Any], after: StdinAfterMove) -> dict[str, Any]:
    """Return the state of WASI with all of the input that is still to come, but for what is
    relayed.

    Raises:
        UnportableState: the input cannot be known before it comes (a pipe, a terminal), or is too
            much.
    """
    streams = program.wasi.process.descriptors if program.wasi is not None else {}
    for fd, stream in streams.items():
        if isinstance(stream, RelayedInput):
            return wasi
        if isinstance(stream, InputStream) and stream.host >= 0:
            rest = b"" if after == "eof" else _rest(stream)
            descriptors = [
                {**d, "unread": d["unread"] + rest, "file": None, "ended": True}
                if d["fd"] == fd
                else d
                for d in wasi["descriptors"]
            ]
            return {**wasi, "descriptors": descriptors}
    return wasi


def _rest(stream: InputStream) -> bytes:
    if not stream.regular:
        raise UnportableState(
            "the program's standard input is a pipe, socket or terminal, which stays here",
            hint="a file goes along; --stdin-after-move eof ends the input with the move",
        )
    offset = os.lseek(stream.host, 0, os.SEEK_CUR)
    size = os.fstat(stream.host).st_size - offset
    if size > UNLINKED_LIMIT:
        raise UnportableState(
            f"{size} bytes of standard input are still to be read, more than the "
            f"{UNLINKED_LIMIT} that go along",
            hint="put the file into a folder that is carried, --dir HOST::GUEST::carry",
        )
    pieces = []
    with UnnoticedReader(stream.host) as reader:
        while size > 0 and (piece := os.pread(reader.host, size, offset)):
            pieces.append(piece)
            offset += len(piece)
            size -= len(piece)
    if size > 0:
        raise SnapshotError("the file on standard input became shorter while it was read")
    return b"".join(pieces)
