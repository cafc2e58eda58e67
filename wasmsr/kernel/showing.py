"""What a cell shows: output in batches, and marks around what is shown again after a kill.

A mark is a `display_data` whose metadata has the key `wasmsr`: `{"resumed": COUNTS}`, with the
characters by stream and the objects that follow again, and `{"repeated": "end"}` behind them.
Without anything to show again, the first has no counts and the second is left out.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

BATCH = 0.05
"""Seconds for which output is collected before it is shown."""
MOST_BATCHED = 1 << 16
"""Characters that are shown at once."""
NOTHING = {"stdout": 0, "stderr": 0, "objects": 0}
Publish = Callable[[str, dict[str, Any]], None]


class CellOutput:
    """What one cell after the other shows.

    Args:
        publish: Tells clients: the type of a message, and its content.
    """

    def __init__(self, publish: Publish) -> None:
        self._publish = publish
        self._at = dict(NOTHING)
        self._most = dict(NOTHING)
        self._repeats = False
        self._batch: tuple[str, list[str]] | None = None
        self._size = 0
        self._begun = 0.0

    @property
    def counts(self) -> dict[str, int]:
        """What the cell has shown: characters by stream, and objects."""
        return {name: max(self._at[name], self._most[name]) for name in self._at}

    def begin(self) -> None:
        """Begin a cell."""
        self._at, self._most, self._repeats = dict(NOTHING), dict(NOTHING), False

    def text(self, stream: str, text: str) -> None:
        """Take output, which is shown soon."""
        while text:
            if self._batch is not None and self._batch[0] != stream:
                self.flush()
            if self._batch is None:
                self._batch, self._size, self._begun = (stream, []), 0, time.monotonic()
            left = self._most[stream] - self._at[stream]
            part = text[:left] if self._repeats and 0 < left < len(text) else text
            text = text[len(part) :]
            self._batch[1].append(part)
            self._size += len(part)
            self._at[stream] += len(part)
            self._passed()
        if self._size > MOST_BATCHED:
            self.flush()

    def show(self, data: Mapping[str, str]) -> None:
        """Show an object."""
        self.flush()
        self._publish("display_data", {"data": data, "metadata": {}, "transient": {}})
        self._at["objects"] += 1
        self._passed()

    def flush(self) -> None:
        """Show what was collected."""
        if self._batch is not None:
            (stream, parts), self._batch = self._batch, None
            self._publish("stream", {"name": stream, "text": "".join(parts)})

    def wait(self) -> float | None:
        """Return the seconds until output is to be shown; None if there is none."""
        if self._batch is None:
            return None
        return max(0.0, self._begun + BATCH - time.monotonic())

    def resumed(self, at: Mapping[str, int], why: str) -> None:
        """Say that the cell goes on from a state.

        Args:
            at: What it had shown in this state.
            why: What has happened.
        """
        self.flush()
        self._most = self.counts
        self._at = {**NOTHING, **at}
        again = {name: self._most[name] - self._at[name] for name in self._most}
        self._repeats = any(count > 0 for count in again.values())
        said = f"wasmsr: {why}" + (" What follows was shown before." if self._repeats else "")
        self.mark(said, {"resumed": again if self._repeats else {}})

    def end(self) -> None:
        """End the cell."""
        self.flush()
        if self._repeats:
            self._end_repeats()

    def mark(self, said: str, about: dict[str, Any]) -> None:
        """Show a sentence of the kernel itself."""
        self.flush()
        content = {
            "data": {"text/plain": said},
            "metadata": {"wasmsr": about},
            "transient": {},
        }
        self._publish("display_data", content)

    def _passed(self) -> None:
        if self._repeats and all(self._at[name] >= self._most[name] for name in self._at):
            self._end_repeats()

    def _end_repeats(self) -> None:
        self._repeats = False
        self.mark("wasmsr: What follows is new.", {"repeated": "end"})
