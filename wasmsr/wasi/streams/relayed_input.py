"""Standard input of a program that can leave the host of its input, and come back.

A `RelayedInput` reads from an `Inflow`. `wasmsr.migrate` has two kinds of inflows: one for the host
of the input, and one for other hosts. A snapshot has the program's position in the input, and the
bytes that were fetched and that the program has not read yet.
"""

from __future__ import annotations

from typing import Protocol

from wasmsr.wasi.engine import Caller
from wasmsr.wasi.streams.descriptor import FileKind
from wasmsr.wasi.streams.standard import InputStream, RelayPosition
from wasmsr.wasi.streams.waiting import IN, wait


class Inflow(Protocol):
    """A stream of bytes and ends. Each byte and each end has a position.

    More bytes may follow an end, as after Ctrl-D on a terminal. One thread calls.

    Attributes:
        host: A descriptor to poll for reading after `ask` has returned None.
        terminal: Whether the input is a terminal.
    """

    host: int
    terminal: bool

    def seek(self, position: int) -> None:
        """Set the position of the next read. Nothing was read before."""

    def ask(self) -> int | None:
        """Return how many bytes are there; ask for more if there are none.

        Returns:
            The number of bytes; 0 if a read gives an end or an error; None if there is nothing yet.
        """

    def read(self, buffers: list[memoryview]) -> int:
        """Read into `buffers`; return the number of bytes, 0 for an end.

        Raises:
            BlockingIOError: There is nothing yet.
            OSError: Nothing will come.
        """

    def pending(self) -> int:
        """Return how many bytes can be read now, when `host` is ready."""

    def hold(self) -> tuple[bytes, int]:
        """Return the bytes that were fetched and not read, and the position after them.

        The inflow no longer has these bytes.
        """

    def close(self) -> None:
        """Stop asking for input."""


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
        """End the input after what is `unread`."""
        self.inflow.close()
        super().end()

    def close(self) -> None:
        """Close the inflow."""
        self.inflow.close()

    def read(self, caller: Caller, buffers: list[memoryview]) -> int:
        """Read the bytes in `unread` first, then the inflow."""
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
                # Another reader has taken the bytes.
                if self.nonblocking:
                    raise

    def available(self, event: int) -> int | None:
        """Return the bytes that are there; None if only the inflow can say."""
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
