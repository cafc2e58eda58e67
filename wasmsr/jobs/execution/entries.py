"""What an executor has under an id: an execution, the place of one, or one that did not begin."""

from __future__ import annotations

import os
from collections.abc import Callable

from wasmsr.jobs.execution.requests import (
    ExecutionFolder,
    ExecutionInfo,
    ExecutionRequest,
    ExecutionResult,
)


class StartingExecution:
    """The place of an execution that is being started."""

    is_over = False


class FailedExecution:
    """An execution that did not begin, and that the peer counts as one that has ended."""

    is_over = True

    def __init__(
        self, result: ExecutionResult, folder: ExecutionFolder, request: ExecutionRequest
    ) -> None:
        self._result = result
        self.folder = folder
        self.info = ExecutionInfo(
            request.execution_id,
            request.job_id,
            "failed",
            os.fspath(folder.path),
            result=result,
        )

    def wait(self, timeout: float | None) -> ExecutionResult:
        """Return the result."""
        return self._result

    def when_over(self, listener: Callable[[], None]) -> None:
        """Call a function: it has ended."""
        listener()

    def cancel(self) -> None:
        """Do nothing: it has ended."""


__all__ = ["FailedExecution", "StartingExecution"]
