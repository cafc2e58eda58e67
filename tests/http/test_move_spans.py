"""Spans of moves: made by the SDK, and sent to a collector that takes OTLP over HTTP."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from tests.node.nodes import World
from tests.node.programs import counting
from wasmsr.http.move_spans import MoveSpans, ids_of, send_spans
from wasmsr.migrate.events import Event

pytest.importorskip("opentelemetry.sdk", reason="opentelemetry-sdk is not installed")
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

PROGRAM = "ab" * 16
MOVED = {
    "program": PROGRAM, "peer": "b:1", "epoch": 2, "seconds": 1.0, "downtime": 0.02, "rounds": 2,
    "bytes": 9, "bytes_raw": 20, "downtime_encode": 0.005, "downtime_wire": 0.01,
}  # fmt: skip


class Spans:
    """Spans that are kept in memory."""

    def __init__(self, node: str) -> None:
        self.exporter = InMemorySpanExporter()
        self.made = MoveSpans(self.exporter, node, "0.1.0")

    def take(self, kind: str, **values: Any) -> None:
        self.made.take(Event(kind, "", {"program": PROGRAM, **values}))

    def ended(self) -> dict[str, ReadableSpan]:
        self.made.close()
        return {span.name: span for span in self.exporter.get_finished_spans()}


def test_both_ends_of_a_move_are_in_one_trace() -> None:
    a, b = Spans("a"), Spans("b")
    a.take("prepared", peer="b:1", epoch=2)
    a.take("round", round=1, seconds=0.5, bytes_raw=4096, predicted=None, held_back=0)
    a.take("progress", left=1)
    b.take("arrived", peer="a:1", epoch=2, bytes=7, seconds=0.02)
    a.take("moved", **MOVED)
    there, (arrived,) = a.ended(), b.ended().values()
    assert set(there) == {"move", "round 1", "stop", "encode", "wire"}
    move, stop = there["move"], there["stop"]
    assert move.parent is None and move.status.is_ok | move.status.is_unset
    trace, first = ids_of(PROGRAM, 2)
    assert (move.context.trace_id, move.context.span_id) == (trace, first)
    assert {one.context.trace_id for one in [*there.values(), arrived]} == {trace}
    for one in (there["round 1"], stop, arrived):
        assert one.parent is not None and one.parent.span_id == first
    assert there["wire"].parent is not None
    assert there["wire"].parent.span_id == stop.context.span_id
    assert there["wire"].start_time == there["encode"].end_time
    assert stop.end_time == move.end_time
    assert stop.start_time is not None and stop.end_time is not None
    assert stop.end_time - stop.start_time == 20_000_000
    assert move.attributes is not None
    assert move.attributes["wasmsr.downtime"] == 0.02
    assert move.resource.attributes["service.instance.id"] == "a"


def test_a_move_that_failed_has_an_error() -> None:
    spans = Spans("a")
    spans.take("prepared", peer="b:1", epoch=2)
    spans.take("not-moved", peer="b:1", reason="limit", message="too much", hint="")
    (move,) = spans.ended().values()
    assert not move.status.is_ok and move.status.description == "too much"
    assert move.attributes is not None and move.attributes["error.type"] == "limit"


def test_what_was_never_begun_makes_no_span() -> None:
    spans = Spans("a")
    spans.take("round", round=1, seconds=0.5, bytes_raw=4096)
    spans.take("moved", **MOVED)
    spans.take("not-moved", reason="x", message="y")
    assert spans.ended() == {}


@pytest.fixture
def collector() -> Iterator[tuple[str, list[tuple[str, bytes]]]]:
    """A server that keeps what is sent to it."""
    got: list[tuple[str, bytes]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            got.append((self.path, self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}", got
    server.shutdown()
    server.server_close()


def names(data: bytes) -> Sequence[str]:
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

    request = ExportTraceServiceRequest.FromString(data)
    return [s.name for r in request.resource_spans for p in r.scope_spans for s in p.spans]


def test_a_real_move_reaches_a_collector(
    collector: tuple[str, list[tuple[str, bytes]]], tmp_path: Path
) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http", reason="no OTLP exporter")
    url, got = collector
    world = World()
    spans = send_spans(url, "a", "0.1.0")
    try:
        a = world.node("a:1", tmp_path / "a", trace=spans.take)
        world.node("b:1", tmp_path / "b", trace=spans.take)
        program = a.submit([counting(100_000, 5)], {})
        a.moves.migrate(a.find(program), "b:1")
    finally:
        for node in world.nodes.values():
            node.stop(save=False, seconds=5)
    spans.close()
    assert {path for path, _ in got} == {"/v1/traces"}
    assert {"move", "stop", "arrive"} <= {name for _, data in got for name in names(data)}


@pytest.mark.full
def test_a_collector_that_is_away_stops_no_move() -> None:
    spans = send_spans("http://127.0.0.1:1/v1/traces", "a", "0.1.0")
    spans.take(Event("prepared", "", {"program": PROGRAM, "peer": "b:1", "epoch": 2}))
    spans.take(Event("moved", "", MOVED))
    spans.close()
