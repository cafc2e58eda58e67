"""What a node counts, for Prometheus: every metric, one row each, and their values.

This file has no package of Prometheus; `wasmsr.http.metrics_server` shows the values. Names follow
Prometheus' rules: base units, `_total` for counters. docs/metrics.md is made of the rows.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 60.0)
"""Upper bounds of buckets for spans of time."""
ROUNDS = (1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 16.0, 32.0)
"""Upper bounds of buckets for rounds."""
SERIES = 200
"""Combinations of labels that one metric keeps; more are counted as "other"."""


@dataclass(frozen=True)
class MetricRow:
    """One metric.

    Attributes:
        name: Its name, without `_total`.
        kind: "counter", "gauge" or "histogram".
        help: What it counts.
        labels: Names of its labels.
        buckets: Upper bounds of a histogram, without the last one, which is infinite.
    """

    name: str
    kind: str
    help: str
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


ROWS = (
    MetricRow("wasmsr_programs", "gauge",
        "Programs of this node, by state.", ("state",)),
    MetricRow("wasmsr_programs_ended", "counter",
        "Programs that ended here, by how.", ("kind",)),
    MetricRow("wasmsr_worker_memory_bytes", "gauge",
        "Memory of all workers: proportional share of what they share."),
    MetricRow("wasmsr_workers_lost", "counter",
        "Workers that ended before their programs, by cause.", ("cause",)),
    MetricRow("wasmsr_moves", "counter",
        "Moves, by direction (in, out).", ("direction",)),
    MetricRow("wasmsr_moves_failed", "counter",
        "Moves that did not happen, by reason.", ("reason",)),
    MetricRow("wasmsr_move_rounds", "histogram",
        "Rounds of a move, the last one included.", (), ROUNDS),
    MetricRow("wasmsr_move_raw_bytes", "counter",
        "Bytes of pages that moves sent, before compression."),
    MetricRow("wasmsr_move_sent_bytes", "counter",
        "Bytes that moves sent."),
    MetricRow("wasmsr_move_downtime_seconds", "histogram",
        "From the pause of a program until it ran at its new node.", (), SECONDS),
    MetricRow("wasmsr_move_downtime_part_seconds", "histogram",
        "Parts of the downtime.", ("part",), SECONDS),
    MetricRow("wasmsr_move_dirty_bytes_per_second", "gauge",
        "How fast the program that moved last wrote to its memory, by its last whole round."),
    MetricRow("wasmsr_checkpoints", "counter",
        "Checkpoints, by outcome (written, failed, stored, not-stored).", ("outcome",)),
    MetricRow("wasmsr_checkpoint_bytes", "counter",
        "Bytes of checkpoints that were written."),
    MetricRow("wasmsr_checkpoint_seconds", "histogram",
        "How long a checkpoint took until it was on the disk; the program ran on.", (), SECONDS),
    MetricRow("wasmsr_lease_epoch", "gauge",
        "The epoch of each leased program here; its labels say who owns it, and the lease's state.",
        ("program", "owner", "state")),
    MetricRow("wasmsr_lease_checkpoint_age_seconds", "gauge",
        "Seconds since the last checkpoint of each leased program here that counts.",
        ("program",)),
    MetricRow("wasmsr_takeovers", "counter",
        "Leased programs that this node took over, by outcome (taken-over, not-taken-over).",
        ("outcome",)),
    MetricRow("wasmsr_register_outages", "counter",
        "How often the register of leased programs stopped to answer."),
    MetricRow("wasmsr_refusals", "counter",
        "Calls and programs that were refused, by rule.", ("rule",)),
    MetricRow("wasmsr_certificate_expiry_days", "gauge",
        "Days until this node's certificate expires; negative after that."),
    MetricRow("wasmsr_node_info", "gauge",
        "Always 1; its labels say what runs.", ("node", "version")),
)  # fmt: skip

BY_NAME = {row.name: row for row in ROWS}
"""Name: row."""

Labels = tuple[str, ...]


@dataclass
class Histogram:
    """What a histogram holds: a count for each bucket (not cumulative), and the sum of values."""

    counts: list[int]
    total: float = 0.0


@dataclass
class _Values:
    numbers: dict[Labels, float] = field(default_factory=dict)
    histograms: dict[Labels, Histogram] = field(default_factory=dict)


class Metrics:
    """The values of all metrics of one node. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._values = {row.name: _Values() for row in ROWS}
        self._asked: dict[str, Callable[[], Mapping[Labels, float]]] = {}

    def add(self, name: str, *labels: str, by: float = 1.0) -> None:
        """Raise a counter."""
        row = _row(name, "counter", labels)
        with self._lock:
            numbers = self._values[row.name].numbers
            key = _bounded(numbers, labels)
            numbers[key] = numbers.get(key, 0.0) + by

    def set(self, name: str, value: float, *labels: str) -> None:
        """Set a gauge."""
        row = _row(name, "gauge", labels)
        with self._lock:
            numbers = self._values[row.name].numbers
            numbers[_bounded(numbers, labels)] = value

    def ask(self, name: str, of: Callable[[], Mapping[Labels, float]]) -> None:
        """Have a gauge asked for when somebody looks.

        Args:
            name: The gauge.
            of: Returns its values by their labels. If it raises OSError, there are none.
        """
        _row(name, "gauge", None)
        self._asked[name] = of

    def observe(self, name: str, value: float, *labels: str) -> None:
        """Add a value to a histogram."""
        row = _row(name, "histogram", labels)
        with self._lock:
            histograms = self._values[row.name].histograms
            key = _bounded(histograms, labels)
            found = histograms.setdefault(key, Histogram([0] * (len(row.buckets) + 1)))
            found.counts[bisect_left(row.buckets, value)] += 1
            found.total += value

    def numbers(self, name: str) -> dict[Labels, float]:
        """Return the values of a counter or gauge, by their labels."""
        if name in self._asked:
            try:
                return dict(self._asked[name]())
            except OSError:
                return {}
        with self._lock:
            return dict(self._values[name].numbers)

    def histograms(self, name: str) -> dict[Labels, Histogram]:
        """Return a copy of what a histogram holds, by labels."""
        with self._lock:
            return {
                labels: Histogram(list(found.counts), found.total)
                for labels, found in self._values[name].histograms.items()
            }

    def take_move(self, event: str, values: Mapping[str, object]) -> None:
        """Count what an event of a move says; `event` is its kind."""
        if event == "arrived":
            self.add("wasmsr_moves", "in")
        elif event == "not-moved":
            self.add("wasmsr_moves_failed", str(values.get("reason") or "failed"))
        elif event == "refused":
            self.add("wasmsr_refusals", str(values.get("reason") or "other"))
        elif event == "round" and values.get("since"):
            rate = _number(values.get("bytes_raw")) / _number(values.get("since"))
            self.set("wasmsr_move_dirty_bytes_per_second", rate)
        elif event == "moved":
            self.add("wasmsr_moves", "out")
            self.observe("wasmsr_move_rounds", _number(values.get("rounds")))
            self.add("wasmsr_move_raw_bytes", by=_number(values.get("bytes_raw")))
            self.add("wasmsr_move_sent_bytes", by=_number(values.get("bytes")))
            self.observe("wasmsr_move_downtime_seconds", _number(values.get("downtime")))
            for name, value in values.items():
                if name.startswith("downtime_"):
                    part = name.removeprefix("downtime_")
                    self.observe("wasmsr_move_downtime_part_seconds", _number(value), part)


def _number(value: object) -> float:
    return float(value) if isinstance(value, (int, float)) else 0.0


def _row(name: str, kind: str, labels: Labels | None) -> MetricRow:
    row = BY_NAME[name]
    if row.kind != kind or (labels is not None and len(labels) != len(row.labels)):
        raise ValueError(f"{name} is a {row.kind} with the labels {row.labels}")
    return row


def _bounded(found: Mapping[Labels, Any], labels: Labels) -> Labels:
    """Return the labels, or "other" once there are many: callers choose some labels' values."""
    if labels in found or len(found) < SERIES:
        return labels
    return ("other",) * len(labels)


def table() -> Iterable[str]:
    """Yield the lines of a table of all metrics, in Markdown, for docs/metrics.md."""
    yield "| name | kind | labels | what it says |"
    yield "|---|---|---|---|"
    for row in ROWS:
        name = row.name + ("_total" if row.kind == "counter" else "")
        yield f"| `{name}` | {row.kind} | {', '.join(row.labels)} | {row.help} |"
