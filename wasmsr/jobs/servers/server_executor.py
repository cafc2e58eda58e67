"""The executor of jobs on other servers: each execution is a program of a wasmsr node.

    with ServerExecutor(shared, wasmsr.Node, ["one:7443", "two:7443"]) as executor:
        executor.start(request)
        executor.migrate(request.execution_id, "two:7443")

It has the verbs of `JobExecutor`. The node runs the program; this process only watches, so the
program outlives it.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.description.job import Constraint
from wasmsr.jobs.execution.archive import ExecutionArchive
from wasmsr.jobs.execution.requests import ExecutionFolder, ExecutionRequest
from wasmsr.jobs.execution.saving import write_request
from wasmsr.jobs.executor import JobExecutor
from wasmsr.jobs.failures import ExecutorLeft, JobError
from wasmsr.jobs.preparing.guest_files import filesystem_error
from wasmsr.jobs.preparing.modules import memory_pages
from wasmsr.jobs.preparing.prepared import Prepared, start_error
from wasmsr.jobs.servers import server_execution
from wasmsr.jobs.servers.copied_log import log_sizes
from wasmsr.jobs.servers.job_servers import JobServers, Place
from wasmsr.jobs.servers.server_execution import ServerExecution
from wasmsr.jobs.servers.server_files import begin_file
from wasmsr.jobs.servers.server_mover import ServerMover
from wasmsr.jobs.servers.server_port import JobServer, ServerPlace, ServerPlacement, Unwanted
from wasmsr.jobs.servers.server_run import ServerNote, spec_for
from wasmsr.node.failures import NodeAway, NodeError
from wasmsr.wasi.filesystem import tree_walk

SUBMIT_TRIES: Final = 5
"""How often a server is looked for that takes an execution, where one is lost meanwhile."""


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
                none.
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
        self._unwanted: set[str] = set()
        self._avoided: frozenset[str] = frozenset()
        self._mover = ServerMover(self, placement)
        self._ids: dict[str, str] = {}
        self._note = note

    def tell(self, event: str, id: str, **values: Any) -> None:
        """Tell whoever listens to this executor what has happened."""
        self._note(event, id, **values)

    def ours(self) -> list[ServerExecution]:
        """Return the executions that were begun or found."""
        with self._lock:
            executions: Iterable[object] = list(self._executions.values())
        return [one for one in executions if isinstance(one, ServerExecution)]

    def close(self) -> None:
        """Cancel what runs, and close the connections. Results stay."""
        self._end_moves()
        for one in self.ours():
            if not one.is_over:
                with suppress(WasmsrError):
                    one.cancel()
        self._servers.close()
        if self._placement is not None:
            self._placement.close()
        super().close()

    def _end_moves(self) -> None:
        """Begin nothing any more, and wait for moves that have begun."""
        with self._lock:
            self._left = True
        self._mover.close()

    def leave(self) -> dict[str, str]:
        """Watch nothing any more. The programs run on at their nodes; `recover` finds them."""
        self._end_moves()
        super().leave()  # what was being started has begun now, and nothing begins any more
        for one in self.ours():
            if not one.is_over:
                one.leave()
        self._servers.close()
        return {}

    def _enter(self, request: ExecutionRequest, begin: Callable[[], Any]) -> Any:
        """Begin an execution; one that was cancelled meanwhile is ended. Raises JobError."""
        id = request.execution_id

        def begun() -> Any:
            try:
                return begin()
            except BaseException:
                self._unwanted.discard(id)
                raise

        made = super()._enter(request, begun)
        if id in self._unwanted:  # nobody adds it any more
            self._unwanted.discard(id)
            with suppress(WasmsrError):
                made.cancel()
        return made

    def _begin(self, request: ExecutionRequest) -> Any:
        folder = self._checker.folder(request)
        memory_pages(request.resources.memory)
        files = self._checker.files(request, folder)
        try:
            prepared = self._checker.prepared(request, folder, files)
            spec_for(prepared)
            files.make(folder)
            write_request(folder, request)
            return self._sent(prepared)
        except JobError as error:
            return self._not_loaded(folder, request, error)
        except ExecutorLeft:
            self._drop(folder)
            raise
        except WasmsrError as error:
            self._drop(folder)
            raise _not_taken(error) from error
        except OSError as error:
            self._drop(folder)
            raise filesystem_error(folder.path, error) from error

    def _go_on(self, request: ExecutionRequest, saved: ExecutionArchive, fork: int = 0) -> Any:
        folder = self._checker.folder(request)
        memory_pages(request.resources.memory)
        files = self._checker.files(request, folder)
        prepared = self._checker.prepared(request, folder, files)
        spec_for(prepared)
        if self._lease is not None and request.on_loss == "restart":
            raise JobError(
                "SpecError",
                f"{printable(request.execution_id)} goes on in a file, so it cannot begin at its "
                "beginning when its server is lost",
                hint="onLoss: restore lets another server go on from its last save point",
            )
        try:
            files.make(folder)
            write_request(folder, request)
            for part in (folder.log, folder.saved):
                part.mkdir(mode=0o700)
            saved.put_log(folder.log, request.output_limits)
            saved.put_program(begin_file(folder))
            base = log_sizes(folder.log)
            return self._sent(prepared, base, fork)
        except BaseException as error:
            self._drop(folder)
            if isinstance(error, NodeError):
                raise _not_taken(error) from error
            raise start_error(error, prepared) from error

    def _sent(
        self, prepared: Prepared, base: Mapping[str, int] | None = None, fork: int = 0
    ) -> ServerExecution:
        """Return an execution that a server has taken; another one is tried if one is lost."""
        for _ in range(SUBMIT_TRIES - 1):
            with suppress(NodeAway):
                return self._submitted(prepared, base, fork)
        return self._submitted(prepared, base, fork)

    def _submitted(
        self, prepared: Prepared, base: Mapping[str, int] | None, fork: int
    ) -> ServerExecution:
        """Return an execution that a server has taken. Raises NodeAway: it certainly has not."""
        request = prepared.request
        place = None if self._placement is None else self._reserve(request)
        server = (request.server or self._first) if place is None else place.server
        self._note("placed", request.execution_id, server=server)
        # Whoever has said meanwhile that this server is to be avoided sees it there, or it goes to
        # another one.
        while place is not None and place.server in self._avoided and not request.server:
            place.release()
            place = self._reserve(request)
            server = place.server
            self._note("placed", request.execution_id, server=server)
        execution = ServerExecution(prepared, self._servers, server, self._note)
        try:
            execution.begin(self._terms(), base, fork)
        except BaseException:
            if place is not None:
                place.release()
            raise
        if place is not None:
            execution.take(place)
        return execution

    def _drop(self, folder: ExecutionFolder) -> None:
        for part in (folder.work, folder.log, folder.saved, folder.results):
            tree_walk.remove(part)

    def _recovered(self, request: ExecutionRequest) -> Any:
        folder = ExecutionFolder(Path(os.path.realpath(request.execution_dir)))
        files = self._checker.files(request, folder)
        prepared = self._checker.prepared(request, folder, files)
        execution = ServerExecution(prepared, self._servers, self._first, self._note)
        with suppress(NodeAway):  # it may be there: it is looked for again and again
            found = self._found(execution, ServerNote.read(folder, 0))
            execution.server = found[0]
            if self._placement is not None and not found[1].is_final:
                with suppress(JobError):  # a server that Ray has lost may still run it
                    execution.take(self._placement.reserve(request, at=execution.server))
        execution.again(self._lease)
        return execution

    def _found(self, execution: ServerExecution, noted: ServerNote) -> Place:
        """Return where an execution is that another process has begun.

        If no server shows it, one may have the question for it still before it, or workers of a
        folder that it has lost. They are given as much time as while an execution is watched, also
        if it was cancelled: what shows itself is ended.

        Raises:
            NodeAway: A server that may have it cannot be asked.
            JobError: ExecutionNotFound, none has it; or it is not wanted any more.
            ExecutorLeft: This executor is ended meanwhile.
        """
        id = execution.id
        seconds = server_execution.GONE_SECONDS if noted.seen else server_execution.ABSENT_SECONDS
        end = time.monotonic() + seconds
        while (found := self._servers.find(execution.name, noted.replaced)) is None:
            if self._left:
                raise ExecutorLeft(f"the executor of the execution {printable(id)} was ended")
            if time.monotonic() >= end:
                if id in self._unwanted:
                    raise _cancelled(id)
                raise JobError("ExecutionNotFound", f"no server has the execution {printable(id)}")
            time.sleep(server_execution.AGAIN_SECONDS)
        return found

    def _reserve(self, request: ExecutionRequest) -> ServerPlace:
        """Return a place for an execution; it may wait for one. Raises JobError, ExecutorLeft."""
        assert self._placement is not None
        id = request.execution_id
        wanted = lambda: not self._left and id not in self._unwanted  # noqa: E731
        try:
            return self._placement.reserve(
                request, request.server, but=self._servers.away, wanted=wanted
            )
        except Unwanted as error:
            if self._left:
                raise ExecutorLeft(error.message) from None
            raise _cancelled(id) from None

    def _terms(self) -> Mapping[str, Any] | None:
        """Return the terms of leases; all servers may take over, if nobody says which.

        Raises:
            WasmsrError: A server cannot be asked for its id.
        """
        if self._lease is None or "failover" in self._lease:
            return self._lease
        for address in list(self._servers.addresses):
            if address not in self._ids:
                with suppress(NodeAway):
                    self._ids[address] = self._servers.at(address).info()["node"]
        return {**self._lease, "failover": sorted(set(self._ids.values()))}

    def cancel(self, id: str) -> None:
        """End an execution at once; one that waits for a server does not begin.

        Raises:
            JobError: ExecutionNotFound, ExecutionAlreadyComplete or ExecutionAlreadyCancelled.
        """
        with self._lock:
            known: object = self._executions.get(id)
            if known is not None and not hasattr(known, "cancel"):  # it is being started
                self._unwanted.add(id)
                return
        super().cancel(id)

    def avoid(self, servers: frozenset[str]) -> None:
        """Begin nothing on these servers from now on, and move what runs there to others."""
        self._avoided = servers
        if self._placement is not None:
            self._placement.avoid(servers)
            self._mover.leave(servers)

    def matching(self, constraints: Iterable[Constraint]) -> list[str]:
        """Return the addresses of the servers that meet constraints. Raises JobError."""
        if self._placement is None:
            return list(self._servers.addresses)
        return self._placement.matching(constraints)

    def server(self, id: str) -> str:
        """Return the address of the node that has an execution. Raises JobError."""
        return self._on_server(id, "found").server

    def migrate(self, id: str, peer: str) -> None:
        """Move an execution to another node while it runs.

        Its log goes on without a line twice or missing.

        Args:
            id: Its id.
            peer: The node's address; "" for any that the placement finds.

        Raises:
            JobError: ExecutionNotFound, or it has ended, or there is no other server.
            WasmsrError: It was not moved, and runs on where it was.
        """
        execution = self._on_server(id, "moved")
        if self._placement is None:
            others = [one for one in self._servers.addresses if one != execution.server]
            if not (peer or others):
                raise JobError("SpecError", "there is no other server")
            execution.migrate(peer or others[0])
            return
        end = time.monotonic() + self._placement.patience
        try:
            place = self._placement.reserve(
                execution.prepared.request, peer,
                but=lambda: self._servers.away() | {execution.server},
                wanted=lambda: not self._left and time.monotonic() < end,
            )  # fmt: skip
        except Unwanted:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no other server has room for the execution {printable(id)}",
                retryable=True,
            ) from None
        try:
            execution.migrate(place.server)
        except BaseException:
            place.release()
            raise
        execution.take(place)

    def _on_server(self, id: str, what: str) -> ServerExecution:
        found: object = self._running(id, what)
        assert isinstance(found, ServerExecution)
        return found


def _cancelled(id: str) -> JobError:
    """Return the error for an execution that was cancelled before it ran, or was found."""
    return JobError("ExecutionAlreadyCancelled", f"the execution {printable(id)} was cancelled")


def _not_taken(error: WasmsrError) -> JobError:
    """Return the error for an execution that no server takes."""
    sentence = f"no server takes it: {error.message}"
    return JobError("WASIError", sentence, hint=error.hint, retryable=True)


__all__ = ["ServerExecutor"]
