"""When a program that leaves in rounds is stopped: the prediction of its downtime.

A round sends what was written during the round before. While rounds are fast and the program
writes little, each is smaller than the last. The class has no clock and no wire: it is told what
happened, and answers.

Source: Clark et al., "Live Migration of Virtual Machines", NSDI 2005, sections 3 and 5.
"""

from __future__ import annotations

from dataclasses import dataclass

from wasmsr.migrate.rounds.speeds import LineSpeed
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE

MAX_DOWNTIME = 0.05
"""Seconds of predicted downtime, above two round trips, at which a program is stopped."""

MAX_ROUNDS = 30
"""Rounds after which a program is stopped in any case, the last one included."""

SLOWEST, STEP = 0.8, 0.2
"""The share of the time for which a program is held back at most, and how much more each time."""

SYNCS = 3
"""Syncs one after the other in the downtime: READY, HANDED and OWNED."""

FIXED = 0.004
"""Seconds of the downtime for everything that is not measured."""

PLACING = 1.5e9
"""Bytes of files a second that a destination puts in their place before the program runs on."""

CHEAP = 0.002
"""Seconds of pages that are left, below which one more round gains nothing."""

SHRUNK = 0.5
"""What one more round is worth: the round before has left at most this share of its own pages."""


@dataclass(frozen=True)
class MovePolicy:
    """How programs move.

    Attributes:
        max_downtime: Seconds of predicted downtime, above two round trips, at which a program is
            stopped.
        max_rounds: Most rounds, at least 1.
        stop_and_copy: Whether the program is stopped before anything is sent.
        auto_converge: Whether a program that writes faster than the line sends is held back.
        durable: "ready": the destination has the whole state on its disk before the decision.
            "none": in its memory, so that less is synced while the program stands.
    """

    max_downtime: float = MAX_DOWNTIME
    max_rounds: int = MAX_ROUNDS
    stop_and_copy: bool = False
    auto_converge: bool = False
    durable: str = "ready"


class Convergence:
    """The rounds of one move.

    Args:
        policy: What the user wants.
        round_trip: Seconds of a question and its answer.
        sync: Seconds of one sync at this end.
        fixed: Seconds that it takes to capture the rest of the state.
        restore: Seconds that it takes to restore it.
        rest: Bytes of that rest that will be sent.
        line: What earlier moves have shown of the line; rounds add to it.

    Attributes:
        files: Bytes of files that the peer is to put in their place when the program is stopped.
        scan: Seconds in which the written pages of this round were found.
        rounds: Rounds that were begun.
        share: For which share of the time the program is to be held back.
        reason: Why the program was stopped: "downtime", "rounds", "not shrinking" or
            "stop-and-copy"; "" before.
        predicted: The last prediction of the downtime, in seconds; None while nothing is known.
    """

    def __init__(
        self,
        policy: MovePolicy,
        *,
        round_trip: float,
        sync: float,
        fixed: float = 0.0,
        restore: float = 0.0,
        rest: int = 0,
        line: LineSpeed | None = None,
    ) -> None:
        self.policy = policy
        self.round_trip = round_trip
        self.sync = sync
        self.fixed = fixed
        self.restore = restore
        self.rest = rest
        self.line = line or LineSpeed()
        self.scan = 0.0
        self.files = 0
        self.rounds = 0
        self.share = 0.0
        self.reason = ""
        self.predicted: float | None = None
        self._least: int | None = None
        self._before: int | None = None
        self._idle = 0
        self._syncs: list[float] = []
        self._flush = 0.0

    def sent(
        self,
        raw: int,
        packed: int,
        seconds: float,
        waited: float,
        sync: float = 0.0,
        flush: float = 0.0,
        placed: float = 0.0,
    ) -> None:
        """Take note of a round.

        Args:
            raw: Bytes of its pages before compression.
            packed: Bytes that went over the wire for them.
            seconds: From its first byte until the peer had it on its disk.
            waited: How many of them this end only waited for the peer.
            sync: Seconds of a small sync at the peer, as it says; 0.0 if it did none.
            flush: Seconds in which the peer wrote and synced the round after it had come.
            placed: Seconds in which it made files of it then.
        """
        if sync:
            self._syncs.append(sync)
        if raw:
            self._flush = max(0.0, flush - sync) / raw
            idle = self.round_trip + sync + flush + placed
            self.line.learn(raw, packed, seconds - idle, max(0.0, waited - idle))

    def predict(self, raw: int, packed: int) -> float | None:
        """Return the downtime in seconds, or None if no round has shown how fast the line is.

        Args:
            raw: Bytes of the pages that are left for the stop.
            packed: About how many bytes go over the wire for them.
        """
        if not self.line.wire and raw > 16 * PAGE_SIZE:
            return None
        wire = self.line.seconds(raw, packed + self.rest)
        # One of them is at this end.
        syncs = self.sync + (SYNCS - 1) * min(self._syncs, default=self.sync)
        placed = self.files / PLACING
        # The peer writes the last pages to its disk while it restores the program.
        beside = max(self.restore, raw * self._flush)
        fixed = self.fixed + self.scan + FIXED
        return 1.5 * self.round_trip + syncs + fixed + beside + wire + placed

    def stays(self, pages: int, raw: int | None = None, packed: int | None = None) -> bool:
        """Begin a round; return whether the program is to stay paused for it.

        Args:
            pages: How many pages are left at most.
            raw: About how many bytes of them differ from what the peer has; None for all.
            packed: About how many bytes go over the wire for those; None for `raw`.
        """
        self.rounds += 1
        raw = pages * PAGE_SIZE if raw is None else raw
        packed = raw if packed is None else packed
        self.predicted = self.predict(raw, packed)
        self.reason = self._reason(pages, self._gains(raw, packed))
        self._before = raw
        return bool(self.reason)

    def _gains(self, raw: int, packed: int) -> bool:
        """Return whether one more round leaves much less for the stop.

        The pages that are left must take a while, so that a round less of them is felt. And the
        rounds must shrink: a first round always does, for it has what the program wrote long ago.
        """
        shrinks = self._before is None or raw <= SHRUNK * self._before
        return shrinks and self.line.seconds(raw, packed) > CHEAP

    def _reason(self, pages: int, gains: bool) -> str:
        policy = self.policy
        if policy.stop_and_copy:
            return "stop-and-copy"
        wanted = policy.max_downtime + 2 * self.round_trip
        short = self.predicted is not None and self.predicted <= wanted
        if short and not (gains and self.rounds < policy.max_rounds):
            return "downtime"
        if self.rounds >= policy.max_rounds:
            return "rounds"
        if self.rounds == 1:
            return ""
        if self._least is not None and pages >= self._least:
            self._idle += 1
            if self._idle >= 2:
                if not policy.auto_converge or self.share >= SLOWEST:
                    return "not shrinking"
                self.share = min(SLOWEST, self.share + STEP)
                self._idle = 0
                self._least = None
                return ""
        else:
            self._idle = 0
        self._least = pages if self._least is None else min(self._least, pages)
        return ""


__all__ = ["FIXED", "MAX_DOWNTIME", "MAX_ROUNDS", "PLACING", "SYNCS", "Convergence", "MovePolicy"]
