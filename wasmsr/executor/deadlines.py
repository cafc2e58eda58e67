"""Deadlines of programs: a thread that does nothing else pauses a program in time.

The times are those of `realtime.boot`, so a process that was stopped, or a machine that was
suspended, is late by itself and not by its clock.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable

from wasmsr import realtime
from wasmsr.executor.port import ExecutorError

LOOK_SECONDS = 0.02
"""The longest time between two looks at the clock, while a program has a deadline."""


class Deadlines:
    """When programs must pause, and when they must have paused. Any thread may call its methods."""

    def __init__(
        self, pause: Callable[[bytes, float], bool], overdue: Callable[[bytes], None]
    ) -> None:
        """Use these functions.

        Args:
            pause: Pauses a program and returns whether it did within so many seconds.
            overdue: Is called for a program that has not paused at the end of its time.
        """
        self._pause = pause
        self._overdue = overdue
        self._lock = threading.Condition()
        self._times: dict[bytes, tuple[int, int]] = {}
        self._done: dict[bytes, tuple[int, int]] = {}
        self._thread: threading.Thread | None = None

    def set(self, program: bytes, pause_at: int | None, end_at: int | None) -> None:
        """Set the times of a program, in ns of `realtime.boot`; None for none."""
        with self._lock:
            self._done.pop(program, None)
            if pause_at is None or end_at is None:
                self._times.pop(program, None)
                return
            self._times[program] = pause_at, end_at
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._look, name="wasmsr-deadlines", daemon=True
                )
                self._thread.start()
            self._lock.notify()

    def check(self, program: bytes) -> None:
        """Check that a program may run now. Raises ExecutorError."""
        with self._lock:
            times = self._times.get(program)
        if times is not None and realtime.boot() >= times[0]:
            raise ExecutorError(
                f"the lease of program {program.hex()[:8]} has not been renewed",
                hint="renew it, and say so with `lease`",
            )

    def started(self, program: bytes) -> None:
        """Note that a program was started: its time may have come since `check`."""
        with self._lock:
            self._done.pop(program, None)

    def may(self, program: bytes) -> bool:
        """Return whether a program has time left, or has no deadline."""
        with self._lock:
            times = self._times.get(program)
        return times is None or realtime.boot() < times[1]

    def _look(self) -> None:
        while True:
            with self._lock:
                while not self._times:
                    self._lock.wait()
                now = realtime.boot()
                due = {
                    program: times
                    for program, times in self._times.items()
                    if times[0] <= now and self._done.get(program) != times
                }
                self._done |= due
            for program, times in due.items():
                # A program that does not pause must not keep the others.
                threading.Thread(target=self._end, args=(program, times), daemon=True).start()
            time.sleep(LOOK_SECONDS)

    def _end(self, program: bytes, times: tuple[int, int]) -> None:
        while not self._pause(program, max((times[1] - realtime.boot()) / 1e9, 0.001)):
            with self._lock:
                if self._times.get(program) != times:
                    return  # renewed meanwhile, or gone
            if realtime.boot() >= times[1]:
                self._overdue(program)
                return
