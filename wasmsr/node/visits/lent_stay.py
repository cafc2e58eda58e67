"""A program of a node that a browser may run for a while (`wasmsr.node.visits`)."""

from __future__ import annotations

import os
import secrets
from pathlib import Path

from wasmsr import realtime
from wasmsr.executor.output.rings import ring_bounds
from wasmsr.migrate.journal.durable import private
from wasmsr.node.failures import NodeError
from wasmsr.node.supervision.leased_stay import PAUSE_SECONDS
from wasmsr.node.supervision.program_record import STREAMS, ProgramStanding
from wasmsr.node.supervision.watched_program import WatchedProgram
from wasmsr.node.visits.visit import settle
from wasmsr.node.workers.warm_parents import reap

LONGEST = 120.0
"""Seconds of a lease of a browser at most. A clock of a machine that was started again says less
than the record, and nobody waits for it longer."""


_HOME = 10_000_000_000
"""How long the way home may take, in ns. A node that was started again ends no visit by itself."""


class LentStay(WatchedProgram):
    """A program with what a visit to a browser asks of it. Any thread may call its methods."""

    def lend(self, seconds: float) -> Path:
        """Save the program, end its worker, and return the file of its state.

        Args:
            seconds: For how long a browser may have it, until it asks for more.

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
            part = self.folder.path / f".lent-{secrets.token_hex(8)}.part"
            try:
                if executor.wait(self.id, 0).ending:
                    raise self._refuse("lent to a browser: it has ended")
                with open(part, "xb", opener=private) as file:
                    executor.snapshot(self.id, file.fileno())
                    os.fsync(file.fileno())
                ends = [ring_bounds(self.folder.output, one)[1] for one in STREAMS]
                place = self.folder.park(part, record.life, *ends)
            except BaseException:
                part.unlink(missing_ok=True)
                if not paused:
                    self._let_run(executor)
                raise
            self._executor = None
            record.lent_until = _after(seconds)
            self._fall_back("it runs in a browser")
        executor.kill()
        reap(executor.pid)
        return place

    def keep_lent(self, seconds: float) -> None:
        """Note durably that a browser may run the program for so long from now on.

        Raises:
            WrongState: It was killed, or goes on here.
        """
        with self._lock:
            if self.record.standing is not ProgramStanding.RESUMABLE or not self.record.lent_until:
                raise self._refuse("kept in a browser")
            self.record.lent_until = _after(seconds)
            self.record.write(self.folder.record)

    def come_home(self, reason: str) -> None:
        """Go on here, from the last state that is parked. No browser may run it any more.

        Raises:
            WasmsrError: It cannot be restored.
        """
        with self._lock:
            if self.record.standing is not ProgramStanding.RESUMABLE or not self.record.lent_until:
                return  # it was killed meanwhile
            self.record.lent_until = 0
            self._fall_back(f"it was in a browser: {reason}")
            self._restore()
            self._stand(ProgramStanding.RUNNING, f"came home from a browser: {reason}")

    def _restore(self) -> None:
        """Go on from a save point. What a browser may still run is refused."""
        if not self.record.lent_until:
            super()._restore()
            return
        if self.lent_seconds > 0:
            raise self._refuse(f"resumed: it can stay there for {self.lent_seconds:.0f} s more")
        # The node was started again during the visit, so nobody else brings it home.
        name = self.record.program[:8]
        settle(
            self,
            "its node was started again",
            lambda text: self._rules.note("trouble", program=name, error=text),
        )

    @property
    def visits(self) -> bool:
        """Whether a browser has the program, or it is on its way home."""
        record = self.record
        lent = record.standing is ProgramStanding.RESUMABLE and record.lent_until
        return bool(lent) and realtime.boot() < lent + _HOME

    @property
    def lent_seconds(self) -> float:
        """For how long a browser may still run the program."""
        if not self.record.lent_until:
            return 0.0
        left = (self.record.lent_until - realtime.boot()) / 1e9
        return min(max(left, 0.0), LONGEST)


def _after(seconds: float) -> int:
    return realtime.boot() + round(seconds * 1e9)


__all__ = ["LentStay"]
