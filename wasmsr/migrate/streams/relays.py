"""The standard streams of a program that is away from the end where it started.

The program's output appears where it runs, or a `Relay` sends it to the end where the program
started. The relay waits until each piece was taken, so nothing is buffered, lost or shown twice. If
the input is a file, the rest of it goes along in the move. All other input stays where it is: see
`inputs`.
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
"""What a program reads after a move: the rest of its input, or the end of it."""
PATIENCE: Final = 3.0
"""How long a peer may be silent before a line says so."""
Send = Callable[[str, int, bytes], int]
"""Sends a piece of a stream (its name, its offset, the bytes) to the end that shows it. Returns how
many bytes of the stream that end's process never got. Raises PeerLost or PeerRefused."""


class Relay:
    """An output stream that appears at the end where the program started.

    If that end does not answer, the program waits as for a full pipe.
    """

    def __init__(self, stream: str, send: Send, say: Say | None = None) -> None:
        """Make the stream named `stream`; `say` reports trouble to people at this end."""
        self._stream = stream
        self._send = send
        self._say = say
        self._sent = 0
        self._unseen = 0
        self._lost = 0
        self._closed = threading.Event()

    def write(self, data: memoryview, /) -> int:
        """Write a piece. Raises OSError if the other end cannot show it, and after `close`."""
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
                # The other end may have shown the piece. It shows a piece of one offset once.
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
            f"the end that shows the program's {self._stream} was started again. It continues at "
            f"byte {unseen}, counted from the program's arrival here. The process that was killed "
            "there got the bytes before; those that it has not shown are lost",
            {"from": 0, "bytes": unseen},
        )

    def _tell(self, kind: str, text: str, values: Mapping[str, object] = NOTHING) -> None:
        if self._say is not None:
            self._say(kind, text, {"stream": self._stream, **values})

    def close(self) -> None:
        """Stop waiting for the other end."""
        self._closed.set()
        lost, self._lost = self._lost, 0
        if lost:
            text = f"{lost} bytes of the program's {self._stream} were lost"
            self._tell("output-cut", text, {"bytes": lost})


class Shown:
    """Shows the streams of programs that started here and are elsewhere."""

    def __init__(self, write: Callable[[int, bytes], int] = os.write) -> None:
        self._write = write
        self._lock = threading.Lock()
        self._offsets: dict[tuple[bytes, str], int] = {}
        self._unseen: dict[tuple[bytes, str], int] = {}

    def show(self, attempt: bytes, stream: str, offset: int, data: bytes) -> int:
        """Show the part of a piece that was not shown yet.

        Args:
            attempt: The attempt of the move by which the program is where it is.
            stream: "stdout" or "stderr".
            offset: The piece's offset in the stream since that move. That of the first piece may be
                any: an earlier process of this end got the bytes before.
            data: The piece.

        Returns:
            The offset of the first piece.

        Raises:
            OSError: The piece cannot be shown.
            ValueError: The piece does not follow the one before.
        """
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
    """Return the state of WASI with the rest of an input that is not relayed.

    Args:
        program: The paused program.
        wasi: The state of its WASI.
        after: What the program reads after the move.

    Raises:
        UnportableState: The input is no file, or has too many bytes.
        SnapshotError: The file has become shorter.
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
