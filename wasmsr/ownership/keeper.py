"""Keeps the lease of one program: two threads, one that asks the register and one that pauses.

The thread that pauses never asks anybody, so a register that hangs cannot keep it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from wasmsr.errors import WasmsrError
from wasmsr.ownership.failures import OwnershipError, RegisterAway, SwapRefused
from wasmsr.ownership.lease import POLL_SECONDS, RecordWatch
from wasmsr.ownership.leased_program import LeasedProgram, Question
from wasmsr.ownership.owner_record import (
    FailoverPolicy,
    LastCheckpoint,
    OwnerRecord,
    Standing,
)
from wasmsr.ownership.register import Register
from wasmsr.ownership.transitions import TRANSITIONS, OwnerEvent, OwnerState

STEPS = 100
"""How many times in a lease the threads look at the clock."""

RETRY_SECONDS = 0.2
"""Seconds between two tries of a last question."""

Say = Callable[[str], None]
"""Takes one sentence for people."""

KEPT = (OwnerState.RUNNING, OwnerState.HELD, OwnerState.ASKING, OwnerState.OFFERING)
"""The states whose lease is renewed."""


class LeaseKeeper:
    """Carries the questions of a `LeasedProgram` to the register, and watches its deadline.

    Any thread may call its methods. A method that asks the register can take as long as
    `Register.swap`.

    Attributes:
        program: The program's part on this node. Hold `lock` to use it.
        lost: The error by which this node lost the program, or None.
        failed: The error with which the program could not be resumed or paused, or None. The lease
            is not renewed then, and another node takes the program over.
    """

    def __init__(
        self,
        program: LeasedProgram,
        register: Register,
        *,
        say: Say = lambda sentence: None,
        watch: RecordWatch | None = None,
    ) -> None:
        self.program = program
        self.register = register
        self.lock = threading.RLock()
        self.lost: OwnershipError | None = None
        self.failed: BaseException | None = None
        self._say = say
        self._watch = watch or RecordWatch(clock=program.lease.clock)
        self._asking = threading.Lock()
        self._again: Question | None = None
        self._away = False
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []

    @property
    def is_away(self) -> bool:
        """Whether the register has not answered the last question."""
        return self._away

    # ---- threads ---------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the threads."""
        for target, name in ((self._keep, "wasmsr-lease"), (self._look, "wasmsr-deadline")):
            thread = threading.Thread(target=target, name=name, daemon=True)
            self._threads.append(thread)
            thread.start()

    def close(self, *, wait: bool = True) -> None:
        """End the threads. The program stays as it is; its lease is not renewed any more.

        Args:
            wait: Whether to wait for the threads, which may be asking the register.
        """
        self._stop.set()
        for thread in self._threads if wait else ():
            thread.join()

    def _pause_seconds(self) -> float:
        return self.program.lease.length / 1e9 / STEPS

    def _look(self) -> None:
        """Pause at two thirds and at the deadline. This thread asks nobody."""
        while not self._stop.wait(self._pause_seconds()):
            with self.lock:
                before = self.program.state
                try:
                    self.program.tick()
                except (WasmsrError, OSError) as error:
                    self._fail(error)
                    self.program.guest.discard()  # what cannot be paused must not run on
                    return
                if before is OwnerState.RUNNING and self.program.state is not before:
                    self._say(self._paused())

    def _fail(self, error: BaseException) -> None:
        self.failed = error
        name = self.program.program.hex()[:8]
        self._say(f"program {name} failed here, and its lease is not renewed: {error}")

    def _paused(self) -> str:
        name = self.program.program.hex()[:8]
        return f"program {name} is paused: the register has not renewed its lease"

    def _keep(self) -> None:
        while self.failed is None and not self._stop.wait(self._pause_seconds()):
            try:
                self.keep()
            except (WasmsrError, OSError) as error:
                with self.lock:
                    self._fail(error)

    def keep(self) -> None:
        """Ask the register what is due: a renewal, or a claim again that got no answer."""
        with self.lock:
            state, lease = self.program.state, self.program.lease
            due = state in KEPT and (lease.due() or state is not OwnerState.RUNNING)
        if state is OwnerState.CLAIMING:
            self._claim_again()
        elif due:
            self.renew()

    # ---- questions -------------------------------------------------------------------------------

    def _carry(self, make: Callable[[], Question | None]) -> bool:
        """Carry one question to the register and take the answer; False without one.

        `make` is called when no other question is under way; None says that nothing is to be asked.
        """
        with self._asking:
            with self.lock:
                question = make()
                had = self.program.state in KEPT
            if question is None:
                return False
            if question.kind == "claim":
                self._again = question
            try:
                self.register.swap(question.old, question.new)
                done, found = True, question.new
            except SwapRefused as error:
                if error.record is None:
                    return self._silent(error)
                done, found = False, error.record
            except OwnershipError as error:
                return self._silent(error)
            with self.lock:
                if self._away:
                    self._away = False
                    self._say("the register answers again")
                self.program.answered(done, found)
                if had and not done and self.program.state is OwnerState.NONE:
                    self.lost = SwapRefused(
                        "this node has lost it", program=found.program, record=found
                    )
                    self._say(str(self.lost))
            return True

    def _silent(self, error: OwnershipError) -> bool:
        with self.lock:
            self.program.silent()
            if not self._away:
                self._away = True
                self._say(f"the register does not work: {error.what}")
        return False

    def create(
        self,
        policy: FailoverPolicy = FailoverPolicy.RESTORE,
        failover: tuple[bytes, ...] = (),
    ) -> bool:
        """Begin a new program; False if no answer came, and `keep` goes on asking."""
        return self._carry(lambda: self.program.create(policy, failover))

    def renew(self, checkpoint: LastCheckpoint | None = None, **changes: Any) -> bool:
        """Extend the lease; with a checkpoint, this is what makes the checkpoint count.

        Returns:
            Whether the register took it.
        """

        def make() -> Question | None:
            kept = self.program.state in KEPT
            return self.program.renewal(checkpoint, **changes) if kept else None

        for _ in range(2):  # a renewal that was taken late has changed the record: once more
            if not self._carry(make):
                return False
            with self.lock:
                record = self.program.record
                if record is None or self.program.state not in KEPT:
                    return False
                if self.program.lease.lasts() and not self.program.lease.due():
                    return checkpoint is None or record.checkpoint == checkpoint
        return False

    def _claim_again(self) -> None:
        def make() -> Question | None:
            claims = self.program.state is OwnerState.CLAIMING and self._again is not None
            return self.program.again(self._again) if claims and self._again else None

        self._carry(make)

    def release(
        self,
        checkpoint: LastCheckpoint | None = None,
        standing: Standing = Standing.RELEASED,
        seconds: float = 0.0,
    ) -> bool:
        """Give the program back, so that another takes it at once, or nobody.

        The program is discarded first. So the same swap can be repeated until it is answered.

        Args:
            checkpoint: The last checkpoint, if it does not count yet.
            standing: RELEASED, or ENDED for a program that nobody may run again.
            seconds: How long to ask a register that does not answer.

        Returns:
            Whether the register took it. False without an answer.

        Raises:
            SwapRefused: Another owns the program, or this node does not any more.
        """
        end = time.monotonic() + seconds
        with self._asking:
            with self.lock:
                state = self.program.state
                if state not in (OwnerState.RUNNING, OwnerState.HELD, OwnerState.OFFERING):
                    raise SwapRefused(
                        "it cannot be given back, because this node may not run it now",
                        program=self.program.program,
                        record=self.program.record,
                    )
                question = self.program.release(checkpoint, standing)
            while True:
                try:
                    self.register.swap(question.old, question.new)
                except SwapRefused:
                    self._silent_end()
                    raise
                except OwnershipError as error:
                    self._silent(error)
                    if time.monotonic() >= end or self._stop.wait(RETRY_SECONDS):
                        return False
                else:
                    with self.lock:
                        self.program.record = question.new
                    self._silent_end()
                    return True

    def _silent_end(self) -> None:
        """Note that the register has answered a last question."""
        with self.lock:
            self._away = False
            self.program.silent()

    def crashed(self) -> None:
        """Note that nothing of the program is left on this node: its worker has ended.

        The record still names this node, so `poll` takes the next epoch at once.
        """
        with self.lock:
            if (self.program.state, OwnerEvent.CRASH) in TRANSITIONS:
                self.program.apply(OwnerEvent.CRASH)

    def hand(self, destination: bytes, attempt: bytes = b"") -> bool:
        """Make the destination the owner, which has the whole state; see `LeasedProgram.ready`.

        Returns:
            Whether the register took the swap, which is the decision. Then HANDED is to be written.
        """
        self._carry(lambda: self.program.ready(destination, attempt))
        with self.lock:
            return self.program.state is OwnerState.NONE

    # ---- takeover --------------------------------------------------------------------------------

    def poll(self) -> OwnerRecord | None:
        """Read the record, and take the program over if this node may; call it every
        `POLL_SECONDS` for a program that this node does not own.

        Returns:
            The record that was read, or None without one.

        Raises:
            OwnershipError: The register does not work, or its record cannot be read.
        """
        found = self.register.read(self.program.program)
        with self.lock:
            self._watch.see(found)
            if found is None:
                return None
            if self.program.state is OwnerState.RECEIVED:
                self.program.decide(found)
            take = self.program.may_take(found, self._watch.expired())

        def make() -> Question | None:
            may = self.program.may_take(found, self._watch.expired())
            return self.program.take(found) if may else None

        if take:
            self._carry(make)
        return found

    def watch(self, seconds: float = 1e9) -> None:
        """Poll until this node owns the program, or the time is over."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not self._stop.is_set():
            with suppress(RegisterAway):  # nobody takes anything without an answer
                self.poll()
            with self.lock:
                if self.program.state not in (OwnerState.NONE, OwnerState.RECEIVED):
                    return
            self._stop.wait(min(POLL_SECONDS, self.program.lease.length / 1e9 / 10))
