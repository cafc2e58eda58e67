"""What other threads tell the loop of an end: arrivals, ends of programs, interrupts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass

from wasmsr.errors import WasmsrError
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import Ending


@dataclass(frozen=True)
class Told:
    """How a program ended at a peer, and the peer's address."""

    ending: Ending
    peer: str


class News:
    """The news for one loop (`answers.MoveListener`). Any thread may call its methods.

    Attributes:
        session: The programs whose end is the end of this loop, each with the address of its peer:
            those that ran here, and those that a peer has prepared to send. The journal can have
            other programs, of earlier processes; they are removed when their peer says how they
            ended.
    """

    def __init__(self) -> None:
        self.session: dict[bytes, str] = {}
        self._arrived: dict[bytes, MovableProgram] = {}
        self._told: dict[bytes, Told] = {}
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    @property
    def arrived(self) -> MovableProgram | None:
        """The program that came first of those that the loop has not taken, or None."""
        with self._changed:
            return next(iter(self._arrived.values()), None)

    @property
    def told(self) -> Told | None:
        """How the first program ended of which the loop was told, or None."""
        with self._changed:
            return next(iter(self._told.values()), None)

    def arrive(self, program: MovableProgram) -> None:
        """Start a program that has come, and hand it to the loop."""
        try:
            program.start()
        except (WasmsrError, RuntimeError, OSError) as error:
            self._failure = error
        with self._changed:
            self._arrived[program.id] = program
            self._changed.notify_all()

    def prepared(self, program: bytes, peer: str) -> None:
        """Note that a peer has prepared to send a program."""
        self.session[program] = peer

    def ended(self, program: bytes, ending: Ending, peer: str) -> None:
        """Tell the loop how a program of its session ended at a peer."""
        known = self.session.get(program)
        if known is not None:
            self.tell(program, ending, peer or known)

    def tell(self, program: bytes, ending: Ending, peer: str) -> None:
        """Tell the loop how a program ended at a peer."""
        with self._changed:
            self._told[program] = Told(ending, peer)
            self._changed.notify_all()

    def forget(self) -> None:
        """Forget the ends of which the loop was told."""
        with self._changed:
            self._told.clear()

    def wake(self) -> None:
        """Let the loop check again whether it was interrupted."""
        with self._changed:
            self._changed.notify_all()

    def take(self) -> MovableProgram | None:
        """Take and return the program that came first, or None."""
        with self._changed:
            if not self._arrived:
                return None
            return self._arrived.pop(next(iter(self._arrived)))

    def wait(self, seconds: float, interrupted: Callable[[], bool]) -> MovableProgram | None:
        """Wait for news, at most `seconds`; take and return the program that has come, if any.

        Raises:
            Exception: The error with which the program that has come did not start.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self._arrived or self._told or self._failure or interrupted(), seconds
            )
            if self._failure:
                raise self._failure
            return self.take()


__all__ = ["News", "Told"]
