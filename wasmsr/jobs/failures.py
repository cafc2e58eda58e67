"""The one error of jobs, and the table of its codes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasmsr.errors import EXIT_HOST, EXIT_MODULE, EXIT_USAGE, WasmsrError

ENGINE, EXECUTOR = "WASM", "Executor"


@dataclass(frozen=True)
class ErrorKind:
    """What all errors with one code have in common.

    Attributes:
        http: Status of HTTP for it.
        component: "WASM" for what concerns the module and its surroundings, "Executor" for what
            concerns an execution.
        exit_code: Exit code of the command line.
    """

    http: int
    component: str = ENGINE
    exit_code: int = EXIT_USAGE


KINDS: Mapping[str, ErrorKind] = {
    "ModuleNotFound": ErrorKind(404, exit_code=EXIT_MODULE),
    "ModuleCompileError": ErrorKind(400, exit_code=EXIT_MODULE),
    "ModuleLoadError": ErrorKind(500, exit_code=EXIT_MODULE),
    "WASIError": ErrorKind(500, exit_code=EXIT_HOST),
    "UnknownModuleError": ErrorKind(400, exit_code=EXIT_MODULE),
    "SpecError": ErrorKind(400),
    "LogError": ErrorKind(500, exit_code=EXIT_HOST),
    "EntrypointError": ErrorKind(400, exit_code=EXIT_MODULE),
    "MemoryLimitError": ErrorKind(400),
    "FilesystemError": ErrorKind(500, exit_code=EXIT_HOST),
    "InputConfigError": ErrorKind(400),
    "OutputConfigError": ErrorKind(400),
    "ExecutionAlreadyStarted": ErrorKind(500, EXECUTOR),
    "ExecutionAlreadyComplete": ErrorKind(500, EXECUTOR),
    "ExecutionNotFound": ErrorKind(500, EXECUTOR),
    "ExecutionAlreadyCancelled": ErrorKind(500, EXECUTOR),
    "ExecutorSpecValidationErr": ErrorKind(500, EXECUTOR),
}
"""Every code. Codes, components and status numbers are those of Bacalhau 1.7 (its packages
`pkg/executor` and `pkg/executor/wasm`), so that a client of one understands the other."""


class JobError(WasmsrError):
    """A job cannot be taken, or an execution has failed.

    Attributes:
        code: One of `KINDS`.
        component: See `ErrorKind`.
        http: See `ErrorKind`.
        retryable: Whether the same may succeed later, or elsewhere.
        details: What a script would read, as plain data.
    """

    def __init__(
        self,
        code: str,
        message: str,
        *,
        hint: str | None = None,
        retryable: bool = False,
        details: Mapping[str, Any] | None = None,
    ) -> None:
        """Make the error; `code` is a key of `KINDS`."""
        super().__init__(message, hint=hint)
        kind = KINDS[code]
        self.code = code
        self.component, self.http, self.exit_code = kind.component, kind.http, kind.exit_code
        self.retryable = retryable
        self.details = dict(details or {})

    def as_dict(self) -> dict[str, Any]:
        """Return the error as plain data."""
        return {
            "code": self.code,
            "message": self.message,
            "hint": self.hint or "",
            "component": self.component,
            "http": self.http,
            "retryable": self.retryable,
            "details": self.details,
        }


class ExecutorLeft(WasmsrError):
    """An executor was ended, and its executions go on elsewhere or later.

    Whoever waits for one of them gets this, and so does whoever starts another one.
    """


__all__ = ["KINDS", "ErrorKind", "ExecutorLeft", "JobError"]
