"""What one node has of a leased program: the table of `transitions.py`, applied to real records.

The class has no threads and asks nobody: `keeper.py` carries its questions to the register, and the
tests run it step by step beside the model.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.lease import Lease, wall_milliseconds
from wasmsr.ownership.owner_record import (
    FailoverPolicy,
    LastCheckpoint,
    OwnerRecord,
    Standing,
)
from wasmsr.ownership.transitions import (
    TRANSITIONS,
    OwnerEvent,
    OwnerState,
    claim_event,
    may_take,
    move_event,
    received_event,
    renewal_event,
)

ATTEMPT_BYTES = 16

Told = Callable[[OwnerState, OwnerEvent, OwnerState], None]
"""Is told each event, with the state before and after."""


class LeasedGuest(Protocol):
    """The program itself, or what of it this node has."""

    def resume(self, record: OwnerRecord) -> None:
        """Let it run in the record's epoch; restore it first if this node has nothing of it yet."""

    def extend(self, pause_at: int, end_at: int) -> None:
        """Take the times of a new lease, by its clock; see `Lease.times`. It may not run yet."""

    def pause(self) -> None:
        """Pause it. If it does not pause before the lease ends, it must be killed."""

    def discard(self) -> None:
        """Forget it: another owns it, or it has moved."""


@dataclass(frozen=True)
class Question:
    """A swap that the register is to do.

    Attributes:
        kind: "claim", "renew", "move" or "release".
        old: The record that was read, or None.
        new: The record that follows.
        asked: Time of the lease's clock before the question, or None: the lease does not count.
    """

    kind: str
    old: OwnerRecord | None
    new: OwnerRecord
    asked: int | None


class LeasedProgram:
    """One node's part of one program. The caller holds a lock around each method.

    Attributes:
        state: What the node has of the program.
        record: The newest record that it read.
        question: The question under way, or None.
    """

    def __init__(
        self,
        program: bytes,
        node: bytes,
        guest: LeasedGuest,
        lease: Lease,
        *,
        told: Told | None = None,
    ) -> None:
        self.program = program
        self.node = node
        self.guest = guest
        self.lease = lease
        self.state = OwnerState.NONE
        self.record: OwnerRecord | None = None
        self.question: Question | None = None
        self._told = told
        self._attempt = b""
        self._epoch = 0
        self._ready: int | None = None

    # ---- the table -------------------------------------------------------------------------------

    def apply(self, event: OwnerEvent) -> None:
        """Change the state by the table, and let the program do what the new state says.

        Raises:
            OwnershipError: The state does not allow the event.
        """
        before = self.state
        after = TRANSITIONS.get((before, event))
        if after is None:
            raise OwnershipError(
                f"{event.name} cannot happen while it is {before.name}",
                program=self.program,
                record=self.record,
            )
        self.state = after
        if self._told is not None:
            self._told(before, event, after)
        if after is OwnerState.RUNNING and before is not OwnerState.RUNNING:
            assert self.record is not None
            self.guest.resume(self.record)
        elif before is OwnerState.RUNNING and after is not OwnerState.RUNNING:
            self.guest.pause()
        if after is OwnerState.NONE and before is not OwnerState.NONE:
            self.lease.begin(None)
            self.guest.discard()

    def tick(self) -> None:
        """Look at the clock: pause at two thirds, and ask again after the deadline."""
        if self.state is OwnerState.RUNNING and not self.lease.lasts():
            self.apply(OwnerEvent.DEADLINE)
        elif self.state is OwnerState.RUNNING and self.lease.late():
            self.apply(OwnerEvent.TWO_THIRDS)
        elif self.state in (OwnerState.HELD, OwnerState.OFFERING) and not self.lease.lasts():
            self.apply(OwnerEvent.DEADLINE)

    def _ask(self, kind: str, old: OwnerRecord | None, new: OwnerRecord, lease: bool) -> Question:
        if self.question is not None:
            raise OwnershipError(
                "a question to the register is under way", program=self.program, record=old
            )
        self.question = Question(kind, old, new, self.lease.clock() if lease else None)
        return self.question

    def _deadline(self) -> int:
        return wall_milliseconds() + self.lease.length // 1_000_000

    # ---- to become the owner ---------------------------------------------------------------------

    def create(
        self,
        policy: FailoverPolicy = FailoverPolicy.RESTORE,
        failover: tuple[bytes, ...] = (),
    ) -> Question:
        """Ask for epoch 1 of a new program."""
        new = OwnerRecord(
            program=self.program,
            owner=self.node,
            epoch=1,
            attempt=secrets.token_bytes(ATTEMPT_BYTES),
            serial=1,
            lease=self.lease.length // 1_000_000,
            deadline=self._deadline(),
            policy=policy,
            failover=failover,
        )
        self.apply(OwnerEvent.CREATE)
        return self._ask("claim", None, new, True)

    def may_take(self, found: OwnerRecord, expired: bool) -> bool:
        """Return whether this node may ask for the next epoch of a program that it has not."""
        if self.state not in (OwnerState.NONE, OwnerState.RECEIVED):
            return False
        named = found.owner == self.node
        if found.standing is Standing.ENDED or not (named or found.may_go_to(self.node)):
            return False
        if named and self.state is OwnerState.RECEIVED:
            return False  # `decide` says what the record means
        owned = found.standing is Standing.OWNED
        return may_take(owned=owned, named=named, expired=expired)

    def take(self, found: OwnerRecord) -> Question:
        """Ask for the next epoch; `may_take` has allowed it.

        With the policy "fail" the question is the last one: the record ends.
        """
        if found.policy is FailoverPolicy.FAIL:
            return self._ask("release", found, found.next(standing=Standing.ENDED), False)
        new = found.next(
            owner=self.node,
            epoch=found.epoch + 1,
            attempt=secrets.token_bytes(ATTEMPT_BYTES),
            lease=self.lease.length // 1_000_000,
            deadline=self._deadline(),
            standing=Standing.OWNED,
            checkpoint=None if found.policy is FailoverPolicy.RESTART else found.checkpoint,
        )
        self.apply(OwnerEvent.TAKE)
        return self._ask("claim", found, new, True)

    def again(self, before: Question) -> Question:
        """Repeat a claim without an answer. It may have been taken long ago: no lease counts."""
        assert self.state is OwnerState.CLAIMING and before.kind == "claim"
        return self._ask("claim", before.old, before.new, False)

    # ---- to stay it ------------------------------------------------------------------------------

    def renewal(self, checkpoint: LastCheckpoint | None = None, **changes: Any) -> Question:
        """Ask for a longer lease; a new checkpoint counts from the answer on."""
        old = self.record
        if old is None or old.owner != self.node:
            raise OwnershipError("this node does not own it", program=self.program, record=old)
        changes = {"deadline": self._deadline(), **changes}
        if checkpoint is not None:
            changes["checkpoint"] = replace(checkpoint, epoch=old.epoch)
        return self._ask("renew", old, old.next(**changes), True)

    def answered(self, done: bool, found: OwnerRecord) -> OwnerEvent | None:
        """Take the answer to the question under way.

        Args:
            done: The register did the swap.
            found: The record that it has now.

        Returns:
            The event, or None for an answer that the state does not wait for any more.
        """
        question, self.question = self.question, None
        assert question is not None
        lasts = question.asked is not None and self.lease.would_last(question.asked)
        mine = (found.owner, found.epoch, found.standing) == (
            self.node, self._own_epoch(), Standing.OWNED,
        )  # fmt: skip
        if question.kind == "claim" and self.state is OwnerState.CLAIMING:
            event = claim_event(done=done, lasts=lasts)
        elif question.kind == "move" and self.state is OwnerState.HANDING:
            event = move_event(done=done, mine=mine)
        elif question.kind == "renew" and (self.state, OwnerEvent.RENEWED) in TRANSITIONS:
            event = renewal_event(done=done, mine=mine, lasts=lasts)
        else:
            return None
        self.record = found
        if done and question.kind != "move":
            self.lease.begin(question.asked)
            if lasts:
                self.guest.extend(*self.lease.times)
        self.apply(event)
        return event

    def _own_epoch(self) -> int:
        return self.record.epoch if self.record is not None else 0

    def silent(self) -> None:
        """No answer comes any more; the question may still arrive."""
        self.question = None
        if (self.state, OwnerEvent.SILENT) in TRANSITIONS:
            self.apply(OwnerEvent.SILENT)

    def adopt(self, found: OwnerRecord) -> None:
        """Note that a worker of an earlier supervisor has the paused program.

        Only a renewal tells then whether this node still owns it.

        Args:
            found: The record that was read; it names this node and the epoch of the worker.
        """
        assert self.state is OwnerState.NONE and found.owner == self.node
        self.record = found
        self.state = OwnerState.STRANDED
        self.apply(OwnerEvent.ADOPT)

    def release(
        self, checkpoint: LastCheckpoint | None = None, standing: Standing = Standing.RELEASED
    ) -> Question:
        """Give the paused program back: discard it, then ask the register to let others take it.

        Args:
            checkpoint: The last checkpoint, if it does not count yet.
            standing: RELEASED, or ENDED for a program that nobody may run again.
        """
        old = self.record
        assert old is not None
        if self.state is OwnerState.RUNNING:
            self.apply(OwnerEvent.OFFER)
        if self.state is OwnerState.OFFERING:
            self.apply(OwnerEvent.GIVE_UP)
        changes: dict[str, Any] = {"standing": standing}
        if checkpoint is not None:
            changes["checkpoint"] = replace(checkpoint, epoch=old.epoch)
        self.apply(OwnerEvent.RELEASE)
        return self._ask("release", old, old.next(**changes), False)

    # ---- moves -----------------------------------------------------------------------------------

    def offer(self) -> bytes:
        """Pause the program for a move and return the id of the attempt."""
        self.apply(OwnerEvent.OFFER)
        self._attempt = secrets.token_bytes(ATTEMPT_BYTES)
        return self._attempt

    def ready(self, destination: bytes, attempt: bytes = b"") -> Question:
        """Ask the register for the decision: the destination has the whole state.

        Args:
            destination: The id with which it said READY.
            attempt: The attempt by which it has the state; b"" is that of `offer`.
        """
        old = self.record
        assert old is not None
        self._attempt = attempt or self._attempt
        self.apply(OwnerEvent.READY)
        new = old.next(
            owner=destination, epoch=old.epoch + 1, attempt=self._attempt,
            deadline=self._deadline(),
        )  # fmt: skip
        return self._ask("move", old, new, False)

    def receive(self, attempt: bytes, epoch: int) -> None:
        """Note that the whole state of an attempt is on disk. Call it before READY is sent."""
        self._ready = self.lease.clock()
        self.apply(OwnerEvent.RECEIVE)
        self._attempt, self._epoch = attempt, epoch

    def received_before(self, attempt: bytes, epoch: int) -> None:
        """Note the same after a restart: when READY was sent is forgotten, so no lease counts."""
        self.receive(attempt, epoch)
        self._ready = None

    def decide(self, found: OwnerRecord, *, over: bool = False) -> OwnerEvent | None:
        """Take a record that was read while the state of an attempt is here.

        Commit is a reason to read the record, and no decision by itself.

        Args:
            found: The record.
            over: Before the record was read, the source said that it does not try the attempt any
                more: it has given the attempt up, or the register has decided for it.
        """
        assert self.state is OwnerState.RECEIVED
        named = (found.owner, found.attempt, found.standing) == (
            self.node, self._attempt, Standing.OWNED,
        )  # fmt: skip
        lasts = self._ready is not None and self.lease.would_last(self._ready)
        event = received_event(epoch=found.epoch, named=named, at_epoch=self._epoch, lasts=lasts)
        if event is None and over:
            event = OwnerEvent.DROPPED
        if event in (OwnerEvent.DECIDED, OwnerEvent.DECIDED_LATE):
            self.record = found
            self.lease.begin(self._ready)
            if lasts:
                self.guest.extend(*self.lease.times)
        if event is not None:
            self.apply(event)
        return event
