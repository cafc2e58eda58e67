"""The states of a program."""

from __future__ import annotations

from enum import Enum


class ProgramState(Enum):
    """Whether a program runs, and why not."""

    RUNNING = "running"
    PAUSED = "paused"
    """Nobody has started it yet, or `Program.pause` has stopped it."""
    STOP = "stop"
    """It has reached `StopConditions.stop`."""
    HIT = "hit"
    """It has reached another of its `StopConditions`: a breakpoint, a watched memory or the number
    of a host call."""
    FUEL = "fuel"
    """It has reached `StopConditions.fuel`."""
    IDLE = "idle"
    """All invocations have returned; `Program.call` makes another."""
    ENDED = "ended"
    """It trapped or exited; `Program.wait` says how."""
    FAILED = "failed"
    """The host failed; `Program.wait` raises the error."""
