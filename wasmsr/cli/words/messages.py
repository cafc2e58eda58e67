"""What is said on standard error, by how much the user wants to hear.

`logging` is not used for it: to import it takes a third of the time that `wasmsr run fib` needs.
The rooms below that do log are connected to the same levels by `connect_logging`.
"""

from __future__ import annotations

import contextlib
import sys

from wasmsr.errors import printable

LEVELS = ("error", "warning", "notice", "info", "debug")
"""From silent to talkative. A notice is what everybody wants to know: a snapshot was written."""

_level = LEVELS.index("notice")


def set_level(name: str | None = None, *, verbose: int = 0, quiet: int = 0) -> None:
    """Set what is said from here on: by name, else by the number of -v and -q."""
    global _level
    step = LEVELS.index(name) if name else LEVELS.index("notice") + verbose - quiet
    _level = max(0, min(step, len(LEVELS) - 1))
    if wanted("info"):
        connect_logging()


def wanted(level: str) -> bool:
    """Return whether a message of this level is said."""
    return LEVELS.index(level) <= _level


def say(text: str, level: str = "notice") -> None:
    """Write "wasmsr: text" to standard error, if wanted. Nobody reading is no reason to end."""
    if wanted(level):
        with contextlib.suppress(OSError, ValueError):
            # One write: with unbuffered streams `print` would write the line's end on its own, and
            # a line of the program could come between.
            sys.stderr.write(f"wasmsr: {printable(text, None)}\n")
            sys.stderr.flush()


def connect_logging() -> None:
    """Let what the package logs (loggers below "wasmsr") through at the level in force."""
    import logging

    levels = {"error": 40, "warning": 30, "notice": 25, "info": 20, "debug": 10}
    logging.addLevelName(levels["notice"], "NOTICE")
    log = logging.getLogger("wasmsr")
    log.setLevel(levels[LEVELS[_level]])
    log.propagate = False
    if not log.handlers:

        class Printable(logging.Formatter):
            """What is logged, with its names quoted."""

            def format(self, record: logging.LogRecord) -> str:
                lines = super().format(record).splitlines()
                return "\n".join(printable(line, None) for line in lines)

        handler = logging.StreamHandler()
        handler.setFormatter(Printable("wasmsr: %(message)s"))
        log.addHandler(handler)
