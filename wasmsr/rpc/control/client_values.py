"""What a node answers to its clients, as values."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class LogPiece:
    """Output of a program.

    Attributes:
        stream: "stdout" or "stderr".
        offset: Offset in the stream of the first byte.
        data: The bytes.
        life: The life of the program in which they were written.
        rewound: The program continues from a save point: what came of the stream from `offset` on
            is written again.
        dropped: Bytes before `offset` that were asked for and are kept no more.
    """

    stream: str
    offset: int
    data: bytes
    life: int
    rewound: bool = False
    dropped: int = 0


@dataclass(frozen=True)
class MoveEvent:
    """Something that has happened in a move.

    Attributes:
        kind: "prepared", "round", "progress", "moved", "not-moved", "asking" and so on, as in
            docs/nodes.md.
        text: A line for people, or "".
        values: Bytes and seconds by name; "program" is the program's id.
    """

    kind: str
    text: str
    values: Mapping[str, Any]

    @classmethod
    def read(cls, message: Any) -> MoveEvent:
        """Return the value of a message."""
        return cls(message.kind, message.text, json.loads(message.values or "{}"))


@dataclass(frozen=True)
class DrainReport:
    """What a drain has done.

    Attributes:
        moved: Programs that are elsewhere now.
        left: Programs that are still here, by id, and why.
    """

    moved: int
    left: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class SavedProgram:
    """A snapshot of a program that a node has given.

    Attributes:
        size: Bytes of the file.
        stdout: Bytes of standard output that the program had written.
        stderr: The same of standard error.
    """

    size: int
    stdout: int
    stderr: int


__all__ = ["DrainReport", "LogPiece", "MoveEvent", "SavedProgram"]
