"""The programs of an end's journal that are not here: handed to peers, or of earlier processes."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial

from wasmsr.errors import MigrationError
from wasmsr.migrate.decisions.port import Decisions
from wasmsr.migrate.ends.contact import contact
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.journal.journal import Journal, Record
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.protocol import (
    Ending,
    JournalError,
    Move,
    OwnershipState,
    PeerLost,
    PeerRefused,
    Report,
)


class AwayPrograms:
    """Asks the peers what became of programs that are not here.

    Attributes:
        lost: The error of a program of this session that was lost at its peer, or None.
    """

    def __init__(
        self,
        journal: Journal,
        peers: Peers,
        session: dict[bytes, str],
        announce: Announce,
        ended: Callable[[bytes, int, Ending], None],
        decisions: Decisions,
    ) -> None:
        """Make it of the parts of one end.

        Args:
            journal: The journal.
            peers: The peers.
            session: The programs of this session; see `News`.
            announce: Gets the events.
            ended: Notes that a program has ended at its peer.
            decisions: Who decides the moves.
        """
        self.lost: MigrationError | None = None
        self._journal = journal
        self._peers = peers
        self._session = session
        self._decisions = decisions
        self._announce = announce
        self._ended = ended

    # What an earlier process left.

    def recover(self) -> None:
        """Journal LOST for the programs that ran in an earlier process of this end."""
        for record in self._journal.records():
            if record.standing is OwnershipState.OWNED:
                # The earlier process has gone, and with it all that the program did after
                # `received` was written.
                self._journal.put(replace(record, standing=OwnershipState.LOST))
                self._decisions.of(record.program).lost()
                self._announce_lost(record, "when this end was killed")

    def settle(self, source: MoveSource) -> None:
        """End the moves that an earlier process left open, and report ends that it did not."""
        for record in self._journal.records():
            unconfirmed = record.standing is OwnershipState.HANDED and not record.confirmed
            if record.standing is OwnershipState.OFFERED or unconfirmed:
                self._session[record.program] = self._peers.current(record.peer)
                self.settle_record(record, source)
            elif record.standing is OwnershipState.ENDED and record.ending:
                peer = self._peers.of(record.toward_origin)
                try:
                    peer.ended(record.program, record.epoch, record.ending)
                    self._journal.forget(record.program)
                except (PeerLost, PeerRefused, JournalError):
                    continue

    def settle_record(self, record: Record, source: MoveSource) -> None:
        """End a move that an earlier process left open; see `MoveSource.settle`."""
        source.settle(record)
        after = self._journal.get(record.program)
        if after and after.standing is OwnershipState.LOST:
            self._announce_lost(after, "when this end was killed")

    def may_come_back(self, stop: threading.Event) -> bool:
        """Return whether a program of an earlier session still runs at its peer.

        Args:
            stop: Is set when the user interrupts.
        """
        for record in self._journal.records():
            if record.standing is OwnershipState.HANDED:
                peer = self._peers.of(record)
                ask = partial(peer.status, _move(record))
                answer = contact(peer, ask, stop, self._announce)
                if answer is None:
                    return True
                if answer.standing is OwnershipState.ENDED and answer.ending:
                    self._ended(record.program, answer.epoch, answer.ending)
                elif self._write_off(record, answer):
                    self._announce_lost(record, f"at {peer.address}")
                else:
                    self._session[record.program] = peer.address
                    return True
        return False

    # While the loop waits.

    def outstanding(self) -> Record | None:
        """Return the program that this end handed away last and that may still run."""
        handed = [r for r in self._journal.records() if r.standing is OwnershipState.HANDED]
        return max(handed, key=lambda record: record.updated, default=None)

    def ask_about(self, record: Record, *, silent: bool) -> bool:
        """Ask the peer that has a program what became of the program.

        Args:
            record: The program's record, which is HANDED.
            silent: Whether the peer did not answer the last time; then this says so no more.

        Returns:
            Whether the peer does not answer.
        """
        peer = self._peers.of(record)
        try:
            answer = peer.status(_move(record))
        except (PeerLost, PeerRefused) as error:
            if not silent:
                text = f"{peer.address}, which has the program, does not answer ({error})"
                self._announce(Event("silent", f"{text}; asking again"))
            return True
        if answer.standing is OwnershipState.ENDED and answer.ending:
            self._ended(record.program, answer.epoch, answer.ending)
        elif not self._write_off(record, answer):
            self._session[record.program] = peer.address
        elif record.program not in self._session:
            self._announce_lost(record, f"at {peer.address}")
        else:
            self.lost = MigrationError(
                f"the program was lost: its process at {peer.address} was killed",
                phase="commit",
                owner="destination",
                hint="the state in which it arrived there is on the disk there; the same command "
                "started there again names the file",
            )
        return False

    def _write_off(self, record: Record, answer: Report) -> bool:
        """Return whether the peer, which has confirmed that it owns the program, has lost it."""
        lost = answer.standing in (OwnershipState.LOST, OwnershipState.UNKNOWN)
        if lost:
            # In the epoch in which this end owned the program, so that the program may still come
            # back from wherever it is.
            self._journal.put(replace(record, standing=OwnershipState.LOST, epoch=record.epoch - 1))
        return lost

    def _announce_lost(self, record: Record, where: str) -> None:
        name = record.file or record.received
        text = f"program {record.program.hex()[:8]} was lost {where}"
        if name:
            text += f"; its last state on disk is {self._journal.path(name)}"
        self._announce(Event("lost", text, {"program": record.program.hex()}))


def _move(record: Record) -> Move:
    return Move(record.program, record.epoch, record.attempt)
