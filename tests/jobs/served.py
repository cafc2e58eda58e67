"""A service of jobs in a thread of a test."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.engines.engine_port import RunEngine
from wasmsr.jobs.service.client import JobClient
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_service import JobService


@contextmanager
def jobs_served(
    folder: Path, engines: Callable[[EnginePlan], RunEngine], **settings: Any
) -> Iterator[JobClient]:
    """Run the jobs of a folder, as long as the block lasts."""
    home = JobHome(folder)
    lock = home.lock()
    assert lock is not None
    service = JobService(home, engines, idle=60, **settings)
    thread = threading.Thread(target=service.run, args=(lock,))
    thread.start()
    try:
        with JobClient(home) as client:
            yield client
    finally:
        service.end("the test ends")
        thread.join(60)
        assert not thread.is_alive()
