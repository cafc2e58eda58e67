"""Tracers of OpenTelemetry, and the collector to which their spans go.

The packages are `opentelemetry-sdk` and its exporter; see https://opentelemetry.io/docs/specs/otlp/.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wasmsr.errors import MissingPackageError


def tracer_provider(exporter: Any, named: Mapping[str, str], ids: Any = None) -> Any:
    """Return what makes tracers, and sends their spans in batches.

    Args:
        exporter: Where the spans go, as the SDK has it.
        named: What the spans say of this process, such as `service.name`.
        ids: What makes ids of traces and spans; None makes random ones.

    Raises:
        MissingPackageError: The package `opentelemetry-sdk` is not there.
    """
    try:
        from opentelemetry.sdk.resources import Resource
        from opentelemetry.sdk.trace import TracerProvider
        from opentelemetry.sdk.trace.export import BatchSpanProcessor
    except ImportError as error:
        raise MissingPackageError("opentelemetry", "--spans", extra="spans") from error
    resource = Resource.create(dict(named))
    provider = TracerProvider(resource=resource, id_generator=ids, shutdown_on_exit=False)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider


def collector(url: str) -> Any:
    """Return an exporter that sends spans to a collector by OTLP over HTTP.

    Args:
        url: The collector, such as http://127.0.0.1:4318; spans go to its path /v1/traces.

    Raises:
        MissingPackageError: The exporter is not there.
    """
    try:
        from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    except ImportError as error:
        raise MissingPackageError("opentelemetry", "--spans", extra="spans") from error
    address = url.rstrip("/")
    address += "" if address.endswith("/v1/traces") else "/v1/traces"
    return OTLPSpanExporter(endpoint=address, timeout=5)


__all__ = ["collector", "tracer_provider"]
