"""What Prometheus and OpenTelemetry hear of executions of jobs."""

from __future__ import annotations

import urllib.request
from pathlib import Path

import pytest

from tests.jobs.programs import request
from wasmsr.http.job_metrics import JobMetrics, serve_job_metrics
from wasmsr.http.job_spans import JobSpans
from wasmsr.jobs import Executor
from wasmsr.runspec.address import Address

LOOP = '(module (memory (export "memory") 1) (func (export "_start") (loop br 0)))'


def test_executions_are_counted_and_have_spans(tmp_path: Path) -> None:
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = export.InMemorySpanExporter()
    metrics, spans = JobMetrics(), JobSpans(exporter, "1")

    def note(event: str, id: str, **values: object) -> None:
        metrics.take(event, id, **values)
        spans.take(event, id, **values)

    with Executor(tmp_path / "jobs", note=note) as executor:
        executor.start(request(tmp_path, "a", LOOP, job_id="j"))
        executor.pause("a")
        assert metrics.active == 1
        executor.cancel("a")
        assert metrics.active == 0
        server = serve_job_metrics(metrics, Address("127.0.0.1", 0))
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{server.port}/metrics") as reply:
                text = reply.read().decode()
        finally:
            server.stop()
    assert "wasm_active_executions 0.0\n" in text
    assert 'wasmsr_executions_ended_total{state="cancelled"} 1.0\n' in text
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert span.attributes["wasmsr.execution"] == "a"
    assert span.attributes["wasmsr.job"] == "j"
    assert [one.name for one in span.events] == ["paused"]
    assert span.status.description == "cancelled"


def test_an_execution_that_is_left_is_not_active(tmp_path: Path) -> None:
    export = pytest.importorskip("opentelemetry.sdk.trace.export.in_memory_span_exporter")
    exporter = export.InMemorySpanExporter()
    metrics, spans = JobMetrics(), JobSpans(exporter, "1")

    def note(event: str, id: str, **values: object) -> None:
        metrics.take(event, id, **values)
        spans.take(event, id, **values)

    with Executor(tmp_path / "jobs", note=note) as executor:
        executor.start(request(tmp_path, "a", LOOP))
        executor.leave()
    assert metrics.active == 0
    spans.close()
    (span,) = exporter.get_finished_spans()
    assert [one.name for one in span.events] == ["checkpoint", "left"]
    assert span.status.description is None
