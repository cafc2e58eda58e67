"""The destination's half of the hand-over: answer, receive, verify, try, wait, own.

READY is journaled only when all of the state is on disk, verified, and has been restored on trial;
from then on this end may not forget it before the source says that the attempt was given up, and
may not run it before the source says that it has decided. OWNED is journaled before the program
runs. Called by `wasmsr.rpc.server` from its threads and by `node`.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

from wasmsr.errors import ModuleError, SnapshotError, WasmsrError, reason
from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.files.modules import LARGEST, Modules
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Incoming, Journal, Record, StateFile
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import Arrival, Buffer, MovableProgram, ProgramHost, Relays
from wasmsr.migrate.protocol import (
    ABILITIES,
    PROTOCOL,
    Answer,
    Description,
    JournalError,
    ModuleName,
    Move,
    Offer,
    OwnershipState,
    PeerRefused,
    Reason,
    Receipt,
    Refusal,
    Report,
)

PARKED = 4
"""Most states of which nobody decides that wait here on disk only."""


@dataclass
class Ready:
    """A program that stands here, restored on trial, and the move that brought it; `came` and
    `since`: when it came, and when the source was asked last (`time.monotonic`)."""

    move: Move
    program: MovableProgram
    size: int
    duration: float
    since: float
    came: float


class MoveDestination:
    """Takes programs in, one at a time.

    `arrived` is called, in the thread that heard the decision, with each program that this end
    owns from then on, and starts it. Methods that answer the peer raise PeerRefused to refuse.
    """

    def __init__(
        self,
        journal: Journal,
        host: ProgramHost,
        modules: Modules,
        announce: Announce,
        arrived: Callable[[MovableProgram], None],
        *,
        peers: Peers,
        software: str = "",
    ) -> None:
        self.journal = journal
        self.host = host
        self.modules = modules
        self.announce = announce
        self.arrived = arrived
        self.peers = peers
        self.software = software
        self.ready: Ready | None = None
        self._offer: Offer | None = None
        self._reception: Reception | None = None
        self._upload: Upload | None = None
        self._retired = False
        self._lock = threading.RLock()

    @property
    def peer(self) -> str:
        """The address of the peer, for people: this end takes programs from one."""
        return self.peers.only.address

    # Preparing.

    def prepare(self, offer: Offer) -> Answer:
        """Return whether the offered program may come, and which of its modules are missing."""
        if offer.protocol != PROTOCOL:
            raise refused(
                Reason.VERSION,
                f"it speaks version {PROTOCOL} of the migration protocol, not {offer.protocol}",
                "install the same version of wasmsr on both ends",
            )
        if offer.node == self.journal.node:
            raise refused(Reason.SELF, "the peer is this very end", "--peer names the other end")
        with self._lock:
            self._admit(offer)
            if refusal := self.host.refuse(offer.description):
                raise PeerRefused(refusal)
            self._check_relays(offer)
            missing = [
                module.digest for module in offer.description.modules if not self._has(module)
            ]
            self._offer = offer
            held = self.host.held(offer.move.program)
            return Answer(self.journal.node, tuple(missing), held, ABILITIES)

    def _check_relays(self, offer: Offer) -> None:
        ends = (b"", offer.node, self.journal.node)
        if offer.description.shown not in ends:
            raise refused(
                Reason.FEATURE,
                "the program's output is shown by a third end, to which it does not speak",
                "start the program with --stdout-after-move here",
            )
        if offer.description.fed not in ends:
            raise refused(
                Reason.FEATURE,
                "the program's input is at a third end, to which it does not speak",
                "start the program with --stdin-after-move eof",
            )

    def _admit(self, offer: Offer) -> None:
        """Refuse an offer that comes at a wrong moment or contradicts the journal."""
        move = offer.move
        if self._retired:
            raise refused(Reason.BUSY, "it is about to end")
        if self.ready:
            raise refused(Reason.BUSY, "it waits for the decision on an earlier attempt")
        if self._reception:
            if self._reception.move.program != move.program:
                raise refused(Reason.BUSY, "it is receiving another program")
            # Nothing was promised for it, so a later attempt may take its place.
            self._reception.cancel()
        record = self.journal.get(move.program)
        if record and record.incoming:
            raise refused(Reason.BUSY, "it waits for the decision on an earlier attempt")
        if len(self.parked()) >= PARKED:
            raise refused(
                Reason.BUSY,
                f"it keeps {PARKED} states whose owners have not decided",
                "`wasmsr remote --forget PROGRAM` there removes one",
            )
        if record and not _may_follow(record, move):
            raise refused(
                Reason.OWNERSHIP,
                f"its journal says that program {move.program.hex()[:8]} is "
                f"{record.standing.name} in epoch {record.epoch}, so nobody can hand it over "
                f"in epoch {move.epoch}",
            )
        for other in self.journal.records():
            if other.standing in (OwnershipState.OWNED, OwnershipState.OFFERED):
                raise refused(Reason.BUSY, "it has a program of its own")
            unheard = other.standing is OwnershipState.HANDED and not other.confirmed
            if unheard and other.program != move.program:
                raise refused(Reason.BUSY, "it is still handing a program over")
        if record and record.standing is OwnershipState.HANDED and not record.confirmed:
            # Only its owner can offer it in this epoch: the answer to our Commit was lost.
            try:
                self.journal.put(replace(record, confirmed=True))
            except JournalError as error:
                raise refused(Reason.STORAGE, error.message) from error

    def _has(self, module: ModuleName) -> bool:
        if module.size > LARGEST:
            raise refused(
                Reason.LIMIT,
                f"a module of {size(module.size)} is more than it takes ({size(LARGEST)})",
            )
        binary = self._module(module.digest)
        if binary is None:
            return False
        self._compile(binary)
        return True

    def _module(self, digest: bytes) -> Buffer | None:
        return self.host.module(digest) or self.modules.get(digest)

    def _compile(self, binary: Buffer) -> None:
        try:
            self.host.admit(binary)
        except ModuleError as error:
            raise refused(Reason.MODULE, f"the module does not load there: {error}") from error

    def upload(self, module: ModuleName) -> Upload:
        """Begin to receive a module that `prepare` named as missing."""
        with self._lock:
            offered = self._offer.description.modules if self._offer else ()
            if (module.digest, module.size) not in [(one.digest, one.size) for one in offered]:
                raise refused(Reason.MODULE, "this module was not asked for")
            if self._upload is not None:  # one at a time: they are held in memory
                self._upload.drop()
            self._upload = Upload(self, module)
            return self._upload

    # Receiving.

    def begin(self, move: Move) -> Reception:
        """Begin to receive the state of the program that was last prepared."""
        with self._lock:
            if self._offer is None or self._offer.move != move:
                raise refused(Reason.OWNERSHIP, "it was not prepared for this attempt")
            self._reception = Reception(self, move, self._offer.description)
            self._offer = None
            return self._reception

    def receiving(self, move: Move) -> bool:
        """Return whether this attempt's state is on its way in."""
        reception = self._reception
        return reception is not None and reception.move == move

    def relays(self, move: Move, shown: bytes, fed: bytes) -> Relays:
        """Return where the streams of a program are that comes by this move."""
        here = (b"", self.journal.node)
        return Relays(
            shown,
            fed,
            move.epoch,
            None if shown in here else partial(self.peers.named(shown).output, move),
            None if fed in here else partial(self._input, fed, move),
            partial(self._say_of_output, move),
        )

    def _say_of_output(self, move: Move, kind: str, text: str, values: dict[str, object]) -> None:
        program = move.program.hex()
        self.announce(Event(kind, text, {"peer": self.peer, "program": program, **values}))

    def _input(self, node: bytes, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        try:
            return self.peers.named(node).input(move, position, most)
        except PeerRefused as error:
            values: dict[str, object] = {"peer": self.peer, "program": move.program.hex()}
            self.announce(Event("input-cut", f"the program's input is cut: {error}", values))
            raise

    def restore(
        self, program: bytes, arrival: Arrival, digests: tuple[bytes, ...]
    ) -> MovableProgram:
        """Make a standing program of a state that was read. Raises WasmsrError."""
        binaries = {}
        for digest in digests:
            binary = self._module(digest)
            if binary is None:
                raise ModuleError(
                    f"the module {digest.hex()[:12]} of program {program.hex()[:8]} is gone"
                )
            binaries[digest] = binary
        return arrival.restore(program, binaries)

    # Deciding.

    def recover(self) -> None:
        """Restore what an earlier process had READY. Raises WasmsrError if that fails."""
        for record in self.journal.records():
            if record.incoming and not record.incoming.parked:
                self.ready = self._again(record, record.incoming)

    def _again(self, record: Record, incoming: Incoming) -> Ready:
        """Return a READY program from its file. Raises WasmsrError."""
        move = incoming.move(record.program)
        arrival = self.host.arrival(self.relays(move, incoming.shown, incoming.fed))
        length = 0
        for piece in self.journal.read(incoming.file):
            arrival.feed(piece)
            length += len(piece)
        program = self.restore(record.program, arrival, incoming.modules)
        now = time.monotonic()
        return Ready(move, program, length, 0.0, now, now)

    def park(self) -> None:
        """Keep what is READY on disk only, so that other programs may come. Nothing is forgotten:
        when the decision comes it is restored from there."""
        with self._lock:
            ready = self.ready
            record = self.journal.get(ready.move.program) if ready else None
            if ready is None or record is None or record.incoming is None:
                return
            try:
                parked = replace(record.incoming, parked=True)
                self.journal.put(replace(record, incoming=parked))
            except JournalError as error:
                self.announce(Event("trouble", error.message))
                return
            self.ready = None
            ready.program.close()
            program = ready.move.program.hex()
            path = self.journal.path(parked.file)
            self.announce(
                Event(
                    "parked",
                    f"{self.peer} does not decide who owns program {program[:8]}: its state waits "
                    f"in {path}, and other programs may come meanwhile",
                    {"peer": self.peer, "program": program, "file": str(path)},
                )
            )

    def parked(self) -> list[Move]:
        """Return the moves whose state waits on disk only."""
        return [
            record.incoming.move(record.program)
            for record in self.journal.records()
            if record.incoming and record.incoming.parked
        ]

    def _unpark(self, record: Record, incoming: Incoming) -> Ready:
        """Make a parked state READY again, whose decision has come. Raises PeerRefused."""
        owned = any(
            other.standing in (OwnershipState.OWNED, OwnershipState.OFFERED)
            for other in self.journal.records()
        )
        if self._retired or self.ready or self._reception or owned:
            raise refused(Reason.BUSY, "it has another program; this one waits on its disk")
        try:
            return self._again(record, incoming)
        except (WasmsrError, OSError, MemoryError) as error:
            raise refused(Reason.STATE, f"it cannot restore the program: {error}") from error

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        """Own the program after the source's decision and let it run; say so again if repeated."""
        with self._lock:
            ready = self.ready
            record = self.journal.get(move.program)
            if (
                record is None
                or record.incoming is None
                or record.incoming.move(record.program) != move
            ):
                return ownership.report(record, move).standing
            if ready is None or ready.move != move:
                ready = self._unpark(record, record.incoming)
            try:
                self.journal.put(
                    replace(
                        record,
                        standing=OwnershipState.OWNED,
                        epoch=move.epoch,
                        attempt=move.attempt,
                        file="",
                        received=record.incoming.file,
                        confirmed=False,
                        incoming=None,
                    )
                )
            except JournalError as error:
                raise refused(Reason.STORAGE, error.message) from error
            began = time.monotonic()
            if self.ready is ready:
                self.ready = None
            self.arrived(ready.program)
            self._announce_arrival(ready, stopped + time.monotonic() - began)
        # What this end handed away earlier is older than what it has now.
        self.journal.discard(record.file)
        return OwnershipState.OWNED

    def _announce_arrival(self, ready: Ready, downtime: float) -> None:
        # Under the lock, which `retire` takes: a program that ends at once is said to have come
        # before it is said to have ended.
        self.announce(
            Event(
                "arrived",
                f"moved here from {self.peer}: {size(ready.size)} in {seconds(ready.duration)}, "
                f"downtime {seconds(downtime)}",
                {
                    "peer": self.peer,
                    "program": ready.move.program.hex(),
                    "epoch": ready.move.epoch,
                    "bytes": ready.size,
                    "seconds": ready.duration,
                    "downtime": downtime,
                },
            )
        )

    def abort(self, move: Move) -> OwnershipState:
        """Forget an attempt that the source has given up."""
        with self._lock:
            if self._offer and self._offer.move == move:
                self._offer = None
            if self._reception and self._reception.move == move:
                self._reception.cancel()
            record = self.journal.get(move.program)
            incoming = record.incoming if record else None
            if record and incoming and incoming.move(move.program) == move:
                try:
                    if record.standing is OwnershipState.UNKNOWN:
                        self.journal.forget(move.program)
                    else:
                        self.journal.put(replace(record, incoming=None))
                except JournalError as error:
                    raise refused(Reason.STORAGE, error.message) from error
                self.journal.discard(incoming.file)
                if self.ready and self.ready.move == move:
                    self.ready.program.close()
                    self.ready = None
                self.announce(
                    Event(
                        "given-up",
                        f"{self.peer} took a move back; the program runs on there",
                        {"peer": self.peer, "program": move.program.hex()},
                    )
                )
            return ownership.report(self.journal.get(move.program), move).standing

    def retire(self, ended: bytes = b"") -> bool:
        """Take no programs any more, so that this end may end; False if one is here already that
        it owns or may own, `ended` apart."""
        with self._lock:
            owned = [
                r.program for r in self.journal.records() if r.standing is OwnershipState.OWNED
            ]
            if self.ready or any(program != ended for program in owned):
                return False
            self._retired = True
            self._offer = None
            if self._reception:
                self._reception.cancel()
            return True

    def settle(self, move: Move, answer: Report) -> None:
        """Do what the source's answer about the READY attempt allows. Raises PeerRefused."""
        ready = self.ready
        verdict = ownership.settle_ready(answer, move)
        if verdict is SettleVerdict.TAKE:
            self.commit(move, time.monotonic() - ready.since if ready else 0.0)
        elif verdict is SettleVerdict.DROP:
            self.abort(move)

    def say_refused(self, error: PeerRefused) -> None:
        """Say here too why a program was refused."""
        hint = f"; hint: {error.hint}" if error.hint else ""
        self.announce(
            Event(
                "refused",
                f"refused a program from {self.peer}: {error}{hint}",
                {"peer": self.peer, "reason": error.reason.name.lower(), "message": str(error)},
            )
        )


class Upload:
    """A module on its way in."""

    def __init__(self, destination: MoveDestination, module: ModuleName) -> None:
        self._destination = destination
        self._module = module
        self._binary = bytearray()
        self._dropped = False

    def drop(self) -> None:
        """Give up: a later upload takes its place."""
        self._dropped = True
        self._binary = bytearray()

    def _check(self) -> None:
        if self._dropped:
            raise refused(Reason.BUSY, "a later upload took this one's place")

    def write(self, piece: Buffer) -> None:
        """Append. Raises PeerRefused if that is more than was announced."""
        self._check()
        if len(self._binary) + len(piece) > self._module.size:
            raise refused(Reason.MODULE, "the module is longer than announced")
        self._binary += piece

    def finish(self) -> None:
        """Check the digest, compile the module and keep it. Raises PeerRefused."""
        self._check()
        binary, self._binary = self._binary, bytearray()
        if hashlib.sha256(binary).digest() != self._module.digest:
            raise refused(Reason.MODULE, "the module does not have the digest that was announced")
        destination = self._destination
        destination._compile(binary)
        try:
            destination.modules.put(binary, self._module.digest)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error


class Reception:
    """A program's state on its way in.

    Attributes:
        received: bytes written so far.
    """

    def __init__(self, destination: MoveDestination, move: Move, description: Description) -> None:
        self.move = move
        self._destination = destination
        self._description = description
        self._digest = hashlib.sha256()
        self._began = time.monotonic()
        relays = destination.relays(move, description.shown, description.fed)
        self._arrival = destination.host.arrival(relays)
        try:
            self._file: StateFile = destination.journal.state(move, "received")
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error

    @property
    def received(self) -> int:
        """Bytes of the state that came so far."""
        return self._file.size

    def write(self, piece: Buffer) -> None:
        """Append to the state. Raises PeerRefused."""
        self._check()
        try:
            self._file.write(piece)
            self._arrival.feed(piece)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        except SnapshotError as error:
            raise refused(Reason.STATE, f"what it was sent is not usable: {error}") from error
        except ValueError:  # closed by `cancel` in another thread
            self._check()
            raise
        self._digest.update(piece)
        self._destination.announce(Event("progress", "", {"bytes": self.received}))

    def finish(self, receipt: Receipt) -> Receipt:
        """Verify what came, restore it on trial and journal READY. Raises PeerRefused.

        The trial is what will run: a Commit then only starts it.
        """
        destination, move = self._destination, self.move
        self._check()
        held = Receipt(self.received, self._digest.digest())
        if held != receipt:
            raise refused(Reason.STATE, "the state did not arrive as it was sent")
        incoming = Incoming(
            epoch=move.epoch,
            attempt=move.attempt,
            source=destination.peer,
            file=self._file.name,
            modules=tuple(module.digest for module in self._description.modules),
            shown=self._description.shown,
            fed=self._description.fed,
        )
        try:
            self._file.commit()
            program = destination.restore(move.program, self._arrival, incoming.modules)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        except (WasmsrError, OSError, MemoryError) as error:
            destination.journal.discard(self._file.name)
            hint = getattr(error, "hint", None) or _hint(self._description)
            sentence = f"it cannot restore the program: {reason(error)}"
            raise refused(Reason.STATE, sentence, hint) from error
        with destination._lock:
            try:
                self._check()
                record = destination.journal.get(move.program) or Record(
                    move.program, peer=destination.peer
                )
                destination.journal.put(replace(record, incoming=incoming))
            except (JournalError, PeerRefused) as error:
                # The file stays: if the record did reach the disk, it names it.
                program.close()
                raise refused(Reason.STORAGE, error.message) from error
            now = time.monotonic()
            duration = now - self._began
            destination.ready = Ready(move, program, held.size, duration, now, now)
            destination._reception = None
        return held

    def failed(self, error: PeerRefused) -> None:
        """Say here too why the program was refused, if the source has not taken it back."""
        if self._destination._reception is self:
            self._destination.say_refused(error)

    def cancel(self) -> None:
        """Forget what came; does nothing once READY."""
        with self._destination._lock:
            if self._destination._reception is self:
                self._destination._reception = None
                self._file.discard()

    def _check(self) -> None:
        if self._destination._reception is not self:
            raise refused(Reason.OWNERSHIP, "the source has given this attempt up")


def refused(reason: Reason, sentence: str, hint: str = "") -> PeerRefused:
    """Return the error that makes the server answer with a refusal."""
    return PeerRefused(Refusal(reason, sentence, hint))


def _hint(description: Description) -> str:
    """Return what may help where a program's files are not as it left them."""
    stay = [mount.guest for mount in description.mounts if mount.mode in ("host", "ro")]
    if not stay:
        return ""
    options = " ".join(f"--dir HOST::{guest}::carry" for guest in stay)
    return (
        "files in folders that stay must be the same at both ends: start both in the same folder, "
        f"or let them travel along, {options} at both ends"
    )


def _may_follow(record: Record, move: Move) -> bool:
    """Return whether the source of `move`, which says that it owns the program in the epoch
    before, can be right, given our record."""
    claimed = move.epoch - 1
    if record.standing is OwnershipState.UNKNOWN:
        return True
    if record.standing is OwnershipState.HANDED:
        return claimed >= record.epoch
    return record.standing is OwnershipState.LOST and claimed > record.epoch
