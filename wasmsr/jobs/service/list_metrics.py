"""What is counted of the jobs of a folder, for Prometheus: gauges, asked when somebody looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any

from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import OPEN_JOBS
from wasmsr.node.metrics import Histogram, Labels, MetricRow

JOB_ROWS = (
    MetricRow("wasm_active_executions", "gauge",
        "Executions whose program runs; the name is Bacalhau's."),
    MetricRow("wasmsr_jobs", "gauge",
        "Jobs of the list, by state.", ("state",)),
    MetricRow("wasmsr_executions", "gauge",
        "Executions of the list, by state.", ("state",)),
    MetricRow("wasmsr_jobs_oldest_open_seconds", "gauge",
        "Age of the oldest batch or ops job that has not ended; 0 if there is none."),
)  # fmt: skip

STATES: Mapping[str, tuple[str, ...]] = {
    "wasmsr_jobs": (*OPEN_JOBS, "Completed", "Failed", "Stopped"),
    "wasmsr_executions": ("New", "Running", "Publishing", "Completed", "Failed", "Cancelled"),
}
"""States that are shown even if nothing is in them."""


class JobListMetrics:
    """The values of `JOB_ROWS`. Any thread may call it."""

    def __init__(self, jobs: JobList, now: Any) -> None:
        """Take a list; `now` returns the time, in seconds since 1970."""
        self._jobs, self._now = jobs, now

    def numbers(self, name: str) -> dict[Labels, float]:
        """Return the values of a gauge, by their labels. Raises JobError."""
        counts = self._jobs.counts()
        if name == "wasm_active_executions":
            return {(): float(counts["runs"].get("Running", 0))}
        if name == "wasmsr_jobs_oldest_open_seconds":
            begun = [
                job.created
                for job in self._jobs.jobs(only_open=True)
                if job.type in ("batch", "ops")
            ]
            return {(): max(0.0, self._now() - min(begun)) if begun else 0.0}
        found = Counter(dict.fromkeys(STATES[name], 0))
        found.update(counts["jobs" if name == "wasmsr_jobs" else "runs"])
        return {(state,): float(number) for state, number in found.items()}

    def histograms(self, name: str) -> dict[Labels, Histogram]:
        """Return nothing: there are only gauges."""
        return {}

    def lines(self) -> Iterator[str]:
        """Yield all values in the text format of Prometheus, version 0.0.4."""
        for row in JOB_ROWS:
            yield f"# HELP {row.name} {row.help}"
            yield f"# TYPE {row.name} {row.kind}"
            for labels, value in self.numbers(row.name).items():
                pairs = ",".join(
                    f'{name}="{label}"' for name, label in zip(row.labels, labels, strict=True)
                )
                yield f"{row.name}{{{pairs}}} {value:g}" if pairs else f"{row.name} {value:g}"


__all__ = ["JOB_ROWS", "JobListMetrics"]
