"""Shows a node's metrics to Prometheus: `GET /metrics` in its text format.

`prometheus-client` writes the format and serves it; see https://prometheus.io/docs/instrumenting/
exposition_formats/.
"""

from __future__ import annotations

import socket
import socketserver
import threading
from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer

from wasmsr.errors import HostError, MissingPackageError
from wasmsr.node.metrics import ROWS, Labels, MetricRow, Metrics
from wasmsr.runspec.address import Address

STALL_SECONDS = 5.0
"""Seconds that a silent client keeps a connection."""
CLIENTS = 8
"""Clients that are answered at the same time; others wait."""


class _Collector:
    """Gives the values of a node to the package, in its classes."""

    def __init__(self, metrics: Metrics, rows: Iterable[MetricRow] = ROWS) -> None:
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


class _Handler(WSGIRequestHandler):
    """A request: one that is silent ends, and none is logged."""

    timeout = STALL_SECONDS

    def log_message(self, format: str, *values: Any) -> None:
        """Log nothing."""


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """Answers a few clients at the same time, each on a thread."""

    daemon_threads = True

    def __init__(self, address: tuple[str, int], handler: Any) -> None:
        if ":" in address[0]:
            self.address_family = socket.AF_INET6
        self._places = threading.Semaphore(CLIENTS)
        super().__init__(address, handler)

    def process_request(self, request: Any, client_address: Any) -> None:
        """Answer a client on a thread, when there is a place for it."""
        self._places.acquire()
        try:
            super().process_request(request, client_address)
        except BaseException:
            self._places.release()
            raise

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        """Answer a client, and leave its place."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._places.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignore clients that go away."""


class MetricsServer:
    """Serves metrics at one address until `stop`."""

    def __init__(self, metrics: Metrics, address: Address) -> None:
        """Bind and start.

        Raises:
            HostError: The address cannot be used.
            MissingPackageError: The package `prometheus-client` is not there.
        """
        try:
            from prometheus_client import CollectorRegistry, make_wsgi_app
        except ImportError as error:
            raise MissingPackageError("prometheus_client", "--metrics") from error
        registry = CollectorRegistry(auto_describe=False)
        registry.register(_Collector(metrics))
        try:
            self._server = _Server((address.host, address.port), _Handler)
            self._server.set_app(make_wsgi_app(registry))
        except OSError as error:
            raise HostError(
                f"cannot serve metrics on {address}: {error.strerror or error}",
                hint="choose another --metrics",
            ) from error
        self.port: int = self._server.server_port
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="wasmsr-metrics", daemon=True
        )
        self._thread.start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
