"""Shows an executor of jobs to Prometheus: how many executions are active, and how others ended.

    with Executor(note=metrics.take) as executor: ...

The gauge `wasm_active_executions` has the name that Bacalhau gives it.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Iterator
from typing import Any, Final

from wasmsr.http.bounded_server import BoundedServer
from wasmsr.http.metrics_server import serve_collector
from wasmsr.runspec.address import Address

ACTIVE: Final = "wasm_active_executions"
"""Executions that were started and have not ended; paused ones count."""


class JobMetrics:
    """Counts the events of an executor. Any thread may call it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._active: set[str] = set()
        self._ended: Counter[str] = Counter()
        self._others: Counter[str] = Counter()

    def take(self, event: str, id: str, **values: Any) -> None:
        """Take an event of an executor."""
        with self._lock:
            if event == "started":
                self._active.add(id)
            elif event == "ended":
                self._active.discard(id)
                self._ended[str(values.get("state"))] += 1
            elif event == "left":  # another executor goes on with it
                self._active.discard(id)
            else:
                self._others[event] += 1

    @property
    def active(self) -> int:
        """How many executions are active."""
        with self._lock:
            return len(self._active)

    def collect(self) -> Iterator[Any]:
        """Yield every metric, in the classes of `prometheus-client`."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            active, ended, others = len(self._active), dict(self._ended), dict(self._others)
        yield GaugeMetricFamily(ACTIVE, "Executions of jobs that have not ended.", value=active)
        family = CounterMetricFamily(
            "wasmsr_executions_ended", "Executions that ended, by state.", labels=("state",)
        )
        for state, count in sorted(ended.items()):
            family.add_metric([state], count)
        yield family
        for name, event, help in (
            ("wasmsr_executions_lost", "worker-lost", "Workers that executions have lost."),
            ("wasmsr_executions_saved", "checkpoint", "Checkpoints of executions."),
        ):
            yield CounterMetricFamily(name, help, value=others.get(event, 0))


def serve_job_metrics(metrics: JobMetrics, address: Address) -> BoundedServer:
    """Serve metrics of jobs at an address; see `serve_collector`."""
    return serve_collector(metrics, address)


__all__ = ["ACTIVE", "JobMetrics", "serve_job_metrics"]
