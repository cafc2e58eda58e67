"""The error of everything that a peer of the fleet said."""

from __future__ import annotations

from typing import Any

from wasmsr.errors import WasmsrError


class WireError(WasmsrError):
    """A message, a topic, a frame or a record is not what the protocol allows.

    Attributes:
        reason: The short text that an orchestrator publishes as `desc` of an error.
        value: The value that it publishes as `data`: what was wrong. It can be JSON.
    """

    def __init__(self, reason: str, value: Any = None, *, hint: str | None = None) -> None:
        self.reason = reason
        self.value = value
        super().__init__(reason if value is None else f"{reason}: {value}", hint=hint)
