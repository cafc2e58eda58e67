"""One execution: its worker, the thread that waits for it, and its end."""

from __future__ import annotations

import os
import secrets
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wasmsr.errors import (
    LinkError,
    MalformedError,
    ModuleError,
    Trap,
    WasiConfigError,
    WasmsrError,
    printable,
)
from wasmsr.executor.port import FRAMES, ID_BYTES, ExecutorError, ProgramStatus
from wasmsr.executor.process import ProcessExecutor
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.guest_files import GuestFiles
from wasmsr.jobs.execution.log import LogWatch
from wasmsr.jobs.execution.modules import PAGE, LinkedModules
from wasmsr.jobs.execution.requests import (
    ExecutionFolder,
    ExecutionInfo,
    ExecutionRequest,
    ExecutionResult,
    ExecutionState,
)
from wasmsr.jobs.execution.results import write_results
from wasmsr.jobs.failures import JobError
from wasmsr.node.workers.confinement import Confinement, HostAccess, WorkerLimits
from wasmsr.node.workers.warm_parents import WarmParents, WorkerPlace, reap
from wasmsr.program.exports import COMMAND, ExportError
from wasmsr.runspec.run_spec import LimitSpec, RunSpec, SpecError

WORKER_MEMORY: Final = 1 << 30
"""Bytes that a worker may have beyond the memory of its program."""

ADOPT_SECONDS: Final = 1.0
"""How long a worker waits when the process that started it is gone; then it ends."""

FINAL: Final = frozenset(("ended", "failed", "cancelled"))


@dataclass(frozen=True)
class Prepared:
    """A request that was checked, and what follows from it."""

    request: ExecutionRequest
    folder: ExecutionFolder
    files: GuestFiles
    modules: LinkedModules
    pages: int | None

    def run(self) -> RunSpec:
        """Return the run of the program. Raises JobError."""
        request, engine = self.request, self.request.engine
        most = LimitSpec(memory=None if self.pages is None else self.pages * PAGE)
        try:
            return RunSpec.read(
                RunSpec(
                    own_name="",
                    own_args=tuple(engine.parameters),
                    env=tuple(f"{name}={request.env[name]}" for name in sorted(request.env)),
                    invoke=None if engine.entrypoint == COMMAND else engine.entrypoint,
                    mounts=tuple(self.files.mounts(self.folder)),
                    preload=tuple(f"{name}={file}" for name, file in self.modules.preload),
                    limits=most,
                ).as_dict()
            )
        except SpecError as error:
            raise JobError("SpecError", error.message, hint=error.hint) from error

    @property
    def confinement(self) -> Confinement:
        """What the worker may do."""
        folder, request = self.folder, self.request
        access = HostAccess.of(self.run(), folder.work)
        modules = [self.modules.entry, *(file for _, file in self.modules.preload)]
        access = HostAccess(
            (*access.readable, *modules),
            (*access.writable, os.fspath(folder.log), os.fspath(folder.saved)),
        )
        memory = PAGE * PAGE if self.pages is None else self.pages * PAGE
        limits = WorkerLimits(memory=memory + WORKER_MEMORY)
        if request.resources.disk:
            limits = WorkerLimits(limits.memory, file_size=request.resources.disk)
        return Confinement(limits, access)


class Execution:
    """One execution. Any thread may call its methods.

    Attributes:
        prepared: What it runs.
        watch: Tells followers that its log has grown.
    """

    def __init__(
        self,
        prepared: Prepared,
        manner: Manner,
        parents: WarmParents,
        ended: Callable[[Execution], None],
    ) -> None:
        """Take a request that was checked.

        Args:
            prepared: The request.
            manner: Ours, or the peer's.
            parents: Give it a worker.
            ended: Is called once when it has ended.
        """
        self.prepared, self._manner, self._parents = prepared, manner, parents
        self._ended = ended
        self._program = secrets.token_bytes(ID_BYTES)
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._worker: ProcessExecutor | None = None
        self._state: ExecutionState = "starting"
        self._result: ExecutionResult | None = None
        self._began = time.time()
        self._end: float | None = None
        self.watch = LogWatch(self.folder.log)

    @property
    def folder(self) -> ExecutionFolder:
        """Where it has its files."""
        return self.prepared.folder

    @property
    def state(self) -> ExecutionState:
        """What it does."""
        return self._state

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._over.is_set()

    @property
    def info(self) -> ExecutionInfo:
        """What a list shows of it."""
        with self._lock:
            worker, request = self._worker, self.prepared.request
            return ExecutionInfo(
                request.execution_id,
                request.job_id,
                self._state,
                os.fspath(self.folder.path),
                None if worker is None else worker.pid,
                self._began,
                self._end,
                result=self._result,
            )

    # ---- begin -----------------------------------------------------------------------------------

    def begin(self) -> None:
        """Start the program in a new worker.

        Raises:
            JobError: It cannot be started; nothing of it is left but empty results.
        """
        worker = self._new_worker()
        try:
            worker.start(
                self.prepared.run().as_dict(),
                program=self._program,
                streams=(-1, FRAMES, FRAMES),
                paused=True,
            )
        except BaseException as error:
            _end_worker(worker)
            raise start_error(error, self.prepared) from error
        with self._lock:
            self._have(worker)
            worker.resume(self._program)
            self._state = "running"

    def _new_worker(self) -> ProcessExecutor:
        prepared, folder = self.prepared, self.folder
        limits = prepared.request.output_limits
        for path in (folder.log, folder.saved, folder.work / "carried"):
            path.mkdir(parents=True, exist_ok=True, mode=0o700)
        place = WorkerPlace(
            folder.work / "worker", folder.log, folder.work / "tmp", folder.work / "carried"
        )
        try:
            return self._parents.worker(
                Path(prepared.modules.entry), prepared.modules.digest, None, place,
                prepared.confinement, ring=max(limits.stdout_file, limits.stderr_file),
                wait=ADOPT_SECONDS,
            )  # fmt: skip
        except (WasmsrError, OSError) as error:
            raise start_error(error, prepared) from error

    def _have(self, worker: ProcessExecutor) -> None:
        self._worker = worker
        threading.Thread(
            target=self._wait_for, args=(worker,), name="wasmsr-execution", daemon=True
        ).start()

    # ---- the thread ------------------------------------------------------------------------------

    def _wait_for(self, worker: ProcessExecutor) -> None:
        """Wait for the end of the program or of its worker."""
        seconds = self.prepared.request.timeout
        deadline = None if seconds is None else time.monotonic() + seconds
        try:
            while self._worker is worker:
                left = None if deadline is None else max(0.0, deadline - time.monotonic())
                status = worker.wait(self._program, left)
                if status.ending:
                    self._come_to_end(worker, status)
                    return
                if deadline is not None and time.monotonic() >= deadline:
                    assert seconds is not None
                    self._finish(worker, "failed", *self._manner.timed_out(seconds))
                    return
        except ExecutorError as error:
            self._finish(worker, "failed", 1, f"its worker process has ended: {error.message}")

    def _come_to_end(self, worker: ProcessExecutor, status: ProgramStatus) -> None:
        error = self._manner.error(status)
        state: ExecutionState = "ended" if status.ending in ("exited", "finished") else "failed"
        self._finish(worker, state, self._manner.exit_code(status), error)

    def _finish(
        self, worker: ProcessExecutor, state: ExecutionState, code: int, error: str
    ) -> bool:
        """Note the end of the execution, once; return whether this call did it."""
        with self._lock:
            if self._worker is not worker:
                return False
            self._worker = None
        _end_worker(worker, kill=state != "ended")
        request = self.prepared.request
        try:
            result = write_results(self.folder, request.output_limits, code, error, self._manner)
        except OSError as problem:
            sentence = f"the results cannot be written: {problem.strerror or problem}"
            result = ExecutionResult(
                exit_code=code, error="; ".join(filter(None, (error, sentence)))
            )
        for path in (self.folder.work, self.folder.saved):
            shutil.rmtree(path, ignore_errors=True)
        with self._lock:
            self._state, self._result, self._end = state, result, time.time()
        self._ended(self)
        self._over.set()
        self.watch.tell()
        reap(worker.pid)
        return True

    # ---- verbs -----------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> ExecutionResult | None:
        """Return the result as soon as it is there, or None after `timeout` seconds."""
        if not self._over.wait(timeout):
            return None
        return self._result

    def cancel(self) -> None:
        """End it at once.

        Raises:
            JobError: ExecutionAlreadyComplete or ExecutionAlreadyCancelled.
        """
        with self._lock:
            worker = self._worker
        if worker is not None and self._finish(worker, "cancelled", *self._manner.cancelled):
            return
        self._over.wait()
        if self._manner.peer:
            return
        name = printable(self.prepared.request.execution_id)
        if self._state == "cancelled":
            raise JobError(
                "ExecutionAlreadyCancelled", f"the execution {name} was cancelled before"
            )
        raise JobError("ExecutionAlreadyComplete", f"the execution {name} has ended already")


def _end_worker(worker: ProcessExecutor, *, kill: bool = True) -> None:
    with suppress(WasmsrError, OSError):
        if kill:
            worker.kill()
        else:
            worker.close()


def start_error(error: BaseException, prepared: Prepared) -> BaseException:
    """Return the error of a job for one that a worker reports when it begins."""
    if not isinstance(error, WasmsrError) or isinstance(error, JobError):
        return error
    module = printable(prepared.request.engine.module)
    code, sentence, retryable = "ModuleLoadError", f"{module} cannot be loaded: ", False
    if isinstance(error, ExportError):
        code, sentence = "EntrypointError", ""
    elif isinstance(error, MalformedError):
        code = "ModuleCompileError"
    elif isinstance(error, (LinkError, Trap, ModuleError)):
        pass
    elif isinstance(error, SpecError):
        code, sentence = "SpecError", ""
    elif isinstance(error, WasiConfigError):
        code, sentence = "FilesystemError", ""
    else:
        retryable = True
    details: Mapping[str, Any] = {"module": prepared.request.engine.module}
    return JobError(
        code, f"{sentence}{error.message}", hint=error.hint, retryable=retryable, details=details
    )


__all__ = ["FINAL", "Execution", "Prepared", "start_error"]
