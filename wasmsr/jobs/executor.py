"""The executor of jobs: runs executions, each in a worker process of its own.

    with Executor(folder) as executor:
        result = executor.run(request)

It is the executor of Bacalhau by what it does (`pkg/executor/types.go`): start, wait, run, cancel,
logs. docs/jobs.md says where the two differ.
"""

from __future__ import annotations

import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Any, Final

from wasmsr.errors import SnapshotError, WasmsrError, printable
from wasmsr.jobs.description.job import Resources
from wasmsr.jobs.execution.archive import ExecutionArchive
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.ending import EndingExecution
from wasmsr.jobs.execution.entries import FailedExecution, StartingExecution
from wasmsr.jobs.execution.execution import Execution, ExecutionRules
from wasmsr.jobs.execution.log import rewind_log
from wasmsr.jobs.execution.requests import (
    BidResponse,
    ExecutionFolder,
    ExecutionInput,
    ExecutionRequest,
    ExecutionResult,
    check_id,
    check_request,
)
from wasmsr.jobs.execution.results import write_results
from wasmsr.jobs.execution.saving import JobCheckpoint, read_request, write_request
from wasmsr.jobs.execution_table import ExecutionTable, StillRuns
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.preparing.checking import RequestChecker
from wasmsr.jobs.preparing.guest_files import filesystem_error
from wasmsr.jobs.preparing.modules import memory_pages
from wasmsr.jobs.preparing.prepared import start_error
from wasmsr.node.workers.warm_parents import WarmParents
from wasmsr.wasi.filesystem import tree_walk

LEAVING: Final = 4
"""Executions that are saved at the same time when an executor is ended."""

FORKS: Final = 1000
"""Copies of an execution that one call makes at most."""


class JobExecutor(ExecutionTable):
    """Runs executions. Any thread may call its methods."""

    def __init__(
        self,
        folder: str | os.PathLike[str] | None = None,
        *,
        compat: str | None = None,
        note: Callable[..., None] = lambda event, id, **values: None,
    ) -> None:
        """Make an executor without executions.

        Args:
            folder: Where executions have their folders that bring none; None for a temporary one,
                which `close` removes.
            compat: "bacalhau" for the answers of that peer; None for ours.
            note: Gets events, on any thread: a name, the execution's id, and values by name.

        Raises:
            JobError: SpecError; there is no such peer.
            OSError: The folder cannot be made.
        """
        if compat not in (None, "bacalhau"):
            raise JobError("SpecError", f"there is no peer {compat!r}, only bacalhau")
        super().__init__()
        self._manner = Manner(compat == "bacalhau")
        self._temporary = folder is None
        self.folder = Path(tempfile.mkdtemp(prefix="wasmsr-jobs-") if folder is None else folder)
        self.folder.mkdir(parents=True, exist_ok=True)
        self._parents = WarmParents()
        self._checker = RequestChecker(self.folder, self._manner, self._parents)
        self._rules = ExecutionRules(self._manner, self._parents, note)

    def __enter__(self) -> JobExecutor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Cancel what runs, and end all processes. Results stay where a folder was given."""
        with self._lock:
            executions = list(self._executions.values())
        for execution in executions:
            if isinstance(execution, Execution) and not execution.is_over:
                with suppress(WasmsrError):
                    execution.cancel()
        self._parents.close()
        if self._temporary:
            tree_walk.remove(self.folder)  # programs can make trees of any depth

    def leave(self) -> dict[str, str]:
        """End all processes, and save what runs, so that `recover` can go on with it.

        This is no loss, so `on_loss` does not matter. Whoever waits for an execution that has not
        ended gets ExecutorLeft, and nothing can be started any more.

        Returns:
            The ids of executions that could not be saved, and why; `on_loss` decides about them.
        """
        with self._lock:
            self._left = True
            self._lock.wait_for(
                lambda: (
                    not any(isinstance(one, StartingExecution) for one in self._executions.values())
                )
            )
            going = {
                id: one
                for id, one in self._executions.items()
                if isinstance(one, Execution) and not one.is_over
            }
        with ThreadPoolExecutor(LEAVING, "wasmsr-leave") as pool:
            problems = dict(zip(going, pool.map(Execution.leave, going.values()), strict=True))
        self._parents.close()
        return {id: problem for id, problem in problems.items() if problem}

    # ---- the peer's verbs ------------------------------------------------------------------------

    def is_installed(self) -> bool:
        """Return True: the engine is part of this package."""
        return True

    def should_bid(self, request: ExecutionRequest | Mapping[str, Any]) -> BidResponse:
        """Return whether an execution could run here, by what it asks for."""
        try:
            read = _read(request)
            check_id(read.execution_id)
            memory_pages(read.resources.memory)
        except JobError as error:
            return BidResponse(False, error.message)
        return BidResponse(True, "a Wasm program has no further requirements")

    def should_bid_based_on_usage(
        self, request: ExecutionRequest | Mapping[str, Any], usage: Resources
    ) -> BidResponse:
        """Return whether an execution could run here when this much is in use already.

        Args:
            request: The execution.
            usage: What it would use.
        """
        cores = os.cpu_count() or 1
        if usage.cpu is not None and usage.cpu > cores:
            return BidResponse(False, f"{usage.cpu:g} CPUs are asked for, and {cores} are here")
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        if usage.memory is not None and usage.memory > memory:
            return BidResponse(
                False, f"{usage.memory} bytes of memory are asked for, and {memory} are here"
            )
        return self.should_bid(request)

    def start(self, request: ExecutionRequest | Mapping[str, Any]) -> None:
        """Start an execution; it runs when this returns.

        Raises:
            JobError: It cannot be started. ExecutionAlreadyStarted or ExecutionAlreadyComplete:
                there is one with this id.
        """
        read = _read(request)
        self._enter(read, lambda: self._begin(read))

    def _begin(self, request: ExecutionRequest) -> Execution | FailedExecution:
        folder = self._checker.folder(request)
        memory_pages(request.resources.memory)
        files = self._checker.files(request, folder)
        try:
            prepared = self._checker.prepared(request, folder, files)
            files.make(folder)
            execution = Execution(prepared, self._rules)
            write_request(folder, request)
            execution.begin()
            return execution
        except JobError as error:
            return self._not_loaded(folder, request, error)
        except OSError as error:
            shutil.rmtree(folder.work, ignore_errors=True)
            raise filesystem_error(folder.path, error) from error

    def _not_loaded(
        self, folder: ExecutionFolder, request: ExecutionRequest, error: JobError
    ) -> FailedExecution:
        """Write the results of an execution that did not begin, and raise its error.

        The peer starts it all the same, and gives the error with its result, without files.
        """
        for part in (folder.work, folder.log, folder.saved):
            shutil.rmtree(part, ignore_errors=True)
        if self._manner.peer and error.code not in ("SpecError", "FilesystemError"):
            with suppress(OSError):
                folder.results.mkdir(parents=True, exist_ok=True)
            return FailedExecution(
                ExecutionResult(exit_code=-1, error=error.message), folder, request
            )
        with suppress(OSError):
            write_results(folder, request.output_limits, error.exit_code, "", self._manner)
        raise error

    def run(self, request: ExecutionRequest | Mapping[str, Any]) -> ExecutionResult:
        """Start an execution and return its result. Raises JobError as `start` does."""
        read = _read(request)
        self.start(read)
        return self.wait(read.execution_id)

    # ---- what the peer has not -------------------------------------------------------------------

    def restore(
        self,
        file: str | os.PathLike[str],
        id: str,
        *,
        request: ExecutionRequest | Mapping[str, Any] | None = None,
        inputs: Sequence[ExecutionInput] | None = None,
        execution_dir: str = "",
        fork: int = 0,
    ) -> None:
        """Let a saved execution go on, under an id that is free.

        Args:
            file: What `snapshot` has written.
            id: The id that it has from now on.
            request: What it may use and read; the file grants nothing. None takes the request of
                the saved execution, if this executor has it or its folder.
            inputs: Its inputs, if they are in other places now.
            execution_dir: Its folder; "" makes one.
            fork: The number of the copy that it is: it calls `wasmsr_forked` first, if it exports
                that. 0 for the execution itself.

        Raises:
            JobError: It cannot be restored.
        """
        try:
            with ExecutionArchive(Path(file)) as saved:
                given = self._request_of(saved.about.execution_id) if request is None else request
                read = replace(_read(given), execution_id=id, execution_dir=execution_dir)
                if inputs is not None:
                    read = replace(read, inputs=tuple(inputs))
                self._enter(read, lambda: self._go_on(read, saved, fork))
        except SnapshotError as error:
            raise JobError("SpecError", error.message, hint=error.hint) from error

    def recover(self, request: ExecutionRequest | Mapping[str, Any]) -> None:
        """Go on with an execution whose executor was ended or killed, from its last checkpoint.

        Log, streams and outputs are then as the checkpoint has them, and so is the time that counts
        for its time-out. It is paused if it was. Its worker must have ended: workers end 1 s after
        an executor that was killed.

        Args:
            request: What it may use and read; its `execution_dir` is the folder that the execution
                had, and its id may be a new one.

        Raises:
            JobError: ExecutionNotFound, there is no checkpoint; or it cannot be restored. Its
                checkpoint stays.
        """
        read = _read(request)
        self._enter(read, lambda: self._recovered(read))

    def _recovered(self, request: ExecutionRequest) -> Execution:
        folder = ExecutionFolder(Path(os.path.realpath(request.execution_dir)))
        saved = JobCheckpoint.read(folder)
        if saved is None:
            raise JobError(
                "ExecutionNotFound",
                f"{printable(folder.path)} has no checkpoint of an execution",
                hint="snapshot_every writes checkpoints",
            )
        memory_pages(request.resources.memory)
        files = self._checker.files(request, folder)
        try:
            prepared = self._checker.prepared(request, folder, files)
            shutil.rmtree(folder.work, ignore_errors=True)
            rewind_log(folder.log, dict(saved.ends))
            files.make_root(folder)
            write_request(folder, request)
            execution = Execution(prepared, self._rules)
            execution.begin(execution.restoring(saved), paused=saved.paused)
        except OSError as error:
            raise filesystem_error(folder.path, error) from error
        return execution

    def _request_of(self, id: str) -> ExecutionRequest:
        """Return the request of an execution that was saved. Raises JobError."""
        with self._lock:
            known = self._executions.get(id)
        if isinstance(known, EndingExecution):
            return known.prepared.request
        check_id(id)
        found = read_request(ExecutionFolder(self.folder / id))
        if found is None:
            raise JobError(
                "ExecutionNotFound",
                f"the saved execution {printable(id)} is not known here",
                hint="give its request: a file of a saved execution grants nothing",
            )
        return found

    def _go_on(
        self, request: ExecutionRequest, saved: ExecutionArchive, fork: int = 0
    ) -> Execution:
        """Begin an execution where another one was saved. Raises JobError."""
        folder = self._checker.folder(request)
        memory_pages(request.resources.memory)
        files = self._checker.files(request, folder)
        prepared = self._checker.prepared(request, folder, files)
        files.make(folder)
        execution = Execution(prepared, self._rules)
        try:
            write_request(folder, request)
            folder.log.mkdir(mode=0o700)
            saved.put_log(folder.log, request.output_limits)
            program = saved.program(folder.work)
            try:
                execution.begin(execution.adopting(program, fork))
            finally:
                os.close(program)
        except BaseException as error:
            for part in (folder.work, folder.log, folder.saved, folder.results):
                tree_walk.remove(part)
            raise start_error(error, prepared) from error
        return execution

    def fork(self, id: str, n: int) -> list[str]:
        """Make copies of an execution, which go on from where it is. It goes on too.

        Args:
            id: Its id.
            n: How many.

        Returns:
            Their ids: `ID.1`, `ID.2` and so on, from the first that is free. A program that exports
            `wasmsr_forked` calls it first in each copy, with that number and random bits.

        Raises:
            JobError: ExecutionNotFound; or it has ended, or cannot be copied. No copy is left then.
        """
        if not 0 <= n <= FORKS:
            raise JobError("SpecError", f"{n} copies are asked for: 0 to {FORKS} can be made")
        self._running(id, "forked")
        made: list[str] = []
        with tempfile.TemporaryDirectory(prefix=".forks-", dir=self.folder) as place:
            file = Path(place) / "saved"
            self.snapshot(id, file)
            try:
                for name in self._free(id, n):
                    self.restore(file, name, fork=int(name.rpartition(".")[2]))
                    made.append(name)
            except BaseException:
                for name in made:
                    with suppress(JobError):
                        self.cancel(name)
                raise
        return made

    def _free(self, id: str, n: int) -> list[str]:
        with self._lock:
            taken = set(self._executions)
        numbers, found = itertools.count(1), list[str]()
        while len(found) < n:
            name = f"{id}.{next(numbers)}"
            if name not in taken and not (self.folder / name).exists():
                found.append(name)
        return found


def _read(request: ExecutionRequest | Mapping[str, Any]) -> ExecutionRequest:
    read = request if isinstance(request, ExecutionRequest) else ExecutionRequest.read(request)
    check_request(read)
    return read


__all__ = ["JobExecutor", "StillRuns"]
