"""What one end answers to its peers: the calls of the migration protocol.

The threads of `wasmsr.rpc.server` call these methods while the loop of `endpoint` runs. All methods
raise PeerRefused to refuse.
"""

from __future__ import annotations

import threading
from dataclasses import replace
from typing import Protocol

from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.handover.destination import MoveDestination
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.handover.refused_calls import RefusedCalls
from wasmsr.migrate.handover.uploads import Upload
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.protocol import (
    Answer,
    Ending,
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

OFFERED = 64
"""Programs of which this end remembers, at least, who has offered them."""


class MoveListener(Protocol):
    """What the loop of an end hears of its peers. Any thread may call it."""

    def prepared(self, program: bytes, peer: str) -> None:
        """Hear that a peer, here by its address, has prepared to send a program."""

    def ended(self, program: bytes, ending: Ending, peer: str) -> None:
        """Hear that a program has ended at a peer, here by its address or ""."""


class Answers:
    """The answers of one end, from its journal, its destination and its host.

    Attributes:
        refused_calls: Says that calls were refused, once in a while.
    """

    def __init__(
        self, journal: Journal, destination: MoveDestination, news: MoveListener, announce: Announce
    ) -> None:
        self.refused_calls = RefusedCalls(announce)
        self._journal = journal
        self._destination = destination
        self._news = news
        self._announce = announce
        self._lock = threading.Lock()
        self._gaps: set[tuple[bytes, str]] = set()
        self._offered: dict[bytes, bytes] = {}
        """Node ids of the ends that have offered the programs of this session."""

    @property
    def node(self) -> bytes:
        """The node id of this end."""
        return self._journal.node

    def check_sender(self, program: bytes, node: bytes) -> None:
        """Refuse a message about a program from an end that has nothing to do with it.

        Args:
            program: The program's id.
            node: The sender's node id.

        Raises:
            PeerRefused: The record of the program, or its offer, names other ends.
        """
        record = self._journal.get(program)
        ends = set() if record is None else set(record.ends)
        with self._lock:
            offered = self._offered.get(program)
        if offered is not None:
            ends.add(offered)
        if ends and node not in ends:
            raise refused(
                Reason.OWNERSHIP,
                f"program {program.hex()[:8]} is no business of the end that asks: other ends have "
                "moved it",
            )

    def prepare(self, offer: Offer) -> Answer:
        """Answer the offer of a program."""
        peers = self._destination.peers
        try:
            answer = self._destination.prepare(offer)
        except PeerRefused as error:
            if error.reason is Reason.VERSION:
                self.refused_calls.version(f"version {offer.protocol}", offer.software)
            elif error.reason is not Reason.BUSY:
                self._destination.say_refused(error, peers.address_of(offer.node))
            raise
        self._news.prepared(offer.move.program, peers.address_of(offer.node))
        most = max(OFFERED, self._destination.arrivals.limits.programs)
        with self._lock:
            self._offered.pop(offer.move.program, None)
            self._offered[offer.move.program] = offer.node
            while len(self._offered) > most:
                del self._offered[next(iter(self._offered))]
        return answer

    def upload(self, module: ModuleName, move: Move | None = None) -> Upload:
        """Begin to receive a module, which `move` needs."""
        return self._destination.upload(module, move)

    def begin(self, move: Move, rest: int = 0, memory: bool = False, files: int = 0) -> Reception:
        """Begin to receive the state of a program; see `MoveDestination.begin`."""
        return self._destination.begin(move, rest, memory=memory, files=files)

    def commit(self, move: Move, stopped: float) -> OwnershipState:
        """Carry out the source's decision; return what the journal then says.

        Args:
            move: The attempt that the source has decided for.
            stopped: Seconds since the source stopped the program.
        """
        return self._destination.commit(move, stopped)

    def abort(self, move: Move) -> OwnershipState:
        """Forget an attempt that the source has given up; return what the journal then says."""
        return self._destination.abort(move)

    def status(self, move: Move) -> Report:
        """Return what the journal says about `move`."""
        answer = self._destination.report(move)
        if answer.standing is not OwnershipState.READY and self._destination.receiving(move):
            answer = Report(OwnershipState.RECEIVING, move.epoch, move.attempt)
        return replace(answer, journal=self._journal.id)

    def output(self, move: Move, stream: str, offset: int, data: bytes) -> int:
        """Show output of a program that started here.

        Args:
            move: The move by which the program is where it is.
            stream: "stdout" or "stderr".
            offset: The output's offset in the stream since `move`.
            data: The output.

        Returns:
            Bytes of the stream since `move` that an earlier process of this end was to show. This
            process has not shown them.
        """
        record = self._journal.get(move.program)
        if record is None or record.attempt != move.attempt:
            self.refused_calls.say(
                "output",
                f"output of program {move.program.hex()[:8]} was refused: the journal of this end "
                "does not have its move (was this end started with another --state-dir?)",
            )
            raise refused(Reason.OWNERSHIP, "no program of that move is shown there")
        self._destination.decisions.of(move.program).admit(move.epoch)
        try:
            unseen = self._destination.host.show(move, stream, offset, data)
        except (OSError, ValueError) as error:
            self.refused_calls.say("output", f"{stream} of the program cannot be shown: {error}")
            raise refused(Reason.STORAGE, f"its output cannot be shown there: {error}") from error
        if unseen and (move.attempt, stream) not in self._gaps:
            self._gaps.add((move.attempt, stream))
            self._say_gap(move, stream, unseen, self._destination.peers.current(record.peer))
        return unseen

    def _say_gap(self, move: Move, stream: str, unseen: int, peer: str) -> None:
        self._announce(
            Event(
                "output-gap",
                f"{stream} of program {move.program.hex()[:8]} continues here at byte {unseen}, "
                f"counted from its move to {peer}. The process that was killed here got the bytes "
                "before; those that it has not shown are lost",
                {
                    "program": move.program.hex(),
                    "stream": stream,
                    "from": 0,
                    "bytes": unseen,
                    "peer": peer,
                },
            )
        )

    def input(self, move: Move, position: int, most: int) -> tuple[bytes, bool]:
        """Return input of this end for a program that left by `move`; wait a while if there is
        none.

        Args:
            move: The move.
            position: Offset in the input.
            most: Bytes at most.

        Returns:
            The input, and whether the input ends after it.
        """
        record = self._journal.get(move.program)
        if (
            record is None
            or record.standing is not OwnershipState.HANDED
            or (record.epoch, record.attempt) != (move.epoch, move.attempt)
        ):
            raise refused(Reason.OWNERSHIP, "no program of that move has its input there")
        self._destination.decisions.of(move.program).admit(move.epoch)
        try:
            return self._destination.host.feed(move, position, most)
        except (OSError, ValueError) as error:
            raise refused(Reason.STORAGE, f"its input cannot be had there: {error}") from error

    def ended(self, program: bytes, epoch: int, ending: Ending) -> None:
        """Note that a program has ended at a peer. The peer may never have sent it.

        Args:
            program: The program's id.
            epoch: The epoch in which the peer owned the program.
            ending: How it ended.
        """
        self._destination.decisions.of(program).admit(epoch, last=True)
        record = self._journal.get(program)
        ready = self._destination.waiting(program)
        if ready is not None:
            self._destination.abort(ready.move(program))
            record = self._journal.get(program)
        if record and record.standing is OwnershipState.HANDED and record.epoch > epoch:
            return
        if record and record.standing in (OwnershipState.OWNED, OwnershipState.OFFERED):
            raise refused(Reason.OWNERSHIP, "the program is owned by this end")
        if record:
            try:
                self._journal.forget(program)
            except JournalError as error:
                raise refused(Reason.STORAGE, error.message) from error
            self._destination.host.forget(program, here=False)
        known = self._destination.peers.current(record.peer) if record else ""
        self._news.ended(program, ending, known)
