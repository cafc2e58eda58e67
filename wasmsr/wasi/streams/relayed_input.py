"""Standard input of a program that may go away from where its input is, and come back.

A kind of `InputStream`, between the calls and an `Inflow`. `wasmsr.migrate.streams.inputs` has
those that matter: one where the input is, one where the program is a guest. What the program has
taken is known by its place in the stream, which is all that a snapshot needs besides what has been
taken from the inflow and not by the program.
"""

from __future__ import annotations

from typing import Protocol

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.streams.descriptor import FileKind
from wasmsr.wasi.streams.standard import InputStream, RelayPosition
from wasmsr.wasi.streams.waiting import IN, wait


class Inflow(Protocol):
    """A stream of bytes and ends, each in its place: an end counts as one, and more may follow it,
    as after Ctrl-D on a terminal.

    `host` can be polled for reading where `ask` answers None. One thread calls.
    """

    host: int
    terminal: bool

    def seek(self, position: int) -> None:
        """What the program is to get next; before anything is read."""

    def ask(self) -> int | None:
        """The bytes that are there, 0 also where reading does not give any, but an end or an error;
        None if there is nothing yet, and then it is asked for."""

    def read(self, buffers: list[memoryview]) -> int:
        """Reads what is there, 0 for an end. BlockingIOError if there is nothing yet, another
        OSError if there will be nothing any more."""

    def pending(self) -> int:
        """Bytes that can be read now, when `host` is ready."""

    def hold(self) -> tuple[bytes, int]:
        """What was taken from the host and not by the program, which is the caller's from now on,
        and the place of what follows."""

    def close(self) -> None:
        """No more is asked for."""


class RelayedInput(InputStream):
    """Standard input that is an inflow."""

    __slots__ = ("inflow",)

    def __init__(self, inflow: Inflow) -> None:
        super().__init__(-1)
        self.inflow = inflow
        self.host = inflow.host
        self.owned = False
        self._looks(inflow.terminal)

    def _looks(self, terminal: bool) -> None:
        self.filetype = FileKind.CHARACTER_DEVICE if terminal else FileKind.UNKNOWN

    def end(self) -> None:
        self.inflow.close()
        super().end()

    def close(self) -> None:
        self.inflow.close()

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        if self.unread:
            return self._read_unread(buffers)
        if self.ended or not any(map(len, buffers)):
            return 0
        while True:
            if self.inflow.ask() is None:
                wait(caller, self.host, IN, nonblocking=self.nonblocking)
            try:
                return self.inflow.read(buffers)
            except BlockingIOError:
                # Somebody else took what was there.
                if self.nonblocking:
                    raise

    def available(self, event: int) -> int | None:
        return len(self.unread) if self.unread or self.ended else self.inflow.ask()

    def pending(self) -> int:
        return self.inflow.pending()

    def relayed(self) -> RelayPosition | None:
        if self.ended:
            return None
        data, position = self.inflow.hold()
        self.unread += data
        return RelayPosition(position, self.filetype == FileKind.CHARACTER_DEVICE)

    def go_on(self, state: RelayPosition) -> None:
        self.inflow.seek(state.position)
        self._looks(state.terminal)
