"""What was measured of one program on one line, as rows for people and as JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from bench.migrate.moves import Move, median
from bench.migrate.probes import Probe, memcpy_seconds, zstd_seconds

MIB = 1 << 20
SLACK = 64 << 10
"""Bytes that a move may write to the disk besides its last set."""
HEAD = (
    f"{'program':9} {'line':18} {'cores':>5} {'mode':18} {'median':>8} {'worst':>8} {'limit':>7} "
    f"{'ratio':>6}  {'rounds':>6} {'last':>9} {'sent':>5} {'foretold':>8} {'memory':>13} "
    f"{'written':>13} {'speed':>12}"
)
LEGEND = """\
median, worst, limit: downtime in ms, last instruction at the source to first at the destination
  limit: 1.5 round trips + last set at the line's rate + 3 syncs + 10 ms; ! beyond it
rounds, last: how many, and MiB of the last set before compression
sent: bytes sent, as a share of what stop-and-copy sends
foretold: moves whose prediction was within 30 % or 20 ms
memory: peak of the worse end / 1.1 x the end that ran the program before any move + 64, in MiB
written: KiB that both ends wrote to the disk in the downtime, worst move / last set + 64
speed: of the program during the rounds, as a share of before, and for how many seconds"""


@dataclass
class Cell:
    """The moves of one program on one line.

    Attributes:
        program: The program's name.
        line: The line's name.
        cores: How many processors both ends had.
        mode: "rounds" or "stop-and-copy".
        probe: The line and the disk, measured just before.
        moves: The moves.
        alone: Memory of the end that ran the program before any move, in bytes.
        peaks: The most memory of each end, in bytes.
        load: The load of the machine afterwards: processes that run or want to.
        failed: Why attempts failed, after which the program ran on.
        method: How dirty pages were found; "" for stop-and-copy.
        scan: Seconds that the kernel needs to tell the written pages of as much memory; 0.0 if that
            was not measured.
    """

    program: str
    line: str
    cores: int
    mode: str
    probe: Probe
    moves: list[Move]
    alone: int
    peaks: dict[str, int]
    load: float
    failed: list[str]
    method: str = ""
    scan: float = 0.0

    @classmethod
    def of(cls, values: dict[str, Any]) -> Cell:
        """Return a cell of what `plain` has given."""
        moves = [Move.of(move) for move in values["moves"]]
        names = ("program", "line", "cores", "mode", "alone", "peaks", "load", "failed")
        known = {name: values[name] for name in names}
        method = values.get("method", "")
        scan = values.get("scan", 0.0)
        return cls(**known, probe=Probe(**values["probe"]), moves=moves, method=method, scan=scan)

    @property
    def downtimes(self) -> list[float]:
        """The downtimes, in seconds."""
        return [move.downtime for move in self.moves]

    @property
    def _kind(self) -> str:
        return f"{self.mode}/{self.method}" if self.method else self.mode

    @property
    def ratio(self) -> float:
        """The median of downtime by limit."""
        return median([move.downtime / self.probe.limit(move.last) for move in self.moves])

    @property
    def foretold(self) -> tuple[int, int]:
        """How many predictions were near enough, of how many."""
        pairs = [(m.predicted, m.downtime) for m in self.moves if m.predicted is not None]
        near = sum(abs(p - came) <= max(0.3 * came, 0.02) for p, came in pairs)
        return near, len(pairs)

    @property
    def parts(self) -> dict[str, float]:
        """The downtime by part as the ends say it: medians, in seconds."""
        names = dict.fromkeys(name for move in self.moves for name in move.parts)
        return {name: median([move.parts.get(name, 0.0) for move in self.moves]) for name in names}

    def row(self, copy: float | None) -> str:
        """Return a line of the table; `copy` is what stop-and-copy sends, in bytes, if known."""
        moves = self.moves
        limit = median([self.probe.limit(move.last) for move in moves])
        sign = "!" if self.ratio > 1 else " "
        sent = median([move.size for move in moves])
        near, of = self.foretold
        slower = [m.during / m.before for m in moves if m.during is not None and m.before]
        spans = [move.span for move in moves if move.during is not None]
        allowed = (1.1 * self.alone) / MIB + 64
        written, may = max(
            (sum(move.written) / 1024, (move.last_raw + SLACK) / 1024) for move in moves
        )  # the worst one
        return (
            f"{self.program:9} {self.line:18} {self.cores:5} {self._kind:18} "
            f"{median(self.downtimes) * 1000:8.1f} {max(self.downtimes) * 1000:8.1f} "
            f"{limit * 1000:7.1f} {self.ratio:6.2f}{sign} "
            f"{median([m.said.get('rounds', 1) for m in moves]):6.0f} "
            f"{median([m.last_raw for m in moves]) / MIB:9.2f} "
            f"{f'{sent / copy:.2f}' if copy else '-':>5} {f'{near}/{of}' if of else '-':>8} "
            f"{max(self.peaks.values()) / MIB:6.0f}/{allowed:6.0f} {written:6.0f}/{may:6.0f} "
            f"{f'{median(slower):.2f} {median(spans):5.1f} s' if slower else '-':>12}"
        )

    def beside(self) -> str:
        """Return a line with what the machine does in the same run, and the parts."""
        last = int(median([move.last_raw for move in self.moves]))
        packed = median([move.last / max(move.last_raw, 1) for move in self.moves])
        copied, squeezed = memcpy_seconds(last), zstd_seconds(last, packed)
        probe = self.probe
        text = (
            f"    round trip {probe.round_trip * 1000:.2f} ms, {probe.rate / MIB:.1f} MiB/s, "
            f"sync {probe.sync * 1000:.2f} ms, last set: memcpy {copied * 1000:.2f} ms, "
            f"zstd {squeezed * 1000:.1f} ms; load {self.load:.1f}; the ends say "
            f"{self._said('said') * 1000:.1f} and {self._said('arrived') * 1000:.1f} ms"
        )
        if self.scan:
            text += f"; the kernel's scan alone {self.scan * 1000:.2f} ms"
        if self.parts:
            spans = sorted(self.parts.items(), key=lambda part: -part[1])
            text += "; parts: " + ", ".join(f"{n} {s * 1000:.1f}" for n, s in spans)
            known = sum(self.parts.values())
            text += f", not named {(median(self.downtimes) - known) * 1000:.1f} ms"
        return text

    def _said(self, which: str) -> float:
        """Return the median of the downtimes that one of the two events has; 0.0 if none has."""
        events = [getattr(move, which) for move in self.moves]
        return median([float(event["downtime"]) for event in events if "downtime" in event])

    def plain(self) -> dict[str, Any]:
        """Return the cell for JSON."""
        return {
            "program": self.program,
            "line": self.line,
            "cores": self.cores,
            "mode": self.mode,
            "method": self.method,
            "scan": self.scan,
            "probe": self.probe.plain(),
            "median": median(self.downtimes),
            "worst": max(self.downtimes),
            "limit": median([self.probe.limit(move.last) for move in self.moves]),
            "ratio": self.ratio,
            "foretold": self.foretold,
            "parts": self.parts,
            "alone": self.alone,
            "peaks": self.peaks,
            "load": self.load,
            "failed": self.failed,
            "moves": [move.plain() for move in self.moves],
        }


def against(cells: Sequence[Cell]) -> list[str]:
    """Return a line for each pair of modes: downtime in rounds by that of stop-and-copy."""
    found = []
    for cell in cells:
        for other in cells:
            same = (cell.program, cell.line, cell.cores) == (other.program, other.line, other.cores)
            if same and (cell.mode, other.mode) == ("rounds", "stop-and-copy"):
                share = median(cell.downtimes) / median(other.downtimes)
                where = f"{cell.program}, {cell.line}, --cores {cell.cores}"
                where += f", {cell.method}" if cell.method else ""
                found.append(f"{where}: downtime 1/{1 / share:.1f} of stop-and-copy")
    return found
