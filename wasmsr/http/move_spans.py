"""Spans of a node's moves, for a collector of OpenTelemetry (OTLP over HTTP).

A move is one span at the node that the program leaves, with spans below it: the time in which the
other node prepares, each round, and the stop with its parts. The node that takes the program in has
one span. Both nodes know the program and its epoch, and derive trace and parent from them, so one
trace shows both ends though they tell each other nothing of it.

The packages are `opentelemetry-sdk` and its exporter; see https://opentelemetry.io/docs/specs/otlp/.
"""

from __future__ import annotations

import hashlib
import threading
import time
from collections.abc import Mapping
from typing import Any

from wasmsr.errors import MissingPackageError
from wasmsr.http.tracing import collector, tracer_provider
from wasmsr.migrate.events import Event

MOST = 256
"""Moves that are under way at the same time; of more there are no spans."""
SECOND = 1_000_000_000


def ids_of(program: str, epoch: int) -> tuple[int, int]:
    """Return the ids of the trace of a move, and of its first span.

    Args:
        program: The program's id, in hexadecimal digits.
        epoch: The epoch in which the other node owns the program.
    """
    digest = hashlib.sha256(f"wasmsr move {program} {epoch}".encode()).digest()
    return int.from_bytes(digest[:16], "big") or 1, int.from_bytes(digest[16:24], "big") or 1


class MoveSpans:
    """Makes spans of the events of moves. Any thread may call it."""

    def __init__(self, exporter: Any, node: str, software: str) -> None:
        """Begin.

        Args:
            exporter: Where the spans go, as the SDK has it.
            node: The node's id, in hexadecimal digits.
            software: The version of wasmsr.

        Raises:
            MissingPackageError: The package `opentelemetry-sdk` is not there.
        """
        try:
            from opentelemetry.sdk.trace.id_generator import RandomIdGenerator
        except ImportError as error:
            raise MissingPackageError("opentelemetry", "--spans", extra="spans") from error

        chosen = threading.local()

        class Ids(RandomIdGenerator):
            """Random ids, but for the first span of a move."""

            def generate_span_id(self) -> int:
                """Return the id that was chosen, or a random one."""
                found: int = chosen.__dict__.pop("span", None) or super().generate_span_id()
                return found

            def generate_trace_id(self) -> int:
                """Return the id that was chosen, or a random one."""
                found: int = chosen.__dict__.pop("trace", None) or super().generate_trace_id()
                return found

        named = {
            "service.name": "wasmsr node",
            "service.version": software,
            "service.instance.id": node,
        }
        self._chosen = chosen
        self._provider = tracer_provider(exporter, named, Ids())
        self._tracer = self._provider.get_tracer("wasmsr", software)
        self._lock = threading.Lock()
        self._open: dict[str, Any] = {}

    def take(self, event: Event) -> None:
        """Take an event of a move."""
        program = str(event.values.get("program", ""))
        now = time.time_ns()
        with self._lock:
            if event.kind == "prepared" and len(self._open) < MOST:
                self._open[program] = self._begun(program, event.values, now)
            elif event.kind == "arrived":
                self._arrived(program, event.values, now)
            elif event.kind in ("round", "moved", "not-moved"):
                move = self._open.get(program)
                if move is None:
                    return
                if event.kind == "round":
                    self._round(move, event.values, now)
                    return
                del self._open[program]
                self._end(move, event, now)

    def _begun(self, program: str, values: Mapping[str, Any], now: int) -> Any:
        self._chosen.trace, self._chosen.span = ids_of(program, values["epoch"])
        span = self._tracer.start_span("move", context=_no_parent(), start_time=now)
        span.set_attributes(
            {
                "wasmsr.program": program,
                "wasmsr.epoch": values["epoch"],
                "network.peer.address": values["peer"],
            }
        )
        return span

    def _round(self, move: Any, values: Mapping[str, Any], now: int) -> None:
        span = self._below(move, f"round {values['round']}", now - _ns(values["seconds"]))
        _note(span, values, ("bytes_raw", "predicted", "held_back"))
        span.end(now)

    def _end(self, move: Any, event: Event, now: int) -> None:
        values = event.values
        if event.kind == "not-moved":
            from opentelemetry.trace import Status, StatusCode

            move.set_status(Status(StatusCode.ERROR, str(values["message"])))
            move.set_attribute("error.type", str(values["reason"]))
            move.end(now)
            return
        _note(move, values, ("rounds", "bytes", "bytes_raw", "downtime", "predicted"))
        began = now - _ns(values["downtime"])
        stop = self._below(move, "stop", began)
        at = began
        for name, value in values.items():
            if name.startswith("downtime_") and _ns(value):
                part = self._below(stop, name.removeprefix("downtime_"), at)
                at += _ns(value)
                part.end(at)
        stop.end(now)
        move.end(now)

    def _arrived(self, program: str, values: Mapping[str, Any], now: int) -> None:
        from opentelemetry.trace import NonRecordingSpan, SpanContext, TraceFlags

        trace, parent = ids_of(program, int(values["epoch"]))
        there = SpanContext(trace, parent, is_remote=True, trace_flags=TraceFlags(1))
        span = self._below(NonRecordingSpan(there), "arrive", now - _ns(values.get("seconds")))
        span.set_attribute("wasmsr.program", program)
        _note(span, values, ("epoch", "bytes"))
        span.end(now)

    def _below(self, parent: Any, name: str, start: int) -> Any:
        from opentelemetry.trace import set_span_in_context

        context = set_span_in_context(parent)
        return self._tracer.start_span(name, context=context, start_time=start)

    def close(self) -> None:
        """Send what is left, and stop."""
        self._provider.shutdown()


def _no_parent() -> Any:
    from opentelemetry.context import Context

    return Context()


def _ns(seconds: object) -> int:
    return int(seconds * SECOND) if isinstance(seconds, (int, float)) else 0


def _note(span: Any, values: Mapping[str, Any], names: tuple[str, ...]) -> None:
    for name in names:
        if isinstance(values.get(name), (int, float)):
            span.set_attribute(f"wasmsr.{name}", values[name])


def send_spans(url: str, node: str, software: str) -> MoveSpans:
    """Return spans that go to a collector.

    Args:
        url: The collector, such as http://127.0.0.1:4318; spans go to its path /v1/traces.
        node: The node's id, in hexadecimal digits.
        software: The version of wasmsr.

    Raises:
        MissingPackageError: The exporter is not there.
    """
    return MoveSpans(collector(url), node, software)


__all__ = ["MoveSpans", "ids_of", "send_spans"]
