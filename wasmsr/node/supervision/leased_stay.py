"""A program of a node as far as a lease lets it run; one without a lease just runs."""

from __future__ import annotations

from contextlib import suppress
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.node.failures import NodeError
from wasmsr.node.leases.program_leases import ProgramLeases
from wasmsr.node.supervision.noted_program import NotedProgram
from wasmsr.node.supervision.program_record import (
    MovedTo,
    ProgramRecord,
    ProgramStanding,
)
from wasmsr.node.workers.warm_parents import reap
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.transitions import OwnerState

PAUSE_SECONDS = 10.0
"""How long a program may take to pause."""

ANSWER_SECONDS = 3.0
"""How long a register that does not answer is asked to take the end of a program."""


class LeasedStay(NotedProgram):
    """One program, while it is on this node. Any thread may call its methods."""

    @property
    def _leases(self) -> ProgramLeases:
        """The leases of the node. Raises NodeError if it has none."""
        if self._rules.leases is None:
            raise NodeError(
                f"program {self.record.program[:8]} has a lease, and this node has no register",
                hint="start the node with --ownership-register and --checkpoints-store",
            )
        return self._rules.leases

    @property
    def has_lost(self) -> bool:
        """Whether the register names another owner."""
        return self.leased is not None and self.leased.keeper.lost is not None

    def _let_run(self, executor: ProcessExecutor) -> None:
        """Let the paused program run, as soon as its lease lets it if it has one."""
        if self.leased is not None:
            self.leased.start()
        elif self.record.lease is None:
            executor.resume(self.id)

    def _stop(self, executor: ProcessExecutor) -> bool:
        """Pause the program; a renewed lease does not let it run on. Return whether it stands."""
        stopped = executor if self.leased is None else self.leased
        if isinstance(stopped, ProcessExecutor):
            return stopped.pause(self.id, PAUSE_SECONDS)
        return stopped.pause(PAUSE_SECONDS)

    def _end_lease(self) -> None:
        """End the record of a program that did not start: nobody has anything of it."""
        leased, self.leased = self.leased, None
        if leased is not None:
            self._leases.end(leased, ANSWER_SECONDS)
            self._leases.forget(self.id)

    def _drop_lease(self) -> None:
        """Keep the lease no more: nothing of the program is left here but its checkpoint.

        The record still names this node, which takes the next epoch at once (`leases.takeovers`).
        """
        leased, self.leased = self.leased, None
        if leased is not None:
            leased.keeper.crashed()
            self._leases.drop(self.id)

    def _settle_end(self, leased: LeasedMovable | None) -> bool:
        """End the record of a program that has ended; return whether the register took it.

        It is False for a program whose worker is adopted and whose owner is not known yet.
        """
        return leased is not None and self._leases.end(leased)

    def _kill_lease(self) -> None:
        """End the record of a program that somebody kills.

        Raises:
            NodeError: The register does not take it, so the program may go on elsewhere.
        """
        leased = self.leased
        if leased is None or not self._leases.end(leased, ANSWER_SECONDS):
            if leased is not None and leased.keeper.program.state is OwnerState.NONE:
                self._leave_to_register()
            raise NodeError(
                f"the register has not taken the end of program {self.record.program[:8]}, which "
                "may go on",
                hint="kill it again when the register answers",
            )
        self.leased = None

    def _leave_to_register(self) -> None:
        """End the worker of a program whose end the register was asked for, and did not confirm.

        The register says later whether the program has ended, or goes on from its checkpoint.
        """
        if self.has_lost:
            return
        executor, self._executor = self._executor, None
        self._drop_lease()
        if executor is not None:
            executor.kill()
            reap(executor.pid)
        self._fall_back("the register has not taken its end")

    def _note_wish(self) -> None:
        """Note for other nodes whether somebody wants the program paused."""
        if self.record.lease is not None:
            try:
                self._leases.write_note(self.record)
            except (WasmsrError, OSError) as error:
                self._rules.note("trouble", program=self.record.program[:8], error=str(error))

    def shown_end(self, stream: str) -> int | None:
        """Return up to where people see a stream; None for all of it.

        With the terms "commit", output waits for the checkpoint with it to count.
        """
        record = self.record
        waits = record.lease is not None and record.lease.output == "commit"
        if not waits or record.standing in (ProgramStanding.ENDED, ProgramStanding.KILLED):
            return None
        leased, counted = self.leased, record.saved
        owned = None if leased is None else leased.keeper.program.record
        if owned is not None and owned.checkpoint is not None:
            last = owned.checkpoint
            return last.output if stream == "stdout" else last.errors
        return 0 if counted is None else counted.offsets[stream]

    def _give_back(self) -> None:
        """Give the paused program back, so that another node takes it at once."""
        if self.leased is not None and not self._leases.give_back(self.leased):
            name = self.record.program[:8]
            self._rules.note("not-given-back", program=name, error="the register does not take it")

    def _pass_lease(self) -> None:
        """Keep the lease no more: the program has moved."""
        if self.leased is not None:
            self.leased = None
            self._leases.drop(self.id)

    def _forget_lease(self) -> None:
        """Remove what is kept of the lease of a program that has ended."""
        self.leased = None
        if self.record.lease is not None and self._rules.leases is not None:
            self._rules.leases.forget(self.id)

    def gone(self, found: OwnerRecord) -> None:
        """Note that another node owns the program, or that its record has ended.

        Args:
            found: The record in the register.
        """
        address, node = "", found.owner.hex()
        with suppress(WasmsrError, OSError):
            address = self._leases.address_of(self.record, found)
        with self._lock:
            executor, self._executor = self._executor, None
            self.leased = None
            if self.record.standing.is_final:
                return
            if self._rules.leases is not None:
                with suppress(WasmsrError):
                    self._rules.leases.lost(self.record)
            ended = found.standing is Standing.ENDED
            if ended and found.epoch <= self.record.epoch:  # no other node has had it since
                reason = f"by the register it has ended in epoch {found.epoch}"
                self._stand(ProgramStanding.LOST, reason, saved=None)
            else:
                went = MovedTo(address, node, found.epoch, True)
                reason = f"node {node[:8]} has taken it over in epoch {found.epoch}"
                reason += ", where it has ended" if ended else ""
                self._stand(ProgramStanding.MOVED, reason, went=went, saved=None)
        if executor is not None:
            executor.kill()
            reap(executor.pid)
        self.folder.remove_saved()
        self.folder.remove_carried()


def shown_lease(record: ProgramRecord, leased: LeasedMovable | None) -> dict[str, Any] | None:
    """Return what people see of a lease, as plain data; None for a program without one."""
    if record.lease is None:
        return None
    found: dict[str, Any] = {**record.lease.as_dict(), "epoch": record.epoch, "owner": ""}
    owned: OwnerRecord | None = None
    if leased is not None:
        with leased.keeper.lock:
            owned, state = leased.keeper.program.record, leased.keeper.program.state
        found["state"] = state.name.lower()
        found["register"] = "away" if leased.keeper.is_away else "answers"
    if owned is not None:
        last = owned.checkpoint
        found |= {
            "owner": owned.owner.hex(), "epoch": owned.epoch, "deadline": owned.deadline / 1000,
            "checkpoint": None if last is None else {
                "epoch": last.epoch, "root": last.root.hex(), "store": last.store,
                "stdout": last.output, "stderr": last.errors,
            },
        }  # fmt: skip
    elif record.went is not None:
        found |= {"owner": record.went.node, "epoch": record.went.epoch}
    return found


__all__ = ["PAUSE_SECONDS", "LeasedStay", "shown_lease"]
