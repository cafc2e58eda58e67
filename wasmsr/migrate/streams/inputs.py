"""A program's input that stays where it is when the program leaves: a terminal, a pipe, a socket.

The end that has the input has a `Feed`. The program reads the feed through a `Local` inflow at that
end, and through a `Remote` inflow at any other end. A `Remote` inflow asks for input only when the
program reads. Each byte and each end of input has a position in the stream. The feed keeps what it
has given out until the next question shows that the program has received it. So the program reads
each byte once, whatever the wire loses and wherever the program goes. The only buffers are one
piece at each end.
"""

from __future__ import annotations

import errno
import os
import select
import threading
import time
from collections.abc import Callable
from typing import Final

from wasmsr.migrate.protocol import PeerLost, PeerRefused
from wasmsr.wasi.streams.descriptor import pending_input
from wasmsr.wasi.streams.nonblocking import NonblockingStream
from wasmsr.wasi.streams.standard import scatter

PIECE: Final = 65536
"""Most bytes of one question."""
HOLD_SECONDS: Final = 5.0
"""How long a question waits for input; then the answer is empty."""
AGAIN: Final = 0.2
"""Seconds until a peer that did not answer is asked again."""
CUT_SECONDS: Final = 30.0
"""How long a peer may be silent before the program's read fails."""

Fetch = Callable[[int, int], tuple[bytes, bool]]
"""Asks for input: (position, most bytes) to (bytes, whether the input ends after them). No bytes
and False mean that none came in time. Raises PeerLost or PeerRefused."""


class Stale(ValueError):
    """The question is old: the program has moved since, or has another position."""


class Feed:
    """An input of this host that programs at other ends can read too.

    Any thread may call it. Each question has the epoch in which the asking end owns the program. A
    question of an older epoch takes nothing.

    Attributes:
        host: The input's descriptor. `close` closes it.
        terminal: Whether the input is a terminal.
    """

    def __init__(self, host: int) -> None:
        self.host = host
        self.terminal = os.isatty(host)
        self._nowait = NonblockingStream(host, os.O_RDONLY)
        self._lock = threading.Lock()
        self._kept = b""
        """Bytes that were read from the host and that the program may not have received."""
        self._end = False
        """Whether the input ends after `_kept`."""
        self._base = 0
        """The position of `_kept`."""
        self._epoch = 0
        self._turn = 0
        self._waiter = -1
        self._closed = False

    def fetch(self, epoch: int, position: int, most: int, seconds: float) -> tuple[bytes, bool]:
        """Return the input at a position.

        Args:
            epoch: The epoch in which the asking end owns the program.
            position: The position in the stream.
            most: Most bytes to return.
            seconds: How long to wait for input.

        Returns:
            The bytes, and whether the input ends after them. No bytes and False if none came in
            time, or if another question came.

        Raises:
            OSError: The host failed.
            Stale: The question is old.
        """
        with self._lock:
            here = self._claim(epoch, position)
            if here is not None:
                return self._kept[:most], self._end and len(self._kept) <= most
            turn = self._turn
            woken, self._waiter = os.pipe()
        try:
            return self._await(turn, most, woken, time.monotonic() + seconds)
        finally:
            with self._lock:
                os.close(woken)
                if turn == self._turn:
                    self._wake()

    def _await(self, turn: int, most: int, woken: int, deadline: float) -> tuple[bytes, bool]:
        poll = select.poll()
        poll.register(self.host, select.POLLIN)
        poll.register(woken, select.POLLIN)
        while True:
            left = max(0.0, deadline - time.monotonic())
            ready = poll.poll(left * 1000)
            with self._lock:
                if turn != self._turn or self._closed or not (ready or left):
                    return b"", False
                if not ready:
                    continue
                buffer = bytearray(most)
                try:
                    count = self._nowait.read([memoryview(buffer)])
                except BlockingIOError:
                    # Another reader of the descriptor has taken the input.
                    if not left:
                        return b"", False
                    continue
                self._kept, self._end = bytes(buffer[:count]), not count
                return self._kept, self._end

    def ask(self, epoch: int, position: int) -> int | None:
        """Return how many bytes are kept at `position`, 0 for an end, None if there is nothing.

        A question that waits for the same input gets an empty answer.
        """
        with self._lock:
            return self._claim(epoch, position)

    def read(self, epoch: int, position: int, buffers: list[memoryview]) -> int:
        """Read into `buffers`: what is kept, otherwise from the host.

        Returns the number of bytes, 0 for an end. Raises OSError and Stale.
        """
        with self._lock:
            here = self._claim(epoch, position)
            if here is None:
                count = self._nowait.read(buffers)
                self._base += count or 1
                return count
            if not here:
                self._end = False
                self._base += 1
                return 0
            count = scatter(self._kept, buffers)
            self._base += count
            self._kept = self._kept[count:]
            return count

    def pending(self) -> int:
        """Return how many bytes can be read now."""
        return len(self._kept) or pending_input(self.host)

    def _claim(self, epoch: int, position: int) -> int | None:
        """Drop what the program has received, and return what `ask` returns. Needs the lock."""
        passed = position - self._base
        if self._closed or epoch < self._epoch:
            raise Stale("the program's input is read elsewhere by now")
        if not 0 <= passed <= len(self._kept) + self._end:
            raise Stale("the program has another position in its input")
        self._epoch = epoch
        if passed > len(self._kept):
            self._end = False
        self._kept = self._kept[passed:]
        self._base = position
        self._turn += 1
        self._wake()
        return len(self._kept) if self._kept or self._end else None

    def _wake(self) -> None:
        if self._waiter >= 0:
            os.close(self._waiter)
            self._waiter = -1

    def close(self) -> None:
        """Close the input. A question that waits for it gets an empty answer."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._wake()
                self._nowait.close()
                os.close(self.host)


class Local:
    """A feed of this host, read by a program of this host (`relayed_input.Inflow`)."""

    def __init__(self, feed: Feed, epoch: int) -> None:
        """Read `feed` for a program that this host owns in `epoch`."""
        self.host = feed.host
        self.terminal = feed.terminal
        self._feed = feed
        self._epoch = epoch
        self._position = 0

    def seek(self, position: int) -> None:
        """Set the position of the next read."""
        self._position = position

    def ask(self) -> int | None:
        """Return how many bytes are there, 0 for an end; None if there is nothing yet."""
        try:
            return self._feed.ask(self._epoch, self._position)
        except Stale:
            return 0

    def read(self, buffers: list[memoryview]) -> int:
        """Read into `buffers`; return the number of bytes, 0 for an end."""
        try:
            count = self._feed.read(self._epoch, self._position, buffers)
        except Stale as error:
            raise cut(error) from error
        self._position += count or 1
        return count

    def pending(self) -> int:
        """Return how many bytes can be read now."""
        return self._feed.pending()

    def hold(self) -> tuple[bytes, int]:
        """Return bytes that were fetched and not read, and the position after them."""
        return b"", self._position

    def close(self) -> None:
        """Do nothing: the feed stays for the end where the program goes."""


class Remote:
    """An input of another end (`relayed_input.Inflow`).

    A thread fetches input when the program reads and nothing is there. While something is there,
    `host` is readable. If the peer does not answer, the program waits as for an empty pipe, at most
    `CUT_SECONDS`.
    """

    terminal = False

    def __init__(self, fetch: Fetch) -> None:
        self._fetch = fetch
        self.host, self._signal = os.pipe()
        self._signalled = False
        self._news = threading.Condition()
        self._data = b""
        self._end = False
        self._error: OSError | None = None
        self._position = 0
        """The position after `_data`."""
        self._wanted = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def seek(self, position: int) -> None:
        """Set the position of the next read."""
        self._position = position

    def ask(self) -> int | None:
        """Return how many bytes are there, 0 for an end; None if there is nothing yet."""
        with self._news:
            if self._signalled:
                return len(self._data)
            self._want()
            return None

    def _want(self) -> None:
        self._wanted = True
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="wasmsr-input", daemon=True)
            self._thread.start()
        self._news.notify_all()

    def read(self, buffers: list[memoryview]) -> int:
        """Read into `buffers`; return the number of bytes, 0 for an end."""
        with self._news:
            if self._data:
                count = scatter(self._data, buffers)
                self._data = self._data[count:]
                self._show()
                return count
            if self._end:
                self._end = False
                self._position += 1
                self._show()
                return 0
            if self._error is not None:
                raise self._error
            self._want()
            raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))

    def pending(self) -> int:
        """Return how many bytes can be read now."""
        return len(self._data)

    def hold(self) -> tuple[bytes, int]:
        """Return bytes that were fetched and not read, and the position after them."""
        # An end that the program has not read stays in the stream: the next question gets it again.
        with self._news:
            data, self._data = self._data, b""
            self._show()
            return data, self._position

    def close(self) -> None:
        """Stop asking, and close the descriptors."""
        with self._news:
            if not self._closed:
                self._closed = True
                self._news.notify_all()
                os.close(self.host)
                os.close(self._signal)

    def _show(self) -> None:
        """Make `host` readable if something is there. Needs the lock; not after `close`."""
        there = bool(self._data or self._end or self._error)
        if there and not self._signalled:
            os.write(self._signal, b"\0")
        elif self._signalled and not there:
            os.read(self.host, 1)
        self._signalled = there

    # The thread that asks.

    def _run(self) -> None:
        silent: float | None = None
        while True:
            with self._news:
                self._news.wait_for(lambda: self._wanted or self._closed)
                if self._closed:
                    return
            answered = self.step()
            if answered:
                silent = None
                continue
            silent = silent or time.monotonic()
            if time.monotonic() - silent > CUT_SECONDS:
                self._deliver(b"", end=False, error=cut(None))
            with self._news:
                self._news.wait_for(lambda: self._closed, AGAIN)

    def step(self) -> bool:
        """Ask the peer once; return whether the peer answered."""
        with self._news:
            position = self._position
        try:
            data, end = self._fetch(position, PIECE)
        except PeerLost:
            # The peer may have answered: the same question gets the same answer again.
            return False
        except PeerRefused as error:
            self._deliver(b"", end=False, error=cut(error))
        else:
            if data or end:
                self._deliver(data, end=end, error=None)
        return True

    def _deliver(self, data: bytes, *, end: bool, error: OSError | None) -> None:
        with self._news:
            if not self._closed:
                self._data, self._end, self._error = data, end, error
                self._position += len(data)
                self._wanted = False
                self._show()


class Gone:
    """An input that is lost (`relayed_input.Inflow`): its end was killed and started again."""

    host = -1
    terminal = False

    def __init__(self) -> None:
        self._position = 0

    def seek(self, position: int) -> None:
        """Set the position of the next read."""
        self._position = position

    def ask(self) -> int | None:
        """Return how many bytes are there, 0 for an end; None if there is nothing yet."""
        return 0

    def read(self, buffers: list[memoryview]) -> int:
        """Read into `buffers`; return the number of bytes, 0 for an end."""
        raise cut(None)

    def pending(self) -> int:
        """Return how many bytes can be read now."""
        return 0

    def hold(self) -> tuple[bytes, int]:
        """Return bytes that were fetched and not read, and the position after them."""
        return b"", self._position

    def close(self) -> None:
        """Do nothing: there is nothing to close."""


def cut(error: Exception | None) -> OSError:
    """Return the error of a read whose input is lost: EIO."""
    why = getattr(error, "message", None) or error or "the end that has it does not answer"
    return OSError(errno.EIO, f"the relayed input is cut: {why}")
