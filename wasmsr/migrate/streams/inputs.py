"""A program's input that stays where it is while the program goes: a terminal, a pipe, a socket.

Between `hosting` and the two ends, and beside `streams`, which has the output. The end where the
input is has a `Feed`; there the program reads it by a `Local` inflow, and elsewhere by a `Remote`
one, which asks that end when the program wants to read, and not before. What is given out stays in
the feed until the next question shows that it was received, or is in a snapshot; every byte and
every end of input has its place in the stream. So whatever is lost on the wire, and wherever the
program goes meanwhile, it reads each once, and the only buffers are one piece here and one there.
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
"""Most bytes that are asked for at once."""
HOLD_SECONDS: Final = 5.0
"""How long a question waits for input before it is answered with nothing."""
AGAIN: Final = 0.2
"""Seconds until a peer that did not answer is asked again."""
CUT_SECONDS: Final = 30.0
"""How long a peer may not answer before the program's reading fails."""

Fetch = Callable[[int, int], tuple[bytes, bool]]
"""Asks for input: (place in the stream, most bytes) to (bytes, whether the input ends there); none
and False if nothing came in a while. Raises PeerLost or PeerRefused."""


class Stale(ValueError):
    """The program has been elsewhere since, or does not stand at this place."""


class Feed:
    """An input of this host that programs elsewhere read too; `host` is its descriptor, and this
    class's to close.

    From several threads; each question names the epoch in which the program is owned where it is
    asked from, and one of an older epoch takes nothing.
    """

    def __init__(self, host: int) -> None:
        self.host = host
        self.terminal = os.isatty(host)
        self._nowait = NonblockingStream(host, os.O_RDONLY)
        self._lock = threading.Lock()
        self._kept = b""
        """What was taken from the host and may not have been received, from `_base` on."""
        self._end = False
        """Whether the input ends after that."""
        self._base = 0
        self._epoch = 0
        self._turn = 0
        self._waiter = -1
        self._closed = False

    def fetch(self, epoch: int, position: int, most: int, seconds: float) -> tuple[bytes, bool]:
        """Return the input at `position`: at most `most` bytes, and whether the input ends
        after them; nothing if none came within `seconds`, or another question did.

        Raises OSError where the host fails, Stale for what is not the program's to ask.
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
                    # Somebody else took what was there.
                    if not left:
                        return b"", False
                    continue
                self._kept, self._end = bytes(buffer[:count]), not count
                return self._kept, self._end

    def ask(self, epoch: int, position: int) -> int | None:
        """Return bytes that are kept from `position` on, 0 for an end; None if the host must be
        asked. Whoever waits elsewhere for the same goes away empty."""
        with self._lock:
            return self._claim(epoch, position)

    def read(self, epoch: int, position: int, buffers: list[memoryview]) -> int:
        """Straight into `buffers`, if nothing is kept; the bytes, 0 for an end. Raises OSError,
        Stale."""
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
        """Return bytes that can be read."""
        return len(self._kept) or pending_input(self.host)

    def _claim(self, epoch: int, position: int) -> int | None:
        """Let go of what was received; what is kept from there on, as `ask`. Under the lock."""
        passed = position - self._base
        if self._closed or epoch < self._epoch:
            raise Stale("the program's input is read elsewhere by now")
        if not 0 <= passed <= len(self._kept) + self._end:
            raise Stale("this is not where the program stands in its input")
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
        """Let go of the input; whoever waits for it is answered with nothing."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._wake()
                self._nowait.close()
                os.close(self.host)


class Local:
    """A feed of this host as an inflow (`wasi.relayed.Inflow`)."""

    def __init__(self, feed: Feed, epoch: int) -> None:
        """`epoch`: the one in which this host owns the program that reads."""
        self.host = feed.host
        self.terminal = feed.terminal
        self._feed = feed
        self._epoch = epoch
        self._position = 0

    def seek(self, position: int) -> None:
        """Make what is at `position` the next to be read."""
        self._position = position

    def ask(self) -> int | None:
        """Return how many bytes are there, and ask for more if there are none."""
        try:
            return self._feed.ask(self._epoch, self._position)
        except Stale:
            return 0

    def read(self, buffers: list[memoryview]) -> int:
        """Read what is there; return 0 for an end."""
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
        """Return what was taken and not read, and the place after it."""
        return b"", self._position

    def close(self) -> None:
        """Keep the feed for the place where the program goes."""


class Remote:
    """An input of another end as an inflow (`wasi.relayed.Inflow`), fetched by a thread of its own
    whenever the program wants to read and nothing is there.

    `host` can be read while there is something. A peer that does not answer makes the program wait,
    as an empty pipe does, for `CUT_SECONDS`.
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
        """The place after `_data`."""
        self._wanted = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def seek(self, position: int) -> None:
        """Make what is at `position` the next to be read."""
        self._position = position

    def ask(self) -> int | None:
        """Return how many bytes are there, and ask for more if there are none."""
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
        """Read what is there; return 0 for an end."""
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
        """Return what was taken and not read, and the place after it."""
        # An end that the program has not seen is not passed: whoever asks next is told again.
        with self._news:
            data, self._data = self._data, b""
            self._show()
            return data, self._position

    def close(self) -> None:
        """Ask for no more."""
        with self._news:
            if not self._closed:
                self._closed = True
                self._news.notify_all()
                os.close(self.host)
                os.close(self._signal)

    def _show(self) -> None:
        """Make `host` readable, or not. Under the lock, while not closed."""
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
        """Ask once, for what the program wants; whether the peer answered."""
        with self._news:
            position = self._position
        try:
            data, end = self._fetch(position, PIECE)
        except PeerLost:
            # It may have been given out: at the same place the same is given again.
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
    """An input that nobody has any more, as an inflow (`wasi.relayed.Inflow`): its end was killed
    and started again."""

    host = -1
    terminal = False

    def __init__(self) -> None:
        self._position = 0

    def seek(self, position: int) -> None:
        """Make what is at `position` the next to be read."""
        self._position = position

    def ask(self) -> int | None:
        """Return how many bytes are there, and ask for more if there are none."""
        return 0

    def read(self, buffers: list[memoryview]) -> int:
        """Read what is there; return 0 for an end."""
        raise cut(None)

    def pending(self) -> int:
        """Return how many bytes can be read now."""
        return 0

    def hold(self) -> tuple[bytes, int]:
        """Return what was taken and not read, and the place after it."""
        return b"", self._position

    def close(self) -> None:
        """There is nothing to let go of."""


def cut(error: Exception | None) -> OSError:
    """Return what the program's reading fails with when its input cannot be had any more (EIO)."""
    why = getattr(error, "message", None) or error or "the end that has it does not answer"
    return OSError(errno.EIO, f"the relayed input is cut: {why}")
