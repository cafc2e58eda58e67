"""The executor of jobs on other servers: each execution is a program of a wasmsr node.

    with ServerExecutor(shared, wasmsr.Node, ["one:7443", "two:7443"]) as executor:
        executor.start(request)
        executor.migrate(request.execution_id, "two:7443")

It has the verbs of `JobExecutor`. The node runs the program; this process only watches, so the
program outlives it.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.execution.guest_files import filesystem_error
from wasmsr.jobs.execution.modules import memory_pages
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionInput, ExecutionRequest
from wasmsr.jobs.execution.saving import write_request
from wasmsr.jobs.executor import JobExecutor
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.servers.server_execution import JobServers, ServerExecution, spec_for
from wasmsr.jobs.servers.server_port import JobServer, ServerPlacement


class ServerExecutor(JobExecutor):
    """Runs executions on nodes. Any thread may call its methods."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        connect: Callable[[str], JobServer],
        servers: Sequence[str],
        *,
        lease: Mapping[str, Any] | None = None,
        placement: ServerPlacement | None = None,
        note: Callable[..., None] = lambda event, id, **values: None,
    ) -> None:
        """Make an executor without executions.

        Args:
            folder: A folder that all servers reach by the same path, and that their policies
                allow. Executions have their folders there.
            connect: Opens a node by its address, such as `wasmsr.Node`.
            servers: Addresses of nodes. The first one runs new executions, unless there is a
                placement; all are asked for one that its node does not have any more.
            lease: The terms of the leases of all executions, as `Node.submit` takes them; None for
                none. Then no execution may have an output folder, which could not be fenced.
            placement: Says on which server each execution runs, such as a `RayPlacement`.
            note: Gets events, as for `JobExecutor`.

        Raises:
            ValueError: There is no server.
            OSError: The folder cannot be made.
        """
        if not servers:
            raise ValueError("an executor on servers needs a server")
        super().__init__(folder, note=note)
        self._servers, self._lease = JobServers(connect, servers), lease
        self._first, self._placement = servers[0], placement
        self._note = note

    def _ours(self) -> list[ServerExecution]:
        with self._lock:
            executions: Iterable[object] = list(self._executions.values())
        return [one for one in executions if isinstance(one, ServerExecution)]

    def close(self) -> None:
        """Cancel what runs, and close the connections. Results stay."""
        for one in self._ours():
            if not one.is_over:
                with suppress(WasmsrError):
                    one.cancel()
        self._servers.close()
        super().close()

    def leave(self) -> dict[str, str]:
        """Watch nothing any more. The programs run on at their nodes; `recover` finds them."""
        super().leave()  # what was being started has begun now, and nothing begins any more
        for one in self._ours():
            if not one.is_over:
                one.leave()
        self._servers.close()
        return {}

    def _begin(self, request: ExecutionRequest) -> Any:
        folder = self._folder(request)
        pages = memory_pages(request.resources.memory)
        files = self._checked_files(request, folder)
        try:
            prepared = self._prepared(request, folder, files, pages)
            spec_for(prepared)
            files.make(folder)
            write_request(folder, request)
            place = None if self._placement is None else self._placement.reserve(request)
            server = self._first if place is None else place.server
            execution = ServerExecution(prepared, self._servers, server, self._note)
            try:
                execution.begin(self._lease)
            except BaseException:
                if place is not None:
                    place.release()
                raise
            if place is not None:
                execution.take(place)
            return execution
        except JobError as error:
            return self._not_loaded(folder, request, error)
        except WasmsrError as error:
            self._drop(folder)
            sentence = f"no server takes it: {error.message}"
            raise JobError("WASIError", sentence, hint=error.hint, retryable=True) from error
        except OSError as error:
            self._drop(folder)
            raise filesystem_error(folder.path, error) from error

    def _drop(self, folder: ExecutionFolder) -> None:
        for part in (folder.work, folder.log, folder.saved, folder.results):
            shutil.rmtree(part, ignore_errors=True)

    def _recovered(self, request: ExecutionRequest) -> Any:
        folder = ExecutionFolder(Path(os.path.realpath(request.execution_dir)))
        files = self._checked_files(request, folder)
        prepared = self._prepared(request, folder, files, memory_pages(request.resources.memory))
        execution = ServerExecution(prepared, self._servers, self._first, self._note)
        found = self._servers.find(execution.name)
        if found is not None:
            execution.server = found[0]
        else:
            raise JobError(
                "ExecutionNotFound",
                f"no server has the execution {printable(request.execution_id)}",
            )
        if self._placement is not None:
            execution.take(self._placement.reserve(request, at=execution.server))
        execution.follow(leased=self._lease is not None)
        return execution

    def server(self, id: str) -> str:
        """Return the address of the node that has an execution. Raises JobError."""
        return self._on_server(id, "found").server

    def migrate(self, id: str, peer: str) -> None:
        """Move an execution to another node while it runs.

        Its log goes on without a line twice or missing.

        Args:
            id: Its id.
            peer: The node's address.

        Raises:
            JobError: ExecutionNotFound, or it has ended.
            WasmsrError: It was not moved, and runs on where it was.
        """
        execution = self._on_server(id, "moved")
        if self._placement is None:
            execution.migrate(peer)
            return
        place = self._placement.reserve(execution.prepared.request, at=peer)
        try:
            execution.migrate(peer)
        except BaseException:
            place.release()
            raise
        execution.take(place)

    def _on_server(self, id: str, what: str) -> ServerExecution:
        found: object = self._running(id, what)
        assert isinstance(found, ServerExecution)
        return found

    def restore(
        self,
        file: str | os.PathLike[str],
        id: str,
        *,
        request: ExecutionRequest | Mapping[str, Any] | None = None,
        inputs: Sequence[ExecutionInput] | None = None,
        execution_dir: str = "",
        fork: int = 0,
    ) -> NoReturn:
        """Raise JobError: a file of a saved execution goes on at an executor of this machine."""
        raise JobError("SpecError", f"{printable(os.fspath(file))} cannot go on at a server")


__all__ = ["ServerExecutor"]
