"""The error of a command line that contradicts itself."""

from __future__ import annotations

from wasmsr import errors


class UsageError(errors.WasmsrError):
    """The command line contradicts itself, or does not fit the program."""

    exit_code = errors.EXIT_USAGE

    def __init__(self, message: str) -> None:
        super().__init__(message, hint="wasmsr run --help")
