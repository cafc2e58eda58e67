"""The executions of an executor, by id: what is asked of one that was begun.

`JobExecutor` begins them, saves and restores them.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.execution.entries import FailedExecution, StartingExecution
from wasmsr.jobs.execution.execution import Execution
from wasmsr.jobs.execution.log import LogItem, read_log
from wasmsr.jobs.execution.requests import (
    ExecutionInfo,
    ExecutionRequest,
    ExecutionResult,
    check_id,
)
from wasmsr.jobs.failures import ExecutorLeft, JobError


class StillRuns(WasmsrError, TimeoutError):
    """An execution has not ended within the time that a caller waits."""


class ExecutionTable:
    """The executions, by their ids. Any thread may call its methods."""

    def __init__(self) -> None:
        self._lock = threading.Condition()
        self._left = False
        self._executions: dict[str, Execution | StartingExecution | FailedExecution] = {}

    def _enter(
        self, request: ExecutionRequest, begin: Callable[[], Execution | FailedExecution]
    ) -> Execution | FailedExecution:
        """Begin an execution whose id nobody else can take meanwhile. Raises JobError."""
        id = request.execution_id
        check_id(id)
        with self._lock:
            if self._left:
                raise ExecutorLeft("the executor was ended, and starts no execution any more")
            known = self._executions.get(id)
            if known is None:
                self._executions[id] = StartingExecution()
        if known is not None:
            raise self._taken(id, known)
        try:
            begun = begin()
        except BaseException:
            with self._lock:
                del self._executions[id]
                self._lock.notify_all()
            raise
        with self._lock:
            self._executions[id] = begun
            self._lock.notify_all()
        return begun

    def _taken(self, id: str, known: Execution | StartingExecution | FailedExecution) -> JobError:
        name = printable(id)
        if known.is_over:
            return JobError(
                "ExecutionAlreadyComplete",
                f"an execution {name} has ended already",
                hint="start it with a new id",
            )
        return JobError("ExecutionAlreadyStarted", f"an execution {name} runs already")

    def wait(self, id: str, timeout: float | None = None) -> ExecutionResult:
        """Return the result of an execution when it has ended.

        Args:
            id: Its id.
            timeout: Seconds to wait; None for as long as it takes.

        Raises:
            JobError: ExecutionNotFound.
            StillRuns: It has not ended in time; it runs on.
            ExecutorLeft: This executor was ended by `leave` meanwhile.
        """
        result = self._of(id, "waited for").wait(timeout)
        if result is None:
            raise StillRuns(f"the execution {printable(id)} has not ended within {timeout:g} s")
        return result

    def cancel(self, id: str) -> None:
        """End an execution at once.

        Raises:
            JobError: ExecutionNotFound, ExecutionAlreadyComplete or ExecutionAlreadyCancelled.
        """
        self._of(id, "cancelled").cancel()

    def logs(
        self, id: str, follow: bool = False, tail: int | None = None, offset: int = 0
    ) -> Iterator[LogItem]:
        """Return what an execution has written, piece by piece, in its order.

        Args:
            id: Its id.
            follow: Whether to go on until the execution has ended.
            tail: Only the last lines of what is there already; None for all.
            offset: Where to begin: `LogFrame.end` of the last frame that was read, or 0.

        Returns:
            Frames, and a `LogRewound` where the execution has gone back to a checkpoint.

        Raises:
            JobError: ExecutionNotFound. The iterator raises LogError.
        """
        execution = self._of(id, "read")
        if isinstance(execution, FailedExecution):
            return iter(())
        ended = (lambda: execution.is_over) if follow else (lambda: True)
        watch = execution.watch if follow else None
        return read_log(execution.folder.log, offset=offset, tail=tail, ended=ended, watch=watch)

    def pause(self, id: str) -> None:
        """Pause an execution. It has its time-out again from where it was. Raises JobError."""
        self._running(id, "paused").pause()

    def resume(self, id: str) -> None:
        """Let a paused execution run on. Raises JobError."""
        self._running(id, "resumed").resume()

    def snapshot(self, id: str, file: str | os.PathLike[str]) -> None:
        """Save an execution to a file: its program, its outputs, its log. It goes on afterwards.

        Args:
            id: Its id.
            file: The file, which is replaced.

        Raises:
            JobError: ExecutionNotFound; or it has ended, or cannot be saved.
        """
        self._running(id, "saved").snapshot(Path(file))

    def when_over(self, id: str, listener: Callable[[], None]) -> None:
        """Call a function, on any thread, when an execution has ended.

        Raises JobError: ExecutionNotFound.
        """
        self._of(id, "waited for").when_over(listener)

    def describe(self, id: str) -> ExecutionInfo:
        """Return one execution. Raises JobError: ExecutionNotFound."""
        return self._of(id, "described").info

    def _running(self, id: str, what: str) -> Execution:
        found = self._of(id, what)
        if isinstance(found, FailedExecution):
            raise JobError(
                "ExecutionAlreadyComplete", f"the execution {printable(id)} has ended already"
            )
        return found

    def _of(self, id: str, what: str) -> Execution | FailedExecution:
        with self._lock:
            found = self._executions.get(id)
        if found is None or isinstance(found, StartingExecution):
            raise JobError(
                "ExecutionNotFound",
                f"there is no execution {printable(id, 200)} that could be {what}",
                hint="the executor lists those that it has",
            )
        return found

    def list(self) -> list[ExecutionInfo]:
        """Return all executions, in the order in which they were started."""
        with self._lock:
            executions = list(self._executions.values())
        return [one.info for one in executions if not isinstance(one, StartingExecution)]


__all__ = ["ExecutionTable", "StillRuns"]
