"""One attempt of a program to leave: rounds while it runs, the stop, and the rest of its state.

The program runs until its last round begins. `MoveSource` has journaled the offer before, and
decides afterwards.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass, field

from wasmsr.migrate.events import Announce, Event, seconds, size
from wasmsr.migrate.ports import Leaving, MovableProgram, Peer, Sending
from wasmsr.migrate.protocol import (
    AHEAD,
    CALLED,
    EARLY,
    FILES,
    PIECE,
    Answer,
    Move,
    PackedFiles,
    PackedPages,
    PeerLost,
    Receipt,
    RoundHead,
)
from wasmsr.migrate.rounds.convergence import Convergence, MovePolicy
from wasmsr.migrate.rounds.regroup import regroup
from wasmsr.migrate.rounds.speeds import LineSpeed
from wasmsr.snapshot.live.packing import BatchPacker
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE

PAUSE_SECONDS = 10.0
"""How long a program may take to pause; a host call in progress delays it."""


class EndedMeanwhile(Exception):
    """The program has ended before it was stopped for its move."""


PROBE = 2 << 20
"""Bytes that go as they are, to learn how fast a line is before much is compressed for it."""

SAMPLE = 32
"""Pages that are looked at to tell how many bytes a round will have."""

CHANGING = 16 << 10
"""Bytes that are sent of a rest of which the peer has an earlier one, about."""

SHORT = 0.005
"""Seconds of sending that need no closer look."""


@dataclass
class MoveFigures:
    """What one move costs. Times are in seconds, sizes in bytes.

    Attributes:
        rounds: Rounds, the last one included.
        raw: Bytes of pages that were sent, before compression.
        sent: Bytes that were sent, the rest of the state included.
        first: Bytes of the pages that the memories had at the beginning.
        last: Bytes of the pages of the last round.
        files: Bytes of pieces of files that were sent, before compression.
        last_files: How many of them were sent while the program was paused.
        rest: Bytes of the rest of the state that were sent in the last round.
        began: When the first round began (`time.monotonic`).
        stopped: When the program was asked to pause for the last round.
        round_trip: Of a question to the peer and its answer.
        predicted: The predicted downtime; None if there was no prediction.
        reason: Why the program was stopped.
        method: How dirty pages were found, or "".
        parts: The downtime by part.
    """

    rounds: int = 0
    raw: int = 0
    sent: int = 0
    first: int = 0
    last: int = 0
    files: int = 0
    last_files: int = 0
    rest: int = 0
    began: float = field(default_factory=time.monotonic)
    stopped: float = 0.0
    round_trip: float = 0.0
    predicted: float | None = None
    reason: str = ""
    method: str = ""
    parts: dict[str, float] = field(default_factory=dict)

    def values(self) -> dict[str, object]:
        """Return the figures for an event."""
        return {
            "rounds": self.rounds,
            "bytes": self.sent,
            "bytes_raw": self.raw,
            "bytes_first": self.first,
            "bytes_last": self.last,
            "bytes_files": self.files,
            "bytes_files_last": self.last_files,
            "bytes_rest": self.rest,
            "stopped_because": self.reason,
            "dirty_pages_by": self.method,
            "predicted": self.predicted,
            "round_trip": self.round_trip,
            **{f"downtime_{name}": round(span, 6) for name, span in self.parts.items()},
        }


class Departure:
    """Sends one program, in one attempt, to one peer.

    Args:
        program: The program.
        move: The attempt.
        peer: Where it goes.
        policy: How it moves.
        line: What earlier moves have shown.
        sync: Seconds of one sync at this end.
        restore: Seconds that restoring it takes at the peer, if that is known.
        announce: Gets the events.
        stop: Is set when the user interrupts.
        memory: Whether the peer may be READY in memory only.

    Attributes:
        figures: What the move costs, so far.
        stands: Whether the program was stopped for the last round.
    """

    def __init__(
        self,
        program: MovableProgram,
        move: Move,
        peer: Peer,
        policy: MovePolicy,
        line: LineSpeed,
        *,
        sync: float,
        restore: float,
        announce: Announce,
        stop: threading.Event,
        memory: bool = False,
    ) -> None:
        self._program = program
        self._move = move
        self._peer = peer
        self._policy = policy
        self._line = line
        self._sync = sync
        self._restore = restore
        self._announce = announce
        self._stop = stop
        self._memory = memory
        self._packer = BatchPacker(line.plain or line.wire)
        self._file_packer = BatchPacker(line.plain or line.wire)
        self._leaving: Leaving | None = None
        self.figures = MoveFigures()
        self.stands = False
        self._known = self._ahead = False

    def send(self, answer: Answer) -> Receipt:
        """Send the program; when this returns, the peer is READY and the program paused.

        Args:
            answer: The peer's consent.

        Raises:
            EndedMeanwhile: The program has ended.
            PeerLost, PeerRefused, SnapshotError, MigrationError: It does not move.
        """
        round_trip = self.figures.round_trip = self._round_trip()
        self._known = answer.known > 0
        files = answer.files if FILES in answer.abilities else 0
        leaving = self._leaving = self._program.leave(frozenset(answer.held), answer.known, files)
        prepares = EARLY in answer.abilities and bool(leaving.early)
        self._ahead = prepares and AHEAD in answer.abilities
        convergence = Convergence(
            self._policy,
            round_trip=round_trip,
            sync=self._sync,
            fixed=leaving.rest_seconds,
            restore=self._restore,
            rest=min(leaving.rest_size, CHANGING if prepares else leaving.rest_size),
            line=self._line,
        )
        self.figures.method = leaving.method
        sending = self._peer.transfer(
            self._move, leaving.rest_size, memory=self._memory, files=leaving.files_size
        )
        try:
            # Before anything is measured, while the program runs: the peer is busy with it.
            called = leaving.called() if CALLED in answer.abilities else ()
            for functions in called:
                sending.called(functions)
            if prepares:
                for at in range(0, len(leaving.early), PIECE):
                    piece = memoryview(leaving.early)[at : at + PIECE]
                    sending.early(piece, last=at + PIECE >= len(leaving.early))
            if prepares or called:
                # Now, because the first round may be the last: the peer makes the store meanwhile.
                sending.drain()
            self._rounds(leaving, sending, convergence)
            began, before = time.monotonic(), self.figures.files
            self._files(leaving, sending, convergence, 0)
            self.figures.last_files = self.figures.files - before
            self.figures.parts["files"] = time.monotonic() - began
            return self._finish(leaving, sending, prepares)
        except BaseException:
            sending.cancel()
            raise

    def close(self) -> None:
        """Release what the program's host keeps for the move. This can take long."""
        if self._leaving is not None:
            self._leaving.close()
            self._leaving = None

    def _round_trip(self) -> float:
        """Return the seconds of a question and its answer."""
        spans = []
        for _ in range(3):
            began = time.monotonic()
            self._peer.status(self._move)
            spans.append(time.monotonic() - began)
        return min(spans)

    def _rounds(self, leaving: Leaving, sending: Sending, convergence: Convergence) -> None:
        figures = self.figures
        while True:
            left = left_files = 0

            def stays(pages: int, files: int = 0) -> bool:
                nonlocal left, left_files
                left, left_files = pages, files
                convergence.scan = leaving.parts.get("scan", 0.0)
                convergence.files = files if self._ahead else self.figures.files + files
                raw, packed = self._expected(leaving, pages)
                packed += int(files * self._file_packer.ratio)
                return convergence.stays(pages + files // PAGE_SIZE, raw + files, packed)

            asked = time.monotonic()
            self.stands = leaving.round(stays, PAUSE_SECONDS)
            if self.stands:
                figures.stopped = asked
                figures.parts = dict(leaving.parts)
                if self._program.wait(0) is not None:
                    raise EndedMeanwhile
            figures.rounds, figures.predicted = convergence.rounds, convergence.predicted
            figures.reason = convergence.reason
            for kept in leaving.output():
                sending.output(kept)
            began = time.monotonic()
            before, packed_before, files_before = self._packer.raw, self._packed, figures.files
            waited = sending.waited
            head = RoundHead(convergence.rounds, tuple(leaving.sizes), self.stands)
            sending.begin(head)
            if not self.stands:
                self._files(leaving, sending, convergence, left * PAGE_SIZE + left_files)
            self._pages(leaving, sending, convergence, left)
            sent = self._packer.raw - before
            figures.raw, figures.sent = self._packer.raw, self._packed
            if convergence.rounds == 1:
                figures.first = sent
            if self.stands:
                figures.last = sent
                figures.parts["pages"] = time.monotonic() - began
                return
            receipt = sending.end(convergence.rounds)
            span = time.monotonic() - began
            packed = self._packed - packed_before
            waited = sending.waited - waited
            files = figures.files - files_before
            done = receipt.sync, receipt.flush, receipt.placed
            convergence.sent(sent + files, packed, span, waited, *done)
            self._packer.rate = self._file_packer.rate = self._line.plain or self._line.wire
            self._say_round(convergence, sent, files, span)
            leaving.slow(convergence.share)

    @property
    def _packed(self) -> int:
        """Bytes of pages and files that went over the wire."""
        return self._packer.packed + self._file_packer.packed

    def _files(
        self, leaving: Leaving, sending: Sending, convergence: Convergence, left: int
    ) -> None:
        """Send the pieces of files that the peer has not got."""
        for batch in leaving.files():
            data, packed = self._file_packer.pack(batch.data)
            sending.files(PackedFiles(batch.digests, batch.lengths, bytes(data), packed))
            self.figures.files += len(batch.data)
            left -= len(batch.data)
            self._progress(convergence, left)

    def _expected(self, leaving: Leaving, pages: int) -> tuple[int, int]:
        """Return about how many bytes of pages a round has, and how many go over the wire."""
        most = pages * PAGE_SIZE
        # In a first round the peer has work with the pages that it has too: it reads them.
        reads = self._known and not self.figures.rounds
        if reads or pages <= SAMPLE or most < SHORT * self._line.wire:
            return most, most
        data, looked = leaving.sample(SAMPLE)
        raw = pages * len(data) // max(1, looked)
        return raw, int(raw * self._packer.expected(data))

    def _pages(
        self, leaving: Leaving, sending: Sending, convergence: Convergence, left: int
    ) -> None:
        """Send the pages of a round."""
        packer, began = self._packer, time.monotonic()
        before = packer.raw
        first = convergence.rounds == 1 and not self.stands
        probes = first and left * PAGE_SIZE > 4 * PROBE
        for batch in leaving.batches():
            data, packed = packer.plain(batch.data) if probes else packer.pack(batch.data)
            length = len(batch.data)
            sending.pages(
                PackedPages(
                    batch.memory, batch.runs, batch.zeros, length, bytes(data), packed, batch.known
                )
            )
            if probes and packer.raw - before >= PROBE:
                probes = False
                sending.drain()
                spent = time.monotonic() - began - self.figures.round_trip
                packer.rate = self._line.plain = PROBE / max(spent, 1e-6)
            self._progress(convergence, left * PAGE_SIZE - (packer.raw - before))

    def _progress(self, convergence: Convergence, left: int) -> None:
        if self._stop.is_set():
            raise PeerLost("interrupted")
        values: dict[str, object] = {
            "program": self._move.program.hex(),
            "bytes": self._packed,
            "round": convergence.rounds,
            "left": max(0, left),
            "predicted": convergence.predicted,
        }
        self._announce(Event("progress", "", values))

    def _say_round(self, convergence: Convergence, sent: int, files: int, span: float) -> None:
        expected = convergence.predicted
        what = f"{size(sent)} and {size(files)} of files" if files else size(sent)
        text = f"round {convergence.rounds}: {what} in {seconds(span)}"
        values: dict[str, object] = {
            "program": self._move.program.hex(),
            "round": convergence.rounds,
            "bytes_raw": sent,
            "bytes_files": files,
            "bytes": self._packed,
            "seconds": span,
            "rate": (sent + files) / max(span, 1e-6),
            "held_back": convergence.share,
            "predicted": expected,
        }
        self._announce(Event("round", text, values))

    def _finish(self, leaving: Leaving, sending: Sending, prepared: bool) -> Receipt:
        figures = self.figures
        began = time.monotonic()
        size = 0
        for part in leaving.rest(since=prepared):
            if isinstance(part, tuple):
                sending.repeat(*part)
                size += part[1]
                continue
            for piece in regroup([part]):
                sending.send(piece)
                size += len(piece)
                figures.rest += len(piece)
                if self._stop.is_set():
                    raise PeerLost("interrupted")
        figures.sent = self._packed + figures.rest
        figures.parts["encode"] = time.monotonic() - began
        receipt = Receipt(size, leaving.digest)
        sending.finish(receipt)
        asked = time.monotonic()
        ready = sending.ready()
        if ready != receipt:
            raise PeerLost(f"{self._peer.address} holds another state than it was sent")
        figures.parts["restore"] = ready.restore
        figures.parts["syncs"] = ready.sync
        waited = time.monotonic() - asked - ready.restore - ready.sync
        figures.parts["wire"] = max(0.0, waited)
        return ready


__all__ = ["PAUSE_SECONDS", "Departure", "EndedMeanwhile", "MoveFigures"]
