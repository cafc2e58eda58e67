"""What people see of a node's moves: how far each is, and how the last one of a program ended."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from wasmsr.migrate.events import Event

KEPT = 256
"""Programs whose last move is kept."""
ROUNDS = 64
"""Rounds of a move that are kept; older ones go."""

Tell = Callable[[Event], None]
"""Gets the events of one move."""

_OF_A_ROUND = ("round", "bytes_raw", "seconds", "rate", "predicted")


class SeenMoves:
    """The moves of a node as its events tell them. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tells: dict[str, Tell] = {}
        self._moves: OrderedDict[str, dict[str, Any]] = OrderedDict()

    def begin(self, program: str, address: str, tell: Tell) -> None:
        """Hear that a move begins; `tell` gets its events."""
        with self._lock:
            self._tells[program] = tell
            self._moves[program] = {
                "peer": address, "standing": "preparing", "since": time.time(), "rounds": [],
            }  # fmt: skip
            self._moves.move_to_end(program)
            while len(self._moves) > KEPT:
                self._moves.popitem(last=False)

    def end(self, program: str, error: str = "") -> None:
        """Hear that the move is over; `error` says why the program stayed."""
        with self._lock:
            self._tells.pop(program, None)
            move = self._moves.get(program)
            if move is not None and error:
                move.update(standing="failed", message=error)

    def failed(self, program: str, address: str, error: str) -> None:
        """Hear that a move was refused before it began."""
        with self._lock:
            if program in self._tells:  # another one is under way
                return
        self.begin(program, address, lambda event: None)
        self.end(program, error)

    def take(self, event: Event) -> dict[str, object]:
        """Take an event of the hand-over, and pass it on to whoever watches the move.

        Returns:
            What the log says besides: for a round the seconds in which its pages were written,
            which are those of the round before. The first round has all pages, whenever they were
            written.
        """
        program = str(event.values.get("program", ""))
        more: dict[str, object] = {}
        with self._lock:
            tell = self._tells.get(program)
            move = self._moves.get(program)
            if tell is None or move is None:
                return more
            if event.kind == "round":
                move["standing"] = "copying"
                if move["rounds"] and event.values.get("round") != 1:
                    more["since"] = move["rounds"][-1]["seconds"]
                move["rounds"].append({name: event.values.get(name) for name in _OF_A_ROUND})
                del move["rounds"][:-ROUNDS]
            elif event.kind == "progress":
                move["standing"] = "copying"
            elif event.kind == "moved":
                move["standing"] = "moved"
            move.update((name, value) for name, value in event.values.items() if name != "rounds")
        tell(event)
        return more

    def is_moving(self, program: str) -> bool:
        """Return whether a move of a program is under way."""
        with self._lock:
            return program in self._tells

    def shown(self, program: str) -> dict[str, Any] | None:
        """Return how far the move of a program is, or how the last one ended; None: there is none.

        Returns:
            "peer", "standing" (preparing, copying, moved, failed), "since", "rounds" (what each
            one sent), and the values of its last events: "left" and "predicted" for example.
        """
        with self._lock:
            move = self._moves.get(program)
            return None if move is None else {**move, "rounds": list(move["rounds"])}


__all__ = ["SeenMoves", "Tell"]
