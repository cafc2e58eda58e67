"""Pages of programs of a node: made by a process of its own, and given out once.

A browser that opens an address sends no token. So the page of a node asks for a *ticket*, with the
token; the address with the ticket answers once, and only for a minute.
"""

from __future__ import annotations

import os
import secrets
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import IO

from wasmsr.errors import WasmsrError
from wasmsr.node.failures import NodeError

SECONDS = 120.0
"""How long a page may take to be made."""
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
        """Keep a page, and return its ticket."""
        ticket = secrets.token_urlsafe(24)
        with self._lock:
            self._forget(time.monotonic())
            while len(self._pages) >= MOST:
                del self._pages[next(iter(self._pages))]
            self._pages[ticket] = (time.monotonic() + LIVES, page)
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
    with _one, tempfile.TemporaryDirectory(dir=folder, prefix="view-") as place:
        saved, page = Path(place) / "program.bin", Path(place) / "page.html"
        with saved.open("xb") as file:
            while piece := snapshot.read(PIECE):
                file.write(piece)
        # Names without a folder: what is said of them goes to people.
        words = ["inspect", "--html", saved.name, "-o", page.name]
        command = [sys.executable, "-m", "wasmsr", *words]
        mine = {name: value for name, value in os.environ.items() if name[:7] != "WASMSR_"}
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                env=mine,
                cwd=place,
                timeout=SECONDS,
            )
        except subprocess.TimeoutExpired:
            raise NodeError(f"the page was not made within {SECONDS:.0f} s") from None
        if done.returncode != 0:
            raise _failure(done.stderr.decode(errors="replace"))
        return page.read_bytes()


def _failure(said: str) -> WasmsrError:
    """Return the error that a process has said, as its first line and its hint."""
    lines = said.splitlines() or ["the page was not made"]
    hints = [line.removeprefix("hint: ") for line in lines if line.startswith("hint: ")]
    return NodeError(lines[0].removeprefix("wasmsr: ")[:500], hint=hints[0] if hints else None)


__all__ = ["ViewTickets", "page_of"]
