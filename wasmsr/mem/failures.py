"""The errors of remote memory."""

from __future__ import annotations

from wasmsr.errors import EXIT_USAGE, WasmsrError


class RemoteMemoryError(WasmsrError):
    """A memory element did not do what it was asked.

    Attributes:
        status: The status of its answer, see `wasmsr.mem.wire.commands.STATUS_WORDS`; None where it
            gave no answer.
    """

    def __init__(self, message: str, *, status: int | None = None, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.status = status


class RemoteMemoryAway(RemoteMemoryError):
    """A memory element cannot be reached.

    Attributes:
        since: When it was last heard of, in seconds since the epoch; None if it never was.
    """

    def __init__(
        self, message: str, *, since: float | None = None, hint: str | None = None
    ) -> None:
        super().__init__(message, hint=hint)
        self.since = since


class OtherProtocolError(RemoteMemoryError):
    """What is at the other end of a connection is no memory element."""


class TransportError(RemoteMemoryError):
    """The text or the name of a transport is wrong, or the transport cannot be had here."""

    exit_code = EXIT_USAGE
