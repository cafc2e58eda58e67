"""How long the steps of a program took."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager


class Timings:
    """The durations of steps: name to seconds of each time, in the order of first use."""

    def __init__(self) -> None:
        self.spans: dict[str, list[float]] = {}

    def add(self, name: str, seconds: float) -> None:
        """Add the duration of one more time."""
        self.spans.setdefault(name, []).append(seconds)

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the duration of the block."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.add(name, time.perf_counter() - began)
