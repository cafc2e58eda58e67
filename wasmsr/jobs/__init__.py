"""Jobs: a file that says what to run, what goes in, what comes out, and what it may use.

`Executor` runs executions of jobs; `ExecutionRequest` says what one needs. `JobError` is the one
error of both. Each name is imported when it is first used.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.jobs.async_executor import AsyncExecutor
    from wasmsr.jobs.execution.log import LogFrame, LogRewound
    from wasmsr.jobs.execution.requests import (
        BidResponse,
        ExecutionInfo,
        ExecutionInput,
        ExecutionOutput,
        ExecutionRequest,
        ExecutionResult,
        OutputLimits,
    )
    from wasmsr.jobs.executor import JobExecutor as Executor
    from wasmsr.jobs.executor import StillRuns
    from wasmsr.jobs.failures import ExecutorLeft, JobError

_HOME = {
    "AsyncExecutor": "async_executor",
    "Executor": "executor",
    "ExecutorLeft": "failures",
    "JobError": "failures",
    "LogFrame": "execution.log",
    "LogRewound": "execution.log",
    "StillRuns": "executor",
}

__all__ = [
    "AsyncExecutor",
    "BidResponse",
    "ExecutionInfo",
    "ExecutionInput",
    "ExecutionOutput",
    "ExecutionRequest",
    "ExecutionResult",
    "Executor",
    "ExecutorLeft",
    "JobError",
    "LogFrame",
    "LogRewound",
    "OutputLimits",
    "StillRuns",
]


def __getattr__(name: str) -> object:
    """Import a public name on first use (PEP 562)."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    home = _HOME.get(name, "execution.requests")
    inside = "JobExecutor" if name == "Executor" else name  # there are executors of programs too
    found: object = getattr(import_module(f"wasmsr.jobs.{home}"), inside)
    globals()[name] = found
    return found
