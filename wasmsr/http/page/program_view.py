"""Pages of programs of a node: made by a process of its own, and given out once.

A browser that opens an address sends no token. So the page of a node asks for a *ticket*, with the
token; the address with the ticket answers once, and only for a minute.
"""

from __future__ import annotations

import secrets
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from wasmsr.errors import WasmsrError
from wasmsr.node.failures import NodeError
from wasmsr.node.limited_process import MEMORY, run_limited

LIVES = 60.0
"""Seconds until a ticket ends."""
MOST = 4
"""Pages that wait to be fetched; the oldest goes first."""
PIECE = 1 << 20


class ViewTickets:
    """Pages that wait to be fetched. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pages: dict[str, tuple[float, bytes]] = {}

    def give(self, page: bytes) -> str:
        """Keep a page for a minute, and return its ticket."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._forget(time.monotonic())
            while len(self._pages) >= MOST:
                del self._pages[next(iter(self._pages))]
            self._pages[ticket] = (time.monotonic() + LIVES, page)
        end = threading.Timer(LIVES, self.take, (ticket,))
        end.daemon = True
        end.start()  # a page may be large, and perhaps nobody comes any more
        return ticket

    def take(self, ticket: str) -> bytes | None:
        """Return the page of a ticket, which ends with that; None if there is none."""
        with self._lock:
            self._forget(time.monotonic())
            found = self._pages.pop(ticket, None)
        return None if found is None else found[1]

    def _forget(self, now: float) -> None:
        for ticket in [one for one, (end, _) in self._pages.items() if end < now]:
            del self._pages[ticket]


_one = threading.Lock()
"""One page is made at a time: it takes about four times the memory of its program."""


@contextmanager
def one_at_a_time() -> Iterator[None]:
    """Hold the place of the page that is made. Take it before the program is saved.

    Raises:
        NodeError: Another page is being made.
    """
    if not _one.acquire(blocking=False):
        raise NodeError(
            "another program is being made ready for a browser", hint="ask again in a moment"
        )
    try:
        yield
    finally:
        _one.release()


def page_of(snapshot: IO[bytes], folder: Path) -> bytes:
    """Return the page of a snapshot.

    A process of its own makes it, because the snapshot is a program's, which nobody here trusts.

    Args:
        snapshot: The snapshot, with its modules.
        folder: Where temporary files can be.

    Raises:
        WasmsrError: No page can be made of it; the message says why.
        OSError: The disk has no room.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="view-") as place:
        saved, page = Path(place) / "program.bin", Path(place) / "page.html"
        with saved.open("xb") as file:
            while piece := snapshot.read(PIECE):
                file.write(piece)
        # Names without a folder: what is said of them goes to people.
        words = ["inspect", "--html", saved.name, "-o", page.name]
        done = run_limited("wasmsr", words, "the page", Path(place))
        if done.returncode != 0:
            raise _failure(done.stderr.decode(errors="replace"))
        return page.read_bytes()


def _failure(said: str) -> WasmsrError:
    """Return the error that a process has said, with its hint."""
    lines = said.splitlines()
    own = [line for line in lines if line.startswith("wasmsr: ")]
    if not own:
        hint = f"it may have {MEMORY >> 20} MiB of memory; wasmsr inspect --html has no such limit"
        return NodeError("the process that makes the page ended without a word", hint=hint)
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    return NodeError(own[-1].removeprefix("wasmsr: ")[:500], hint=hints[0] if hints else None)


__all__ = ["ViewTickets", "page_of"]
