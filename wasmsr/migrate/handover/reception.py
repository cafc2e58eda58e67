"""A program's state that is being received: written to disk, decoded, verified, tried."""

from __future__ import annotations

import hashlib
import time
from typing import Protocol

from wasmsr.errors import SnapshotError, WasmsrError, reason
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.journal.journal import Incoming, Journal
from wasmsr.migrate.ports import Arrival, Buffer, MovableProgram
from wasmsr.migrate.protocol import (
    Description,
    JournalError,
    Move,
    PeerRefused,
    Reason,
    Receipt,
    refused,
)


class Receiver(Protocol):
    """What a reception needs of the destination that began it."""

    journal: Journal
    announce: Announce

    def is_current(self, reception: Reception) -> bool:
        """Return whether the reception is still the one in progress."""

    def drop(self, reception: Reception) -> bool:
        """End the reception if it is still in progress; return whether it was."""

    def restore(
        self, program: bytes, arrival: Arrival, digests: tuple[bytes, ...]
    ) -> MovableProgram:
        """Make a paused program of a state that was read. Raises WasmsrError."""

    def hold(
        self, reception: Reception, incoming: Incoming, program: MovableProgram, duration: float
    ) -> None:
        """Journal READY and keep the program until the decision. Raises PeerRefused."""

    def say_refused(self, error: PeerRefused, source: str) -> None:
        """Report here why a program of `source` was refused."""


class Reception:
    """One attempt's state that is being received.

    Attributes:
        move: The attempt.
        source: The source's address, for people.
    """

    def __init__(
        self,
        receiver: Receiver,
        move: Move,
        description: Description,
        source: str,
        arrival: Arrival,
    ) -> None:
        self.move = move
        self.source = source
        self._receiver = receiver
        self._description = description
        self._arrival = arrival
        self._digest = hashlib.sha256()
        self._began = time.monotonic()
        try:
            self._file = receiver.journal.state(move, "received")
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error

    @property
    def received(self) -> int:
        """Bytes of the state that have come so far."""
        return self._file.size

    def write(self, piece: Buffer) -> None:
        """Append a piece to the state. Raises PeerRefused."""
        self.check()
        try:
            self._file.write(piece)
            self._arrival.feed(piece)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        except SnapshotError as error:
            raise refused(Reason.STATE, f"what it was sent is not usable: {error}") from error
        except ValueError:  # another thread has closed the file in `cancel`
            self.check()
            raise
        self._digest.update(piece)
        self._receiver.announce(Event("progress", "", {"bytes": self.received}))

    def finish(self, receipt: Receipt) -> Receipt:
        """Verify the state, restore it on trial and journal READY. Raises PeerRefused.

        The program of the trial is the one that will run: a Commit only starts it.
        """
        receiver, move = self._receiver, self.move
        self.check()
        held = Receipt(self.received, self._digest.digest())
        if held != receipt:
            raise refused(Reason.STATE, "the state did not arrive as it was sent")
        incoming = Incoming(
            epoch=move.epoch,
            attempt=move.attempt,
            source=self.source,
            file=self._file.name,
            modules=tuple(module.digest for module in self._description.modules),
            shown=self._description.shown,
            fed=self._description.fed,
        )
        try:
            self._file.commit()
            program = receiver.restore(move.program, self._arrival, incoming.modules)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        except (WasmsrError, OSError, MemoryError) as error:
            receiver.journal.discard(self._file.name)
            hint = getattr(error, "hint", None) or _hint(self._description)
            sentence = f"it cannot restore the program: {reason(error)}"
            raise refused(Reason.STATE, sentence, hint) from error
        receiver.hold(self, incoming, program, time.monotonic() - self._began)
        return held

    def failed(self, error: PeerRefused) -> None:
        """Report here why the program was refused, unless the source has taken it back."""
        if self._receiver.is_current(self):
            self._receiver.say_refused(error, self.source)

    def cancel(self) -> None:
        """Forget what has come. Once READY, or once cancelled, this does nothing."""
        if self._receiver.drop(self):
            self._file.discard()

    def check(self) -> None:
        """Raise PeerRefused unless the attempt is still the one in progress."""
        if not self._receiver.is_current(self):
            raise refused(Reason.OWNERSHIP, "the source has given this attempt up")


def _hint(description: Description) -> str:
    """Return what may help if files of a program have changed since it left them."""
    stay = [mount.guest for mount in description.mounts if mount.mode in ("host", "ro")]
    if not stay:
        return ""
    options = " ".join(f"--dir HOST::{guest}::carry" for guest in stay)
    return (
        "files in folders that stay must be the same at both ends: start both in the same folder, "
        f"or let them travel along, {options} at both ends"
    )
