"""Programs that are READY at this end: restored, on the disk, and not decided.

A READY program may not be forgotten before it is sure that this end cannot own it, and may not run
before it is decided (`decisions`) that this end owns it. OWNED is on the disk before it runs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

from wasmsr.errors import ModuleError, WasmsrError
from wasmsr.migrate.decisions.journal_decision import JournalDecisions
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover import admission
from wasmsr.migrate.handover.arrivals import (
    Arrivals,
    ArrivalState,
    ArrivingProgram,
    EndLimits,
    ReadyProgram,
)
from wasmsr.migrate.handover.uploads import Uploads
from wasmsr.migrate.journal import ownership
from wasmsr.migrate.journal.journal import RECEIVED, Incoming, Journal, Record
from wasmsr.migrate.journal.ownership import SettleVerdict
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.ports import Buffer, MovableProgram, ProgramHost, Relays, WholeState
from wasmsr.migrate.protocol import (
    JournalError,
    Move,
    OwnershipState,
    PeerRefused,
    Reason,
    Report,
    refused,
)
from wasmsr.migrate.rounds.regroup import regroup


class ReadyPrograms:
    """The half of a destination that begins with READY; `MoveDestination` is all of it.

    Methods that answer a peer raise PeerRefused to refuse.

    Attributes:
        arrived: The thread that hears a decision calls it with the program that this end owns from
            then on; it starts the program.
        arrivals: The programs that are on their way in.
        decisions: Who decides the moves.
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
        limits: EndLimits | None = None,
        decisions: Decisions | None = None,
        busy: Callable[[bytes], bool] = lambda program: False,
    ) -> None:
        """Make it of the parts of one end.

        Args:
            journal: The journal.
            host: Runs the programs.
            modules: The modules that came from elsewhere.
            announce: Gets the events.
            arrived: See above.
            peers: The peers.
            limits: How many programs this end takes; None: one.
            decisions: Who decides the moves; None: the journals.
            busy: Returns whether something of a program is still here, after it has left.
        """
        self.journal = journal
        self.host = host
        self.uploads = Uploads(host, modules)
        self.announce = announce
        self.arrived = arrived
        self.peers = peers
        self.arrivals = Arrivals(journal, limits or EndLimits())
        self.decisions: Decisions = decisions or JournalDecisions(journal)
        self.busy = busy

    # Deciding.

    @property
    def ready(self) -> ReadyProgram | None:
        """The READY program that has waited longest, or None."""
        return next(iter(self.all_ready()), None)

    def all_ready(self) -> list[ReadyProgram]:
        """Return the programs whose sources have not decided, the one that came first first."""
        found = [one.ready for one in self.arrivals.all_in(ArrivalState.READY)]
        return sorted((one for one in found if one is not None), key=lambda ready: ready.came)

    def recover(self, *, strict: bool = True) -> None:
        """Restore the programs that an earlier process had READY.

        Args:
            strict: Whether a program that cannot be restored is an error. Otherwise its state is
                parked, so that the others go on.

        Raises:
            WasmsrError: A program cannot be restored.
        """
        for record in self.journal.records():
            if record.incoming and not record.incoming.parked:
                try:
                    ready = self._from_disk(record, record.incoming)
                except (WasmsrError, OSError, MemoryError) as error:
                    if strict:
                        raise
                    name = record.program.hex()[:8]
                    self.announce(Event("trouble", f"program {name} cannot be restored: {error}"))
                    parked = replace(record.incoming, parked=True)
                    self.journal.put(replace(record, incoming=parked))
                    continue
                self.arrivals.hold(ArrivingProgram(ready.move), ready)

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
        state = self.host.restored(pieces(), relays)
        program = self.restore(record.program, state, incoming.modules)
        try:
            program = self.decisions.received(move, program, incoming.lease, again=True)
        except WasmsrError:
            program.close()
            raise
        now = time.monotonic()
        source = self.peers.current(incoming.source)
        return ReadyProgram(move, program, source, length, 0.0, now, now)

    def park(self, program: bytes | None = None) -> None:
        """Keep a READY state on disk only, so that other programs may come.

        When the decision comes, this end restores the program from the disk.

        Args:
            program: The program's id; None takes the program that has waited longest.
        """
        longest = self.ready
        if program is None:
            if longest is None:
                return
            program = longest.move.program
        with self.journal.locked(program):
            arriving, record = self.arrivals.get(program), self.journal.get(program)
            ready = arriving.ready if arriving else None
            incoming = self.waiting(program)
            if arriving is None or ready is None or incoming is None:
                return
            record = record or Record(program, peer=ready.source)
            try:
                parked = replace(incoming, parked=True, file=self._kept(ready, incoming))
                self.journal.put(replace(record, incoming=parked))
            except (WasmsrError, OSError) as error:
                self.announce(Event("trouble", f"a state cannot be parked: {error}"))
                return
            self.arrivals.remove(arriving)
            self._release(ready.program)
            name = program.hex()
            path = self.journal.path(parked.file)
            self.announce(
                Event(
                    "parked",
                    f"{ready.source} does not decide who owns program {name[:8]}: its state "
                    f"waits in {path}, and other programs may come meanwhile",
                    {"peer": ready.source, "program": name, "file": str(path)},
                )
            )

    def _kept(self, ready: ReadyProgram, incoming: Incoming) -> str:
        """Return the name of the file of a READY state; write it if it is in memory only.

        Raises:
            WasmsrError, OSError: It cannot be written.
        """
        if incoming.file:
            return incoming.file
        file = self.journal.state(ready.move, RECEIVED)
        try:
            for piece in regroup(ready.program.pieces()):
                file.write(piece)
            file.commit()
        except BaseException:
            file.discard()
            raise
        return file.name

    def waiting(self, program: bytes) -> Incoming | None:
        """Return what is READY of a program, by its record or in memory only; or None."""
        record = self.journal.get(program)
        if record is not None and record.incoming is not None:
            return record.incoming
        arriving = self.arrivals.get(program)
        return arriving.ready.memory if arriving and arriving.ready else None

    def report(self, move: Move) -> Report:
        """Return what this end has to say about a move."""
        ready = self.waiting(move.program)
        if ready is not None and ready.move(move.program) == move:
            return Report(OwnershipState.READY, move.epoch, move.attempt)
        return ownership.report(self.journal.get(move.program), move)

    def parked(self) -> list[tuple[Move, str]]:
        """Return the moves whose states are parked, each with the address of its source."""
        return [
            (record.incoming.move(record.program), self.peers.current(record.incoming.source))
            for record in admission.parked_records(self.journal)
            if record.incoming
        ]

    def _unpark(self, record: Record, incoming: Incoming) -> tuple[ArrivingProgram, ReadyProgram]:
        """Restore a parked state whose decision has come. Raises PeerRefused."""
        move = incoming.move(record.program)
        arriving = ArrivingProgram(move)
        try:
            self.arrivals.begin(arriving)
        except PeerRefused:
            sentence = "it has another program; this one waits on its disk"
            raise refused(Reason.BUSY, sentence) from None
        try:
            ready = self._from_disk(record, incoming)
        except (WasmsrError, OSError, MemoryError) as error:
            raise refused(Reason.STATE, f"it cannot restore the program: {error}") from error
        self.arrivals.hold(arriving, ready)
        return arriving, ready

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        """Own the program after the source's decision, and start it.

        A repeated Commit changes nothing and gets the same answer.

        Args:
            move: The attempt that the source has decided for.
            stopped: Seconds since the source stopped the program.
        """
        with self.arrivals.committing(), self.journal.locked(move.program):
            return self._resolve(move, SettleVerdict.TAKE, stopped)

    def abort(self, move: Move) -> OwnershipState:
        """Forget an attempt that the source has given up; return what the journal then says."""
        with self.arrivals.committing(), self.journal.locked(move.program):
            return self._resolve(move, SettleVerdict.DROP, 0.0)

    def settle(self, move: Move, answer: Report | None) -> None:
        """Do what the source's answer about the READY attempt allows.

        Args:
            move: The attempt.
            answer: The answer; None if there was none.

        Raises:
            PeerRefused: It cannot be done now.
        """
        said = SettleVerdict.WAIT if answer is None else ownership.settle_ready(answer, move)
        with self.arrivals.committing(), self.journal.locked(move.program):
            arriving = self.arrivals.get(move.program)
            ready = arriving.ready if arriving else None
            self._resolve(move, said, time.monotonic() - ready.since if ready else 0.0)

    def _resolve(self, move: Move, said: SettleVerdict, stopped: float) -> OwnershipState:
        """Own a program, forget it or wait; return what the journal then says.

        Args:
            move: The attempt.
            said: What follows from the source's words.
            stopped: Seconds since the source stopped the program.
        """
        incoming = self.waiting(move.program)
        if incoming is None or incoming.move(move.program) != move:
            arriving = self.arrivals.get(move.program)
            if said is SettleVerdict.DROP and arriving and arriving.move == move:
                if arriving.reception:
                    arriving.reception.cancel()
                self.arrivals.remove(arriving)
            return self._standing(move)
        record = self.journal.get(move.program) or Record(move.program)
        verdict = self.decisions.of(move.program).verdict(move, said)
        if verdict is SettleVerdict.TAKE:
            self._own(record, incoming, stopped)
        elif verdict is SettleVerdict.DROP:
            self._forget(record, incoming)
        return self._standing(move)

    def _standing(self, move: Move) -> OwnershipState:
        """Return what the journal says of a move; UNKNOWN if it only has older ones."""
        answer = self.report(move)
        here = answer.standing is OwnershipState.READY or ownership.owned(answer, move)
        return answer.standing if here else OwnershipState.UNKNOWN

    def _own(self, record: Record, incoming: Incoming, stopped: float) -> None:
        began = time.monotonic()
        move = incoming.move(record.program)
        arriving = self.arrivals.get(move.program)
        ready = arriving.ready if arriving and arriving.move == move else None
        if arriving is None or ready is None:
            arriving, ready = self._unpark(record, incoming)
        try:
            self.journal.put(
                replace(
                    record,
                    standing=OwnershipState.OWNED,
                    epoch=move.epoch,
                    attempt=move.attempt,
                    peer=ready.source,
                    file="",
                    received=incoming.file,
                    confirmed=False,
                    incoming=None,
                    node=b"",
                    origin=incoming.node,
                    source=ready.source if incoming.node else "",
                    lease=incoming.lease,
                    journal=b"",
                )
            )
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        self.arrivals.remove(arriving)
        self.decisions.of(move.program).own(move)
        self.arrived(ready.program)
        self._announce_arrival(ready, stopped + time.monotonic() - began)
        # The state that this end handed away earlier is older than the program it has now.
        self.journal.discard(record.file)

    def _announce_arrival(self, ready: ReadyProgram, downtime: float) -> None:
        # Before `retire` goes on: even if a program ends at once, its arrival is announced before
        # its end.
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

    def _forget(self, record: Record, incoming: Incoming) -> None:
        """Forget a READY attempt. Raises PeerRefused."""
        try:
            if record.incoming is None:
                pass  # it is in memory only
            elif record.standing is OwnershipState.UNKNOWN:
                self.journal.forget(record.program)
            else:
                self.journal.put(replace(record, incoming=None))
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        self.journal.discard(incoming.file)
        arriving = self.arrivals.get(record.program)
        if arriving and arriving.ready:
            self.arrivals.remove(arriving)
            arriving.ready.program.close()
        self.decisions.of(record.program).forget()
        source = self.peers.current(incoming.source)
        self.announce(
            Event(
                "given-up",
                f"{source} took a move back; the program runs on there",
                {"peer": source, "program": record.program.hex()},
            )
        )

    def _release(self, program: MovableProgram) -> None:
        """Close a program that is not to be here after all."""
        program.close()
        self.decisions.of(program.id).forget()

    # What a program needs here.

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
        self, program: bytes, state: WholeState, digests: tuple[bytes, ...]
    ) -> MovableProgram:
        """Make a paused program of a state that was read. Raises WasmsrError."""
        return state.restore(program, self.binaries(program, digests))

    def binaries(self, program: bytes, digests: tuple[bytes, ...]) -> dict[bytes, Buffer]:
        """Return the modules of a program by digest. Raises ModuleError if one is gone."""
        binaries = {}
        for digest in digests:
            binary = self.uploads.binary(digest)
            if binary is None:
                raise ModuleError(
                    f"the module {digest.hex()[:12]} of program {program.hex()[:8]} is gone"
                )
            binaries[digest] = binary
        return binaries


__all__ = ["ReadyPrograms"]
