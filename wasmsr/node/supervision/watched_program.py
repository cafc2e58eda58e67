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
from collections.abc import Iterator
from contextlib import suppress
from functools import partial
from pathlib import Path

from wasmsr.errors import WasmsrError
from wasmsr.executor.old_workers import living
from wasmsr.executor.output.rings import cut_ring, ring_bounds
from wasmsr.executor.port import ExecutorError, ProgramStatus
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.files.carried_trees import CarriedTrees
from wasmsr.node.carried_files import carried_tree, keep_carried, packed, sync_carried
from wasmsr.node.failures import NodeError
from wasmsr.node.moving.restoring import PIECE, restore_file
from wasmsr.node.supervision.leased_stay import LeasedStay
from wasmsr.node.supervision.program_record import (
    STREAMS,
    ProgramStanding,
    SavePoint,
)
from wasmsr.node.workers.warm_parents import reap
from wasmsr.node.workers.worker_facts import how_it_ended
from wasmsr.wasi.filesystem import tree_walk

PATIENCE = 30.0
"""Seconds in which a worker must answer what takes no time; otherwise it is frozen, and killed."""

LOOK_SECONDS = 0.5
"""Seconds between two looks at the worker of a paused program."""

NUDGE_SECONDS = 0.05
"""The same for a leased program, which may be paused because a renewal came late."""


OVER = (ProgramStanding.ENDED, ProgramStanding.KILLED, ProgramStanding.LOST)
"""The standings of a program that changes its files no more, and has not left."""

LONG_WAIT = 60.0
"""Seconds that the thread waits for a program at a time."""

LARGEST_RESULT = 1 << 16
"""Bytes of a result of a worker that are read."""


class WatchedProgram(LeasedStay):
    """One program: its record, its worker, and the thread that watches the worker.

    `NodeProgram` adds what callers do with it. Any thread may call its methods.
    """

    # ---- begin -----------------------------------------------------------------------------------

    def start(self, saved: Path | None = None, fork: int = 0) -> None:
        """Start the program in a new worker.

        Args:
            saved: A snapshot in which it goes on as it was; None for its beginning.
            fork: The number with which it calls `wasmsr_forked` first then; 0 for none.

        Raises:
            WasmsrError: It cannot be started; its record says so.
        """
        with self._lock:
            try:
                executor = self._worker(self.record, self.folder)
                try:
                    streams = self._rules.streams(self.record.program)
                    spec = self.record.spec
                    if saved is None:
                        executor.start(spec, program=self.id, streams=streams, paused=True)
                    else:
                        with open(saved, "rb") as file:
                            executor.adopt(
                                file.fileno(), spec, program=self.id, streams=streams, fork=fork
                            )
                    if self.record.lease is not None:
                        self._begin_lease(executor)
                    self._stand(ProgramStanding.RUNNING)
                    self._let_run(executor)
                except BaseException:
                    self._end_lease()
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
            streams = self._rules.streams(self.record.program)
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
                CarriedTrees(self.folder.carried).forget_bases(self.id)
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
        if self._executor is None:
            self._find_left()

    def _adopt(self, old: list[ProcessExecutor], *, runs: bool) -> None:
        """Take over the worker that has the program, and kill the others."""
        for executor in old:
            executor.patience = PATIENCE
            with suppress(WasmsrError):
                if executor.programs() == [self.id] and self._executor is None:
                    if self.record.lease is not None:
                        self._have(executor)  # the register says whether it may run
                        continue
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
        if record.lease is not None:
            self._fall_back("its worker has ended")  # the register says from what it goes on
            return
        with suppress(OSError, ValueError, TypeError):
            left = folder.workers / f"{record.program}.result"
            if left.exists():
                status = ProgramStatus(**json.loads(left.read_bytes()[:LARGEST_RESULT]))
                self._sync_carried()
                self._end(status)
                return
        left = folder.workers / f"{record.program}.snapshot"
        if left.exists():
            ends = [ring_bounds(folder.output, stream)[1] for stream in STREAMS]
            folder.park(left, record.life, *ends)
        self._fall_back("its worker has ended, and nobody saw how")

    # ---- the thread ------------------------------------------------------------------------------

    def _watch(self, executor: ProcessExecutor) -> None:
        """Wait for the end of the program or of its worker, and write checkpoints."""
        synced = False
        try:
            while self._executor is executor:
                wait = min(LONG_WAIT, max(0.0, self._next - time.monotonic()))
                status = executor.wait(self.id, wait)
                if self._executor is not executor:
                    return
                leased = self.leased
                if leased is not None and self.has_lost:
                    self._still.wait()
                    self._lose_lease(leased)
                elif status.ending:
                    self._still.wait()  # a move that is under way sees it too
                    if not synced:
                        self._sync_carried()
                        synced = True
                    if self.record.lease is not None and not self._settle_end(leased):
                        self._news.wait(LOOK_SECONDS)
                        self._news.clear()
                        continue
                    with self._lock:
                        if self._executor is executor:
                            self._end(status)
                    return
                if status.state != "running":
                    if not executor.is_gone:
                        self._nudge(leased)
                        self._news.wait(LOOK_SECONDS if leased is None else NUDGE_SECONDS)
                    self._news.clear()
                elif time.monotonic() >= self._next:
                    self._save_in_time(executor)
        except ExecutorError as error:
            self._lose(executor, error)
        except OSError as error:
            self._rules.note("trouble", program=self.record.program[:8], error=str(error))

    def _nudge(self, leased: LeasedMovable | None) -> None:
        """Let a leased program run that its worker has paused just before a renewal.

        If its lease cannot be kept any more, its worker ends, and the register says what follows.
        """
        executor = self._executor
        if leased is not None and leased.keeper.failed is not None and executor is not None:
            executor.kill()
            return
        if leased is not None and self.record.standing is ProgramStanding.RUNNING and not self._to:
            leased.again()

    def _lose_lease(self, leased: LeasedMovable) -> None:
        """Note that another owns the program."""
        found = leased.keeper.program.record
        assert found is not None
        self.gone(found)

    def _begin_lease(self, executor: ProcessExecutor) -> None:
        """Become the first owner, and have a checkpoint that counts before the program runs."""
        self.leased = self._leases.begin(self, executor)
        self.record.saved = self._write_checkpoint(executor, self.record.life)

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
        self._forget_lease()
        self._keep_carried()
        self._rules.ended(self.id, status.ending, status.code, status.sentence)

    def _lose(self, executor: ProcessExecutor, error: ExecutorError) -> None:
        """Note how the worker has ended."""
        self._still.wait()  # the move may be decided, and the program elsewhere
        with self._lock:
            if self._executor is not executor or self._closing:
                return
            leased = self.leased
            if leased is not None and self.has_lost:
                self._lose_lease(leased)
                return
            self._executor = None
            self._drop_lease()
        # A worker that was reaped has no process id any more: another process may have it.
        lives = any(executor.pid == process for _, process in living(self.folder.workers))
        if lives:
            executor.kill()
            reap(executor.pid)
            cause, how = "frozen", f"was killed: {error.message}"
        else:
            executor.close()
            cause, how = how_it_ended(executor.pid, self.folder.workers)
        self._rules.note("worker-lost", program=self.record.program[:8], cause=cause)
        with self._lock:
            self._fall_back(f"its worker {executor.pid} {how}")
        shutil.rmtree(self.folder.temporary, ignore_errors=True)

    # ---- carried files ---------------------------------------------------------------------------

    def _sync_carried(self) -> None:
        """Have the files of a program on the disk that has ended, before anybody hears of its end.

        After a loss of power they would else be shorter than the program has made them.
        """
        try:
            sync_carried(self.record.spec, self.folder.own_carried)
        except OSError as error:
            self._rules.note("trouble", program=self.record.program[:8], error=str(error))

    def _keep_carried(self) -> None:
        """Leave nothing of a program that has come to its end but its output and carried files."""
        self.folder.remove_saved()
        keep_carried(self.record.spec, self.folder.own_carried)

    def carried(self, mount: str) -> Iterator[bytes]:
        """Yield the files of a carried mount as a tar file, in pieces.

        Args:
            mount: The path at which the program, which has come to its end, had them.

        Raises:
            WasmsrError: It has not ended, or has no such files.
            OSError: They cannot be read.
        """
        return packed(self._carried(mount))

    def drop_carried(self, mount: str) -> None:
        """Remove the files of a carried mount. Raises WasmsrError as `carried` does."""
        tree_walk.remove(self._carried(mount))

    def _carried(self, mount: str) -> Path:
        with self._lock:
            if self.record.standing not in OVER or self._to:
                raise self._refuse("asked for its files")
            return carried_tree(self.record.spec, self.folder.own_carried, mount)

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
        saved = self._write_checkpoint(executor, life)
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

    def _write_checkpoint(self, executor: ProcessExecutor, life: int) -> SavePoint:
        """Write a checkpoint, which counts when this returns. Raises WasmsrError."""
        done = executor.checkpoint(self.id, os.fspath(self.folder.saved), self._rules.keep)
        output = done["output"]
        saved = SavePoint(
            life, time.time(), done["root"].hex(), done["number"], done["size"],
            output["stdout"], output["stderr"],
        )  # fmt: skip
        if self.record.lease is not None:
            self._rules.settle(self.record.program)
            self._leases.count(self, saved)
        return saved


def _when(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


__all__ = ["WatchedProgram"]
