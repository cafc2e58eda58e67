"""One execution from its inputs to its published results, in a thread of its own."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from wasmsr.errors import EXIT_FUEL, EXIT_HOST, EXIT_INTERRUPTED, WasmsrError
from wasmsr.jobs.description.job import Job
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.engines.engine_port import EndedRun, EngineTable, RunEngine
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionRequest
from wasmsr.jobs.execution.saving import read_request, write_request
from wasmsr.jobs.failures import ExecutorLeft, JobError
from wasmsr.jobs.publishers.publication import Publication
from wasmsr.jobs.publishers.publishing import publish
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import JobRow, RunRow
from wasmsr.jobs.service.scheduling import EVERYWHERE
from wasmsr.jobs.sources.order import AllowedPath
from wasmsr.jobs.sources.staging import StagedInput, stage, unstage
from wasmsr.wasi.filesystem import tree_walk

SENT = "It is sent to a server"
"""What the list says of an execution while a server is looked for."""

PEER_MEMORY = 512_000_000
"""Bytes of memory of a task that names none, on Bacalhau."""


class RunningExecution:
    """An execution that this process runs.

    Attributes:
        row: The execution, as the list has it.
        job: Its job.
        cpu: CPUs that it takes.
        plan: What runs it.
    """

    def __init__(
        self,
        home: JobHome,
        jobs: JobList,
        engines: EngineTable,
        plan: EnginePlan,
        row: RunRow,
        job: JobRow,
        task: Job,
        ended: Callable[[RunningExecution], None],
        cpu: float,
    ) -> None:
        """Take an execution; `begin` starts its thread, and `ended` is called in it at the end."""
        self.row, self.job, self.cpu = row, job, cpu
        self._home, self._jobs, self._engines, self._task = home, jobs, engines, task
        self.plan, self._ended = plan, ended
        self._lock = threading.Lock()
        self._started = False
        self._staging = row.state != "Publishing"
        self._reason: list[str] = []
        self._dead = False
        self._over = threading.Event()
        self._noting = threading.RLock()

    @property
    def name(self) -> str:
        """The id by which the executor has it; each epoch has its own."""
        return f"{self.row.id}.{self.row.epoch}"

    def _stop(self) -> str | None:
        """Why it is to be ended, or None; any thread may say so."""
        return self._reason[0] if self._reason else None

    @property
    def program_runs(self) -> bool:
        """Whether its program is with the executor."""
        return self._started

    @property
    def is_staging(self) -> bool:
        """Whether its inputs are being fetched, so that the executor has nothing of it yet."""
        return self._staging

    def begin(self) -> None:
        """Start the thread."""
        threading.Thread(target=self._run, name=f"job-{self.row.id[:10]}", daemon=True).start()

    def cancel(self, message: str) -> None:
        """End it, for this reason. Nothing happens if it has ended."""
        with self._lock:
            if self._stop() is not None:
                return
            self._reason.append(message)
            engine = self._engines.made(self.plan)
        if engine is not None and not self._staging:  # it may still wait for a server
            with suppress(WasmsrError):
                engine.cancel(self.name)

    @property
    def _engine(self) -> RunEngine:
        return self._engines.of(self.plan)

    def say(self, message: str, topic: str) -> None:
        """Have the list say something of it while its program runs."""
        with self._noting:
            if self.row.state == "Running":
                self._set("Running", message, topic)

    def is_at(self, server: str, sent: bool = False) -> None:
        """Have the list say which server has it, or gets it now if it is `sent`."""
        with self._noting:
            if self.row.server == server:
                return
            if self.row.state == "Running" and not sent:
                self._set("Running", f"It is at {server}", "Server", server=server)
            elif self.row.state == "New" and sent:
                self._set("New", f"It is sent to {server}", "Scheduling", server=server)

    def settled(self, seconds: float) -> bool:
        """Return whether its thread ends within so many seconds, with all noted that happened."""
        return self._over.wait(seconds)

    def abandon(self) -> None:
        """Change nothing in the list any more: this process ends."""
        self._dead = True

    def _run(self) -> None:
        left = False
        try:
            if self.row.state != "Publishing":
                self._execute()
            if self.row.state == "Publishing" and not self._dead:
                self._publish()
        except ExecutorLeft:
            left = True  # the next process goes on with it: nothing has ended
        except WasmsrError as error:
            self._fail(error.message, error.exit_code, error.hint)
        except Exception as error:  # noqa: BLE001  a fault of one execution ends no other
            self._fail(f"a fault of wasmsr: {type(error).__name__}: {error}", EXIT_HOST)
        finally:
            if not (left and self.plan.is_elsewhere):  # its program runs on, and reads them
                unstage(self._inputs)
            self._ended(self)
            self._over.set()

    def _set(self, state: Any, message: str = "", topic: str = "Execution", **values: Any) -> None:
        with self._noting:
            if not self._dead:
                self.row = self._jobs.set_run(self.row, state, message, topic, **values)

    def _fail(self, message: str, exit_code: int, hint: str | None = None) -> None:
        stop = self._stop()
        if stop is not None:
            self._set("Cancelled", stop, ended=time.time(), exit_code=EXIT_INTERRUPTED)
            return
        said = f"{message} ({hint})" if hint else message
        self._set("Failed", said, ended=time.time(), exit_code=exit_code)

    @property
    def _inputs(self) -> Path:
        return self._home.inputs(self.row.id, self.row.epoch, self.plan.shared)

    def _execute(self) -> None:
        """Stage the inputs, run the program, and note how it ended."""
        if self._watched():
            self._wait()
            return
        task = self._task.task
        staged = stage(
            task.inputs,
            self._inputs,
            base=Path(self.job.base),
            allowed=[AllowedPath.parse(text) for text in self.job.allowed],
            limit=task.resources.disk,
        )
        with self._lock:
            self._staging = False
            reason = self._stop()
            if reason is not None:
                raise JobError("ExecutionAlreadyCancelled", reason)
        folder = self._recovered(staged) or self._begun(staged)
        about = self._engine.describe(self.name)
        said = "Paused" if about.state == "paused" else "Running"
        self._set(
            "Running", said, started=time.time(), folder=str(folder), server=about.server
        )  # fmt: skip
        self._wait()

    def _wait(self) -> None:
        """Wait for the end of the program, and note how it ended."""
        self._jobs.set_job(self.job.id, "Running")
        with self._lock:
            self._started = True
            stop = self._stop()
        if stop is not None:
            with suppress(WasmsrError):
                self._engine.cancel(self.name)
        result = self._engine.wait(self.name)
        self._note(result, self._engine.describe(self.name).state)

    def _begun(self, staged: list[StagedInput]) -> Path:
        """Begin the program in a new folder, which is returned. Raises JobError."""
        folder = self._home.execution(self.row.id, self.row.epoch, self.plan.shared)
        tree_walk.remove(folder)
        folder.mkdir(parents=True, mode=0o700)
        # Of the others the row says where they were.
        server = self.row.server if self.job.type in EVERYWHERE else ""
        asked = request_of(self.name, self.job, self._task, staged, folder, server)
        if self.plan.is_elsewhere:
            # Before the program can run: a process that is killed then finds it, and begins none.
            write_request(ExecutionFolder(folder), ExecutionRequest.read(asked))
            self._jobs.set_run(self.row, "New", SENT, "Scheduling", folder=str(folder))
            self.row = replace(self.row, folder=str(folder))
        self._engine.start(asked)
        return folder

    def _lost_by_all(self, error: JobError) -> None:
        """Have it begin again in its next epoch. Raises JobError: it may not."""
        if self._task.on_loss == "fail":
            raise error
        unstage(self._inputs)
        self.row = self._jobs.set_run(
            self.row, "New", f"{error.message}; it is begun again", "Recovery",
            epoch=self.row.epoch + 1, started=None, folder="",
        )  # fmt: skip

    def _watched(self) -> bool:
        """Go on watching a program that a server may have; return whether one has it."""
        if not (self.plan.is_elsewhere and self.row.folder):
            return False
        request = read_request(ExecutionFolder(Path(self.row.folder)))
        if request is None:
            return False
        with self._lock:
            self._staging = False
        try:
            self._engine.recover(request.as_dict())
        except ExecutorLeft:
            raise
        except JobError as error:
            if error.code != "ExecutionNotFound":
                raise
            if self.row.started is not None:
                self._lost_by_all(error)
            return False
        about = self._engine.describe(self.name)
        said = "Paused" if about.state == "paused" else "Running"
        began = self.row.started or time.time()
        self._set("Running", said, "Recovery", started=began, server=about.server)
        return True

    def _recovered(self, staged: list[StagedInput]) -> Path | None:
        """Go on from the checkpoint that is in the execution's folder; None if that fails."""
        if not self.row.folder or self.plan.is_elsewhere:
            return None
        folder = Path(self.row.folder)
        try:
            self._engine.recover(request_of(self.name, self.job, self._task, staged, folder))
        except ExecutorLeft:
            raise
        except WasmsrError as error:
            sentence = f"it cannot go on from its checkpoint, and is begun again: {error.message}"
            self._jobs.note(self.job.id, self.row.id, "Recovery", "", sentence)
            tree_walk.remove(folder)
            return None
        return folder

    def _note(self, result: EndedRun, state: str) -> None:
        data = result.as_dict()
        now = time.time()
        stop = self._stop()
        if stop is not None and state != "ended":
            self._set("Cancelled", stop, ended=now, exit_code=EXIT_INTERRUPTED, result=data)
        elif state == "ended" and not result.error:
            self._set("Publishing", "Publishing", "Publishing", ended=now, result=data)
        else:
            code = EXIT_FUEL if result.timed_out else command_code(result.exit_code) or EXIT_HOST
            message = result.error or f"the program was ended ({state})"
            self._set("Failed", message, ended=now, exit_code=code, result=data)

    def _publish(self) -> None:
        folder = Path(self.row.folder)
        epoch = self.row.epoch if self.row.epoch > 1 else None
        published = publish(
            self._task.task.publisher,
            Publication(
                self.job.id,
                self.row.id,
                folder / "results",
                self._home.results,
                self.row.ended or time.time(),
                epoch,
            ),
        )
        result = self.row.result or {}
        code = command_code(int(result.get("exit_code", 0)))
        self._set(
            "Completed",
            "Completed successfully" if not code else f"Completed with exit code {code}",
            published=asdict(published),
            exit_code=code,
        )


def command_code(code: int) -> int:
    """Return the exit code of a command for that of a program.

    With `--compat bacalhau` a program that returned has -1. A process gives 8 bits of its code.
    """
    return 0 if code == -1 else code & 0xFF or (1 if code else 0)


def request_of(
    name: str, row: JobRow, job: Job, staged: list[StagedInput], folder: Path, server: str = ""
) -> dict[str, Any]:
    """Return what the executor is asked for, as plain data."""
    task = job.task
    resources = task.resources
    if row.compat and resources.memory is None:
        resources = replace(resources, memory=PEER_MEMORY)
    return {
        "execution_id": name,
        "job_id": row.id,
        "engine": task.engine,
        "resources": resources,
        "network": task.network,
        "inputs": [
            {"source": str(one.source), "target": one.target, "read_only": one.read_only}
            for one in staged
        ],
        "outputs": [{"name": one.name, "path": one.path} for one in task.results],
        "execution_dir": str(folder),
        "env": dict(task.env),
        "timeout": float(task.timeouts.execution) or None,
        "snapshot_every": job.snapshot_every,
        "on_loss": job.on_loss,
        "output": job.output,
        "constraints": job.constraints,
        "server": server,
    }


__all__ = [
    "RunningExecution",
    "command_code",
    "request_of",
]
