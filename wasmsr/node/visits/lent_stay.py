"""A program of a node that a browser may run for a while (`wasmsr.node.visits`)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from wasmsr import realtime
from wasmsr.errors import WasmsrError
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.migrate.journal.durable import private
from wasmsr.node.failures import NodeError
from wasmsr.node.supervision.leased_stay import PAUSE_SECONDS
from wasmsr.node.supervision.program_record import STREAMS, ProgramStanding
from wasmsr.node.supervision.watched_program import WatchedProgram
from wasmsr.node.visits.visit import settle
from wasmsr.node.workers.warm_parents import reap

LONGEST = 120.0
"""Seconds of a lease of a browser at most."""

_HOME = 10_000_000_000
"""How long the way home may take, in ns. A node that was started again ends no visit by itself."""


class LentStay(WatchedProgram):
    """A program with what a visit to a browser asks of it. Any thread may call its methods."""

    def lend(self, seconds: float, leaves: Callable[[Path], None]) -> None:
        """Save the program, and end its worker.

        Args:
            seconds: For how long nobody runs it here, until `keep_lent` says more.
            leaves: Gets the file of its state while the program stands. If it raises an error,
                the program stays as it was.

        Raises:
            WasmsrError: It has no worker, has ended, is under a lease, or cannot be saved.
            OSError: The disk has no room.
        """
        with self._saving, self._lock:
            executor = self._live("lent to a browser")
            record = self.record
            if record.lease is not None:
                raise self._refuse("lent to a browser: its lease is this node's")
            paused = record.standing is ProgramStanding.PAUSED
            if not self._stop(executor):
                raise NodeError(
                    f"program {record.program[:8]} did not pause within {PAUSE_SECONDS:.0f} s"
                )
            self.folder.remove_visit()
            part = self.folder.path / f".lent-{secrets.token_hex(8)}.part"
            try:
                if executor.wait(self.id, 0).ending:
                    raise self._refuse("lent to a browser: it has ended")
                with open(part, "xb", opener=private) as file:
                    executor.snapshot(self.id, file.fileno())
                    os.fsync(file.fileno())
                leaves(part)
                ends = [ring_bounds(self.folder.output, one)[1] for one in STREAMS]
                place = self.folder.park(part, record.life, *ends)
            except BaseException:
                self.folder.remove_visit()
                if not paused:
                    with suppress(WasmsrError):  # it has ended, or its worker has
                        self._let_run(executor)
                raise
            # The worker ends before the record says so: nobody would look for it after a crash.
            self._executor = None
            executor.kill()
            reap(executor.pid)
            record.lent_until, record.stands = _after(seconds), False
            try:
                self._fall_back("it runs in a browser")
            except OSError:
                record.lent_until = 0  # no browser hears of it
                raise
            self.folder.remove_parked(but=place)

    def keep_lent(self, seconds: float) -> None:
        """Note durably that nobody runs the program here for so long from now on.

        Raises:
            WrongState: It was killed, or goes on here, or the node ends.
        """
        with self._lock:
            if self._closing or not self._is_lent:
                raise self._refuse("kept in a browser")
            self.record.lent_until = _after(seconds)
            self.record.write(self.folder.record)

    def come_home(self, reason: str) -> None:
        """Go on here, from the last state that is sound. No browser may run it any more.

        Does nothing if it was killed meanwhile, or the node ends; the next one brings it home.

        Raises:
            WasmsrError, OSError: It cannot be restored. What it left is there still.
        """
        with self._lock:
            if self.record.standing.is_final:
                self.folder.remove_visit()
            if self._closing or not self._is_lent:
                return
            try:
                settle(self.folder, self._note_trouble)
            except (WasmsrError, OSError) as error:
                with suppress(OSError):
                    reason = f"it did not come home from a browser: {error}"
                    self._stand(ProgramStanding.RESUMABLE, reason)
                raise
            self.record.lent_until = 0
            self._fall_back(f"it was in a browser: {reason}")
            self.folder.remove_visit()
            self._restore()
            self._stand(ProgramStanding.RUNNING, f"came home from a browser: {reason}")

    def _restore(self) -> None:
        """Go on from a save point. What a browser may still run is refused."""
        if self._closing:
            raise self._refuse("resumed: its node ends")
        if not self.record.lent_until:
            super()._restore()
        elif self.lent_seconds > 0:
            raise self._refuse(f"resumed: it can stay there for {self.lent_seconds:.0f} s more")
        else:
            # The node was started again during the visit, so nobody else brings it home.
            self.come_home("its time there was over")

    def _note_trouble(self, text: str) -> None:
        self._rules.note("trouble", program=self.record.program[:8], error=text)

    def limit_visit(self) -> None:
        """Hear that the node was started: no lease of before ends later than `LONGEST` from now.

        The machine may have been started again too, and then its clock began anew.
        """
        self.record.lent_until = min(self.record.lent_until, _after(LONGEST))

    @property
    def _is_lent(self) -> bool:
        return self.record.standing is ProgramStanding.RESUMABLE and self.record.lent_until > 0

    @property
    def visits(self) -> bool:
        """Whether a browser has the program, or it is on its way home."""
        return self._is_lent and realtime.boot() < self.record.lent_until + _HOME

    @property
    def lent_seconds(self) -> float:
        """For how long a browser may still run the program."""
        if not self.record.lent_until:
            return 0.0
        return max(0.0, (self.record.lent_until - realtime.boot()) / 1e9)


def _after(seconds: float) -> int:
    return realtime.boot() + round(seconds * 1e9)


__all__ = ["LONGEST", "LentStay"]
