"""The errors of a fleet's own parts; what peers say wrong is `wire.failures.WireError`."""

from __future__ import annotations

from wasmsr.errors import WasmsrError


class FleetError(WasmsrError):
    """The list of a fleet cannot be used, or what was asked for is not in it."""
