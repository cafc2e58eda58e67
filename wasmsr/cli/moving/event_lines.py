"""The events of a move as lines: for people on standard error, as JSON on standard output."""

from __future__ import annotations

import contextlib
import json
import sys
import threading
from typing import TYPE_CHECKING

from wasmsr.cli.words.messages import say
from wasmsr.cli.words.progress import Advance, shown
from wasmsr.migrate.events import size

if TYPE_CHECKING:
    from wasmsr.migrate.events import Event

WARNINGS = frozenset(
    {"asking", "input-cut", "silent", "trouble", "lost", "refused", "not-moved", "parked"}
    | {"output-waits", "output-gap", "output-cut", "lease"}
)
"""Kinds of events that -q does not silence."""


class EventLines:
    """Shows events; any thread may call it with one. With `json`, each event is one object."""

    def __init__(self, *, json: bool) -> None:
        self.json = json
        self._lock = threading.Lock()
        self._bar = contextlib.ExitStack()
        self._advance: Advance | None = None

    def __call__(self, event: Event) -> None:
        """Show an event."""
        with self._lock:
            if event.kind == "progress":
                if not self.json:
                    self._move_bar(event.values)
                return
            if event.kind == "round" and not self.json:
                return  # the progress line says it
            self._remove_bar()
            if self.json:
                self.print_json(event.kind, event.values)
            elif event.text:
                say(event.text, "warning" if event.kind in WARNINGS else "notice")

    def print_json(self, kind: str, values: dict[str, object], code: int | None = None) -> None:
        """Print one object on standard output, if the user wants JSON."""
        if self.json:
            fields = {"event": kind, **values}
            if code is not None:
                fields["code"] = code
            # One write, also where Python does not buffer: the program writes to the same stream.
            sys.stdout.write(json.dumps(fields) + "\n")
            sys.stdout.flush()

    def close(self) -> None:
        """Remove the progress bar."""
        with self._lock:
            self._remove_bar()

    def _move_bar(self, values: dict[str, object]) -> None:
        if self._advance is None:
            self._advance = self._bar.enter_context(shown("moving"))
        what = "moving"
        if "round" in values:
            what = f"moving, round {values['round']}, {size(_number(values['left']))} left"
            if values["predicted"] is not None:
                what += f", downtime now {_number(values['predicted']) * 1000:.0f} ms"
        self._advance(values["bytes"], None, what)

    def _remove_bar(self) -> None:
        self._bar.close()
        self._advance = None


def _number(value: object) -> float:
    assert isinstance(value, (int, float))
    return value
