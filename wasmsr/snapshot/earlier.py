"""An earlier state of the same program: what has not changed since is neither checked nor packed.

A program of 24,000 data segments has them all in each of its snapshots, dropped at its start. When
the program is paused for a move, to read such lists again would cost milliseconds.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from wasmsr.snapshot.state import SnapshotState


@dataclass(frozen=True)
class EarlierState:
    """A state that was checked, and payloads of its sections.

    Attributes:
        state: The state. Nobody changes it.
        payloads: The payloads of sections by kind, as far as they are kept.
    """

    state: SnapshotState
    payloads: Mapping[int, bytes]

    def checked(self) -> frozenset[int]:
        """Return the ids of the lists whose items were checked."""
        return frozenset(
            id(found)
            for one in self.state.instances
            for found in (one.dropped_elements, one.dropped_data)
        )


__all__ = ["EarlierState"]
