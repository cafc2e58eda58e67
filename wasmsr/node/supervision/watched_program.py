"""A program of a node and the thread that watches its worker.

The worker runs the program and writes its output to files. The thread notes how the program ends,
or how its worker does, and writes checkpoints.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import living
from wasmsr.executor.output.rings import cut_ring, ring_bounds
from wasmsr.executor.port import RING, ExecutorError, ProgramStatus
from wasmsr.executor.process import ProcessExecutor
from wasmsr.node.failures import NodeError, WrongState
from wasmsr.node.moving.restoring import PIECE, restore_file
from wasmsr.node.supervision.node_folder import ProgramFolder
from wasmsr.node.supervision.program_record import (
    STREAMS,
    ProgramRecord,
    ProgramStanding,
    SavePoint,
)
from wasmsr.node.supervision.worker_facts import how_it_ended
from wasmsr.node.workers.warm_parents import reap

PATIENCE = 30.0
"""Seconds in which a worker must answer what takes no time; otherwise it is frozen, and killed."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at the worker of a paused program."""

LONG_WAIT = 60.0
"""Seconds that the thread waits for a program at a time."""

LARGEST_RESULT = 1 << 16
"""Bytes of a result of a worker that are read."""

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
        move: Returns how far the move of a program is, by its id, or None.
        received: Returns the file of the state in which a program came here, or None.
    """

    keep: int
    note: Note
    changed: Callable[[], None]
    enter: Callable[[ProgramRecord], None]
    leave: Callable[[str], None]
    ended: Callable[[bytes, str, int, str], None]
    move: Callable[[str], dict[str, Any] | None]
    received: Callable[[bytes], Path | None]


class WatchedProgram:
    """One program: its record, its worker, and the thread that watches the worker.

    `NodeProgram` adds what callers do with it. Any thread may call its methods.

    Attributes:
        record: What is noted of it.
        folder: Its folder.
        id: Its id.
        arrives: Whether it is only shown: another node owns it still.
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
        self.arrives = False
        self._next = 0.0
        self._closing = False
        self._to = ""
        """Where the program is being moved, or ""."""
        self._still = threading.Event()
        self._still.set()
        """Is clear while the program is being moved."""
        self._saving = threading.Lock()
        """Held while a checkpoint is written, and while the program is being moved."""

    # ---- its record ------------------------------------------------------------------------------

    def _stand(self, standing: ProgramStanding, reason: str = "", **changes: Any) -> None:
        """Note what the program does now, on disk before anybody hears of it."""
        with self._lock:
            if standing is not self.record.standing:
                self.record.changed = time.time()
            self.record.standing, self.record.reason = standing, reason
            for name, value in changes.items():
                setattr(self.record, name, value)
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

    # ---- begin -----------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the program in a new worker.

        Raises:
            WasmsrError: It cannot be started; its record says so.
        """
        with self._lock:
            try:
                executor = self._worker(self.record, self.folder)
                try:
                    executor.start(
                        self.record.spec, program=self.id, streams=(-1, RING, RING), paused=True
                    )
                    self._stand(ProgramStanding.RUNNING)
                    executor.resume(self.id)
                except BaseException:
                    executor.kill()
                    reap(executor.pid, 1)
                    raise
            except WasmsrError as error:
                self._stand(ProgramStanding.LOST, f"it did not start: {error.message}")
                raise
            self._have(executor)

    def _have(self, executor: ProcessExecutor) -> None:
        """Watch a worker that has the program."""
        executor.patience = PATIENCE
        executor.on_gone = self._news.set  # it must not wait for our lock
        self._executor = executor
        self._plan()
        self._watcher = threading.Thread(
            target=self._watch, args=(executor,), name="wasmsr-watch", daemon=True
        )
        self._watcher.start()

    def _plan(self) -> None:
        every = self.record.every
        self._next = float("inf") if every is None else time.monotonic() + every

    def _restore(self) -> None:
        record = self.record
        saved = record.saved
        assert saved is not None
        self._rules.enter(record)
        # What the old life wrote beyond the save point counts no more. A reader hears of the new
        # life when nothing of that is left to be read.
        for stream in STREAMS:
            cut_ring(self.folder.output, stream, saved.offsets[stream])
        record.begin_life(saved.offsets)
        record.write(self.folder.record)
        executor = self._worker(self.record, self.folder)
        try:
            streams = (-1, RING, RING)
            parked, received = self.folder.parked(), self._rules.received(self.id)
            if saved.root:
                executor.restore(
                    os.fspath(self.folder.saved), bytes.fromhex(saved.root), record.spec,
                    program=self.id, streams=streams,
                )  # fmt: skip
            elif parked is not None:
                with open(parked[3], "rb") as file:
                    executor.adopt(file.fileno(), record.spec, program=self.id, streams=streams)
            elif received is not None:
                with open(received, "rb", buffering=0) as file:
                    restore_file(executor, record, iter(partial(file.read, PIECE), b""))
            else:
                raise NodeError(f"the saved state of program {record.program[:8]} is gone")
            self._stand(ProgramStanding.RUNNING, f"resumed from {_when(saved.time)}")
            executor.resume(self.id)
        except BaseException:
            executor.kill()
            reap(executor.pid, 1)
            self._rules.leave(record.program)
            raise
        self._have(executor)

    # ---- after a crash ---------------------------------------------------------------------------

    def recover(self, old: list[ProcessExecutor]) -> None:
        """Say what has become of the program after the node was lost.

        Args:
            old: The workers of its folder that live; the others were killed.
        """
        self._adopt(old, runs=self.record.standing is not ProgramStanding.PAUSED)
        if self._executor is not None:
            return
        self._find_left()

    def _adopt(self, old: list[ProcessExecutor], *, runs: bool) -> None:
        """Take over the worker that has the program, and kill the others."""
        for executor in old:
            executor.patience = PATIENCE
            with suppress(WasmsrError):
                if executor.programs() == [self.id] and self._executor is None:
                    if runs:
                        self._stand(ProgramStanding.RUNNING, "adopted")
                        if not executor.wait(self.id, 0).ending:
                            executor.resume(self.id)
                    self._have(executor)
                    continue
            executor.kill()

    def _find_left(self) -> None:
        """Say what has become of a program whose worker is gone."""
        record, folder = self.record, self.folder
        with suppress(OSError, ValueError, TypeError):
            left = folder.workers / f"{record.program}.result"
            if left.exists():
                status = ProgramStatus(**json.loads(left.read_bytes()[:LARGEST_RESULT]))
                self._end(status)
                return
        left = folder.workers / f"{record.program}.snapshot"
        if left.exists():
            ends = [ring_bounds(folder.output, stream)[1] for stream in STREAMS]
            folder.park(left, record.life, *ends)
        self._fall_back("its worker has ended, and nobody saw how")

    def _fall_back(self, reason: str) -> None:
        """Say from what the program, which nobody has, can be resumed."""
        record = self.record
        parked, saved = self.folder.parked(), record.saved
        if parked is not None and (saved is None or parked[0] >= saved.life):
            life, output, errors, path = parked
            status = path.stat()
            saved = SavePoint(life, status.st_mtime, "", 0, status.st_size, output, errors)
        if saved is None:
            self._stand(ProgramStanding.LOST, reason)
        else:
            self._stand(ProgramStanding.RESUMABLE, reason, saved=saved)

    # ---- the thread ------------------------------------------------------------------------------

    def _watch(self, executor: ProcessExecutor) -> None:
        """Wait for the end of the program or of its worker, and write checkpoints."""
        try:
            while self._executor is executor:
                wait = min(LONG_WAIT, max(0.0, self._next - time.monotonic()))
                status = executor.wait(self.id, wait)
                if self._executor is not executor:
                    return
                if status.ending:
                    self._still.wait()  # a move that is under way sees it too
                    with self._lock:
                        if self._executor is executor:
                            self._end(status)
                    return
                if status.state != "running":
                    if not executor.is_gone:
                        self._news.wait(LOOK_SECONDS)
                    self._news.clear()
                elif time.monotonic() >= self._next:
                    self._save_in_time(executor)
        except ExecutorError as error:
            self._lose(executor, error)
        except OSError as error:
            self._rules.note("trouble", program=self.record.program[:8], error=str(error))

    def _save_in_time(self, executor: ProcessExecutor) -> None:
        self._plan()
        try:
            self.checkpoint()
        except (WasmsrError, OSError) as error:
            if self._executor is executor:
                self._rules.note("no-checkpoint", program=self.record.program[:8], error=str(error))

    def _end(self, status: ProgramStatus) -> None:
        """Note how the program has ended, and end its worker."""
        executor, self._executor = self._executor, None
        self._stand(
            ProgramStanding.ENDED,
            status.sentence,
            ending=status.ending,
            code=status.code,
            saved=None,
        )
        if executor is not None:
            executor.close()
            reap(executor.pid)
        self.folder.remove_saved()
        self._rules.ended(self.id, status.ending, status.code, status.sentence)

    def _lose(self, executor: ProcessExecutor, error: ExecutorError) -> None:
        """Note how the worker has ended."""
        self._still.wait()  # the move may be decided, and the program elsewhere
        with self._lock:
            if self._executor is not executor or self._closing:
                return
            self._executor = None
        # A worker that was reaped has no process id any more: another process may have it.
        lives = any(executor.pid == process for _, process in living(self.folder.workers))
        if lives:
            executor.kill()
            reap(executor.pid)
            cause, how = "frozen", f"was killed: {error.message}"
        else:
            executor.close()
            cause, how = how_it_ended(executor.pid, self.folder)
        self._rules.note("worker-lost", program=self.record.program[:8], cause=cause)
        with self._lock:
            self._fall_back(f"its worker {executor.pid} {how}")
        shutil.rmtree(self.folder.temporary, ignore_errors=True)

    # ---- checkpoints -----------------------------------------------------------------------------

    def checkpoint(self) -> SavePoint:
        """Save the program, which runs on meanwhile, and return where.

        Raises:
            WasmsrError: It has no worker, or cannot be saved.
        """
        with self._saving:
            return self._checkpoint()

    def _checkpoint(self) -> SavePoint:
        with self._lock:
            executor = self._live("saved")
            life = self.record.life
        began = time.monotonic()
        done = executor.checkpoint(self.id, os.fspath(self.folder.saved), self._rules.keep)
        output = done["output"]
        saved = SavePoint(
            life, time.time(), done["root"].hex(), done["number"], done["size"],
            output["stdout"], output["stderr"],
        )  # fmt: skip
        with self._lock:
            if self._executor is not executor:
                raise self._refuse("saved")
            self.record.saved = saved
            self.record.write(self.folder.record)
            self.folder.remove_parked()
        name = self.record.program[:8]
        self._rules.note(
            "checkpoint", program=name, number=saved.number, bytes=saved.size,
            seconds=round(time.monotonic() - began, 6),
        )  # fmt: skip
        self._rules.changed()
        return saved


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


__all__ = ["Note", "ProgramRules", "WatchedProgram"]
