"""Something that is done between two instructions of a program that runs."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Visit:
    """One request of `Program.visit`: the program's thread performs it, another one waits for it.

    Attributes:
        stays: Whether the program stays paused afterwards.
        error: What the action raised, or None.
        over: Is set when it is done.
    """

    def __init__(self, action: Callable[[], bool]) -> None:
        self.stays = False
        self.error: BaseException | None = None
        self.over = threading.Event()
        self._action = action

    def perform(self) -> bool:
        """Do it, and return whether the program stays paused."""
        try:
            self.stays = self._action()
        except BaseException as error:  # noqa: BLE001 (raised in the thread that waits)
            self.error = error
        self.over.set()
        return self.stays
