"""One execution whose program is on a node, and the thread that watches it there.

The node owns the program: if this process ends, the program runs on, and `ServerExecutor.recover`
goes on watching. If it moves, the thread goes along.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any, Final

from wasmsr.errors import EXIT_HOST, EXIT_TRAP, WasmsrError, printable
from wasmsr.jobs.execution.compat import Manner
from wasmsr.jobs.execution.log import LogWatch
from wasmsr.jobs.execution.prepared import Prepared
from wasmsr.jobs.execution.requests import (
    ExecutionFolder,
    ExecutionInfo,
    ExecutionResult,
    ExecutionState,
)
from wasmsr.jobs.execution.results import write_results
from wasmsr.jobs.failures import ExecutorLeft, JobError
from wasmsr.jobs.servers.copied_log import CopiedLog
from wasmsr.jobs.servers.server_port import JobServer, ProgramOnServer, ServerPlace
from wasmsr.node.failures import NodeAway, NodeError

AGAIN_SECONDS: Final = 0.2
"""How long the thread waits before it asks again for output, and where the program is."""

TAKEN_TRIES: Final = 10
"""How often a node is asked whether it took a program, when its answer did not come."""

GAP_SECONDS: Final = 120.0
"""How long a node may be away that alone has a part of the output. Then the execution has failed,
because its log would have a gap."""

CANCEL_SECONDS: Final = 30.0
"""How long a caller waits for the end of an execution that it has cancelled."""

OURS: Final = "job."
"""How the names of our programs on nodes begin; the execution's id follows."""

RUN_FIELDS: Final = ("own_name", "own_args", "invoke", "env", "limits")
"""What a node is told of a run, besides its mounts."""


class JobServers:
    """The nodes on which executions run, by their addresses. Any thread may use it."""

    def __init__(self, connect: Callable[[str], JobServer], addresses: Iterable[str]) -> None:
        """Take nodes; `connect` opens one by its address."""
        self._connect = connect
        self._lock = threading.Lock()
        self._open: dict[str, JobServer] = {}
        self.addresses = list(addresses)

    def at(self, address: str) -> JobServer:
        """Return a node; one that was not known is asked from now on too."""
        with self._lock:
            if address not in self.addresses:
                self.addresses.append(address)
            if address not in self._open:
                self._open[address] = self._connect(address)
            return self._open[address]

    def find(self, name: str, first: str = "") -> tuple[str, ProgramOnServer] | None:
        """Return the node that has a program, and what it says; None if none has it.

        A node that says where the program went is asked only for the address.

        Args:
            name: The program's name.
            first: The node that is asked first.

        Raises:
            NodeAway: None has it, but not all could be asked.
        """
        away: NodeAway | None = None
        asked: set[str] = set()
        waiting = [first] if first else []
        waiting += [one for one in self.addresses if one != first]
        gone: tuple[str, ProgramOnServer] | None = None
        while waiting:
            address = waiting.pop(0)
            if address in asked:
                continue
            asked.add(address)
            try:
                mine = [one for one in self.at(address).ps() if one.name == name]
            except NodeAway as error:
                away = error
                continue
            for one in sorted(mine, key=lambda one: -one.submitted):
                if one.standing != "moved":
                    return address, one
                gone = address, one
                if one.went is not None and one.went["address"]:
                    waiting.insert(0, one.went["address"])
                break
        if away is not None:
            raise away
        return gone

    def close(self) -> None:
        """Close the connections."""
        with self._lock:
            for one in self._open.values():
                one.close()
            self._open.clear()


class ServerExecution:
    """One execution on a node. Any thread may call its methods.

    Attributes:
        prepared: What it runs.
        server: The address of the node that had it last.
        watch: Tells followers that its log has grown.
    """

    def __init__(
        self, prepared: Prepared, servers: JobServers, server: str, note: Callable[..., None]
    ) -> None:
        self.prepared, self.server = prepared, server
        self._servers, self._note = servers, note
        self._lock = threading.RLock()
        self._over = threading.Event()
        self._listeners: list[Callable[[], None]] = []
        self._state: ExecutionState = "starting"
        self._result: ExecutionResult | None = None
        self._began, self._end = time.time(), 0.0
        self._cancelled = self._left = self._leased = False
        self._place: ServerPlace | None = None
        self._gap_since = 0.0
        self._thread: threading.Thread | None = None
        self.watch = LogWatch(self.folder.log)

    @property
    def id(self) -> str:
        """Its id."""
        return self.prepared.request.execution_id

    @property
    def name(self) -> str:
        """The name of its program on nodes."""
        return OURS + self.id

    @property
    def folder(self) -> ExecutionFolder:
        """Where it has its files."""
        return self.prepared.folder

    @property
    def is_over(self) -> bool:
        """Whether it has ended, in whatever way."""
        return self._over.is_set()

    @property
    def info(self) -> ExecutionInfo:
        """What a list shows of it."""
        with self._lock:
            request = self.prepared.request
            return ExecutionInfo(
                request.execution_id, request.job_id, self._state, os.fspath(self.folder.path),
                None, self._began, self._end or None, result=self._result,
            )  # fmt: skip

    def take(self, place: ServerPlace) -> None:
        """Have a place on a server, which is given back at the end; an older one is at once."""
        with self._lock:
            self._place, old = place, self._place
            if self.is_over:
                old, self._place = place, None
        if old is not None:
            old.release()

    # ---- begin -----------------------------------------------------------------------------------

    def begin(self, lease: Mapping[str, Any] | None) -> None:
        """Have the node run the program, and watch it.

        Raises:
            WasmsrError: The node does not take it.
            OSError: The module cannot be read.
        """
        with open(self.prepared.modules.entry, "rb") as file:
            module = file.read()
        request, self._leased = self.prepared.request, lease is not None
        try:
            self._servers.at(self.server).submit(
                module, spec_for(self.prepared), name=self.name, every=request.snapshot_every,
                lease=lease,
            )  # fmt: skip
        except NodeAway:
            # The answer may be lost, and the program run. Nobody may begin it a second time then.
            if not self._was_taken():
                raise
        self.follow()

    def _was_taken(self) -> bool:
        """Return whether the node has the program, if it answers soon."""
        for _ in range(TAKEN_TRIES):
            with suppress(NodeAway):
                return any(one.name == self.name for one in self._servers.at(self.server).ps())
            time.sleep(AGAIN_SECONDS)
        return False

    def follow(self, *, leased: bool | None = None) -> None:
        """Watch a program that a node has.

        Args:
            leased: Whether it has a lease; None if `begin` has said so.
        """
        if leased is not None:
            self._leased = leased
        self._state = "running"
        self._note("started", self.id, job=self.prepared.request.job_id, server=self.server)
        self._thread = threading.Thread(
            target=self._watch, name="wasmsr-server-execution", daemon=True
        )
        self._thread.start()

    # ---- the thread ------------------------------------------------------------------------------

    def _watch(self) -> None:
        limits = self.prepared.request.output_limits
        try:
            log = CopiedLog(
                self.folder.log, {"stdout": limits.stdout_file, "stderr": limits.stderr_file}
            )
            try:
                found = self._copy_all(log)
            finally:
                log.close()
            if found is not None:
                self._come_to_end(found)
        except (WasmsrError, OSError) as error:
            self._settle("failed", EXIT_HOST, getattr(error, "message", str(error)))
        except Exception as error:  # noqa: BLE001  whoever waits would wait for ever
            self._settle("failed", EXIT_HOST, f"it cannot be watched: {error!r}")

    def _copy_all(self, log: CopiedLog) -> ProgramOnServer | None:
        """Copy output until the program has ended, wherever; None if this executor was left."""
        lives = dict.fromkeys(log.sizes, 0)
        while not self._left:
            try:
                place = self._servers.find(self.name, self.server)
                if place is None:
                    raise JobError(
                        "ExecutionNotFound", f"no server has the execution {printable(self.id)}"
                    )
                self.server, found = place
                if self._copy(log, found.program, lives):
                    continue  # there may be more
                if found.standing == "moved":
                    self._miss(found)
                elif found.is_final or (
                    found.standing == "resumable" and self._has_failed(found)
                ):  # since before its output was copied
                    return found
                else:
                    self._gap_since = 0.0
                with self._lock:
                    if self._state in ("running", "paused"):
                        self._state = "paused" if found.standing == "paused" else "running"
            except NodeAway:
                pass  # it may come back, or another node takes the program over
            time.sleep(AGAIN_SECONDS)
        return None

    def _miss(self, found: ProgramOnServer) -> None:
        """Note that the server to which a program went does not show it yet.

        Raises JobError: It has not for `GAP_SECONDS`.
        """
        self._gap_since = self._gap_since or time.monotonic()
        if time.monotonic() - self._gap_since >= GAP_SECONDS:
            raise JobError(
                "ExecutionNotFound",
                f"no server shows the execution {printable(self.id)}: {found.reason}",
                hint="name the server to which it went among the servers of the executor",
            )

    def _has_failed(self, found: ProgramOnServer) -> bool:
        """Resume a program whose worker was lost, or return True: that is its end.

        The register decides about a program with a lease.
        """
        if self._leased:
            return False
        server = self._servers.at(self.server)
        if self.prepared.request.on_loss == "restore":
            self._note("worker-lost", self.id, how=found.reason)
            server.resume(found.program)
            return False
        server.kill(found.program)
        return True

    def _copy(self, log: CopiedLog, program: str, lives: dict[str, int]) -> bool:
        """Copy the output that the node has now; return whether there was any.

        A node that is asked to follow does not say when a worker is lost.
        """
        some = False
        had = {stream: (size, lives[stream]) for stream, size in log.sizes.items()}
        for piece in self._servers.at(self.server).logs(program, follow=False, had=had):
            some = True
            if self._left:
                return some
            lives[piece.stream] = piece.life
            if piece.offset < log.sizes[piece.stream]:
                log.rewind(piece.stream, piece.offset)
                self.watch.tell()
                return some  # of the other stream, too, some may have to be asked for again
            if piece.offset > log.sizes[piece.stream]:
                self._fill(log, program, piece.stream, piece.offset)
            log.write(piece.stream, piece.data)
            self.watch.tell()
        return some

    def _fill(self, log: CopiedLog, program: str, stream: str, end: int) -> None:
        """Copy output that only a node has that had the program before.

        Args:
            log: The log.
            program: The program.
            stream: The stream.
            end: Where the output of the node begins that has the program now. What the others have
                from there on counts no more.

        Raises:
            NodeAway: Such a node may have it, and may come back.
            JobError: LogError; no node has it.
        """
        away: NodeAway | None = None
        for address in [one for one in self._servers.addresses if one != self.server]:
            try:
                had = {stream: (log.sizes[stream], 0)}
                for piece in self._servers.at(address).logs(program, follow=False, had=had):
                    if piece.stream == stream and piece.offset == log.sizes[stream] < end:
                        log.write(stream, piece.data[: end - piece.offset])
            except NodeAway as error:
                away = error
            except NodeError:
                continue  # it never had the program
            if log.sizes[stream] == end:
                self._gap_since = 0.0
                return
        self._gap_since = self._gap_since or time.monotonic()
        if away is not None and time.monotonic() - self._gap_since < GAP_SECONDS:
            raise away
        raise JobError(
            "LogError",
            f"{end - log.sizes[stream]} bytes of {stream} of the execution {printable(self.id)} "
            "are on no server that can be asked",
            hint="give the nodes a larger --output-limit, or start the lost node again",
        )

    def _come_to_end(self, found: ProgramOnServer) -> None:
        manner = Manner()
        if self._cancelled or found.standing == "killed":
            code, error = manner.cancelled
            self._settle("cancelled", code, error)
        elif found.ending in ("exited", "finished"):
            self._settle("ended", (found.code or 0) if found.ending == "exited" else 0, "")
        else:
            code = EXIT_TRAP if found.ending == "trapped" else found.code or EXIT_HOST
            self._settle("failed", code, found.reason or found.ending or found.standing)

    def _settle(self, state: ExecutionState, code: int, error: str) -> None:
        limits = self.prepared.request.output_limits
        try:
            result = write_results(self.folder, limits, code, error, Manner())
        except OSError as problem:
            said = f"the results cannot be written: {problem.strerror or problem}"
            result = ExecutionResult(exit_code=code, error="; ".join(filter(None, (error, said))))
        self._tell(state, result)
        self._note("ended", self.id, state=state, code=result.exit_code, error=error)

    def _tell(self, state: ExecutionState, result: ExecutionResult | None) -> None:
        with self._lock:
            if self.is_over:
                return
            self._state, self._result, self._end = state, result, time.time()
            listeners, self._listeners = self._listeners, []
            self._over.set()
            place, self._place = self._place, None
        if place is not None:
            place.release()
        self.watch.tell()
        for listener in listeners:
            listener()

    # ---- verbs -----------------------------------------------------------------------------------

    def wait(self, timeout: float | None) -> ExecutionResult | None:
        """Return the result as soon as it is there, or None after `timeout` seconds.

        Raises ExecutorLeft: the executor was ended, and the program runs on.
        """
        if not self._over.wait(timeout):
            return None
        if self._state == "left":
            raise ExecutorLeft(f"the execution {printable(self.id)} runs on at {self.server}")
        return self._result

    def when_over(self, listener: Callable[[], None]) -> None:
        """Call a function, on any thread, when the execution has ended."""
        with self._lock:
            if not self.is_over:
                self._listeners.append(listener)
                return
        listener()

    def leave(self) -> None:
        """Watch it no more; its program runs on."""
        self._left = True
        self._tell("left", None)
        if self._thread is not None:
            self._thread.join(CANCEL_SECONDS)

    def _steer(self, what: str, verb: str, *values: Any) -> Any:
        if self.is_over:
            raise JobError(
                "ExecutionAlreadyComplete", f"the execution {printable(self.id)} has ended already"
            )
        place = self._servers.find(self.name, self.server)
        if place is None:
            raise JobError("ExecutionNotFound", f"no server has {printable(self.id)}: {what}")
        return getattr(self._servers.at(place[0]), verb)(place[1].program, *values)

    def cancel(self) -> None:
        """End it at once, and wait for that. Raises WasmsrError."""
        self._cancelled = True
        try:
            self._steer("cancelled", "kill")
        except BaseException:
            self._cancelled = False
            raise
        self._over.wait(CANCEL_SECONDS)

    def pause(self) -> None:
        """Pause it. Raises WasmsrError."""
        self._steer("paused", "pause")
        with self._lock:
            self._state = "paused"

    def resume(self) -> None:
        """Let it run on. Raises WasmsrError."""
        self._steer("resumed", "resume")
        with self._lock:
            self._state = "running"

    def snapshot(self, path: object) -> None:
        """Raise JobError: its node saves it."""
        raise JobError(
            "SpecError",
            f"the execution {printable(self.id)} is on a server, which saves it itself",
            hint="snapshot_every says how often; `wasmsr checkpoint` saves it now",
        )

    def migrate(self, address: str) -> None:
        """Move it to another node while it runs. Raises WasmsrError: it is where it was."""
        self._servers.at(address)
        self._steer("moved", "migrate", address)
        self._note("migrated", self.id, server=address)


def spec_for(prepared: Prepared) -> dict[str, Any]:
    """Return the run as a node takes it.

    Outputs are in folders that all servers share, where the program writes itself.

    Raises:
        JobError: A server cannot run it.
    """
    if prepared.modules.preload:
        raise JobError(
            "SpecError",
            "a program of several modules cannot run on a server yet",
            hint="link the modules into one",
        )
    request = prepared.request
    for said, what in (
        (request.timeout is not None, "a time-out"),
        (request.output != "live", "held output"),
        (request.on_loss == "restart", "`restart` as what follows a loss"),
    ):
        if said:
            raise JobError(
                "SpecError",
                f"an execution on a server cannot have {what} yet",
                hint="on_loss can be fail or restore there",
            )
    run = prepared.run()
    whole = run.as_dict()
    spec: dict[str, Any] = {name: whole[name] for name in RUN_FIELDS if name in whole}
    memory = run.limits.memory
    spec["limits"] = {} if memory is None else {"memory": memory}
    spec["mounts"] = [
        mount.removesuffix("::carry") + "::host" if mount.endswith("::carry") else mount
        for mount in run.mounts
    ]
    return spec


__all__ = ["JobServers", "ServerExecution", "spec_for"]
