"""The supervisor of one leased program: lease, worker, checkpoints, output and end on one node.

`Supervisor.run` is the loop of the node's main thread. The keeper's threads renew the lease and
pause the program meanwhile, and one thread writes the output.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress

from wasmsr.errors import WasmsrError
from wasmsr.executor.port import ExecutorError, ProgramStatus
from wasmsr.ownership.epoch_log import complete, parts
from wasmsr.ownership.failures import LeaseLost, OwnershipError, RegisterAway, SwapRefused
from wasmsr.ownership.keeper import LeaseKeeper, Say
from wasmsr.ownership.lease import LEASE_SECONDS, POLL_SECONDS, Lease
from wasmsr.ownership.leased_program import LeasedProgram
from wasmsr.ownership.owner_record import (
    FailoverPolicy,
    LastCheckpoint,
    OwnerRecord,
    Standing,
)
from wasmsr.ownership.register import Register
from wasmsr.ownership.supervision.counting import CheckpointCounter
from wasmsr.ownership.supervision.leased_run import LeasedRun
from wasmsr.ownership.supervision.worker_guest import PUMP_SECONDS, WorkerGuest
from wasmsr.ownership.transitions import OwnerState

STEP_SECONDS = 0.05
"""Seconds between two looks at the program."""

AGAIN_SECONDS = 1.0
"""Seconds until a checkpoint that could not be written is tried again."""

TRIES = 3
"""How often a program may be lost before its first checkpoint here, until its node gives up."""

ENDED = ("ended", "failed", "idle", "fuel")
"""The states of a program that has ended."""


class Supervisor:
    """One node's part of one leased program.

    Attributes:
        keeper: The keeper of the lease.
        guest: The program in its worker.
        lost: The error by which this node lost the program last, or None.
    """

    def __init__(
        self,
        node: bytes,
        program: bytes,
        register: Register,
        run: LeasedRun,
        *,
        seconds: float = LEASE_SECONDS,
        say: Say = lambda sentence: None,
        stay: bool = False,
    ) -> None:
        """Supervise a program, of which nothing is done yet.

        Args:
            node: This node.
            program: The program's id.
            register: The register.
            run: What runs, and where its parts are.
            seconds: The lease.
            say: Gets sentences for people.
            stay: Go on watching a program that another has taken over, and do not end with an
                error.
        """
        lease = Lease(seconds)
        self.guest = WorkerGuest(program, run, lease)
        owned = LeasedProgram(program, node, self.guest, lease)
        self.keeper = LeaseKeeper(owned, register, say=say)
        self.lost: OwnershipError | None = None
        self._run = run
        self._say = say
        self._stay = stay
        self._counter = CheckpointCounter(self.keeper)
        self._next = self._poll_at = 0.0
        self._losses = 0
        self._pumps: threading.Thread | None = None
        self._pump_error: OSError | None = None
        self._closed = threading.Event()

    # ---- begin and end ---------------------------------------------------------------------------

    def begin(
        self,
        policy: FailoverPolicy = FailoverPolicy.RESTORE,
        failover: tuple[bytes, ...] = (),
    ) -> None:
        """Begin a new program in epoch 1. If the register does not answer, it is asked again."""
        self.guest.adopt(None, self.keeper.program.node)
        self._start()
        self.keeper.create(policy, failover)

    def take_over(self) -> None:
        """Adopt the worker that an earlier supervisor of this node left, or kill old workers.

        Then `run` waits until this node may take the program over.

        Raises:
            ExecutorError: An old worker does not end.
            OwnershipError: The record cannot be read.
        """
        owned = self.keeper.program
        record: OwnerRecord | None = None
        with suppress(RegisterAway):
            record = self.keeper.register.read(owned.program)
        if self.guest.adopt(record, owned.node):
            assert record is not None
            with self.keeper.lock:
                owned.adopt(record)
            self._next = time.monotonic() + self._run.every
            self._say(f"the program's worker is adopted in epoch {record.epoch}")
        else:
            self.guest.prepare()
        self._start()

    def _start(self) -> None:
        self.keeper.start()
        self._pumps = threading.Thread(target=self._pump, name="wasmsr-output", daemon=True)
        self._pumps.start()

    def give_back(self, seconds: float = 2.0) -> bool:
        """Write a last checkpoint and give the program back, so that another takes it at once.

        Args:
            seconds: How long to ask a register that does not answer.

        Returns:
            Whether the register took it. Otherwise others wait until the lease has ended.

        Raises:
            SwapRefused: Another owns the program.
        """
        owned = self.keeper.program
        with self.keeper.lock:
            if owned.state is OwnerState.RUNNING:
                owned.offer()  # it is paused, and no renewal lets it run again
        if owned.state is OwnerState.OFFERING and self.guest.status().state in ("paused", "stop"):
            try:
                self._save()
            except (WasmsrError, OSError) as error:
                self._say(f"no last checkpoint was written: {error}")
        with self.keeper.lock:
            if owned.state not in (OwnerState.OFFERING, OwnerState.HELD):
                return False
        return self.keeper.release(self._counter.pending, seconds=seconds)

    def close(self) -> None:
        """End the worker and all threads. The record stays as it is."""
        self._closed.set()
        self.keeper.close()
        self.guest.close()
        if self._pumps is not None:
            self._pumps.join(1.0)

    # ---- the loop --------------------------------------------------------------------------------

    def run(self, until: Callable[[], bool] = lambda: False) -> ProgramStatus | None:
        """Supervise the program until it ends.

        Args:
            until: Is asked all the time; True ends the loop, and the program runs on.

        Returns:
            How the program ended, after the record has ended; None if `until` said so.

        Raises:
            OwnershipError: This node lost the program, or the record has ended elsewhere.
            WasmsrError: The program cannot be restored, again and again.
            OSError: Nobody reads the output that is shown.
        """
        while not until():
            if self._pump_error is not None:
                raise self._pump_error
            status = self.step()
            if status is not None:
                return status
            self._closed.wait(STEP_SECONDS)
        return None

    def step(self) -> ProgramStatus | None:
        """Do what is due now; return the ending of a program that has ended."""
        keeper = self.keeper
        with keeper.lock:
            state, failed = keeper.program.state, self.guest.failed
        if failed is not None:
            self._lose(failed)
        elif keeper.failed is not None:
            raise keeper.failed
        elif state is OwnerState.NONE:
            self._watch()
        elif state is OwnerState.RUNNING:
            return self._look()
        return None

    def _lose(self, failed: BaseException) -> None:
        """Go on from the checkpoint, in the next epoch: nothing of this one is left here."""
        self._losses += 1
        hopeless = self._losses > TRIES or not isinstance(failed, (ExecutorError, OSError))
        if hopeless and not self._stay:
            self._give_up()
            raise failed
        self._say(f"the program's worker is lost: {failed}")
        self._counter.pending = None
        self.keeper.crashed()
        self.guest.discard()

    def _give_up(self) -> None:
        """Leave a program that cannot be restored here to others; end one that never began."""
        with self.keeper.lock:
            record = self.keeper.program.record
        if record is None:
            return
        new = record.epoch == 1 and record.checkpoint is None
        standing = Standing.ENDED if new else Standing.RELEASED
        with suppress(OwnershipError):  # others wait for the end of the lease then
            self.keeper.release(standing=standing)

    def _watch(self) -> None:
        """Watch a program that this node does not own."""
        if self.keeper.lost is not None:
            self.lost, self.keeper.lost = self.keeper.lost, None
            self._counter.pending = None
            if not self._stay:
                raise self.lost
        now, lease = time.monotonic(), self.keeper.program.lease
        if now < self._poll_at:
            return
        self._poll_at = now + min(POLL_SECONDS, lease.length / 1e9 / 10)
        try:
            record = self.keeper.poll()
        except RegisterAway:
            return
        except OwnershipError:
            if not self._stay:
                raise
            return
        if self._stay:
            self.guest.prepare()
        elif record is not None and record.standing is Standing.ENDED:
            raise SwapRefused("it has ended", program=record.program, record=record)
        self._next = time.monotonic() + self._run.every

    def _look(self) -> ProgramStatus | None:
        """Look at a program that may run: has it ended, is a checkpoint due?"""
        status = self.guest.status()
        if status.state in ENDED:
            return self._end(status)
        if status.state == "paused":
            self._nudge()
        elif self._counter.pending is not None:
            self._count()
        elif status.state == "running" and time.monotonic() >= self._next:
            self._next = time.monotonic() + self._run.every
            try:
                self._save()
            except (WasmsrError, OSError) as error:
                self._say(f"no checkpoint was written: {error}")
                self._next = time.monotonic() + min(self._run.every, AGAIN_SECONDS)
        return None

    def _nudge(self) -> None:
        """Let a program run that its worker paused in time, before it heard of a new lease."""
        with self.keeper.lock:
            owned = self.keeper.program
            if owned.state is OwnerState.RUNNING and not owned.lease.late():
                assert owned.record is not None
                self.guest.resume(owned.record)

    # ---- checkpoints and output ------------------------------------------------------------------

    @property
    def epoch(self) -> int:
        """The epoch of the newest record that was read, or 0."""
        with self.keeper.lock:
            record = self.keeper.program.record
        return record.epoch if record is not None else 0

    def save_soon(self) -> None:
        """Write the next checkpoint now, if the program runs here."""
        self._next = 0.0

    def _save(self) -> None:
        """Write a checkpoint below the folder of the epoch, and let the record name it.

        Raises:
            WasmsrError: It could not be written.
        """
        epoch = self.epoch
        found = self.guest.checkpoint(epoch)
        sizes = {}
        for stream, log in dict(self.guest.logs).items():
            sizes[stream] = log.start + found["output"][stream]
            while log.size < sizes[stream]:
                if not self.guest.pump() and log.size < sizes[stream]:
                    raise LeaseLost("its output could not be written")
            log.sync()
        last = LastCheckpoint(
            root=found["root"],
            store=self._run.address,
            epoch=epoch,
            output=sizes.get("stdout", 0),
            errors=sizes.get("stderr", 0),
        )
        self._counter.put(last, self._run.checkpoints(epoch), self._run.read_trust)
        self._count()

    def _count(self) -> None:
        """Let the record name the newest checkpoint. No other one is written before it does."""
        last = self._counter.count()
        if last is None:
            return
        self._losses = 0
        self._let_out({"stdout": last.output, "stderr": last.errors})
        self._run.remove_older(last.epoch)

    def _let_out(self, sizes: dict[str, int]) -> None:
        for stream, log in dict(self.guest.logs).items():
            log.committed(sizes[stream])

    def _pump(self) -> None:
        while not self._closed.is_set():
            try:
                if self.guest.pump():
                    continue
            except LeaseLost:
                pass  # what is left waits in the worker
            except OSError as error:
                self._pump_error = error
                return
            self._closed.wait(PUMP_SECONDS)

    def _end(self, status: ProgramStatus) -> ProgramStatus | None:
        """Write the rest of the output and the result, and end the record.

        Returns None if this node lost the program meanwhile.
        """
        try:
            while self.guest.pump():
                pass
            logs = dict(self.guest.logs)
            for log in logs.values():
                log.sync()
            self.keeper.program.lease.check(self.keeper.program.record)
            sizes = {stream: log.size for stream, log in logs.items()}
            self._run.write_result(self.epoch, status, sizes)
        except LeaseLost:
            return None
        epoch = self.epoch
        self.keeper.release(standing=Standing.ENDED, seconds=1e9)
        with self.keeper.lock:
            record = self.keeper.program.record
        if record is None or record.standing is not Standing.ENDED:
            return None
        if self._run.commit:
            self._show_rest(epoch, sizes)
        return status

    def _show_rest(self, epoch: int, sizes: dict[str, int]) -> None:
        """Let out what was held back of a program that has ended."""
        for stream in sizes:
            part = next(one for one in parts(self._run.folder, stream) if one.epoch == epoch)
            shown = part.path.stat().st_size
            complete(self._run.folder, stream, epoch, None)
            show = (self._run.shown or {}).get(stream)
            if show is not None:
                with open(part.path, "rb") as file:
                    file.seek(shown)
                    while data := file.read(1 << 20):
                        show(data)
