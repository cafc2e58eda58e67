"""Limits what callers can hold: a few calls of each method at once, and no silent call.

All that the file uses of gRPC is that a call can be cancelled.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from wasmsr.rpc import channel

LOOK_SECONDS = 0.25
"""Seconds between two checks of the calls that wait for their peer."""


class Gate:
    """Admits calls, and cancels those that are silent or slow."""

    def __init__(self, places: Mapping[str, int]) -> None:
        """Make a gate; `places` says how many calls of each method may run at once."""
        self._places = {name: threading.Semaphore(count) for name, count in places.items()}
        self._lock = threading.Lock()
        self._waiting: dict[int, tuple[float, Any]] = {}
        self._closed = threading.Event()
        self._watching = False

    @contextmanager
    def enter(self, method: str) -> Iterator[bool]:
        """Return whether one more call of this method may run; the block has its place."""
        places = self._places[method]
        entered = places.acquire(blocking=False)
        try:
            yield entered
        finally:
            if entered:
                places.release()

    def read(self, requests: Iterator[bytes], wire: Any) -> Iterator[bytes]:
        """Return the messages of a call.

        A call that is silent for `STALL_SECONDS`, or slower than `LEAST_RATE`, is cancelled. Only
        the time in which this end waits for the peer counts.
        """
        waited, size = 0.0, 0
        while True:
            began = time.monotonic()
            allowed = channel.STALL_SECONDS + size / channel.LEAST_RATE - waited
            self._expect(wire, began + min(channel.STALL_SECONDS, allowed))
            try:
                data = next(requests, None)
            finally:
                self._heard(wire)
            if data is None:
                return
            waited += time.monotonic() - began
            size += len(data)
            yield data

    def send(self, replies: Iterator[bytes], wire: Any) -> Iterator[bytes]:
        """Return the answers of a call.

        A call whose peer takes an answer slower than `LEAST_RATE`, and not in `STALL_SECONDS`, is
        cancelled. Only the time in which this end waits for the peer counts.
        """
        for reply in replies:
            allowed = channel.STALL_SECONDS + len(reply) / channel.LEAST_RATE
            self._expect(wire, time.monotonic() + allowed)
            try:
                yield reply
            finally:
                self._heard(wire)

    def close(self) -> None:
        """Stop watching."""
        self._closed.set()

    def _expect(self, wire: Any, deadline: float) -> None:
        with self._lock:
            self._waiting[id(wire)] = deadline, wire
            if not self._watching:
                self._watching = True
                threading.Thread(target=self._watch, name="wasmsr-gate", daemon=True).start()

    def _heard(self, wire: Any) -> None:
        with self._lock:
            self._waiting.pop(id(wire), None)

    def _watch(self) -> None:
        while not self._closed.wait(LOOK_SECONDS):
            now = time.monotonic()
            with self._lock:
                late = [wire for deadline, wire in self._waiting.values() if deadline < now]
            for wire in late:
                wire.cancel()
