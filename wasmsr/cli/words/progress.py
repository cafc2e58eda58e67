"""A progress line on a terminal. It appears after half a second, and is removed at the end.

In a pipe nothing appears. rich is imported only when a line appears.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from wasmsr.cli.running.terminal import at_end_now, forget_at_end_now
from wasmsr.cli.words.messages import wanted
from wasmsr.errors import printable

TYPE_CHECKING = False
if TYPE_CHECKING:
    from rich.progress import Progress

DELAY = 0.5
"""Seconds of work before the line appears."""

Advance = Callable[..., None]
"""Takes the number of bytes that are done, of all bytes (None: unknown), and what is done now."""


class _Line:
    """The line of one piece of work."""

    def __init__(self, what: str) -> None:
        self.what = printable(what)
        self.done = 0
        self.total: int | None = None
        self._lock = threading.Lock()
        self._over = False
        self._progress: Progress | None = None
        self._timer = threading.Timer(DELAY, self._appear)
        self._timer.daemon = True
        self._timer.start()

    def _appear(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            DownloadColumn,
            Progress,
            TextColumn,
            TimeElapsedColumn,
        )

        what = TextColumn("{task.description}", markup=False)
        columns = (what, BarColumn(), DownloadColumn(), TimeElapsedColumn())
        with self._lock:
            if self._over:
                return
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.add_task(self.what, total=self.total, completed=self.done)
            at_end_now(self.close)
            self._progress.start()

    def advance(self, done: int, total: int | None, what: str = "") -> None:
        """Update the numbers of the line, and what it says is done."""
        self.done, self.total = done, total
        if what:
            self.what = printable(what)
        progress = self._progress
        if progress is not None:
            task = progress.task_ids[0]
            progress.update(task, completed=done, total=total, description=self.what)

    def close(self) -> None:
        """Remove the line and show the cursor again."""
        self._timer.cancel()
        with self._lock:
            self._over = True
            progress, self._progress = self._progress, None
        if progress is not None:
            progress.stop()
            forget_at_end_now(self.close)


@contextmanager
def shown(what: str) -> Iterator[Advance]:
    """Show the progress of the block; call the value to update it."""
    if not (sys.stderr.isatty() and wanted("notice")):
        yield lambda done, total, what="": None
        return
    line = _Line(what)
    try:
        yield line.advance
    finally:
        line.close()
