"""The inputs of this end that programs read, wherever the programs are."""

from __future__ import annotations

from collections.abc import Callable

from wasmsr.migrate.ports import Relays
from wasmsr.migrate.protocol import Move
from wasmsr.migrate.streams.inputs import HOLD_SECONDS, Feed, Gone, Local, Remote
from wasmsr.migrate.streams.relays import StdinAfterMove
from wasmsr.wasi.streams.relayed_input import RelayedInput
from wasmsr.wasi.streams.standard import InputStream

FEEDS = 8
"""How many programs can have an input of this end at a time; one more takes the oldest's."""


class OwnInputs:
    """The inputs of this end, by the program's id.

    Attributes:
        node: Node id of this end.
        after: What a program reads after it has left: the rest of its input, or the end of it.
    """

    def __init__(self, stdin: Callable[[], int | None] | None, after: StdinAfterMove) -> None:
        """`stdin` opens the input that this end gives to a program; None gives an empty one."""
        self.node = b""
        self.after = after
        self._stdin = stdin
        self._feeds: dict[bytes, Feed] = {}

    def __len__(self) -> int:
        return len(self._feeds)

    def of_end(self, program: bytes, epoch: int) -> tuple[InputStream | None, bytes]:
        """Return this end's input for a program.

        Args:
            program: The program's id.
            epoch: The epoch in which the program is owned here.

        Returns:
            The input; and this end's node id if the input stays here when the program leaves,
            otherwise b"".

        Raises:
            OSError: The input cannot be opened.
        """
        feed = self._feeds.get(program)
        if feed is None:
            host = None if self._stdin is None else self._stdin()
            if host is None:
                return None, b""
            stream = InputStream(host, owned=True)
            if stream.regular or self.after == "eof":
                return stream, b""
            while len(self._feeds) >= FEEDS:
                self._feeds.pop(next(iter(self._feeds))).close()
            feed = self._feeds[program] = Feed(host)
        return RelayedInput(Local(feed, epoch)), self.node

    def of_guest(self, program: bytes, relays: Relays) -> tuple[InputStream | None, bytes]:
        """Return the input of a program that comes, and the node id of the end that has it, or
        b""."""
        if relays.fetch is not None:
            return RelayedInput(Remote(relays.fetch)), relays.fed
        if relays.fed and program not in self._feeds:
            return RelayedInput(Gone()), relays.fed
        return self.of_end(program, relays.epoch)

    def fetch(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input for a program that left by `move`; see `Feed.fetch`."""
        feed = self._feeds.get(move.program)
        if feed is None:
            raise ValueError("that end was started again since")
        return feed.fetch(move.epoch, position, most, HOLD_SECONDS)

    def forget(self, program: bytes) -> None:
        """Close the input of a program that has ended."""
        feed = self._feeds.pop(program, None)
        if feed is not None:
            feed.close()

    def close(self) -> None:
        """Close all inputs, and wake the threads that wait for them."""
        for feed in self._feeds.values():
            feed.close()
