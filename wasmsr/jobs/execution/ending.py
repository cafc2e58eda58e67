"""What every execution has: a state, a log that others follow, and one end."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import replace

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.log import LogWatch
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionResult, ExecutionState
from wasmsr.jobs.execution.results import write_results
from wasmsr.jobs.failures import ExecutorLeft, JobError
from wasmsr.jobs.preparing.prepared import Prepared


class EndingExecution:
    """An execution, here or elsewhere. Any thread may call its methods.

    Attributes:
        prepared: What it runs.
        watch: Tells followers that its log has grown.
    """

    def __init__(self, prepared: Prepared, manner: Manner, note: Callable[..., None]) -> None:
        self.prepared, self._manner, self._note = prepared, manner, note
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._state: ExecutionState = "starting"
        self._result: ExecutionResult | None = None
        self._began, self._end = time.time(), 0.0
        self.watch = LogWatch(self.folder.log)

    @property
    def id(self) -> str:
        """Its id."""
        return self.prepared.request.execution_id

    @property
    def folder(self) -> ExecutionFolder:
        """Where it has its files."""
        return self.prepared.folder

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._over.is_set()

    def wait(self, timeout: float | None) -> ExecutionResult | None:
        """Return the result as soon as it is there, or None after `timeout` seconds.

        Raises ExecutorLeft: another executor goes on with it.
        """
        if not self._over.wait(timeout):
            return None
        if self._state == "left":
            raise ExecutorLeft(f"the executor of the execution {printable(self.id)} was ended")
        return self._result

    def when_over(self, listener: Callable[[], None]) -> None:
        """Call a function, on any thread, when the execution has ended."""
        with self._lock:
            if not self.is_over:
                self._listeners.append(listener)
                return
        listener()

    def _written(self, code: int, error: str, *, timed_out: bool = False) -> ExecutionResult:
        """Write the results, and return the result; it says so if they cannot be written."""
        limits = self.prepared.request.output_limits
        try:
            result = write_results(self.folder, limits, code, error, self._manner)
        except OSError as problem:
            result = unwritten(code, error, problem)
        return replace(result, timed_out=timed_out)

    def _tell(self, state: ExecutionState, result: ExecutionResult | None) -> bool:
        """Be over, and tell everybody who waits; return False if it was over already."""
        with self._lock:
            if self.is_over:
                return False
            self._state, self._result, self._end = state, result, time.time()
            listeners, self._listeners = self._listeners, []
            self._over.set()
        self.watch.tell()
        for listener in listeners:
            listener()
        return True

    def _ended(self, state: ExecutionState, result: ExecutionResult, error: str) -> None:
        """Be over with a result, and note that."""
        self._note("ended", self.id, state=state, code=result.exit_code, error=error)
        self._tell(state, result)

    def _has_ended(self) -> WasmsrError:
        """Return the error for who wants something of an execution that is over."""
        if self._state == "left":
            return ExecutorLeft(f"the executor of the execution {printable(self.id)} was ended")
        if self._state == "cancelled":
            return JobError(
                "ExecutionAlreadyCancelled", f"the execution {printable(self.id)} was cancelled"
            )
        return JobError(
            "ExecutionAlreadyComplete", f"the execution {printable(self.id)} has ended already"
        )


def unwritten(code: int, error: str, problem: OSError) -> ExecutionResult:
    """Return the result of an execution whose results cannot be written."""
    sentence = f"the results cannot be written: {problem.strerror or problem}"
    return ExecutionResult(exit_code=code, error="; ".join(filter(None, (error, sentence))))


__all__ = ["EndingExecution", "unwritten"]
