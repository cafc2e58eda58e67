"""All programs of a node go to others: a few at a time, until a deadline."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from wasmsr.errors import WasmsrError
from wasmsr.migrate.rounds.convergence import MovePolicy
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.moving.node_moves import NodeMoves, Tell
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.program_record import ProgramStanding

AT_ONCE = 4
"""Programs that move at the same time, if nobody says more."""

MOST_AT_ONCE = 64
"""The same at most."""

TRIES = 3
"""Tries for each program: a node that is busy takes it a little later."""

AGAIN_SECONDS = 0.5
"""Seconds before the next try."""


@dataclass(frozen=True)
class Drained:
    """What a drain has done.

    Attributes:
        moved: Programs that are elsewhere now.
        left: The programs that are still here, by id, and why.
    """

    moved: int
    left: tuple[tuple[str, str], ...]


class Drain:
    """Moves every program that has a worker to one of several nodes."""

    def __init__(
        self,
        moves: NodeMoves,
        programs: Callable[[], Sequence[NodeProgram]],
        to: Sequence[str],
        *,
        at_once: int = AT_ONCE,
        deadline: float | None = None,
        policy: MovePolicy | None = None,
        tell: Tell = lambda event: None,
    ) -> None:
        """Make it.

        Args:
            moves: The moves of the node.
            programs: Returns all programs of the node.
            to: Addresses of the nodes that may get programs, in turn.
            at_once: Programs that move at the same time.
            deadline: Seconds after which no move is begun; None for none.
            policy: How they move.
            tell: Gets the events of all moves; several threads call it.

        Raises:
            SubmissionRefused: No node is named, or too many moves at a time are wanted.
        """
        if not to or not 1 <= at_once <= MOST_AT_ONCE:
            raise SubmissionRefused(
                f"a drain needs a node, and 1 to {MOST_AT_ONCE} moves at a time"
            )
        self._moves, self._programs, self._to = moves, programs, list(to)
        self._at_once, self._policy, self._tell = at_once, policy, tell
        self._end = float("inf") if deadline is None else time.monotonic() + deadline
        self._lock = threading.Lock()
        self._next = 0
        self._moved = 0
        self._left: dict[str, str] = {}

    def run(self) -> Drained:
        """Move the programs; return when no move is under way."""
        self._waiting = [one for one in self._programs() if one.standing.is_alive]
        threads = [
            threading.Thread(target=self._work, name="wasmsr-drain", daemon=True)
            for _ in range(min(self._at_once, len(self._waiting)))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        for one in self._programs():
            if one.standing is ProgramStanding.RESUMABLE:
                self._left[one.record.program] = "no worker has it, so it cannot be moved"
        return Drained(self._moved, tuple(self._left.items()))

    def _work(self) -> None:
        while True:
            with self._lock:
                if not self._waiting:
                    return
                program, turn = self._waiting.pop(0), self._next
                self._next += 1
            why = self._move(program, turn)
            with self._lock:
                if not why:
                    self._moved += 1
                elif program.standing.is_alive:
                    self._left[program.record.program] = why

    def _move(self, program: NodeProgram, turn: int) -> str:
        """Move a program; return why it was not moved, or ""."""
        why = "the time was over before its turn"
        for attempt in range(TRIES):
            if time.monotonic() >= self._end or self._moves.end.stop.is_set():
                return why
            address = self._to[(turn + attempt) % len(self._to)]
            try:
                self._moves.migrate(program, address, self._policy, self._tell)
            except WasmsrError as error:
                why = error.message
                if not program.standing.is_alive:
                    return why
                self._moves.end.stop.wait(AGAIN_SECONDS)
            else:
                return ""
        return why


__all__ = ["AT_ONCE", "MOST_AT_ONCE", "Drain", "Drained"]
