"""The decision about a leased program: a swap in the register.

HANDED in the journal records the swap afterwards. An end that cannot tell what the register has
decided asks it again, and the program is paused meanwhile. The transitions are those of
`ownership.transitions`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress

from wasmsr.migrate.decisions.journal_decision import (
    JournalDecision,
    JournalDecisions,
    journal_handed,
)
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.migrate.decisions.port import Decision
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import InDoubt, JournalError, Move, Offer, Reason, refused
from wasmsr.ownership.failures import (
    EffectRefused,
    LeaseLost,
    OwnershipError,
    RegisterAway,
    SwapRefused,
)
from wasmsr.ownership.fencing import EpochGate
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.lease import Lease
from wasmsr.ownership.owner_record import FailoverPolicy, OwnerRecord, Standing
from wasmsr.ownership.register import Register
from wasmsr.ownership.transitions import OwnerEvent, OwnerState, received_event

ASK_SECONDS = 0.2
"""Seconds between two questions to a register that does not answer."""

END_SECONDS = 3.0
"""How long a register is asked to take the end of a program."""


class RegisterDecisions:
    """The decisions of an end that has a register (`port.Decisions`).

    A program without a lease is decided by the journals here too.

    Attributes:
        register: The register, which is opened when it is first needed.
    """

    def __init__(
        self,
        journal: Journal,
        open_register: Callable[[], Register],
        announce: Announce,
        *,
        unfenced: tuple[str, ...] = (),
        outlives: bool = False,
    ) -> None:
        """Make it of the parts of one end.

        Args:
            journal: The journal; its node id is that of the end in the register.
            open_register: Opens the register. Raises OwnershipError.
            announce: Gets the events.
            unfenced: Effects that leased programs may have here although they cannot be fenced.
            outlives: Whether programs outlive this process; then what it left is not lost.
        """
        self._journal = journal
        self._open = open_register
        self._announce = announce
        self._unfenced = unfenced
        self.outlives = outlives
        self._plain = JournalDecisions(journal)
        self._lock = threading.Lock()
        self._opening = threading.Lock()
        self._register: Register | None = None
        self._leased: dict[bytes, LeasedMovable] = {}
        self.found: dict[bytes, OwnerRecord] = {}
        """Records by which this end owns programs that it has not begun to own."""
        self.gate = EpochGate(lambda program: self.register.read(program))

    @property
    def register(self) -> Register:
        """The register. Raises OwnershipError if it cannot be opened."""
        with self._opening:
            if self._register is None:
                self._register = self._open()
            return self._register

    def close(self) -> None:
        """End the keepers of all leases, and close the register."""
        with self._lock:
            leased = list(self._leased.values())
            self._leased.clear()
        for program in leased:
            program.keeper.close()
        with self._opening:
            if self._register is not None:
                self._register.close()

    def leased(self, program: MovableProgram, seconds: float) -> MovableProgram:
        """Return a program that begins here under a lease of so many seconds."""
        return self._add(program, Lease(seconds))

    def hold(
        self, program: MovableProgram, lease: Lease, keeper: LeaseKeeper | None = None
    ) -> LeasedMovable:
        """Return a program that runs only as its lease lets it.

        Args:
            program: The program, paused.
            lease: The lease.
            keeper: The keeper by which this end owns it; None makes one, which owns nothing.

        Raises:
            OwnershipError: The register cannot be opened.
        """
        return self._add(program, lease, keeper)

    def _add(
        self, program: MovableProgram, lease: Lease, keeper: LeaseKeeper | None = None
    ) -> LeasedMovable:
        made = LeasedMovable(program, self._journal.node, self.register, lease, self.say, keeper)
        with self._lock:
            self._leased[program.id] = made
        return made

    def say(self, sentence: str) -> None:
        """Report a sentence about a lease."""
        self._announce(Event("lease", sentence))

    def get(self, program: bytes) -> LeasedMovable | None:
        """Return a leased program of this end, or None."""
        with self._lock:
            return self._leased.get(program)

    def remove(self, program: bytes) -> None:
        """End the keeper of a program that is not here any more."""
        with self._lock:
            leased = self._leased.pop(program, None)
        if leased is not None:
            leased.keeper.close(wait=False)  # its threads may be asking a silent register

    def of(self, program: bytes) -> Decision:
        """Return the decision about a program."""
        record = self._journal.get(program)
        kept = record is not None and bool(
            record.lease or (record.incoming and record.incoming.lease)
        )
        if kept or self.get(program) is not None:
            return RegisterDecision(self, self._journal, program, self._announce)
        return JournalDecision(self._journal, program)

    def check(self, offer: Offer) -> None:
        """Refuse an offer that the register contradicts."""
        lease, move = offer.description.lease, offer.move
        if not lease:
            return
        found = self._read(move.program)
        if found is None:
            raise refused(
                Reason.FEATURE,
                "its register does not have the program",
                "give both ends the same --register",
            )
        owner = (found.owner, found.epoch, found.standing, found.lease)
        if owner != (offer.node, move.epoch - 1, Standing.OWNED, lease):
            raise refused(
                Reason.OWNERSHIP,
                f"{found.sentence()}, so nobody else can hand it over in epoch {move.epoch}",
            )
        if "host" not in self._unfenced:
            for mount in offer.description.mounts:
                if mount.mode == "host":
                    raise refused(
                        Reason.MOUNT,
                        f"a leased program must not write to the folder {mount.guest} of the host",
                        "use the mode ro, overlay or mem; or allow it at both ends: "
                        "--unfenced host",
                    )

    def _read(self, program: bytes) -> OwnerRecord | None:
        """Read a record for a peer. Raises PeerRefused."""
        try:
            return self.register.read(program)
        except OwnershipError as error:
            raise refused(Reason.STORAGE, f"its register does not say who owns it: {error}") from (
                error
            )

    def received(
        self, move: Move, program: MovableProgram, lease: int, *, again: bool = False
    ) -> MovableProgram:
        """Take note of a leased program whose whole state is here."""
        if not lease:
            return program
        try:
            made = self._add(program, Lease(lease / 1000))
        except OwnershipError as error:
            raise refused(Reason.STORAGE, f"its register cannot be used: {error}") from error
        if again:
            with made.keeper.lock:
                made.keeper.program.received_before(move.attempt, move.epoch)
        return made


class RegisterDecision:
    """The decisions about one leased program (`port.Decision`)."""

    def __init__(
        self, ends: RegisterDecisions, journal: Journal, program: bytes, announce: Announce
    ) -> None:
        self._ends = ends
        self._journal = journal
        self._program = program
        self._announce = announce

    def _leased(self) -> LeasedMovable:
        leased = self._ends.get(self._program)
        if leased is None:
            raise LeaseLost("this end has nothing of it", program=self._program)
        return leased

    # ---- at the source ---------------------------------------------------------------------------

    @property
    def lease(self) -> int:
        """Milliseconds of the lease."""
        leased = self._ends.get(self._program)
        return 0 if leased is None else leased.keeper.program.lease.length // 1_000_000

    def begin(self) -> None:
        """Make the first record of the program. If its owner is lost, the program has failed."""
        keeper = self._leased().keeper
        with keeper.lock:
            if keeper.program.record is not None:
                return  # it is the owner already
        if not keeper.create(FailoverPolicy.FAIL):
            self._ends.remove(self._program)
            raise RegisterAway(
                "the register does not take its first record",
                program=self._program,
                hint="check --register",
            )
        keeper.start()
        self._say_owned(1)

    def _say_owned(self, epoch: int) -> None:
        name, node = self._program.hex(), self._journal.node.hex()
        self._announce(
            Event(
                "leased",
                f"program {name[:8]} is under a lease; node {node[:8]}, which is this end, owns it "
                f"in epoch {epoch} (wasmsr ownership show {name[:8]})",
                {"program": name, "epoch": epoch, "node": node},
            )
        )

    def epoch(self) -> int:
        """Return the epoch of the newest record that was read."""
        keeper = self._leased().keeper
        with keeper.lock:
            record = keeper.program.record
        if record is None:
            raise LeaseLost("this end does not own it", program=self._program)
        return record.epoch

    def hand(self, move: Move, destination: bytes, stop: threading.Event) -> bool:
        """Ask the register to make the destination the owner, until it is known what it did."""
        leased = self._leased()
        keeper, owned = leased.keeper, leased.keeper.program
        with keeper.lock:
            ready = owned.state is OwnerState.OFFERING
        if ready:  # otherwise the lease has ended meanwhile
            keeper.hand(destination, move.attempt)
        while True:
            with keeper.lock:
                state, record = owned.state, owned.record
            if state in (OwnerState.RUNNING, OwnerState.HELD):
                return False  # a renewal was taken: a late swap has no effect any more
            if state is OwnerState.NONE:
                return self._moved(move, destination, record, stop)
            if not keeper.renew() and stop.wait(ASK_SECONDS):
                raise InDoubt(
                    f"interrupted while the register did not say who owns program "
                    f"{self._program.hex()[:8]}",
                    hint="start the same command again: it asks the register and the other end",
                )

    def _moved(
        self, move: Move, destination: bytes, record: OwnerRecord | None, stop: threading.Event
    ) -> bool:
        """Record the swap that another owner follows from. Raises LeaseLost if it was not ours."""
        assert record is not None
        ours = (record.owner, record.attempt) == (destination, move.attempt)
        if record.epoch == move.epoch and not ours:
            raise LeaseLost(
                "another has taken it over before it was handed",
                program=self._program,
                record=record,
            )
        while True:
            try:
                journal_handed(self._journal, move)
                break
            except JournalError as error:
                text = f"{error.message}; the move is decided, and is written again"
                self._announce(Event("trouble", text))
                if stop.wait(1.0):
                    break  # after a restart the register is asked
        self._ends.remove(self._program)
        return True

    def settle(
        self, move: Move, stop: threading.Event, ask: Callable[[], SettleVerdict]
    ) -> SettleVerdict | None:
        """Return what the register says about an attempt of an earlier process.

        That process may have sent a swap that still arrives. So this end changes a record that
        still names it, and then the swap can do nothing any more. If the destination is READY, this
        end makes the very swap that the process would have made next: the program has not run
        since, for a source writes ABORTED before it runs on. Otherwise the record ends. While the
        destination does not answer, it may be READY, so the record stays.
        """
        told = False
        while True:
            try:
                found = self._ends.register.read(self._program)
                if found is None or found.epoch >= move.epoch or not self._is_mine(found):
                    break
                heard = ask()
                if heard is SettleVerdict.DECIDE:
                    found = self._hand_late(found, move)
                    break
                if heard is not SettleVerdict.WAIT:
                    self._end_of(found)
                    break
                if not told:
                    told = True
                    text = f"program {self._program.hex()[:8]} may be READY at the other end"
                    self._announce(Event("asking", f"{text}, which does not answer; asking again"))
            except SwapRefused:
                continue
            except OwnershipError as error:
                if not told:
                    told = True
                    self._announce(Event("asking", f"{error}; asking again"))
            if stop.wait(ASK_SECONDS):
                raise InDoubt(
                    f"program {self._program.hex()[:8]} was being moved when this end was killed, "
                    "and neither the register nor the other end says who owns it",
                    hint="start the same command again when both can be reached",
                )
        if found is None or found.epoch < move.epoch:
            return SettleVerdict.GIVE_UP
        ours = found.epoch > move.epoch or found.attempt == move.attempt
        return SettleVerdict.DECIDE if ours else SettleVerdict.GIVE_UP

    def _is_mine(self, found: OwnerRecord) -> bool:
        """Return whether a record says that this end owns the program."""
        return found.owner == self._journal.node and found.standing is Standing.OWNED

    def _hand_late(self, found: OwnerRecord, move: Move) -> OwnerRecord:
        """Make the destination the owner, which is READY and to which the journal has offered it.

        Raises OwnershipError.
        """
        record = self._journal.get(self._program)
        assert record is not None
        handed = found.next(owner=record.node, epoch=move.epoch, attempt=move.attempt)
        self._ends.register.swap(found, handed)
        return handed

    def _end_of(self, found: OwnerRecord) -> None:
        """Change the record of a program that is lost with this end, if it names this end.

        Without a checkpoint nobody can continue the program, so its record ends.
        """
        if self._is_mine(found):
            hopeless = found.policy is FailoverPolicy.FAIL and not self._ends.outlives
            changes = {"standing": Standing.ENDED} if hopeless else {}
            self._ends.register.swap(found, found.next(**changes))

    def over(self, move: Move) -> bool:
        """Return whether the register names a later owner, or says that the program has ended."""
        try:
            found = self._ends.register.read(self._program)
        except OwnershipError:
            return False
        if found is None or found.epoch < move.epoch:
            return False
        return found.epoch > move.epoch or found.standing is Standing.ENDED

    def end(self) -> None:
        """End the record."""
        leased = self._ends.get(self._program)
        if leased is not None:
            try:
                leased.keeper.release(standing=Standing.ENDED, seconds=END_SECONDS)
            except OwnershipError as error:
                self._announce(Event("trouble", str(error)))
            self._ends.remove(self._program)

    def lost(self) -> None:
        """Note that this end owned the program and has nothing of it any more."""
        with suppress(OwnershipError):
            found = self._ends.register.read(self._program)
            if found is not None:
                self._end_of(found)

    # ---- at the destination ----------------------------------------------------------------------

    def ready(self, move: Move) -> None:
        """Note when READY is said: the lease counts from before it."""
        keeper = self._leased().keeper
        with keeper.lock:
            keeper.program.receive(move.attempt, move.epoch)

    def verdict(self, move: Move, said: SettleVerdict) -> SettleVerdict:
        """Ask the register; what the source says is only a reason to ask."""
        try:
            found = self._ends.register.read(self._program)
        except OwnershipError as error:
            if said is SettleVerdict.WAIT:
                return said
            sentence = f"its register does not say who owns it: {error}"
            raise refused(Reason.STORAGE, sentence) from error
        if found is None:
            raise refused(Reason.OWNERSHIP, "its register does not have the program")
        event = received_event(
            epoch=found.epoch, named=self._named(found, move), at_epoch=move.epoch, lasts=True
        )
        if event is OwnerEvent.DECIDED:
            self._ends.found[self._program] = found
            return SettleVerdict.TAKE
        # After the source has given the attempt up, a record that does not name it never will.
        dropped = event is OwnerEvent.DROPPED or said is SettleVerdict.DROP
        return SettleVerdict.DROP if dropped else SettleVerdict.WAIT

    def _named(self, found: OwnerRecord, move: Move) -> bool:
        named = (found.owner, found.attempt, found.standing)
        return named == (self._journal.node, move.attempt, Standing.OWNED)

    def own(self, move: Move) -> None:
        """Begin the lease, which counts from before READY was sent."""
        keeper, found = self._leased().keeper, self._ends.found.pop(self._program)
        with keeper.lock:
            keeper.program.decide(found)
        keeper.start()
        self._say_owned(move.epoch)

    def forget(self) -> None:
        """Drop what is here of the program."""
        leased = self._ends.get(self._program)
        if leased is not None:
            with leased.keeper.lock:
                if leased.keeper.program.state is OwnerState.RECEIVED:
                    leased.keeper.program.apply(OwnerEvent.DROPPED)
        self._ends.remove(self._program)

    # ---- messages --------------------------------------------------------------------------------

    def admit(self, epoch: int, *, last: bool = False) -> None:
        """Refuse an effect of an older epoch; see `port.Decision.admit`."""
        try:
            if last:
                found = self._ends.register.read(self._program)
                if found is not None and found.epoch > epoch:
                    raise EffectRefused(
                        f"it does not end in epoch {epoch}", program=self._program, record=found
                    )
            self._ends.gate.admit(self._program, epoch)
        except EffectRefused as error:
            raise refused(Reason.OWNERSHIP, str(error)) from error
        except OwnershipError as error:
            raise refused(Reason.STORAGE, str(error)) from error


__all__ = ["RegisterDecision", "RegisterDecisions"]
