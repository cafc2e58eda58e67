"""What a node has noted of a program, and what it says of it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wasmsr.executor.port import RING
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.node.failures import WrongState
from wasmsr.node.leases.program_leases import ProgramLeases
from wasmsr.node.supervision.node_folder import ProgramFolder
from wasmsr.node.supervision.program_record import ProgramRecord, ProgramStanding, SavePoint

Note = Callable[..., None]
"""Gets an event: its name, and values by name."""


@dataclass(frozen=True)
class ProgramRules:
    """What holds for all programs of a node.

    Attributes:
        keep: Checkpoints that stay.
        note: Gets events.
        changed: Is called after each change of a record.
        enter: Gets the record of a program that is resumed; it raises an error to refuse it.
        leave: Gets the id of a program that no worker has any more.
        ended: Gets the id of a program that has ended here, its ending, its exit code and why.
        leases: The leases of the node's programs, or None.
        move: Returns how far the move of a program is, by its id, or None.
        received: Returns the file of the state in which a program came here, or None.
        streams: Returns the streams of a program that begins or goes on here, by its id.
        settle: As in `NodeRules`.
    """

    keep: int
    note: Note
    changed: Callable[[], None]
    enter: Callable[[ProgramRecord], None]
    leave: Callable[[str], None]
    ended: Callable[[bytes, str, int, str], None]
    move: Callable[[str], dict[str, Any] | None]
    received: Callable[[bytes], Path | None]
    leases: ProgramLeases | None = None
    streams: Callable[[str], tuple[int, ...]] = lambda program: (-1, RING, RING)
    settle: Callable[[str], None] = lambda program: None


class NotedProgram:
    """One program: its record, its folder, and its worker if it has one.

    Attributes:
        record: What is noted of it.
        folder: Its folder.
        id: Its id.
        arrives: Whether it is only shown: another node owns it still.
        leased: The program as its lease lets it run, or None.
    """

    def __init__(
        self,
        record: ProgramRecord,
        folder: ProgramFolder,
        rules: ProgramRules,
        worker: Callable[[ProgramRecord, ProgramFolder], ProcessExecutor],
    ) -> None:
        """Take a record.

        Args:
            record: What is noted of the program.
            folder: Its folder.
            rules: What holds for all programs.
            worker: Makes a worker for it.
        """
        self.record, self.folder = record, folder
        self.id = bytes.fromhex(record.program)
        self._rules, self._worker = rules, worker
        self._lock = threading.RLock()
        self._news = threading.Event()
        self._executor: ProcessExecutor | None = None
        self._watcher: threading.Thread | None = None
        self.leased: LeasedMovable | None = None
        self.arrives = False
        self._next = 0.0
        self._closing = False
        """Whether the node ends: the program does not go on here any more."""
        self._to = ""
        """Where the program is being moved, or ""."""
        self._still = threading.Event()
        self._still.set()
        """Is clear while the program is being moved."""
        self._last_shown: dict[str, Any] | None = None
        """What was shown last; None if its standing is another one since."""
        self._saving = threading.Lock()
        """Held while a checkpoint is written, and while the program is being moved."""

    def _stand(self, standing: ProgramStanding, reason: str = "", **changes: Any) -> None:
        """Note what the program does now, on disk before anybody hears of it."""
        with self._lock:
            if standing is not self.record.standing:
                self.record.changed = time.time()
            self.record.standing, self.record.reason = standing, reason
            for name, value in changes.items():
                setattr(self.record, name, value)
            self._last_shown = None
            self.record.write(self.folder.record)
        self._news.set()
        if not standing.is_alive:
            self._rules.leave(self.record.program)
        more = {"reason": reason} if reason else {}
        if self.record.ending:
            more["ending"] = self.record.ending
        name = self.record.program[:8]
        self._rules.note("program", program=name, standing=standing.value, **more)
        self._rules.changed()

    @property
    def standing(self) -> ProgramStanding:
        """What the node says of it."""
        return self.record.standing

    @property
    def pid(self) -> int:
        """The process id of its worker, or 0."""
        executor = self._executor
        return 0 if executor is None else executor.pid

    def _refuse(self, what: str) -> WrongState:
        record = self.record
        if self.arrives:
            return WrongState(
                f"program {record.program[:8]} arrives from another node and cannot be {what}"
            )
        if self._to:
            return WrongState(
                f"program {record.program[:8]} is being moved to {self._to} and cannot be {what}"
            )
        why = f" ({record.reason})" if record.reason else ""
        return WrongState(
            f"program {record.program[:8]} is {record.standing.value}{why} and cannot be {what}"
        )

    def _live(self, what: str) -> ProcessExecutor:
        if self._executor is None or self._to:
            raise self._refuse(what)
        return self._executor

    def _fall_back(self, reason: str) -> None:
        """Say from what the program, which nobody has, can be resumed."""
        record = self.record
        saved = record.saved
        parked = None if record.lease is not None else self.folder.parked()
        if parked is not None and (saved is None or parked[0] >= saved.life):
            life, output, errors, path = parked
            status = path.stat()
            saved = SavePoint(life, status.st_mtime, "", 0, status.st_size, output, errors)
        if saved is None:
            self._stand(ProgramStanding.LOST, reason)
        else:
            self._stand(ProgramStanding.RESUMABLE, reason, saved=saved)


__all__ = ["Note", "NotedProgram", "ProgramRules"]
