"""From what two ends said and what their engines did to the figures of each move."""

from __future__ import annotations

import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from bench.migrate.pair import Pair, Said


@dataclass(frozen=True)
class Noted:
    """A moment at which an engine began or ceased to execute.

    Attributes:
        when: The time (`time.monotonic`).
        end: The end, "a" or "b".
        runs: Whether it began.
        own: Bytes that the end has written to the disk.
        peer: Bytes that the other end has.
    """

    when: float
    end: str
    runs: bool
    own: int
    peer: int


@dataclass
class Move:
    """One move. Times are in seconds, sizes in bytes.

    Attributes:
        source: The end that the program left.
        stopped: When the last instruction there was executed (`time.monotonic`).
        downtime: From then to the first instruction at the other end.
        written: What the source and the destination wrote to the disk meanwhile.
        said: The source's event "moved".
        arrived: The destination's event "arrived".
        rounds: The source's events "round" before.
        paused: How long the program stood for rounds, before it was stopped.
        before: What it counted a second before the rounds; None if it does not count.
        during: What it counted a second from the first round to the stop.
        span: From the first round to the stop.
    """

    source: str
    stopped: float
    downtime: float
    written: tuple[int, int]
    said: dict[str, Any]
    arrived: dict[str, Any]
    rounds: list[dict[str, Any]] = field(default_factory=list)
    paused: float = 0.0
    before: float | None = None
    during: float | None = None
    span: float = 0.0

    @property
    def size(self) -> int:
        """Bytes on the wire."""
        return int(self.said["bytes"])

    @property
    def raw(self) -> int:
        """Bytes of pages before they were compressed; those on the wire if nobody says it."""
        return int(self.said.get("bytes_raw", self.size))

    @property
    def last(self) -> int:
        """Bytes of the last set on the wire, about: everything where nothing was sent before."""
        if "bytes_last" not in self.said:
            return self.size
        if not self.raw:
            return int(self.said["bytes_rest"])
        packed = (self.size - self.said["bytes_rest"]) / self.raw
        return int(self.said["bytes_last"] * packed + self.said["bytes_rest"])

    @property
    def last_raw(self) -> int:
        """Bytes of the last set before compression."""
        return int(self.said.get("bytes_last", 0)) + int(self.said.get("bytes_rest", self.size))

    @property
    def parts(self) -> dict[str, float]:
        """The downtime by part, as the source says it."""
        prefix = "downtime_"
        return {
            name.removeprefix(prefix): float(value)
            for name, value in self.said.items()
            if name.startswith(prefix)
        }

    @property
    def converged(self) -> bool:
        """Whether the program was stopped because its downtime had become short."""
        return bool(self.said.get("stopped_because", "") == "downtime")

    @property
    def predicted(self) -> float | None:
        """The prediction before the stop, if there was one."""
        value = self.said.get("predicted")
        return None if value is None else float(value)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Move:
        """Return a move of what `plain` has given."""
        known = {one.name: values[one.name] for one in fields(cls)}
        source, destination = known.pop("written")
        return cls(**known, written=(source, destination))

    def plain(self) -> dict[str, Any]:
        """Return the move for JSON."""
        return {**asdict(self), "last": self.last, "last_raw": self.last_raw}


def noted(path: Path, end: str) -> list[Noted]:
    """Read the notes of an end."""
    found = []
    for text in path.read_text().splitlines():
        line = json.loads(text)
        if line["what"] != "begins":
            runs = line["what"] == "runs"
            found.append(Noted(line["when"], end, runs, line["own"], line["peer"]))
    return found


def moves(pair: Pair, since: float) -> list[Move]:
    """Return the moves whose program stopped after a moment."""
    notes = [note for end in pair.ends.values() for note in noted(end.notes, end.name)]
    notes.sort(key=lambda note: note.when)
    sources = [(event, name) for name, end in pair.ends.items() for event in end.of_kind("moved")]
    sources.sort(key=lambda pair: float(pair[0]["when"]))
    targets = [event for end in pair.ends.values() for event in end.of_kind("arrived")]
    targets.sort(key=lambda event: float(event["when"]))
    found: list[Move] = []
    begun = 0.0
    for left, came in itertools.pairwise(notes):
        if left.end == came.end or left.runs or not came.runs:
            continue
        # The events of a move come in the order of moves; its epoch tells which they are.
        number = len(found)
        if number >= min(len(sources), len(targets)):
            break
        said, source = sources[number]
        move = Move(
            source, left.when, came.when - left.when,
            (came.peer - left.own, came.own - left.peer), said, targets[number],
        )  # fmt: skip
        _rounds(move, pair.ends[source].said, notes, begun)
        begun = came.when
        found.append(move)
    return [move for move in found if move.stopped >= since]


def _rounds(move: Move, said: Said, notes: Sequence[Noted], begun: float) -> None:
    """Fill in what was before the stop, from the moment `begun` on."""
    asked = [
        event["when"]
        for event in said.events
        if event.get("event") == "prepared" and begun <= event["when"] <= move.stopped + 1
    ]
    first = asked[-1] if asked else move.stopped
    move.rounds = [
        event
        for event in said.events
        if event.get("event") == "round" and first <= event["when"] <= move.said["when"]
    ]
    own = [note for note in notes if note.end == move.source and begun < note.when <= move.stopped]
    move.paused = sum(
        two.when - one.when for one, two in itertools.pairwise(own) if not one.runs and two.runs
    )
    move.span = max(0.0, move.stopped - first)
    settled = begun + min(0.3, (first - begun) / 3)
    move.before = speed(said.counts, settled, first)
    move.during = speed(said.counts, first, move.stopped) if move.span > 0.1 else None


def speed(counts: Sequence[tuple[float, int]], begin: float, end: float) -> float | None:
    """Return what was counted a second between two moments; None if that cannot be told."""
    inside = [(when, count) for when, count in counts if begin <= when <= end]
    if len(inside) < 2 or inside[-1][0] - inside[0][0] < 0.05:
        return None
    return (inside[-1][1] - inside[0][1]) / (inside[-1][0] - inside[0][0])


def median(values: Sequence[float]) -> float:
    """Return the median; 0.0 of nothing."""
    return statistics.median(values) if values else 0.0
