"""What other threads tell the loop of an end: arrivals, ends of programs, interrupts."""

from __future__ import annotations

import threading
from collections.abc import Callable

from wasmsr.errors import WasmsrError
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import Ending


class News:
    """The news for one loop. Any thread may call its methods.

    Attributes:
        arrived: The program that has come and that the loop has not taken yet, or None.
        told: How a program ended at a peer, or None.
        told_by: The address of that peer.
        session: The programs whose end is the end of this loop, each with the address of its peer:
            those that ran here, and those that a peer has prepared to send. The journal can have
            other programs, of earlier processes; they are removed when their peer says how they
            ended.
    """

    def __init__(self) -> None:
        self.arrived: MovableProgram | None = None
        self.told: Ending | None = None
        self.told_by = ""
        self.session: dict[bytes, str] = {}
        self._failure: Exception | None = None
        self._changed = threading.Condition()

    def arrive(self, program: MovableProgram) -> None:
        """Start a program that has come, and hand it to the loop."""
        try:
            program.start()
        except (WasmsrError, RuntimeError, OSError) as error:
            self._failure = error
        with self._changed:
            self.arrived = program
            self._changed.notify_all()

    def tell(self, ending: Ending, peer: str) -> None:
        """Tell the loop how its program ended at a peer."""
        with self._changed:
            self.told, self.told_by = ending, peer
            self._changed.notify_all()

    def wake(self) -> None:
        """Let the loop check again whether it was interrupted."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, seconds: float, interrupted: Callable[[], bool]) -> MovableProgram | None:
        """Wait for news, at most `seconds`; take and return the program that has come, if any.

        Raises:
            Exception: The error with which the program that has come did not start.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.arrived or self.told or self._failure or interrupted(), seconds
            )
            if self._failure:
                raise self._failure
            program, self.arrived = self.arrived, None
            return program
