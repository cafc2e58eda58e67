"""Lines about calls that this end refuses. Anybody on the network can cause such a call."""

from __future__ import annotations

import threading
import time

from wasmsr.migrate.events import Announce, Event

SECONDS = 60.0
"""Least time between two lines about refused calls of one kind."""


class RefusedCalls:
    """Says that calls were refused, once in a while for each kind. Any thread may call it."""

    def __init__(self, announce: Announce) -> None:
        self._announce = announce
        self._lock = threading.Lock()
        self._said: dict[str, tuple[float, int]] = {}
        """For each kind: when the last line came, and how many calls came since."""

    def version(self, version: str, software: str) -> None:
        """Say that an end of another version called."""
        whose = f" (wasmsr {software})" if software else ""
        self.say(
            "version",
            f"a peer of another version called and was refused: {version}{whose}; install the same "
            "version of wasmsr on both ends",
        )

    def key(self, caller: str) -> None:
        """Say that a caller without this end's key was refused before anything was read."""
        self.say(
            "key",
            f"a call from {caller} was refused: it has not this end's key. If the caller is your "
            "other end: two ends of one user have the key by themselves; otherwise give both the "
            "same --token-file FILE",
        )

    def say(self, kind: str, text: str) -> None:
        """Say `text`, unless there was a line of this kind less than `SECONDS` ago."""
        with self._lock:
            said, count = self._said.get(kind, (-SECONDS, 0))
            now = time.monotonic()
            if now - said < SECONDS:
                self._said[kind] = said, count + 1
                return
            self._said[kind] = now, 0
        if count:
            text += f" ({count} more calls were refused since the last such line)"
        self._announce(Event("refused", text, {"reason": kind, "calls": count + 1}))
