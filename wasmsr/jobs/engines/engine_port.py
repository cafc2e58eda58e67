"""What the service needs of an executor, and the executors of all jobs.

One port serves executions of this machine and those of other servers: a plan says which executor
a job has, and nothing else in the service asks where a program runs.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Any, Protocol

from wasmsr.jobs.engines.engine_plan import EnginePlan


class EndedRun(Protocol):
    """How an execution ended; `ExecutionResult` has it."""

    @property
    def exit_code(self) -> int:
        """The program's exit code."""

    @property
    def error(self) -> str:
        """What went wrong, or ""."""

    @property
    def timed_out(self) -> bool:
        """Whether it ran longer than it may."""

    def as_dict(self) -> dict[str, Any]:
        """Return plain data."""


class DescribedRun(Protocol):
    """What an executor says of an execution; `ExecutionInfo` has it."""

    @property
    def state(self) -> str:
        """What it does."""

    @property
    def server(self) -> str:
        """The address of the node that has it; "" for this machine."""


class RunEngine(Protocol):
    """What the service needs of an executor; `Executor` and `ServerExecutor` have it."""

    def start(self, request: dict[str, Any], /) -> None:
        """Start an execution. Raises JobError."""

    def recover(self, request: dict[str, Any], /) -> None:
        """Go on with the execution that has this folder. Raises JobError."""

    def wait(self, id: str, timeout: float | None = None) -> EndedRun:
        """Return how it ended. Raises ExecutorLeft: `leave` was called before."""

    def describe(self, id: str) -> DescribedRun:
        """Return what it does."""

    def cancel(self, id: str) -> None:
        """End it at once, also if it waits for a server. Raises JobError if it has ended."""

    def leave(self) -> Mapping[str, str]:
        """Let another process go on with what runs; return what was not saved, and why."""

    def close(self) -> None:
        """End all executions."""


class PlacingEngine(RunEngine, Protocol):
    """An executor that has a choice of servers; `ServerExecutor` is one."""

    def avoid(self, servers: frozenset[str]) -> None:
        """Begin nothing on these servers from now on."""

    def matching(self, constraints: Any) -> list[str]:
        """Return the addresses of the servers that meet constraints. Raises JobError."""

    def migrate(self, id: str, peer: str) -> None:
        """Move an execution to another server, or to any for "". Raises WasmsrError."""


class EngineTable:
    """The executors of a service, each made when a job first needs it. Any thread may use it."""

    def __init__(
        self,
        make: Callable[[EnginePlan], RunEngine],
        ready: Callable[[RunEngine], object] = lambda engine: None,
    ) -> None:
        """Take what makes the executor of a plan.

        Args:
            make: Makes it; it may raise WasmsrError.
            ready: Is called with a new one that `all` has, before anybody uses it.
        """
        self._make, self._ready = make, ready
        self._lock = threading.Lock()
        self._locks: dict[str, threading.Lock] = {}
        self._made: dict[str, RunEngine] = {}

    def of(self, plan: EnginePlan) -> RunEngine:
        """Return the executor of a plan. Raises WasmsrError: it cannot be made now."""
        key = plan.key
        with self._lock:
            lock = self._locks.setdefault(key, threading.Lock())
        with lock:  # a cluster that takes long to answer keeps nobody else waiting
            found = self.made(plan)
            if found is None:
                found = self._make(plan)
                with self._lock:
                    self._made[key] = found
                self._ready(found)
            return found

    def made(self, plan: EnginePlan) -> RunEngine | None:
        """Return the executor of a plan if it is made already."""
        with self._lock:
            return self._made.get(plan.key)

    def all(self) -> list[RunEngine]:
        """Return the executors that are made."""
        with self._lock:
            return list(self._made.values())


__all__ = ["DescribedRun", "EndedRun", "EngineTable", "PlacingEngine", "RunEngine"]
