"""Checks requests for an executor, and makes the folders of executions."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from wasmsr.errors import printable
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionRequest
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.preparing.guest_files import GuestFiles, filesystem_error
from wasmsr.jobs.preparing.modules import About, ModuleLinker, memory_pages
from wasmsr.jobs.preparing.prepared import Prepared
from wasmsr.node.workers.warm_parents import WarmParents


class RequestChecker:
    """What an executor asks of each request before it begins anything."""

    def __init__(self, home: Path, manner: Manner, parents: WarmParents) -> None:
        """Take the folder of executions that bring none, the answers, and what loads modules."""
        self._home, self._manner, self._parents = home, manner, parents

    def folder(self, request: ExecutionRequest) -> ExecutionFolder:
        """Return the folder of an execution, which is made. Raises JobError."""
        path = Path(request.execution_dir or self._home / request.execution_id)
        try:
            path.mkdir(parents=True, exist_ok=True)
            folder = ExecutionFolder(Path(os.path.realpath(path)))
        except (OSError, ValueError) as error:
            raise filesystem_error(
                path, error if isinstance(error, OSError) else OSError(str(error))
            ) from error
        if "::" in os.fspath(folder.path):
            raise JobError("SpecError", f"the folder {printable(folder.path)} has :: in its path")
        for part in (folder.log, folder.work, folder.saved):
            if part.exists():
                raise JobError(
                    "FilesystemError",
                    f"{printable(folder.path)} is the folder of another execution: it has "
                    f"{part.name}",
                    hint="give each execution a new folder",
                )
        return folder

    def files(self, request: ExecutionRequest, folder: ExecutionFolder) -> GuestFiles:
        """Return what the program sees. Raises JobError."""
        if not request.engine.module:
            raise JobError(
                "SpecError",
                "the engine has no EntryModule",
                hint="name the Target of the input that is the program",
            )
        try:
            return GuestFiles.checked(request, self._manner)
        except JobError as error:
            for name in error.details.get("made", ()):
                with suppress(OSError):
                    (folder.results / name).mkdir(parents=True, exist_ok=True)
            raise

    def prepared(
        self, request: ExecutionRequest, folder: ExecutionFolder, files: GuestFiles
    ) -> Prepared:
        """Return a request that was checked whole. Raises JobError."""
        pages = memory_pages(request.resources.memory)
        modules = ModuleLinker(files, self._describe, self._manner, pages).link(request.engine)
        prepared = Prepared(request, folder, files, modules, pages)
        prepared.run()
        return prepared

    def _describe(self, file: str, digest: str) -> About:
        return self._parents.about(Path(file), digest, None)


__all__ = ["RequestChecker"]
