"""The destination's half of the hand-over: answer, receive, verify, try, wait, own.

This end journals READY only when all of the state is on disk, is verified and has been restored on
trial. From then on, this end may not forget the state before the source says that it has given the
attempt up, and may not run the program before the source says that it has decided. This end
journals OWNED before the program runs.

The threads of `wasmsr.rpc.server` call it through `answers`; `endpoint` calls it too.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial

from wasmsr.errors import ModuleError, WasmsrError
from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover import admission
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.handover.uploads import Upload, Uploads
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import Incoming, Journal, Record
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import Arrival, MovableProgram, ProgramHost, Relays
from wasmsr.migrate.protocol import (
    ABILITIES,
    Answer,
    JournalError,
    ModuleName,
    Move,
    Offer,
    OwnershipState,
    PeerRefused,
    Reason,
    Report,
    refused,
)


@dataclass
class ReadyProgram:
    """A program that is here, restored on trial, while its source decides.

    Attributes:
        move: The move that brought it.
        program: The restored program; it does not run.
        source: The source's address.
        size: Bytes of its state.
        duration: Seconds that receiving it took.
        since: When the source was asked last (`time.monotonic`).
        came: When the state was complete (`time.monotonic`).
    """

    move: Move
    program: MovableProgram
    source: str
    size: int
    duration: float
    since: float
    came: float


class MoveDestination:
    """Takes programs in, one at a time.

    Methods that answer a peer raise PeerRefused to refuse.

    Attributes:
        arrived: The thread that hears a decision calls it with the program that this end owns from
            then on; it starts the program.
        ready: The program whose source has not decided, or None.
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
    ) -> None:
        self.journal = journal
        self.host = host
        self.uploads = Uploads(host, modules)
        self.announce = announce
        self.arrived = arrived
        self.peers = peers
        self.ready: ReadyProgram | None = None
        self._offer: Offer | None = None
        self._reception: Reception | None = None
        self._retired = False
        self._lock = threading.RLock()

    # Preparing.

    def prepare(self, offer: Offer) -> Answer:
        """Return that the offered program may come, and which of its modules are missing."""
        node = self.journal.node
        admission.check_protocol(offer, node)
        with self._lock:
            self._make_room(offer.move)
            admission.check_journal(self.journal, offer.move)
            if refusal := self.host.refuse(offer.description):
                raise PeerRefused(refusal)
            admission.check_streams(offer, node, self.peers)
            missing = self.uploads.missing(offer.description.modules)
            self._offer = offer
            held = self.host.held(offer.move.program)
            spans = [self.host.restore_seconds(one.digest) for one in offer.description.modules]
            return Answer(node, missing, held, ABILITIES, max(spans, default=0.0))

    def _make_room(self, move: Move) -> None:
        """Refuse a move while another one is in progress here."""
        if self._retired:
            raise refused(Reason.BUSY, "it is about to end")
        if self.ready:
            raise refused(Reason.BUSY, "it waits for the decision on an earlier attempt")
        if self._reception:
            if self._reception.move.program != move.program:
                raise refused(Reason.BUSY, "it is receiving another program")
            # This end has promised nothing yet, so a later attempt may replace the earlier one.
            self._reception.cancel()

    def upload(self, module: ModuleName) -> Upload:
        """Begin to receive a module that `prepare` named as missing."""
        with self._lock:
            offered = self._offer.description.modules if self._offer else ()
            return self.uploads.begin(module, offered)

    # Receiving.

    def begin(self, move: Move, rest: int = 0) -> Reception:
        """Begin to receive the state of the program that was prepared last.

        Args:
            move: The attempt.
            rest: About how many bytes the state has besides the memories.
        """
        with self._lock:
            if self._offer is None or self._offer.move != move:
                raise refused(Reason.OWNERSHIP, "it was not prepared for this attempt")
            offer, self._offer = self._offer, None
            description = offer.description
            relays = self.relays(move, description.shown, description.fed)
            self._reception = Reception(
                self,
                move,
                offer,
                self.peers.address_of(offer.node),
                lambda image: self.host.arrival(relays, image=image, rest=rest),
            )
            return self._reception

    @property
    def receiving(self) -> Move | None:
        """The attempt whose state is being received, or None."""
        reception = self._reception
        return None if reception is None else reception.move

    def is_current(self, reception: Reception) -> bool:
        """Return whether the reception is still the one in progress."""
        return self._reception is reception

    def drop(self, reception: Reception) -> bool:
        """End the reception if it is still in progress; return whether it was."""
        with self._lock:
            current = self._reception is reception
            if current:
                self._reception = None
            return current

    def relays(self, move: Move, shown: bytes, fed: bytes) -> Relays:
        """Return how a program that comes by `move` reaches its streams.

        Args:
            move: The move.
            shown: Node id of the end that shows the program's output; b"" for the program's own.
            fed: Node id of the end that has the program's input; b"" for the program's own.
        """
        here = (b"", self.journal.node)
        return Relays(
            shown,
            fed,
            move.epoch,
            None if shown in here else partial(self.peers.named(shown).output, move),
            None if fed in here else partial(self._input, fed, move),
            partial(self._say_of_output, shown, move),
        )

    def _say_of_output(
        self, shown: bytes, move: Move, kind: str, text: str, values: dict[str, object]
    ) -> None:
        peer, program = self.peers.address_of(shown), move.program.hex()
        self.announce(Event(kind, text, {"peer": peer, "program": program, **values}))

    def _input(self, node: bytes, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        peer = self.peers.named(node)
        try:
            return peer.input(move, position, most)
        except PeerRefused as error:
            values: dict[str, object] = {"peer": peer.address, "program": move.program.hex()}
            self.announce(Event("input-cut", f"the program's input is cut: {error}", values))
            raise

    def restore(
        self, program: bytes, arrival: Arrival, digests: tuple[bytes, ...]
    ) -> MovableProgram:
        """Make a paused program of a state that was read. Raises WasmsrError."""
        binaries = {}
        for digest in digests:
            binary = self.uploads.binary(digest)
            if binary is None:
                raise ModuleError(
                    f"the module {digest.hex()[:12]} of program {program.hex()[:8]} is gone"
                )
            binaries[digest] = binary
        return arrival.restore(program, binaries)

    def hold(
        self, reception: Reception, incoming: Incoming, program: MovableProgram, duration: float
    ) -> None:
        """Journal READY and keep the program until the source's decision."""
        move = reception.move
        with self._lock:
            try:
                reception.check()
                record = self.journal.get(move.program) or Record(
                    move.program, peer=reception.source
                )
                self.journal.put(replace(record, incoming=incoming))
            except JournalError as error:
                # The state's file stays: if the record has reached the disk, it names the file.
                program.close()
                raise refused(Reason.STORAGE, error.message) from error
            except PeerRefused:
                program.close()
                raise
            now = time.monotonic()
            self.ready = ReadyProgram(
                move, program, reception.source, reception.received, duration, now, now
            )
            self._reception = None

    # Deciding.

    def recover(self) -> None:
        """Restore the program that an earlier process had READY. Raises WasmsrError."""
        for record in self.journal.records():
            if record.incoming and not record.incoming.parked:
                self.ready = self._from_disk(record, record.incoming)

    def _from_disk(self, record: Record, incoming: Incoming) -> ReadyProgram:
        """Return a READY program from its file. Raises WasmsrError."""
        move = incoming.move(record.program)
        length = 0

        def pieces() -> Iterator[bytes]:
            nonlocal length
            for piece in self.journal.read(incoming.file):
                length += len(piece)
                yield piece

        relays = self.relays(move, incoming.shown, incoming.fed)
        arrival = self.host.restored(pieces(), relays)
        program = self.restore(record.program, arrival, incoming.modules)
        now = time.monotonic()
        source = self.peers.current(incoming.source)
        return ReadyProgram(move, program, source, length, 0.0, now, now)

    def park(self) -> None:
        """Keep the READY state on disk only, so that other programs may come.

        When the decision comes, this end restores the program from the disk.
        """
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
                    f"{ready.source} does not decide who owns program {program[:8]}: its state "
                    f"waits in {path}, and other programs may come meanwhile",
                    {"peer": ready.source, "program": program, "file": str(path)},
                )
            )

    def parked(self) -> list[tuple[Move, str]]:
        """Return the moves whose states are parked, each with the address of its source."""
        return [
            (record.incoming.move(record.program), self.peers.current(record.incoming.source))
            for record in admission.parked_records(self.journal)
            if record.incoming
        ]

    def _unpark(self, record: Record, incoming: Incoming) -> ReadyProgram:
        """Restore a parked state whose decision has come. Raises PeerRefused."""
        owned = any(
            other.standing in (OwnershipState.OWNED, OwnershipState.OFFERED)
            for other in self.journal.records()
        )
        if self._retired or self.ready or self._reception or owned:
            raise refused(Reason.BUSY, "it has another program; this one waits on its disk")
        try:
            return self._from_disk(record, incoming)
        except (WasmsrError, OSError, MemoryError) as error:
            raise refused(Reason.STATE, f"it cannot restore the program: {error}") from error

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        """Own the program after the source's decision, and start it.

        A repeated Commit changes nothing and gets the same answer.

        Args:
            move: The attempt that the source has decided for.
            stopped: Seconds since the source stopped the program.
        """
        began = time.monotonic()
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
                        peer=ready.source,
                        file="",
                        received=record.incoming.file,
                        confirmed=False,
                        incoming=None,
                        node=b"",
                        origin=record.incoming.node,
                    )
                )
            except JournalError as error:
                raise refused(Reason.STORAGE, error.message) from error
            if self.ready is ready:
                self.ready = None
            self.arrived(ready.program)
            self._announce_arrival(ready, stopped + time.monotonic() - began)
        # The state that this end handed away earlier is older than the program it has now.
        self.journal.discard(record.file)
        return OwnershipState.OWNED

    def _announce_arrival(self, ready: ReadyProgram, downtime: float) -> None:
        # Under the lock, which `retire` takes: even if a program ends at once, its arrival is
        # announced before its end.
        self.announce(
            Event(
                "arrived",
                f"moved here from {ready.source}: {size(ready.size)} in {seconds(ready.duration)}, "
                f"downtime {seconds(downtime)}",
                {
                    "peer": ready.source,
                    "program": ready.move.program.hex(),
                    "epoch": ready.move.epoch,
                    "bytes": ready.size,
                    "seconds": ready.duration,
                    "downtime": downtime,
                },
            )
        )

    def abort(self, move: Move) -> OwnershipState:
        """Forget an attempt that the source has given up; return what the journal then says."""
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
                source = self.peers.current(incoming.source)
                self.announce(
                    Event(
                        "given-up",
                        f"{source} took a move back; the program runs on there",
                        {"peer": source, "program": move.program.hex()},
                    )
                )
            return ownership.report(self.journal.get(move.program), move).standing

    def retire(self, ended: bytes = b"") -> bool:
        """Take no more programs, so that this end may end.

        Args:
            ended: The id of a program that has ended, which does not count.

        Returns:
            False if this end owns or may own another program.
        """
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

    def say_refused(self, error: PeerRefused, source: str) -> None:
        """Report here too why a program of the end at the address `source` was refused."""
        hint = f"; hint: {error.hint}" if error.hint else ""
        self.announce(
            Event(
                "refused",
                f"refused a program from {source}: {error}{hint}",
                {"peer": source, "reason": error.reason.name.lower(), "message": str(error)},
            )
        )
