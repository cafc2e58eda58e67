"""Watches the records of leased programs, and takes those over that this node may run.

One thread reads the register. It looks at two kinds of programs:

- those that this node has: after a restart it asks whether their workers may go on, and for a
  program whose worker is lost it takes the next epoch;
- those whose failover set names this node: when the owner's lease has ended, or the owner has given
  the program back, it asks for the next epoch. The register lets one node win.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Protocol

from wasmsr.errors import WasmsrError
from wasmsr.node.leases.lease_notes import RunNote
from wasmsr.node.leases.node_leases import NodeLeases
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.noted_program import Note
from wasmsr.node.supervision.program_record import ProgramStanding
from wasmsr.ownership.failures import OwnershipError, RegisterAway
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.lease import POLL_SECONDS, Lease, RecordWatch
from wasmsr.ownership.leased_program import LeasedProgram
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.transitions import OwnerState

SHORTEST_POLL = 0.05
"""Seconds between two readings at least."""

POLLS = 10
"""Readings in a lease at least."""

STRANGE_SECONDS = 30.0
"""Seconds between two readings of a record that does not concern this node."""

AGAIN_SECONDS, LONGEST_AGAIN = 0.5, 60.0
"""Seconds before a program that could not be restored is tried again: at first, and at most."""

LOOP_SECONDS, TRIES = 5.0, 3
"""A program that is lost so soon after each restore, more often than this, is put off too."""

CLAIMED = (OwnerState.RUNNING, OwnerState.HELD, OwnerState.ASKING)
"""The states of a keeper whose claim the register has taken."""


class TakingNode(Protocol):
    """What takeovers need of the node's supervisor."""

    @property
    def node(self) -> bytes:
        """The node's id."""

    def note(self, event: str, **values: object) -> None:
        """Write an event to the node's log."""

    def named(self, program: bytes) -> NodeProgram | None:
        """Return the program with this id, or None."""

    def programs(self) -> list[NodeProgram]:
        """Return all programs."""

    def may_take(self, note: RunNote) -> None:
        """Check a program of another node by the policy. Raises WasmsrError."""

    def takes(self, program: bytes) -> bool:
        """Return whether a program that this node may own is to be here now."""

    def take_stay(self, note: RunNote, module: Callable[[str], bytes], epoch: int) -> NodeProgram:
        """Make a program of another node one of this node's, without a worker yet.

        Raises:
            WasmsrError, OSError: It cannot be here.
        """

    def drop_arrival(self, program: bytes) -> None:
        """Forget a state of the program that waits here for a decision: it is over."""


class _Nothing:
    """A program of which this node has nothing yet (`leased_program.LeasedGuest`)."""

    def resume(self, record: OwnerRecord) -> None:
        """Do nothing: it is restored first."""

    def extend(self, pause_at: int, end_at: int) -> None:
        """Do nothing."""

    def pause(self) -> None:
        """Do nothing."""

    def discard(self) -> None:
        """Do nothing."""


class Candidate:
    """A program that this node may own, now or later.

    Attributes:
        watch: What it has seen of the record.
        keeper: What asks the register.
        note: What its owner has noted of it, or None.
        tries: How often in sequence it was taken and not restored, or lost soon.
        brought: When it was restored here last.
        next: When it is looked at again.
        busy: Whether a thread restores it.
    """

    def __init__(self) -> None:
        self.watch = RecordWatch()
        self.keeper: LeaseKeeper | None = None
        self.note: RunNote | None = None
        self.tries = 0
        self.brought = self.next = 0.0
        self.busy = False

    def put_off(self) -> None:
        """Look at it again later, and later each time."""
        self.next = time.monotonic() + min(LONGEST_AGAIN, AGAIN_SECONDS * 2**self.tries)
        self.tries = min(self.tries + 1, 10)

    def restored(self) -> None:
        """Note that it runs here; a program that is lost at once, again and again, is put off."""
        now = time.monotonic()
        if now - self.brought > LOOP_SECONDS:
            self.tries = 0
        elif self.tries >= TRIES:
            self.put_off()
        else:
            self.tries += 1
        self.brought, self.watch, self.note = now, RecordWatch(), None


class Takeovers:
    """The thread, and what it has seen. `close` ends it."""

    def __init__(self, node: TakingNode, leases: NodeLeases, say: Note) -> None:
        """Make it; `start` begins.

        Args:
            node: The supervisor.
            leases: The node's leases.
            say: Gets events for the log.
        """
        self._node, self._leases, self._say = node, leases, say
        self._stop = threading.Event()
        self._candidates: dict[bytes, Candidate] = {}
        self._over: set[bytes] = set()
        self._poll = POLL_SECONDS
        self._away = False
        self._thread: threading.Thread | None = None
        self._bringing: list[threading.Thread] = []

    def start(self) -> None:
        """Begin to watch."""
        self._thread = threading.Thread(target=self._run, name="wasmsr-takeovers", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread; nothing is taken any more."""
        self._stop.set()
        for thread in (self._thread, *self._bringing):
            if thread is not None and thread is not threading.current_thread():
                thread.join(5.0)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self.sweep()
                self._away = False
            except (OwnershipError, OSError) as error:
                if not self._away:
                    self._away = True
                    self._say("register-away", error=str(error))
            self._stop.wait(self._poll)

    # ---- looking ---------------------------------------------------------------------------------

    def sweep(self) -> None:
        """Look at every program once. Raises OwnershipError if the register does not work."""
        register = self._leases.decisions.register
        here = [one.id for one in self._node.programs() if one.record.lease is not None]
        known = {*register.programs(), *here} - self._over
        poll, now = POLL_SECONDS, time.monotonic()
        for program in known:
            if self._stop.is_set():
                return
            one = self._candidates.setdefault(program, Candidate())
            waits = self._waits(program)
            if one.busy or now < one.next or waits is None:
                continue
            try:
                found = register.read(program)
                # A state that waits here is this node's by its move, which reads the record too.
                if found is not None and not (waits and found.owner == self._node.node):
                    poll = min(poll, found.lease / 1000 / POLLS)
                    self._look(program, one, found)
            except RegisterAway:
                raise
            except (WasmsrError, OSError) as error:
                self._say("trouble", program=program.hex()[:8], error=str(error))
                one.put_off()
        self._poll = max(SHORTEST_POLL, poll)

    def _waits(self, program: bytes) -> bool | None:
        """Return whether a state waits here for a decision; None if a keeper has the program."""
        leased = self._leases.decisions.get(program)
        if leased is None:
            return False
        return True if leased.keeper.program.state is OwnerState.RECEIVED else None

    def _look(self, program: bytes, one: Candidate, found: OwnerRecord) -> None:
        """Do what a record asks for."""
        one.watch.see(found)
        here = self._node.named(program)
        if here is not None and (here.record.lease is None or here.standing.is_final):
            here = None
        if here is not None and not self._settle_here(here, found):
            return
        if found.standing is Standing.ENDED:
            self._over.add(program)
            del self._candidates[program]
            return
        ours = self._node.node
        if found.owner != ours and not found.may_go_to(ours):
            one.next = time.monotonic() + STRANGE_SECONDS
            return
        if not self._node.takes(program):
            return
        keeper = one.keeper or self._keeper(program, one, found)
        if keeper.program.state is OwnerState.CLAIMING:
            keeper.keep()  # the register did not answer: the same swap again
        elif keeper.program.may_take(found, one.watch.expired()):
            if here is None or here.standing.is_final:
                self._may_take(program, one, found)
            keeper.poll()
        if keeper.program.state in CLAIMED:
            one.busy, one.keeper = True, None
            thread = threading.Thread(
                target=self._bring,
                args=(program, one, keeper),
                name="wasmsr-take-over",
                daemon=True,
            )
            self._bringing = [old for old in self._bringing if old.is_alive()] + [thread]
            thread.start()

    def _settle_here(self, here: NodeProgram, found: OwnerRecord) -> bool:
        """Do what a record says to a program of this node that has no keeper.

        Returns:
            Whether the program has no worker, and may be taken.
        """
        if here.is_undecided:
            return False  # it begins, or moves
        mine = found.owner == self._node.node and found.epoch == here.record.epoch
        if mine and here.has_worker:
            if found.standing is not Standing.ENDED:
                self._adopt(here, found)
            else:
                here.end_adopted(found)
            return False
        if found.standing is Standing.ENDED or found.owner != self._node.node:
            here.gone(found)
        elif here.has_worker:
            here.end_worker()  # it is of an epoch that is over
            return False
        return here.standing in (ProgramStanding.RESUMABLE, ProgramStanding.MOVED)

    def _adopt(self, here: NodeProgram, found: OwnerRecord) -> None:
        """Let the worker of an earlier supervisor go on, when a renewal says that it may."""
        keeper = self._keeper(here.id, self._candidates[here.id], found)
        self._candidates[here.id].keeper = None  # it is the program's now, and ends with its worker
        with keeper.lock:
            keeper.program.adopt(found)
        here.go_on_under(keeper)
        keeper.start()

    def _keeper(self, program: bytes, one: Candidate, found: OwnerRecord) -> LeaseKeeper:
        owned = LeasedProgram(program, self._node.node, _Nothing(), Lease(found.lease / 1000))
        decisions = self._leases.decisions
        one.keeper = LeaseKeeper(owned, decisions.register, say=decisions.say, watch=one.watch)
        return one.keeper

    def _may_take(self, program: bytes, one: Candidate, found: OwnerRecord) -> None:
        """Read what the owner has noted, and ask the policy. Raises WasmsrError."""
        one.note = self._leases.notes.read(program.hex(), found.epoch)
        self._node.may_take(one.note)

    # ---- taking ----------------------------------------------------------------------------------

    def _bring(self, program: bytes, one: Candidate, keeper: LeaseKeeper) -> None:
        """Restore a program that this node owns now; its lease is renewed meanwhile."""
        keeper.start()
        name = program.hex()[:8]
        try:
            with keeper.lock:
                found = keeper.program.record
            assert found is not None
            self._node.drop_arrival(program)
            here = self._node.named(program)
            if here is None or here.standing is not ProgramStanding.RESUMABLE:
                note = one.note or self._leases.notes.read(program.hex(), found.epoch)
                module = partial(self._leases.notes.module, note.run)
                here = self._node.take_stay(note, module, found.epoch)
            here.continue_under(keeper, found)
            self._say("taken-over", program=name, epoch=found.epoch)
            one.restored()
        except (WasmsrError, OSError, MemoryError) as error:
            self._say("not-taken-over", program=name, error=str(error))
            with suppress(OwnershipError):  # others wait for the end of the lease then
                keeper.release(standing=Standing.RELEASED)
            self._leases.drop(program)
            keeper.close(wait=False)
            one.put_off()
        finally:
            one.busy = False


__all__ = ["Takeovers", "TakingNode"]
