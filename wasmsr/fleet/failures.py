"""The errors of a fleet's own parts; what peers say wrong is `wire.failures.WireError`."""

from __future__ import annotations

from wasmsr.errors import EXIT_USAGE, WasmsrError


class FleetError(WasmsrError):
    """The list of a fleet cannot be used, or nothing can be done with what it says."""


class NotInFleet(FleetError):
    """No device or module has a name, or more than one has it."""

    exit_code = EXIT_USAGE
