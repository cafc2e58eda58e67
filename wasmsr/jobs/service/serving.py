"""Runs the jobs of a folder in this process, until nothing is left to do or somebody ends it."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.engines.engine_port import RunEngine
from wasmsr.jobs.engines.making import Connect, cannot_connect, make_engine
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_service import IDLE_SECONDS, JobService


def serve(
    home: JobHome,
    ready: int | None = None,
    *,
    idle: float = IDLE_SECONDS,
    note: Callable[..., None] = lambda event, id, **values: None,
    connect: Connect = cannot_connect,
) -> bool:
    """Run the jobs of a folder until nothing is left to do, or SIGTERM or SIGINT comes.

    Args:
        home: The folder.
        ready: A descriptor to which "+" is written when this process has the lock; it is closed.
        idle: Seconds for which the process stays when nothing is left to do.
        note: Gets events of executions; see `Executor`.
        connect: Opens nodes on other servers.

    Returns:
        Whether this process ran the jobs; False if another one does.
    """
    lock = home.lock()
    if lock is None:
        return False

    def tell(event: str, id: str, **values: Any) -> None:
        note(event, id, **values)
        service.heard(event, id, **values)

    def make(plan: EnginePlan) -> RunEngine:
        folder = Path(plan.shared or home.path) / "executions"
        return make_engine(plan, folder, connect, tell)

    service = JobService(home, make, idle=idle)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, frame: service.end(signal.Signals(number).name))
    if ready is not None:
        with suppress(OSError):
            os.write(ready, b"+")
            os.close(ready)
    service.run(lock)
    return True


__all__ = ["serve"]
