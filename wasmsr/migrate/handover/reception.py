"""A program's state that is being received: put in place, written to disk, verified, tried."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from queue import SimpleQueue
from typing import Protocol

from wasmsr.errors import FormatError, SnapshotError, WasmsrError, reason
from wasmsr.interp.modules.ahead import CalledFunctions
from wasmsr.migrate.events import Announce, Event
from wasmsr.migrate.journal.journal import Incoming, Journal
from wasmsr.migrate.ports import Arrival, Buffer, MovableProgram
from wasmsr.migrate.protocol import (
    Description,
    JournalError,
    KeptOutput,
    Move,
    Offer,
    PackedFiles,
    PackedPages,
    PeerRefused,
    Reason,
    Receipt,
    RoundHead,
    RoundReceipt,
    refused,
)
from wasmsr.snapshot.live.packing import unpack
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE


class Receiver(Protocol):
    """What a reception needs of the destination that began it."""

    journal: Journal
    announce: Announce

    def is_current(self, reception: Reception) -> bool:
        """Return whether the reception is still the one in progress."""

    def drop(self, reception: Reception) -> bool:
        """End the reception if it is still in progress; return whether it was."""

    def binaries(self, program: bytes, digests: tuple[bytes, ...]) -> dict[bytes, Buffer]:
        """Return the modules of a program by digest. Raises ModuleError if one is gone."""

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
    """One attempt's state that is being received: rounds of pages, then the rest.

    Attributes:
        move: The attempt.
        source: The source's address, for people.
        received: Bytes of pages (as they came) and of the rest that have come so far.
        memory: Whether it is to be READY in memory only.
    """

    def __init__(
        self,
        receiver: Receiver,
        move: Move,
        offer: Offer,
        source: str,
        make: Callable[[int | None], Arrival],
        *,
        memory: bool = False,
    ) -> None:
        """Begin.

        Args:
            receiver: The destination.
            move: The attempt.
            offer: What the source has offered.
            source: The source's address.
            make: Makes the arrival; its argument is the descriptor of the image, or None.
            memory: Whether it is to be READY in memory only, without an image.

        Raises:
            PeerRefused: There is no room.
        """
        self.move = move
        self.source = source
        self.received = 0
        self.memory = memory
        self._receiver = receiver
        self._description = offer.description
        self._node = offer.node
        self._rounds = offer.rounds
        self._began = time.monotonic()
        self._round = 0
        self._open = self._last = self._tried = False
        self._at = (0, 0)
        self._rest = 0
        try:
            self._image = None if memory else receiver.journal.image(move)
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        try:
            self._arrival = make(self._image.fd if self._image else None)
        except PeerRefused:
            self._discard_image()
            raise
        except (WasmsrError, OSError, MemoryError) as error:
            self._discard_image()
            raise refused(Reason.LIMIT, f"it has no room: {reason(error)}") from error
        self._syncing = _Syncing(self._arrival.sync)
        self._using = threading.Lock()
        self._gone = self._closed = False

    @contextmanager
    def _taking(self) -> Iterator[None]:
        """Hold the arrival and its image, and turn what goes wrong with them into a refusal."""
        try:
            with self._using:
                self.check()
                try:
                    with self._refusing():
                        yield
                except PeerRefused:
                    self.check()
                    raise
        finally:
            self._release()

    @contextmanager
    def _refusing(self) -> Iterator[None]:
        try:
            yield
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error
        except SnapshotError as error:
            raise refused(Reason.STATE, f"what it was sent is not usable: {error}") from error
        except (OSError, MemoryError) as error:
            raise refused(Reason.STORAGE, f"it has no room: {reason(error)}") from error

    def early(self, piece: Buffer, *, last: bool) -> None:
        """Take a piece of an earlier rest; after the last, restore on trial. Raises PeerRefused."""
        with self._taking():
            if self._round or self._tried:
                raise FormatError("an earlier rest comes after the first round, or twice")
            self.received += len(piece)
            self._arrival.early(piece)
            if not last:
                return
            self._tried = True
            digests = tuple(module.digest for module in self._description.modules)
            try:
                self._arrival.prepare(self._receiver.binaries(self.move.program, digests))
            except (WasmsrError, OSError, MemoryError) as error:
                raise self._unusable(error) from error

    def called(self, called: CalledFunctions) -> None:
        """Make code of functions that the program has called. Raises PeerRefused."""
        with self._taking():
            digests = tuple(module.digest for module in self._description.modules)
            if self._round or called.module not in digests:
                raise FormatError("functions of no module of it, or after the first round")
            self.received += 4 * len(called.functions)
            try:
                binaries = self._receiver.binaries(self.move.program, digests)
                self._arrival.called(called, binaries[called.module])
            except SnapshotError:
                raise
            except WasmsrError as error:
                raise self._unusable(error) from error

    def _unusable(self, error: BaseException) -> PeerRefused:
        """Return the refusal of a state that cannot be restored."""
        hint = getattr(error, "hint", None) or _hint(self._description)
        return refused(Reason.STATE, f"it cannot restore the program: {reason(error)}", hint)

    def output(self, kept: KeptOutput) -> None:
        """Take a piece of kept output. Raises PeerRefused."""
        with self._taking():
            self.received += len(kept.data)
            self._arrival.output(kept)

    def begin(self, head: RoundHead) -> None:
        """Begin a round. Raises PeerRefused."""
        with self._taking():
            if self._open or self._last or head.number != self._round + 1:
                raise FormatError(f"round {head.number} follows round {self._round}")
            if head.number > self._rounds:
                raise FormatError(f"there are more rounds than {self._rounds}, which were agreed")
            self._round, self._open, self._last = head.number, True, head.last
            if head.last:
                self._syncing.after = _Syncing.AFTER_LAST
            self._at = (0, 0)
            self._arrival.resize(head.sizes)

    def pages(self, batch: PackedPages) -> None:
        """Take pages of the round. Raises PeerRefused."""
        with self._taking():
            if not self._open or self._rest:
                raise FormatError("pages come outside a round")
            self._at = _follow(self._at, batch)
            data = unpack(batch.data, batch.size, packed=batch.packed)
            self._arrival.pages(batch.memory, batch.runs, data, batch.zeros, batch.known)
            self.received += len(batch.data)
            self._syncing.written(len(data) + sum(batch.known[1::2]) * PAGE_SIZE)
            self._receiver.announce(Event("progress", "", {"bytes": self.received}))

    def files(self, batch: PackedFiles) -> None:
        """Take pieces of carried files, in a round. Raises PeerRefused."""
        with self._taking():
            if not self._open or self._rest:
                raise FormatError("pieces of files come outside a round")
            size = sum(batch.lengths)
            data = unpack(batch.data, size, packed=batch.packed)
            self._arrival.files(batch.digests, batch.lengths, data)
            self.received += len(batch.data)
            self._syncing.written(size)
            self._receiver.announce(Event("progress", "", {"bytes": self.received}))

    def end(self, number: int) -> RoundReceipt:
        """End a round; return when it is on the disk. Raises PeerRefused."""
        with self._taking():
            if not self._open or self._last or number != self._round:
                raise FormatError(f"round {number} ends, and round {self._round} is under way")
            self._open = False
            self._syncing.wait()
            began = time.monotonic()
            self._arrival.sync()
            synced = time.monotonic()
            self._arrival.place()
            flush, placed = synced - began, time.monotonic() - synced
            small = 0.0 if self._image is None else self._image.small_sync()
            return RoundReceipt(number, small, flush, placed)

    def write(self, piece: Buffer) -> None:
        """Take a piece of the rest of the state. Raises PeerRefused."""
        with self._taking():
            if not self._last:
                raise FormatError("the rest of the state comes before the last round")
            self._rest += len(piece)
            self.received += len(piece)
            self._arrival.feed(piece)

    def repeat(self, offset: int, size: int) -> None:
        """Take a part of the earlier rest as the next piece of the rest. Raises PeerRefused."""
        with self._taking():
            if not self._last or not self._tried:
                raise FormatError("the rest repeats what has not come")
            self._rest += size
            self._arrival.repeat(offset, size)

    def finish(self, receipt: Receipt) -> Receipt:
        """Verify the state, restore it on trial and journal READY. Raises PeerRefused.

        The program of the trial is the one that will run: a Commit only starts it.
        """
        with self._taking():
            held = Receipt(self._rest, self._arrival.finish())
            if held != receipt:
                raise refused(Reason.STATE, "the state did not arrive as it was sent")
            return self._ready(held)

    def _ready(self, held: Receipt) -> Receipt:
        receiver, move = self._receiver, self.move
        incoming = Incoming(
            epoch=move.epoch,
            attempt=move.attempt,
            source=self.source,
            file=self._image.name if self._image else "",
            modules=tuple(module.digest for module in self._description.modules),
            shown=self._description.shown,
            fed=self._description.fed,
            node=self._node,
            lease=self._description.lease,
        )
        began = time.monotonic()
        if not self.memory:
            # The last pages are written, and all is synced, while the program is restored.
            self._syncing.start()
        try:
            program = receiver.restore(move.program, self._arrival, incoming.modules)
        except (WasmsrError, OSError, MemoryError) as error:
            raise self._unusable(error) from error
        restored = time.monotonic()
        try:
            self._syncing.wait()
            self._keep_image()
        except BaseException:
            program.close()
            raise
        receiver.hold(self, incoming, program, time.monotonic() - self._began)
        self._syncing.close()
        now = time.monotonic()
        return replace(held, sync=now - restored, restore=restored - began)

    def _keep_image(self) -> None:
        """Leave the image to the journal."""
        if self._image is None:
            return
        try:
            self._image.commit()
        except JournalError as error:
            raise refused(Reason.STORAGE, error.message) from error

    def failed(self, error: PeerRefused) -> None:
        """Report here why the program was refused, unless the source has taken it back."""
        if self._receiver.is_current(self):
            self._receiver.say_refused(error, self.source)

    def cancel(self) -> None:
        """Forget what has come. Once READY, or once cancelled, this does nothing."""
        if self._receiver.drop(self):
            self._gone = True
            self._release()

    def _release(self) -> None:
        """Close a cancelled arrival, unless another thread uses it: that one does it then.

        A descriptor that is closed under a thread that writes may be another file's by then.
        """
        if not self._gone or not self._using.acquire(blocking=False):
            return
        try:
            if not self._closed:
                self._closed = True
                self._syncing.rest()
                self._syncing.close()
                self._discard_image()
                self._arrival.close()
        finally:
            self._using.release()

    def _discard_image(self) -> None:
        if self._image is not None:
            self._image.discard()

    def check(self) -> None:
        """Raise PeerRefused unless the attempt is still the one in progress."""
        if not self._receiver.is_current(self):
            raise refused(Reason.OWNERSHIP, "the source has given this attempt up")


def _follow(at: tuple[int, int], batch: PackedPages) -> tuple[int, int]:
    """Return where a round stands after a batch: memory, and the page after its last one.

    Raises FormatError unless the batch's pages ascend from `at` on, none of them twice.
    """
    memory, page = at
    if batch.memory < memory:
        raise FormatError("the pages of a round are out of order")
    if batch.memory > memory:
        page = 0
    ends = []
    for runs in (batch.runs, batch.zeros, batch.known):
        end = page
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            if first < end or not count:
                raise FormatError(f"a round has page {first} of memory {batch.memory} twice")
            end = first + count
        ends.append(end)
    if sum(batch.runs[1::2]) * PAGE_SIZE != batch.size:
        raise FormatError("a batch has not the pages that it names")
    return batch.memory, max(ends)


class _Syncing:
    """Syncs the image beside the thread that receives, so that little is left for the stop.

    Its thread starts with the transfer, because to start one takes milliseconds of the downtime.
    """

    AFTER = 64 << 20
    """Bytes after which a sync begins."""
    AFTER_LAST = 4 << 20
    """In the last round, where the line is mostly slower than the disk."""

    def __init__(self, sync: Callable[[], None]) -> None:
        self._sync = sync
        self._wanted: SimpleQueue[bool] = SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self.after = self.AFTER
        self._written = 0
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="wasmsr-image", daemon=True)
        self._thread.start()

    def written(self, size: int) -> None:
        self._written += size
        if self._written >= self.after and self._idle.is_set():
            self.start()

    def start(self) -> None:
        self.wait()
        self._written = 0
        self._idle.clear()
        self._wanted.put(True)

    def _work(self) -> None:
        while self._wanted.get():
            try:
                self._sync()
            except BaseException as error:  # noqa: BLE001 (raised by `wait`)
                self._error = error
            self._idle.set()

    def rest(self) -> None:
        """Wait until nothing is synced, whatever has become of it."""
        self._idle.wait()

    def wait(self) -> None:
        self._idle.wait()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        """Let the thread end; it may still sync."""
        self._wanted.put(False)


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
