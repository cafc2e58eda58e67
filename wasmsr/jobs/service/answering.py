"""Answers requests of commands: a request is carried out in a thread of its own."""

from __future__ import annotations

import threading
from collections.abc import Callable

from wasmsr.errors import WasmsrError
from wasmsr.jobs.engines.engine_port import EngineTable
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import AVOID, RequestRow
from wasmsr.jobs.service.running import RunningExecution

ARGUMENTS = {"pause": False, "resume": False, "snapshot": True, "migrate": True}
"""What a request may ask of an executor, and whether it has an argument. A newer version, or
another program, may write other requests into the list."""

STANDING = {"pause": "Paused", "resume": "Running"}
"""What the list says of an execution that was paused, or that runs on."""

HERE = "it runs on this machine; `wasmsr job run --server ADDRESS` runs a job on servers"


class RequestDesk:
    """The requests that are being carried out. One thread calls it."""

    def __init__(
        self,
        jobs: JobList,
        engines: EngineTable,
        find: Callable[[str], RunningExecution | None],
        avoid: Callable[[], object],
    ) -> None:
        """Take what requests are about.

        Args:
            jobs: The list.
            engines: The executors.
            find: Finds an execution that runs here by its id.
            avoid: Has all executors leave the servers that are to be shut down.
        """
        self._jobs, self._engines, self._find, self._avoid = jobs, engines, find, avoid
        self._threads: dict[int, threading.Thread] = {}

    def take(self, request: RequestRow) -> None:
        """Carry out a request, unless that has begun already."""
        self._threads = {number: one for number, one in self._threads.items() if one.is_alive()}
        if request.number in self._threads:
            return
        thread = threading.Thread(
            target=self._answer, args=(request,), name=f"job-request-{request.number}", daemon=True
        )
        self._threads[request.number] = thread
        thread.start()

    def settle(self, seconds: float) -> None:
        """Wait for the requests that are being carried out, at most so many seconds each."""
        for one in self._threads.values():
            one.join(seconds)

    def _answer(self, request: RequestRow) -> None:
        try:
            answer = self._done(request)
        except WasmsrError as error:
            said = f"{error.message} ({error.hint})" if error.hint else error.message
            answer = said or "it failed"
        except OSError as error:
            answer = f"{request.argument}: {error.strerror or error}"
        except Exception as error:  # noqa: BLE001  the command would wait in vain
            answer = f"a fault of wasmsr: {error!r}"
        self._jobs.answer(request.number, answer)

    def _done(self, request: RequestRow) -> str:
        """Carry a request out, and return "". Raises WasmsrError or OSError."""
        if request.kind == AVOID:
            self._avoid()
            return ""
        one = self._find(request.execution)
        if one is None or not one.program_runs:
            raise JobError(
                "ExecutionNotFound", f"the execution {request.execution} does not run now"
            )
        act = None
        if request.kind in ARGUMENTS:
            act = getattr(self._engines.made(one.plan), request.kind, None)
        if act is None:
            raise JobError(
                "SpecError",
                f"this executor cannot {request.kind} an execution",
                hint=HERE if request.kind == "migrate" else None,
            )
        act(one.name, *([request.argument] if ARGUMENTS[request.kind] else []))
        if request.kind in STANDING:
            one.say(STANDING[request.kind], request.kind.title())
        else:
            self._jobs.note(one.row.job, one.row.id, request.kind.title(), "", request.argument)
        return ""


__all__ = ["RequestDesk"]
