"""A request that was checked: the run, the worker and the errors that follow from it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from wasmsr.errors import (
    LinkError,
    MalformedError,
    ModuleError,
    SnapshotError,
    Trap,
    WasiConfigError,
    WasmsrError,
    printable,
)
from wasmsr.executor.process import ProcessExecutor
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionRequest
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.preparing.guest_files import GuestFiles, filesystem_error
from wasmsr.jobs.preparing.modules import PAGE, LinkedModules
from wasmsr.node.workers.confinement import Confinement, HostAccess, WorkerLimits
from wasmsr.node.workers.warm_parents import WarmParents, WorkerPlace
from wasmsr.program.exports import COMMAND, ExportError
from wasmsr.runspec.run_spec import LimitSpec, RunSpec, SpecError

WORKER_MEMORY: Final = 1 << 30
"""Bytes that a worker may have beyond the memory of its program."""

ADOPT_SECONDS: Final = 1.0
"""How long a worker waits when the process that started it is gone. Then it saves its program, and
ends."""

PATIENCE: Final = 30.0
"""Seconds in which a worker must answer what takes no time; otherwise it is frozen, and lost."""


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

    def worker(self, parents: WarmParents) -> ProcessExecutor:
        """Return a new worker. Raises JobError."""
        folder, limits = self.folder, self.request.output_limits
        try:
            for path in (folder.log, folder.saved, folder.work / "carried"):
                path.mkdir(parents=True, exist_ok=True, mode=0o700)
            place = WorkerPlace(
                folder.work / "worker", folder.log, folder.work / "tmp", folder.work / "carried"
            )
            made = parents.worker(
                Path(self.modules.entry), self.modules.digest, None, place, self.confinement,
                ring=max(limits.stdout_file, limits.stderr_file), wait=ADOPT_SECONDS,
            )  # fmt: skip
        except (WasmsrError, OSError) as error:
            raise start_error(error, self) from error
        made.patience = PATIENCE
        return made


def start_error(error: BaseException, prepared: Prepared) -> BaseException:
    """Return the error of a job for one that a worker reports when it begins."""
    if isinstance(error, OSError):
        return filesystem_error(prepared.folder.path, error)
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
    elif isinstance(error, SnapshotError):
        code, sentence = "SpecError", "the execution cannot be restored: "
    else:
        retryable = True
    details: Mapping[str, Any] = {"module": prepared.request.engine.module}
    return JobError(
        code, f"{sentence}{error.message}", hint=error.hint, retryable=retryable, details=details
    )


__all__ = ["ADOPT_SECONDS", "PATIENCE", "Prepared", "start_error"]
