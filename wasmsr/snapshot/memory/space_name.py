"""The names of spaces: bytes of a program that are stored as pages, such as linear memories."""

from __future__ import annotations

from typing import NamedTuple

MEMORY_SPACE = 0
"""The kind of spaces that are linear memories; their numbers are addresses in the store."""


class SpaceName(NamedTuple):
    """What space it is: its kind (`MEMORY_SPACE`) and its number."""

    kind: int
    number: int

    def __str__(self) -> str:
        return (
            f"memory {self.number}"
            if self.kind == MEMORY_SPACE
            else f"space {self.kind}/{self.number}"
        )
