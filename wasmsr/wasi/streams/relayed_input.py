"""Standard input of a program that can leave the host of its input, and come back.

A `RelayedInput` reads from an `Inflow`. `wasmsr.migrate` has two kinds of these: one for the host
of the input, one for the host where the program is a guest. The program's position in the input is
all that a snapshot needs, besides bytes that were taken from the inflow and not yet by the program.
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
        """Make what is at `position` the next to be read. Nothing was read before."""

    def ask(self) -> int | None:
        """Return how many bytes are there, and ask for more if there are none.

        Returns:
            0 also where reading gives an end or an error; None if there is nothing yet.
        """

    def read(self, buffers: list[memoryview]) -> int:
        """Read what is there; return 0 for an end.

        Raises:
            BlockingIOError: There is nothing yet.
            OSError: There will be nothing any more.
        """

    def pending(self) -> int:
        """Return how many bytes can be read now, when `host` is ready."""

    def hold(self) -> tuple[bytes, int]:
        """Return what was taken from the host and not by the program, and the place after it.

        The bytes are the caller's from then on.
        """

    def close(self) -> None:
        """Ask for no more."""


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
        """Let nothing follow what is `unread`."""
        self.inflow.close()
        super().end()

    def close(self) -> None:
        """Close the inflow."""
        self.inflow.close()

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read what is unread, then from the inflow."""
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
        """Return the bytes that are there; None where the inflow must be asked."""
        return len(self.unread) if self.unread or self.ended else self.inflow.ask()

    def pending(self) -> int:
        """Return how many bytes can be read now."""
        return self.inflow.pending()

    def relayed(self) -> RelayPosition | None:
        """Return the program's place in the input; None after its end."""
        if self.ended:
            return None
        data, position = self.inflow.hold()
        self.unread += data
        return RelayPosition(position, self.filetype == FileKind.CHARACTER_DEVICE)

    def go_on(self, state: RelayPosition) -> None:
        """Go on at the place of a state."""
        self.inflow.seek(state.position)
        self._looks(state.terminal)
