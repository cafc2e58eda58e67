"""Spans of executions of jobs, for a collector of OpenTelemetry.

    with Executor(note=JobSpans(exporter, version).take) as executor: ...

An execution is one span, from its start to its end. Checkpoints, losses of its worker, pauses and
resumes are events of the span.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from wasmsr.http.tracing import tracer_provider

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
        named = {"service.name": "wasmsr jobs", "service.version": software}
        self._provider = tracer_provider(exporter, named)
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
            over = event in ("ended", "left")
            span: Any = self._open.pop(id, None) if over else self._open.get(id)
        if span is None:
            return
        if not over:
            span.add_event(event, plain, now)
            return
        span.set_attributes(plain)
        if event == "left":  # another executor goes on with it, in a span of its own
            span.add_event(event, plain, now)
        elif values.get("state") != "ended":
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
