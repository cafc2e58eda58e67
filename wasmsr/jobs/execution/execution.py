"""One execution: its worker, the thread that waits for it, and its end."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from wasmsr import realtime
from wasmsr.errors import WasmsrError, printable
from wasmsr.executor.output.frames import FRAMES_FILE, TAGS
from wasmsr.executor.port import FRAMES, ID_BYTES, ExecutorError, ProgramStatus
from wasmsr.executor.process import ENDED, ProcessExecutor
from wasmsr.jobs.execution.archive import write_archive
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.ending import EndingExecution, unwritten
from wasmsr.jobs.execution.log import ALL, commit_log, rewind_log
from wasmsr.jobs.execution.lost_workers import end_worker, how_it_ended, no_answer, not_saved
from wasmsr.jobs.execution.requests import ExecutionInfo, ExecutionResult, ExecutionState
from wasmsr.jobs.execution.saving import KEEP, JobCheckpoint, log_ends
from wasmsr.jobs.failures import ExecutorLeft, JobError
from wasmsr.jobs.preparing.prepared import Prepared, start_error
from wasmsr.node.workers.warm_parents import WarmParents, reap

LOSSES: Final = 5
"""How often a worker may be lost since the last checkpoint; then the execution has failed."""

PAUSE_SECONDS: Final = 10.0
"""How long a program may take to pause."""

LONG_WAIT: Final = 3600.0
"""Seconds that the thread waits for a program at a time."""

STREAMS: Final = (-1, FRAMES, FRAMES)
"""The streams of a program: an empty input, and outputs that go to the log."""

Begin = Callable[[ProcessExecutor, bytes], object]
"""Puts the program with an id into a worker, paused."""


@dataclass(frozen=True)
class ExecutionRules:
    """What holds for all executions of an executor.

    Attributes:
        manner: Ours, or the peer's.
        parents: Give workers.
        note: Gets events: a name, the execution's id, and values by name.
    """

    manner: Manner
    parents: WarmParents
    note: Callable[..., None]


class Execution(EndingExecution):
    """One execution. Any thread may call its methods."""

    def __init__(self, prepared: Prepared, rules: ExecutionRules) -> None:
        super().__init__(prepared, rules.manner, rules.note)
        self._rules = rules
        self._program = secrets.token_bytes(ID_BYTES)
        self._steering = threading.RLock()
        """Held by what pauses the program and lets it run on."""
        self._saving = threading.Lock()
        """Held by what writes a checkpoint, so that the newest one is the one that counts."""
        self._leaving = False
        """Whether only the last checkpoint may still be written."""
        self._news = threading.Event()
        self._worker: ProcessExecutor | None = None
        self._saved: JobCheckpoint | None = None
        self._losses = 0
        self._tries = 0
        self._ran = realtime.Stopwatch()
        """How long the program has run to be in this state; the time-out is about that."""
        self._next_save = float("inf")
        self._buried: ProcessExecutor | None = None
        """The worker that was lost last: its process id can be another process's by now."""

    @property
    def info(self) -> ExecutionInfo:
        """What a list shows of it."""
        with self._lock:
            worker, request = self._worker, self.prepared.request
            return ExecutionInfo(
                request.execution_id, request.job_id, self._state, os.fspath(self.folder.path),
                None if worker is None else worker.pid, self._began, self._end or None,
                None if self._saved is None else self._saved.time, self._losses, self._result,
            )  # fmt: skip

    # ---- begin -----------------------------------------------------------------------------------

    def begin(self, put: Begin | None = None, *, paused: bool = False) -> None:
        """Start the program in a new worker.

        Args:
            put: Puts the program into it; None starts it from the beginning.
            paused: Leave it paused.

        Raises:
            JobError: It cannot be started.
        """
        worker = self._filled(put or self._start)
        self._note("started", self.id, job=self.prepared.request.job_id)
        with self._steering, self._lock:
            self._have(worker, runs=put is None, paused=paused)

    def _start(self, worker: ProcessExecutor, program: bytes) -> None:
        """Start the program from the beginning; it runs at once, which saves a message."""
        spec = self.prepared.run().as_dict()
        worker.start(spec, program=program, streams=STREAMS)

    def _filled(self, put: Begin) -> ProcessExecutor:
        """Return a new worker that has the program. Raises JobError."""
        worker = self.prepared.worker(self._rules.parents)
        try:
            self._commit(0 if self._saved is None else self._saved.ends[FRAMES_FILE])
            put(worker, self._program)
        except BaseException as error:
            end_worker(worker)
            reap(worker.pid, 1)
            raise start_error(error, self.prepared) from error
        return worker

    def _commit(self, end: int) -> None:
        """Let readers see the log up to an offset, if it is held. Raises OSError."""
        if self.prepared.request.output == "commit":
            commit_log(self.folder.log, end)
            self.watch.tell()

    def _have(self, worker: ProcessExecutor, *, runs: bool, paused: bool) -> None:
        """Have a worker, and wait for it.

        Args:
            worker: The worker.
            runs: Whether its program runs already.
            paused: Whether the program is to be paused.
        """
        worker.on_gone = self._news.set
        self._worker = worker
        self._plan()
        if not paused:
            self._ran.run()
        if paused and runs:
            worker.pause(self._program, PAUSE_SECONDS)
        elif not runs and not paused:
            worker.resume(self._program)
        self._state = "paused" if paused else "running"
        threading.Thread(
            target=self._wait_for, args=(worker,), name="wasmsr-execution", daemon=True
        ).start()

    def _plan(self) -> None:
        every = self.prepared.request.snapshot_every
        self._next_save = float("inf") if every is None else time.monotonic() + every

    # ---- the thread ------------------------------------------------------------------------------

    def _wait_for(self, worker: ProcessExecutor) -> None:
        """Wait for the end of the program or of its worker, and write checkpoints."""
        seconds = self.prepared.request.timeout
        try:
            while self._worker is worker:
                most = min(self._next_save - time.monotonic(), LONG_WAIT)
                if seconds is not None:
                    left = seconds - self._ran.seconds
                    if left <= 0:
                        code, error = self._manner.timed_out(seconds)
                        self._finish(worker, "failed", code, error, timed_out=True)
                        return
                    most = min(most, left)
                status = worker.wait(self._program, max(0.0, most))
                if status.ending:
                    self._come_to_end(worker, status)
                    return
                if self._state != "running":
                    self._wait_paused(worker)
                elif time.monotonic() >= self._next_save:
                    self._save_in_time(worker)
        except ExecutorError as error:
            self._lose(worker, error)

    def _wait_paused(self, worker: ProcessExecutor) -> None:
        while self._worker is worker and self._state == "paused" and not worker.is_gone:
            self._news.wait(0.5)
            self._news.clear()

    def _save_in_time(self, worker: ProcessExecutor) -> None:
        self._plan()
        try:
            self.checkpoint()
        except (WasmsrError, OSError) as error:
            if self._worker is worker and not worker.is_gone and not self._leaving:
                self._note("no-checkpoint", self.id, error=str(error))

    def _come_to_end(self, worker: ProcessExecutor, status: ProgramStatus) -> None:
        manner = self._manner
        state: ExecutionState = "ended" if status.ending in ("exited", "finished") else "failed"
        self._finish(worker, state, manner.exit_code(status), manner.error(status))

    def _finish(
        self,
        worker: ProcessExecutor,
        state: ExecutionState,
        code: int,
        error: str,
        *,
        timed_out: bool = False,
    ) -> bool:
        """Note the end of the execution, once; return whether this call did it."""
        with self._lock:
            if self._worker is not worker:
                return False
            self._worker = None
        end_worker(worker, kill=state != "ended")
        self._settle(state, code, error, timed_out)
        if worker is not self._buried:
            reap(worker.pid)
        return True

    def _settle(
        self, state: ExecutionState, code: int, error: str, timed_out: bool = False
    ) -> None:
        """Write the results, and tell everybody who waits."""
        try:
            self._commit(ALL)
        except OSError as problem:
            result = unwritten(code, error, problem)
        else:
            result = self._written(code, error, timed_out=timed_out)
        for path in (self.folder.work, self.folder.saved):
            shutil.rmtree(path, ignore_errors=True)
        self._ended(state, result, error)

    def _tell(self, state: ExecutionState, result: ExecutionResult | None) -> bool:
        told = super()._tell(state, result)
        self._news.set()
        return told

    # ---- a worker that is lost -------------------------------------------------------------------

    def _lose(self, worker: ProcessExecutor, error: ExecutorError) -> None:
        """Say what becomes of the execution whose worker is gone, or does not answer."""
        with self._lock:
            if self._worker is not worker:
                return
        frozen = not worker.is_gone and error.message != ENDED
        end_worker(worker)
        how = error.message if frozen else how_it_ended(worker.pid)
        if frozen:
            reap(worker.pid)
        self._buried = worker
        request = self.prepared.request
        self._losses += 1
        self._tries += 1
        self._note("worker-lost", self.id, how=how)
        sentence = f"its worker process {worker.pid} {how}"
        if request.on_loss == "fail" or self._tries > LOSSES:
            if self._tries > 1:
                sentence += f", for the {self._tries}th time since it was last saved"
            self._fail(worker, sentence)
            return
        try:
            with self._steering:
                with self._lock:
                    if self._worker is not worker:
                        return
                    paused = self._state == "paused"
                again, runs = self._again()
                with self._lock:
                    if self._worker is worker:
                        self._have(again, runs=runs, paused=paused)
                        return
            end_worker(again)  # it was cancelled meanwhile
            reap(again.pid, 1)
        except (WasmsrError, OSError) as problem:
            self._fail(worker, f"{sentence}, and it cannot go on: {problem}")

    def _fail(self, worker: ProcessExecutor, sentence: str) -> None:
        with self._lock:
            if self._worker is not worker:
                return
            self._worker = None
        self._settle("failed", 1, sentence)

    def _again(self) -> tuple[ProcessExecutor, bool]:
        """Return a new worker that has the program, and whether it runs.

        It is as it was saved, or at the beginning.
        """
        saved = self._saved if self.prepared.request.on_loss == "restore" else None
        ends = dict.fromkeys((FRAMES_FILE, *TAGS), 0) if saved is None else dict(saved.ends)
        # What the old life wrote after that counts no more.
        rewind_log(self.folder.log, ends)
        self.watch.tell()
        shutil.rmtree(self.folder.work / "worker", ignore_errors=True)
        if saved is not None:
            return self._filled(self.restoring(saved)), False
        self._saved, self._ran = None, realtime.Stopwatch()
        shutil.rmtree(self.folder.saved, ignore_errors=True)
        self.prepared.files.empty_outputs(self.folder)
        return self._filled(self._start), True

    def restoring(self, saved: JobCheckpoint) -> Begin:
        """Return what puts the program into a worker as a checkpoint has it."""
        spec = self.prepared.run().as_dict()

        def put(worker: ProcessExecutor, program: bytes) -> None:
            root = bytes.fromhex(saved.root)
            folder = os.fspath(self.folder.saved)
            worker.restore(folder, root, spec, program=program, streams=STREAMS)
            self._commit(saved.ends[FRAMES_FILE])
            # Noted before it runs on: if it is lost from now on, `on_loss` decides.
            self._saved = saved.taken(self.folder)
            self._ran = realtime.Stopwatch(saved.ran)

        return put

    def adopting(self, snapshot: int, fork: int = 0) -> Begin:
        """Return what puts the program into a worker as a snapshot, a descriptor, has it.

        Args:
            snapshot: The descriptor.
            fork: The number of the fork that it is; 0 for none.
        """
        spec = self.prepared.run().as_dict()

        def put(worker: ProcessExecutor, program: bytes) -> None:
            worker.adopt(snapshot, spec, program=program, streams=STREAMS, fork=fork)

        return put

    # ---- verbs -----------------------------------------------------------------------------------

    def leave(self) -> str:
        """Save the program where it is, and end its worker. Whoever waits gets ExecutorLeft.

        Returns:
            Why it could not be saved; "" if it was, or if it has come to its end.
        """
        problem = ""
        with self._steering:
            self._leaving = True
            try:
                paused = self._state == "paused"
                self.pause()
                self.checkpoint(left=True, paused=paused)
            except (WasmsrError, OSError) as error:
                problem = error.message if isinstance(error, WasmsrError) else str(error)
            with self._lock:
                worker, self._worker = self._worker, None
            if worker is None:  # it has come to its end, or is just doing so
                self._over.wait(PAUSE_SECONDS)
                return ""
            end_worker(worker)
            reap(worker.pid, 1)
            if problem:
                self._note("no-checkpoint", self.id, error=problem)
            self._note("left", self.id, saved=not problem)
            self._tell("left", None)
        return problem

    def cancel(self) -> None:
        """End it at once.

        Raises:
            JobError: ExecutionAlreadyComplete or ExecutionAlreadyCancelled.
        """
        manner = self._manner
        while not self.is_over:
            with self._lock:
                worker = self._worker
            if worker is not None and self._finish(worker, "cancelled", *manner.cancelled):
                return
            self._over.wait(0.01)
        if not manner.peer:
            raise self._has_ended()

    def _live(self) -> ProcessExecutor:
        with self._lock:
            worker = self._worker
        if worker is None:
            raise self._has_ended()
        return worker

    def pause(self) -> None:
        """Pause the program. Raises JobError if it has ended, or does not pause."""
        with self._steering:
            worker = self._live()
            self._pause(worker)
            with self._lock:
                if self._state != "running":
                    return
                self._state = "paused"
                self._ran.stand()
        if not self._leaving:
            self._note("paused", self.id)

    def _pause(self, worker: ProcessExecutor) -> None:
        """Pause the program. Raises JobError."""
        try:
            paused = worker.pause(self._program, PAUSE_SECONDS)
            if paused and worker.wait(self._program, 0).ending:
                self._over.wait(PAUSE_SECONDS)
                raise self._has_ended()
        except ExecutorError as error:
            raise no_answer(self.id, error) from error
        if not paused:
            raise JobError(
                "WASIError",
                f"the execution {printable(self.id)} did not pause within {PAUSE_SECONDS:g} s",
                retryable=True,
            )

    def resume(self) -> None:
        """Let the program run on, if it is paused. Raises JobError if it has ended."""
        with self._steering:
            worker = self._live()
            with self._lock:
                if self._state != "paused":
                    return
                self._state = "running"
                self._ran.run()
            try:
                worker.resume(self._program)
            except ExecutorError as error:
                raise no_answer(self.id, error) from error
            finally:
                self._news.set()
        self._note("resumed", self.id)

    def checkpoint(self, *, left: bool = False, paused: bool = False) -> JobCheckpoint:
        """Write a checkpoint; the program runs on meanwhile, unless it is paused.

        Args:
            left: As in `JobCheckpoint`.
            paused: The same.

        Raises:
            JobError: It has ended, or cannot be saved.
            OSError: What was saved cannot be noted.
        """
        with self._saving:
            worker, ran = self._live(), self._ran.seconds
            if self._leaving and not left:
                raise ExecutorLeft(f"the executor of {printable(self.id)} is being ended")
            try:
                done = worker.checkpoint(self._program, os.fspath(self.folder.saved), KEEP)
            except WasmsrError as error:
                raise not_saved(self.id, error) from error
            point = JobCheckpoint.of(done, self.folder, ran, left=left, paused=paused)
            with self._lock:
                self._saved, self._tries = point, 0
            self._commit(point.ends[FRAMES_FILE])
        self._note("checkpoint", self.id, bytes=done["size"])
        return point

    def snapshot(self, path: Path) -> None:
        """Save it to a file; it stands while it is saved, and then goes on.

        Raises:
            JobError: It has ended, or cannot be saved.
        """
        with self.held() as worker:
            try:
                size = log_ends(self.folder)[FRAMES_FILE]
                write_archive(
                    path, self.id, self.folder.log / FRAMES_FILE, size,
                    lambda file: worker.snapshot(self._program, file),
                )  # fmt: skip
            except (WasmsrError, OSError) as error:
                raise not_saved(self.id, error) from error

    @contextmanager
    def held(self) -> Iterator[ProcessExecutor]:
        """Give the worker, whose program stands; it runs on afterwards, unless it was paused."""
        with self._steering:
            worker, ran = self._live(), self.info.state == "running"
            self.pause()
            try:
                yield worker
            finally:
                if ran:
                    with suppress(JobError):  # its worker was lost: its thread sees to that
                        self.resume()


__all__ = ["Execution", "ExecutionRules"]
