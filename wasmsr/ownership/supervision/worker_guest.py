"""A leased program in a worker process: `LeasedGuest` by the executor port.

The keeper calls its methods with a lock held. So what takes long, a restore, is done by a thread;
leases are renewed meanwhile.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import kill, living
from wasmsr.executor.port import ExecutorError, ProgramStatus
from wasmsr.executor.process import ProcessExecutor, old_executors
from wasmsr.ownership.epoch_log import EpochLog, complete, parts
from wasmsr.ownership.lease import Lease
from wasmsr.ownership.owner_record import OwnerRecord
from wasmsr.ownership.supervision.leased_run import LeasedRun
from wasmsr.ownership.supervision.stored import fetch_checkpoint, is_stored

PAUSE_SECONDS = 0.5
"""How long a worker may take to pause its program before it is killed."""

PATIENCE = 0.6
"""How long a worker may be silent, as a part of the lease."""

PUMP_SECONDS = 0.02
"""Seconds between two looks for output."""

TAKEN = "taken.bin"
"""Beside the workers: a checkpoint from a store, while it is restored."""

EPOCH_FILE = "epoch"
"""Beside the workers: the epoch for which the newest of them was started."""


class WorkerGuest:
    """The program in a worker process of this node.

    Attributes:
        failed: Why the worker or its program is lost, or None.
        logs: The logs of this epoch, by stream.
    """

    def __init__(self, program: bytes, run: LeasedRun, lease: Lease) -> None:
        self.program = program
        self.run = run
        self.lease = lease
        self.failed: BaseException | None = None
        self.logs: dict[str, EpochLog] = {}
        self._turn = threading.RLock()
        self._pumping = threading.Lock()
        self._stale: list[EpochLog] = []
        self._restoring: object = None
        self._executor: ProcessExecutor | None = None
        self._warm: ProcessExecutor | None = None
        self._ready = self._may_run = False
        self._times = (0, 0)

    # ---- LeasedGuest -----------------------------------------------------------------------------

    def resume(self, record: OwnerRecord) -> None:
        """Let the program run; restore it first if it is not here."""
        with self._turn:
            self._may_run = True
            if self._ready:
                self._go_on()
            elif self._restoring is None and self.failed is None:
                self._restoring = token = object()
                threading.Thread(
                    target=self._restore_for,
                    args=(token, record),
                    name="wasmsr-restore",
                    daemon=True,
                ).start()

    def extend(self, pause_at: int, end_at: int) -> None:
        """Take the times of a new lease."""
        with self._turn:
            self._times = pause_at, end_at
            if self._executor is not None and self._ready:
                self._try(lambda one: one.lease(self.program, pause_at, end_at))

    def pause(self) -> None:
        """Pause the program, or kill its worker."""
        with self._turn:
            self._may_run = False
            if self._executor is None or not self._ready:
                return
            try:
                paused = self._executor.pause(self.program, PAUSE_SECONDS)
            except ExecutorError as error:
                self._lose(error)
            else:
                if not paused:
                    self._lose(ExecutorError(f"it did not pause within {PAUSE_SECONDS} s"))

    def discard(self) -> None:
        """Kill the worker: another owns the program, or it has ended."""
        with self._turn:
            executor, self._executor = self._executor, None
            self._ready = self._may_run = False
            self.failed = self._restoring = None
            self._stale += self.logs.values()  # `pump` closes them: it may be writing now
            self.logs = {}
        if executor is not None:
            executor.kill()
        self._remove_dead()

    # ---- workers ---------------------------------------------------------------------------------

    def prepare(self) -> None:
        """Start a worker that has no program yet, so that a takeover does not wait for it."""
        with self._turn:
            if self._warm is not None or self._restoring or self._executor is not None:
                return
        with suppress(ExecutorError):  # `discard` may have killed it
            executor = self._new()
            with self._turn:
                self._warm, spare = executor, self._warm
            if spare is not None:
                spare.kill()

    def _new(self) -> ProcessExecutor:
        executor = ProcessExecutor(folder=self.run.workers, wait=self.run.wait)
        executor.patience = self._patience
        return executor

    @property
    def _patience(self) -> float:
        """Seconds in which a worker must answer; otherwise it is frozen, and lost."""
        return self.lease.length / 1e9 * PATIENCE

    def adopt(self, record: OwnerRecord | None, node: bytes) -> bool:
        """Adopt the worker of an earlier supervisor, or kill all old workers.

        Args:
            record: The record now. A worker of its epoch is adopted if it names this node.
            node: This node.

        Returns:
            Whether the program is here, paused. Only a renewal tells whether it may run.

        Raises:
            ExecutorError: An old worker does not end. Nothing may be restored.
        """
        old = old_executors(self.run.workers)
        mine = record is not None and record.owner == node and self._epoch() == record.epoch
        for executor in old:
            executor.patience = self._patience
            if self._executor is None and mine and record is not None:
                with suppress(WasmsrError, OSError):
                    if executor.programs() == [self.program]:
                        epoch = record.epoch
                        starts = {one: _start_of(self.run, one, epoch) for one in self.run.logged}
                        self._open_logs(epoch, starts, again=True)
                        self._executor, self._ready = executor, True
                        self._restoring = object()
                        continue
            executor.kill()
        self._remove_dead()
        return self._ready

    def _epoch(self) -> int:
        try:
            text = (self.run.workers / EPOCH_FILE).read_text(encoding="ascii").strip()
        except (OSError, ValueError):
            return 0
        return int(text) if text.isdigit() and len(text) < 19 else 0

    def _remove_dead(self) -> None:
        """Make sure that no worker but a prepared one lives, and remove what dead ones left."""
        kept = {one.pid for one in (self._warm, self._executor) if one is not None}
        for name, process in living(self.run.workers):
            if process not in kept:
                kill(self.run.workers, name, process)

    # ---- restoring -------------------------------------------------------------------------------

    def _restore_for(self, token: object, record: OwnerRecord) -> None:
        """Restore the program in a worker, and let it run if it still may."""
        with self._turn:
            executor, self._warm = self._warm, None
        try:
            if executor is None or (executor.process and executor.process.poll() is not None):
                executor = self._new()
            with self._turn:
                if self._restoring is not token:
                    executor.kill()
                    return
                self._executor = executor
            self._restore(executor, record)
        except (WasmsrError, OSError) as error:
            with self._turn:
                if self._restoring is token:
                    self._lose(error)
            return
        with self._turn:
            if self._restoring is token:
                self._ready = True
                if self._may_run:
                    self._go_on()

    def _restore(self, executor: ProcessExecutor, record: OwnerRecord) -> None:
        run, last = self.run, record.checkpoint
        (run.workers / EPOCH_FILE).write_text(f"{record.epoch}\n", encoding="ascii")
        starts = {"stdout": last.output if last else 0, "stderr": last.errors if last else 0}
        if last is not None:
            for stream in run.logged:
                complete(run.folder, stream, last.epoch, starts[stream])
        self._open_logs(record.epoch, starts, again=False)
        if last is None:
            executor.start(run.spec, program=self.program, streams=run.streams, paused=True)
        elif is_stored(last):
            place = run.workers / TAKEN
            fetch_checkpoint(self.program, last, place, run.read_trust, run.write_trust)
            with open(place, "rb") as file:
                place.unlink()
                executor.adopt(file.fileno(), run.spec, program=self.program, streams=run.streams)
        else:
            executor.restore(
                run.checkpoints(last.epoch), last.root, run.spec,
                program=self.program, streams=run.streams,
            )  # fmt: skip

    def _open_logs(self, epoch: int, starts: Mapping[str, int], *, again: bool) -> None:
        """Open the logs of an epoch, each from its start on."""
        run, shown = self.run, self.run.shown or {}
        logs = {
            stream: EpochLog(
                run.folder, stream, epoch, starts[stream],
                commit=run.commit, again=again, shown=shown.get(stream),
            )
            for stream in run.logged
        }  # fmt: skip
        for stream, log in logs.items():
            run.begun(stream, log.out)
        with self._turn:
            self.logs = logs

    # ---- the program -----------------------------------------------------------------------------

    def _go_on(self) -> None:
        def go(executor: ProcessExecutor) -> None:
            executor.lease(self.program, *self._times)
            if executor.wait(self.program, 0).state != "running":
                executor.resume(self.program)

        self._try(go)

    def _try(self, act: Callable[[ProcessExecutor], None]) -> None:
        """Ask the worker for something; a worker that cannot do it is lost."""
        assert self._executor is not None
        try:
            act(self._executor)
        except ExecutorError as error:
            if self.status().ending:
                return  # it has ended by itself: the supervisor sees that
            if self.lease.late():
                return  # the worker refuses, as it should: the keeper pauses it too
            self._lose(error)

    def _lose(self, error: BaseException) -> None:
        """Kill the worker: what it has is of no use any more."""
        self._ready = False
        self.failed = error
        if self._executor is not None:
            self._executor.kill()

    def status(self) -> ProgramStatus:
        """Return what the program does; "restoring" until it is here."""
        with self._turn:
            executor = self._executor if self._ready else None
        if executor is None:
            return ProgramStatus("restoring")
        try:
            return executor.wait(self.program, 0)
        except ExecutorError as error:
            with self._turn:
                if self._executor is executor:
                    self._lose(error)
            return ProgramStatus("lost")

    def checkpoint(self, epoch: int) -> dict[str, Any]:
        """Write a checkpoint of the program below the folder of the epoch.

        Raises:
            WasmsrError: It could not be written.
        """
        with self._turn:
            executor = self._executor if self._ready else None
        if executor is None:
            raise ExecutorError("the program is not here")
        keep = self.run.keep
        return executor.checkpoint(self.program, self.run.checkpoints(epoch), keep)

    def pump(self) -> bool:
        """Append new output to the logs of this epoch; return whether there was any.

        Raises:
            LeaseLost: The lease has ended: what is left waits in the worker.
            OSError: A log cannot be written, or nobody reads what is shown.
        """
        some = False
        with self._pumping:
            with self._turn:
                executor = self._executor if self._ready else None
                logs, stale, self._stale = dict(self.logs), self._stale, []
            for log in stale:
                log.close()
            if executor is None:
                return False
            for stream, log in logs.items():
                try:
                    _, data = executor.logs(self.program, stream, log.size - log.start)
                except ExecutorError as error:
                    with self._turn:
                        if self._executor is executor:
                            self._lose(error)
                    return False
                if data:
                    self.lease.check(None)
                    log.write(data)
                    some = True
        return some

    def close(self) -> None:
        """Kill the workers."""
        with self._turn:
            warm, self._warm = self._warm, None
        if warm is not None:
            warm.kill()
        self.discard()


def _start_of(run: LeasedRun, stream: str, epoch: int) -> int:
    """Return where the log of an epoch begins. Raises ExecutorError if there is none."""
    for part in parts(run.folder, stream):
        if part.epoch == epoch:
            return part.start
    raise ExecutorError(f"there is no {stream} of epoch {epoch}")
