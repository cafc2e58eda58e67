"""Shows a node's metrics to Prometheus: `GET /metrics` in its text format.

`prometheus-client` writes the format and serves it; see https://prometheus.io/docs/instrumenting/
exposition_formats/.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any, Protocol

from wasmsr.errors import MissingPackageError
from wasmsr.http.bounded_server import BoundedServer
from wasmsr.node.metrics import ROWS, Histogram, Labels, MetricRow
from wasmsr.runspec.address import Address


class ShownMetrics(Protocol):
    """Values of metrics: those of a node, or of jobs."""

    def numbers(self, name: str) -> dict[Labels, float]:
        """Return the values of a counter or gauge, by their labels."""

    def histograms(self, name: str) -> dict[Labels, Histogram]:
        """Return what a histogram holds, by labels."""


class _Collector:
    """Gives values to the package, in its classes."""

    def __init__(self, metrics: ShownMetrics, rows: Iterable[MetricRow] = ROWS) -> None:
        self._metrics = metrics
        self._rows = rows

    def collect(self) -> Iterator[Any]:
        """Yield every metric."""
        from prometheus_client.core import (
            CounterMetricFamily,
            GaugeMetricFamily,
            HistogramMetricFamily,
        )

        for row in self._rows:
            if row.kind == "histogram":
                family: Any = HistogramMetricFamily(row.name, row.help, labels=row.labels)
                for labels, found in self._metrics.histograms(row.name).items():
                    bounds = [str(bound) for bound in row.buckets] + ["+Inf"]
                    buckets = list(zip(bounds, accumulate(found.counts), strict=True))
                    family.add_metric(labels, buckets, found.total)
            else:
                kind = CounterMetricFamily if row.kind == "counter" else GaugeMetricFamily
                family = kind(row.name, row.help, labels=row.labels)
                numbers = self._metrics.numbers(row.name)
                if not numbers and not row.labels and row.kind == "counter":
                    numbers = {(): 0.0}
                for labels, value in numbers.items():
                    family.add_metric(_texts(labels), value)
            yield family


def _texts(labels: Labels) -> list[str]:
    return [label.encode("utf-8", "replace").decode() for label in labels]


def serve_metrics(
    metrics: ShownMetrics, address: Address, rows: Iterable[MetricRow] = ROWS
) -> BoundedServer:
    """Serve metrics at an address; see `serve_collector`."""
    return serve_collector(_Collector(metrics, rows), address)


def serve_collector(collector: Any, address: Address) -> BoundedServer:
    """Serve what a collector of `prometheus-client` gives at an address.

    Raises:
        HostError: The address cannot be used.
        MissingPackageError: The package `prometheus-client` is not there.
    """
    try:
        from prometheus_client import CollectorRegistry, make_wsgi_app
    except ImportError as error:
        raise MissingPackageError("prometheus_client", "--metrics", extra="node") from error
    registry = CollectorRegistry(auto_describe=False)
    registry.register(collector)
    return BoundedServer(make_wsgi_app(registry), address, "--metrics")
