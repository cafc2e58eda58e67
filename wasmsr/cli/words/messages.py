"""Messages on standard error, by level.

They do not use `logging`, whose import takes a third of the time of `wasmsr run fib`. Some rooms
below do use it; `connect_logging` gives them the same levels.
"""

from __future__ import annotations

import contextlib
import sys

from wasmsr.errors import printable

LEVELS = ("error", "warning", "notice", "info", "debug")
"""From few messages to many. A notice is for every user, such as "a snapshot was written"."""

_level = LEVELS.index("notice")


def set_level(name: str | None = None, *, verbose: int = 0, quiet: int = 0) -> None:
    """Set the level of messages: by name, or by the number of -v and -q."""
    global _level
    step = LEVELS.index(name) if name else LEVELS.index("notice") + verbose - quiet
    _level = max(0, min(step, len(LEVELS) - 1))
    if wanted("info"):
        connect_logging()


def wanted(level: str) -> bool:
    """Return whether messages of this level are written."""
    return LEVELS.index(level) <= _level


def say(text: str, level: str = "notice") -> None:
    """Write "wasmsr: text" to standard error if the level is wanted. Ignore a closed pipe."""
    if wanted(level):
        with contextlib.suppress(OSError, ValueError):
            # One write: with unbuffered streams, `print` would write the end of the line by itself,
            # and a line of the program could come between the two.
            sys.stderr.write(f"wasmsr: {printable(text, None)}\n")
            sys.stderr.flush()


def connect_logging() -> None:
    """Show what the package logs (loggers below "wasmsr") at the present level."""
    import logging

    levels = {"error": 40, "warning": 30, "notice": 25, "info": 20, "debug": 10}
    logging.addLevelName(levels["notice"], "NOTICE")
    log = logging.getLogger("wasmsr")
    log.setLevel(levels[LEVELS[_level]])
    log.propagate = False
    if not log.handlers:

        class Printable(logging.Formatter):
            """Quotes names in what is logged."""

            def format(self, record: logging.LogRecord) -> str:
                lines = super().format(record).splitlines()
                return "\n".join(printable(line, None) for line in lines)

        handler = logging.StreamHandler()
        handler.setFormatter(Printable("wasmsr: %(message)s"))
        log.addHandler(handler)
