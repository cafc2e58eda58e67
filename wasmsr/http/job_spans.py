"""Spans of executions of jobs, for a collector of OpenTelemetry.

    with Executor(note=JobSpans(exporter, version).take) as executor: ...

An execution is one span, from its start to its end. Checkpoints, losses of its worker, pauses and
resumes are events of the span.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from wasmsr.errors import MissingPackageError

MOST = 4096
"""Executions that are under way at the same time; of more there are no spans."""


class JobSpans:
    """Makes spans of the events of an executor. Any thread may call it."""

    def __init__(self, exporter: Any, software: str) -> None:
        """Begin.

        Args:
            exporter: Where the spans go, as the SDK has it.
            software: The version of wasmsr.

        Raises:
            MissingPackageError: The package `opentelemetry-sdk` is not there.
        """
        try:
            from opentelemetry.sdk.resources import Resource
            from opentelemetry.sdk.trace import TracerProvider
            from opentelemetry.sdk.trace.export import BatchSpanProcessor
        except ImportError as error:
            raise MissingPackageError("opentelemetry", "--spans") from error
        named = {"service.name": "wasmsr jobs", "service.version": software}
        self._provider = TracerProvider(resource=Resource.create(named), shutdown_on_exit=False)
        self._provider.add_span_processor(BatchSpanProcessor(exporter))
        self._tracer = self._provider.get_tracer("wasmsr", software)
        self._lock = threading.Lock()
        self._open: dict[str, Any] = {}

    def take(self, event: str, id: str, **values: Any) -> None:
        """Take an event of an executor."""
        now = time.time_ns()
        plain = {f"wasmsr.{name}": one for name, one in values.items() if _is_plain(one)}
        with self._lock:
            if event == "started":
                if len(self._open) < MOST:
                    begun = self._tracer.start_span("execution", start_time=now)
                    begun.set_attributes({"wasmsr.execution": id, **plain})
                    self._open[id] = begun
                return
            span: Any = self._open.pop(id, None) if event == "ended" else self._open.get(id)
        if span is None:
            return
        if event != "ended":
            span.add_event(event, plain, now)
            return
        span.set_attributes(plain)
        if values.get("state") != "ended":
            from opentelemetry.trace import Status, StatusCode

            said = str(values.get("error") or values.get("state"))
            span.set_status(Status(StatusCode.ERROR, said))
        span.end(now)

    def close(self) -> None:
        """Send what is left, and stop."""
        self._provider.shutdown()


def _is_plain(value: object) -> bool:
    return isinstance(value, (str, int, float, bool))


__all__ = ["JobSpans"]
