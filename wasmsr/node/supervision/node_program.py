"""One program of a node, as callers see it: they pause, resume, save, move and kill it."""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from typing import IO, Any

from wasmsr.errors import EXIT_HOST, WasmsrError
from wasmsr.executor.output.rings import cut_ring, ring_bounds
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.node.failures import NodeError
from wasmsr.node.supervision.leased_stay import PAUSE_SECONDS, shown_lease
from wasmsr.node.supervision.program_record import STREAMS, MovedTo, ProgramStanding, SavePoint
from wasmsr.node.visits.lent_stay import LentStay
from wasmsr.node.workers.warm_parents import reap
from wasmsr.node.workers.worker_facts import resident_bytes, shown_frame
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.owner_record import OwnerRecord

FRAMES = 64
"""Frames of a call stack that are shown at most."""

SHOW_SECONDS = 0.2
"""How long a list of programs waits for one that is held."""


class NodeProgram(LentStay):
    """One program. Any thread may call its methods."""

    # ---- verbs -----------------------------------------------------------------------------------

    def pause(self) -> None:
        """Pause the program; a node that starts again leaves it paused.

        Raises:
            NodeError: It has no worker, or does not pause.
        """
        with self._lock:
            executor = self._live("paused")
            if not self._stop(executor):
                raise NodeError(
                    f"program {self.record.program[:8]} did not pause within {PAUSE_SECONDS:.0f} s"
                )
            if not executor.wait(self.id, 0).ending:
                self._stand(ProgramStanding.PAUSED, stands=True)
                self._note_wish()

    def resume(self) -> None:
        """Let the program run on; restore it first if it has no worker.

        Raises:
            WasmsrError: There is nothing to resume, or it cannot be restored.
        """
        with self._lock:
            if self._to:
                raise self._refuse("resumed")
            if self._executor is not None:
                executor = self._executor
                if self.record.standing is not ProgramStanding.PAUSED:
                    raise self._refuse("resumed")
                self._stand(ProgramStanding.RUNNING, stands=False)
                self._note_wish()
                self._let_run(executor)
                return
            if self.record.standing is not ProgramStanding.RESUMABLE:
                raise self._refuse("resumed")
            if self.record.lease is not None:
                raise self._refuse("resumed by hand: its lease brings it back")
            self._restore()

    def kill(self, reason: str = "killed by request") -> None:
        """End the program for good. Raises WrongState if it has ended."""
        with self._lock:
            if self.record.standing.is_final or self._to:
                raise self._refuse("killed")
            if self.record.lease is not None:
                self._kill_lease()
            executor, self._executor = self._executor, None
            self._stand(ProgramStanding.KILLED, reason, saved=None)
            if executor is not None:  # whoever asks for its files waits for its last write
                executor.kill()
                reap(executor.pid)
        self._keep_carried()
        self._forget_lease()
        self._rules.ended(self.id, "failed", EXIT_HOST, reason)

    @contextmanager
    def snapshot(self) -> Iterator[tuple[IO[bytes], dict[str, int]]]:
        """Save the program, which stands for a moment, in a file without a name.

        Returns:
            A context with the file, and with the bytes of each stream that it had written.

        Raises:
            WasmsrError: It has no worker, has ended, or cannot be saved.
            OSError: The disk has no room.
        """
        with tempfile.TemporaryFile(dir=self.folder.path, buffering=0) as file:
            with self._lock:
                executor = self._live("saved")
                paused = self.record.standing is ProgramStanding.PAUSED
                if not self._stop(executor):
                    raise NodeError(
                        f"program {self.record.program[:8]} did not pause within "
                        f"{PAUSE_SECONDS:.0f} s"
                    )
                ending = executor.wait(self.id, 0).ending
                if ending:
                    raise self._refuse("saved")
                try:
                    executor.snapshot(self.id, file.fileno())
                    ends = {one: ring_bounds(self.folder.output, one)[1] for one in STREAMS}
                finally:
                    if not paused:
                        self._let_run(executor)
            file.seek(0)
            yield file, ends

    # ---- what people see -------------------------------------------------------------------------

    def inspect(self) -> dict[str, Any]:
        """Return everything that is known of the program; it is paused for a moment."""
        with self._lock:
            found = self.shown()
            executor = self._executor
            if executor is None or self._to:
                return found
            paused = self.record.standing is ProgramStanding.PAUSED
            if self._stop(executor):
                try:
                    found["stats"] = executor.stats(self.id)
                    frames = executor.frames(self.id)
                    found["depth"] = len(frames)
                    found["frames"] = [shown_frame(frame) for frame in frames[:FRAMES]]
                finally:
                    if not paused and not executor.wait(self.id, 0).ending:
                        self._let_run(executor)
            return found

    def _shown_standing(self) -> str:
        if self.arrives:
            return "arriving"
        if self.visits:
            return "visiting"
        return "moving" if self._to else self.record.standing.value

    def shown(self) -> dict[str, Any]:
        """Return what `ps` shows of the program, as plain data.

        A program that is being saved, restored or started can be held for as long as its memory
        takes to be written or read. The list of the node does not wait for that: it has what was
        shown before.
        """
        last = self._last_shown
        if not self._lock.acquire(timeout=-1 if last is None else SHOW_SECONDS):
            assert last is not None
            return dict(last)
        try:
            self._last_shown = self._shown_now()
            return dict(self._last_shown)
        finally:
            self._lock.release()

    def _shown_now(self) -> dict[str, Any]:
        with self._lock:
            record = self.record
            saved = record.saved
            return {
                "program": record.program,
                "name": record.name,
                "standing": self._shown_standing(),
                "reason": record.reason,
                "ending": record.ending,
                "code": record.code if record.standing is ProgramStanding.ENDED else None,
                "module": record.digest,
                "submitted": record.submitted,
                "submitter": record.submitter,
                "changed": record.changed,
                "life": record.life,
                "worker": self.pid or None,
                "memory": resident_bytes(self.pid),
                "every": record.every,
                "saved": None if saved is None else {
                    "time": saved.time, "number": saved.number, "root": saved.root,
                    "size": saved.size, "stdout": saved.output, "stderr": saved.errors,
                },
                "epoch": record.epoch,
                "went": None if record.went is None else asdict(record.went),
                "lease": shown_lease(record, self.leased),
                "move": self._rules.move(record.program),
                "spec": record.spec,
            }  # fmt: skip

    # ---- leases ----------------------------------------------------------------------------------

    @property
    def has_worker(self) -> bool:
        """Whether a worker has it."""
        return self._executor is not None

    @property
    def is_undecided(self) -> bool:
        """Whether it begins, arrives or is being moved: then others say whose it is."""
        starting = self.record.standing is ProgramStanding.STARTING
        return starting or self.arrives or bool(self._to)

    def go_on_under(self, keeper: LeaseKeeper) -> None:
        """Let the worker of an earlier supervisor go on as soon as a renewal allows it.

        Args:
            keeper: The keeper, which does not know yet whether this node owns the program.
        """
        with self._lock:
            executor = self._executor
            if executor is None:
                return
            self.leased = self._leases.hold(self, executor, keeper)
            if self.record.standing is not ProgramStanding.PAUSED:
                self._stand(ProgramStanding.RUNNING, "adopted")
                self.leased.start()

    def end_adopted(self, found: OwnerRecord) -> None:
        """Hear that the record has ended of a program whose worker is adopted.

        Args:
            found: The record.
        """
        with self._lock:
            executor = self._executor
            status = None if executor is None else executor.wait(self.id, 0)
            if status is not None and status.ending:
                self._end(status)
                return
        self.gone(found)

    def continue_under(self, keeper: LeaseKeeper, found: OwnerRecord) -> None:
        """Restore the program from the checkpoint that counts; it runs as its lease lets it.

        Args:
            keeper: The keeper by which this node owns it.
            found: The record that says so.

        Raises:
            WasmsrError, OSError: It cannot be restored.
        """
        with self._lock:
            record, last, leases = self.record, found.checkpoint, self._leases
            offsets = {
                "stdout": 0 if last is None else last.output,
                "stderr": 0 if last is None else last.errors,
            }
            self._rules.enter(record)
            self.folder.output.mkdir(parents=True, exist_ok=True, mode=0o700)
            for stream, offset in offsets.items():
                cut_ring(self.folder.output, stream, offset)
            record.begin_life(offsets)
            record.epoch, record.attempt, record.went = found.epoch, "", None
            if last is not None and (record.saved is None or record.saved.root != last.root.hex()):
                record.saved = SavePoint(
                    record.life, time.time(), last.root.hex(), 0, 0, last.output, last.errors
                )
            record.write(self.folder.record)
            try:
                leases.write_note(record)
                executor = self._worker(record, self.folder)
            except BaseException:
                self._rules.leave(record.program)
                raise
            try:
                streams = self._rules.streams(record.program)
                if last is None:
                    executor.start(record.spec, program=self.id, streams=streams, paused=True)
                else:
                    leases.restore(self, executor, last, streams)
                leases.own(self)
                self.leased = leases.hold(self, executor, keeper)
                standing = ProgramStanding.PAUSED if record.stands else ProgramStanding.RUNNING
                self._stand(standing, _from_where(found))
                if not record.stands:
                    self.leased.start()
            except BaseException:
                self.leased = None
                executor.kill()
                reap(executor.pid, 1)
                self._rules.leave(record.program)
                raise
            self._have(executor)

    # ---- moves -----------------------------------------------------------------------------------

    def hold(self, address: str) -> ProcessExecutor:
        """Keep the program for a move: until `moved` or `stays` nobody else steers it.

        Args:
            address: Where it goes.

        Returns:
            Its worker.

        Raises:
            WrongState: It has no worker, or is being moved already.
        """
        with self._lock:
            executor = self._live("moved")
            self._to = address
            self._still.clear()
        self._saving.acquire()  # a checkpoint that is being written ends first
        self._rules.changed()
        return executor

    def check_movable(self) -> None:
        """Raise WrongState if the program cannot be moved now."""
        with self._lock:
            self._live("moved")

    def stays(self) -> None:
        """End what `hold` has begun: the program was not moved."""
        with self._lock:
            self._to = ""
        self._saving.release()
        self._still.set()
        self._news.set()
        self._rules.changed()

    def moved(self, went: MovedTo) -> None:
        """Note where the program is now, and end its worker."""
        with self._lock:
            executor, self._executor = self._executor, None
            held, self._to = bool(self._to), ""
            self._pass_lease()
            self._stand(ProgramStanding.MOVED, f"went to {went.address}", went=went)
        if executor is not None and not executor.is_gone:
            executor.kill()
            reap(executor.pid)
        self.folder.remove_worker()
        if held:
            self._saving.release()
        self._still.set()

    def end_worker(self) -> None:
        """End the worker of a program that another node has; `moved` notes that."""
        executor = self._executor
        if executor is not None:
            executor.kill()
            reap(executor.pid)

    def wait_for_owner(self, address: str, old: list[ProcessExecutor]) -> None:
        """Keep the program paused after the node was lost while it was being moved.

        Args:
            address: Where it was to go; that node says who owns it. Then `moved` or `settle_here`
                is called.
            old: The workers of its folder that live.
        """
        self._to = address
        self._still.clear()
        self._saving.acquire()
        self._adopt(old, runs=False)

    def settle_here(self) -> None:
        """Hear that the program is still this node's, after `wait_for_owner`."""
        with self._lock:
            if not self._to:
                return
            self.stays()
            executor = self._executor
            if executor is None:
                self._find_left()
            elif self.record.standing is not ProgramStanding.PAUSED:
                self._stand(ProgramStanding.RUNNING, "it was not moved")
                if not executor.wait(self.id, 0).ending:
                    self._let_run(executor)

    def ended_there(self, how: str) -> None:
        """Note that a program that has moved has ended."""
        with self._lock:
            went = self.record.went
            if went is None:
                return
            self._stand(ProgramStanding.MOVED, f"went to {went.address}, where it ended: {how}")
        self.folder.remove_saved()
        self.folder.remove_carried()

    def take(self, executor: ProcessExecutor, leased: LeasedMovable | None) -> None:
        """Have a worker that has the program, which has come by a move."""
        with self._lock:
            self.leased = leased
            self._have(executor)
        self._rules.changed()

    def adopt(self, epoch: int) -> None:
        """Resume the program here after somebody has said that no other node has it.

        Args:
            epoch: The epoch in which this node owns it from now on.

        Raises:
            WasmsrError: There is nothing to resume, or it cannot be restored.
        """
        with self._lock:
            self.record.epoch, self.record.went = epoch, None
            if self._to:
                self.settle_here()
            elif self._executor is None:
                self._fall_back("its move was given up by request")
            self.record.write(self.folder.record)
            if self.record.standing is ProgramStanding.RESUMABLE:
                self._restore()

    def wait_still(self, seconds: float) -> bool:
        """Wait until no move of the program is under way; return whether none is."""
        return self._still.wait(seconds)

    @property
    def can_be_adopted(self) -> bool:
        """Whether there is something from which the program can go on here."""
        saved = self.record.saved or self.folder.parked() or self._rules.received(self.id)
        return self._executor is not None or bool(saved)

    # ---- the end of the node ---------------------------------------------------------------------

    def settle(self, seconds: float) -> None:
        """Wait until the thread has ended the worker of a program that has ended."""
        watcher = self._watcher
        if self._executor is None and watcher is not None:
            watcher.join(seconds)

    def leave(self, save: bool) -> bool:
        """End the worker because the node ends; return whether the program can be resumed.

        Args:
            save: Write a last checkpoint first.
        """
        self._still.wait(PAUSE_SECONDS)
        with self._lock:
            self._closing = True
            executor = self._executor
        if executor is None:
            return self.record.standing is not ProgramStanding.LOST
        if save and not self._to:
            try:
                if not self._stop(executor):
                    raise NodeError(f"it did not pause within {PAUSE_SECONDS:.0f} s")
                if executor.wait(self.id, 0).ending:
                    if self._watcher is not None:
                        self._watcher.join(PAUSE_SECONDS)
                    return True
                self.checkpoint()
                self._give_back()
            except (WasmsrError, OSError) as error:
                self._rules.note("not-saved", program=self.record.program[:8], error=str(error))
        with self._lock:
            if self._executor is not executor:
                return self.record.standing is not ProgramStanding.LOST
            self._executor = None
            self._drop_lease()
            executor.kill()
            reap(executor.pid)
            self._fall_back("its node has ended")
            shutil.rmtree(self.folder.temporary, ignore_errors=True)
            return self.record.standing is not ProgramStanding.LOST


def _from_where(found: OwnerRecord) -> str:
    last = found.checkpoint
    if last is None:
        return f"begun again in epoch {found.epoch}"
    return f"taken over in epoch {found.epoch} from a checkpoint of epoch {last.epoch}"


__all__ = ["NodeProgram"]
