"""Where an execution differs from the same one of Bacalhau, and where it does not.

A `Manner` is one of two: ours, or the peer's (`--compat bacalhau`). docs/jobs.md has the list.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wasmsr.errors import EXIT_FUEL, EXIT_HOST, EXIT_TRAP
from wasmsr.executor.port import ProgramStatus

EXIT_CANCELLED: Final = 130
"""The exit code of a cancelled execution: that of a process that Ctrl-C has ended."""

PEER_CANCELLED: Final = 4294967295
PEER_RETURNED: Final = -1
PEER_FAILED: Final = 1

EXIT_DIGITS: Final = 4
"""Characters of the exit code that the file `exitCode` has; the result has all."""

_PEER_TRAPS: Mapping[str, str] = {
    "call stack exhausted": "stack overflow",
    "out of bounds table access": "invalid table access",
    "undefined element": "invalid table access",
    "uninitialized element": "invalid table access",
}
"""Traps that wazero, the engine of the peer, names otherwise."""


@dataclass(frozen=True)
class Manner:
    """How an executor answers.

    Attributes:
        peer: Whether as Bacalhau does.
    """

    peer: bool = False

    def exit_code(self, status: ProgramStatus) -> int:
        """Return the exit code of a program that came to its end."""
        if status.ending == "exited":
            return status.exit
        if status.ending == "finished":
            return PEER_RETURNED if self.peer else 0
        if self.peer:
            return PEER_FAILED
        return EXIT_TRAP if status.ending == "trapped" else status.code or EXIT_HOST

    def error(self, status: ProgramStatus) -> str:
        """Return what went wrong with a program that came to its end, or ""."""
        if status.ending in ("exited", "finished"):
            return ""
        if self.peer and status.trap:
            name = _PEER_TRAPS.get(status.trap, status.trap)
            return name if name == "stack overflow" else f"wasm error: {name}"
        return status.sentence or status.ending

    @property
    def cancelled(self) -> tuple[int, str]:
        """The exit code and the error of a cancelled execution."""
        return (PEER_CANCELLED, "") if self.peer else (EXIT_CANCELLED, "cancelled")

    def timed_out(self, seconds: float) -> tuple[int, str]:
        """Return the exit code and the error of an execution that took too long."""
        return (PEER_FAILED if self.peer else EXIT_FUEL), f"Execution timed out after {seconds:g}s"


__all__ = ["EXIT_CANCELLED", "EXIT_DIGITS", "Manner"]
