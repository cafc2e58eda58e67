"""The errors of this room."""

from __future__ import annotations

from wasmsr.errors import EXIT_USAGE, WasmsrError


class CredentialsError(WasmsrError):
    """Keys or certificates of this side cannot be used. The message names the file."""

    exit_code = EXIT_USAGE


class AccessRefused(WasmsrError):
    """A caller may not do what it asks for.

    Attributes:
        rule: The rule that refuses, as metrics and logs name it: "certificate", "revoked",
            "token", or a key of the policy.
    """

    def __init__(self, rule: str, message: str, *, hint: str | None = None) -> None:
        super().__init__(message, hint=hint)
        self.rule = rule
