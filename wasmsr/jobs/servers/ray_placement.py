"""Ray says on which server an execution runs, and how many run there at the same time.

A wasmsr node runs beside each raylet, and the raylet has two resources that say so:

    ray start ... --resources '{"wasmsr": 1000, "wasmsr@HOST:PORT": 1}'

An execution has an actor there that takes its CPUs and its memory. Constraints are about the labels
of the raylets (`ray start --labels`). The actor does nothing: it is a reservation. The program
belongs to the node, so it is of no consequence for it if the actor, its raylet or all of Ray is
lost. Ray decides nothing about ownership.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from typing import Any, Final

from wasmsr.errors import MissingPackageError, printable
from wasmsr.jobs.description.job import Constraint
from wasmsr.jobs.execution.requests import ExecutionRequest
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.servers.server_port import Unwanted

SERVER: Final = "wasmsr"
"""The resource of every raylet that has a node beside it."""

SHARE: Final = 0.001
"""How much of it a reservation takes: it only says that it needs such a raylet."""

CPU: Final = 0.5
"""CPUs that an execution takes that names none."""

QUEUE_SECONDS: Final = 300.0
"""How long an execution waits for a server that has room."""

AT_ONCE: Final = 16
"""Reservations that Ray is asked for at the same time: it keeps a process for each that begins."""

ASK_SECONDS: Final = 1.0
"""How often one that waits asks whether it is still wanted."""

NODE_LABEL: Final = "ray.io/node-id"
"""The label by which a raylet can be asked for."""


_cluster: dict[int, str] = {}
"""The cluster to which the package `ray` is connected: it has one for a process."""


class RayReservation:
    """What an execution takes of a server.

    Attributes:
        server: The address of the server's node.
    """

    def __init__(self, ray: Any, actor: Any, server: str) -> None:
        self._ray, self._actor, self.server = ray, actor, server

    def release(self) -> None:
        """Give it back. Nothing happens if it is lost already."""
        with suppress(Exception):  # Ray has no common class of its errors, and may be away
            self._ray.kill(self._actor)


class RayPlacement:
    """Places executions on the servers of a Ray cluster. Any thread may use it."""

    patience = 120.0
    """Seconds for which an execution that is to move waits for room on another server.

    Ray starts a process for each reservation: that takes seconds, and on a slow machine half a
    minute. Who gives up earlier ends that process, and the next try takes as long."""

    def __init__(self, address: str, *, seconds: float = QUEUE_SECONDS) -> None:
        """Connect to a cluster.

        Args:
            address: The cluster, `HOST:PORT` of its head.
            seconds: How long an execution may wait for room.

        Raises:
            MissingPackageError: The package `ray` is not there.
            JobError: The cluster cannot be reached.
        """
        try:
            import ray
        except ImportError as error:
            raise MissingPackageError("ray", "--ray", extra="ray") from error
        self._ray, self._seconds, self._address = ray, seconds, address
        self._drained: frozenset[str] = frozenset()
        self._asking = threading.BoundedSemaphore(AT_ONCE)
        if ray.is_initialized() and _cluster.get(id(ray)) != address:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"this process is connected to the Ray cluster {printable(_cluster.get(id(ray)))} "
                "and cannot be to another one",
                hint="--state-dir FOLDER gives the jobs of each cluster a list and a process",
            )
        try:
            ray.init(
                address=address,
                namespace="wasmsr",
                log_to_driver=False,
                configure_logging=False,
                ignore_reinit_error=True,
            )
            _cluster[id(ray)] = address
        except (OSError, RuntimeError, ValueError) as error:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"the Ray cluster {printable(address)} cannot be reached: {error}",
                hint="`ray start --head` starts one; its output names the address",
                retryable=True,
            ) from error

        class Reservation:
            """Takes what an execution needs, and does nothing."""

            def node(self) -> str:
                """Return the id of the raylet where it is."""
                return str(ray.get_runtime_context().get_node_id())

        self._class = ray.remote(Reservation)

    def servers(self, constraints: Iterable[Constraint] = ()) -> dict[str, str]:
        """Return the addresses of the nodes beside raylets that live, by the raylet's id.

        Args:
            constraints: Only raylets whose labels meet these.
        """
        wanted, found = list(constraints), dict[str, str]()
        for one in self._ray.nodes():
            labels = one.get("Labels") or {}
            if not (one["Alive"] and all(part.holds(labels) for part in wanted)):
                continue
            for name in one["Resources"]:
                if name.startswith(f"{SERVER}@"):
                    found[one["NodeID"]] = name.removeprefix(f"{SERVER}@")
        return found

    def matching(self, constraints: Iterable[Constraint]) -> list[str]:
        """Return the addresses of the servers whose raylets meet constraints."""
        return sorted(self.servers(constraints).values())

    def avoid(self, servers: frozenset[str]) -> None:
        """Begin nothing on these servers from now on."""
        self._drained = servers

    def leaving(self) -> frozenset[str]:
        """Return the addresses of servers whose raylets are being drained (`ray drain-node`)."""
        try:
            draining = self._ray._private.worker.global_worker.gcs_client.get_draining_nodes(
                timeout=ASK_SECONDS * 10
            )
        except Exception:  # noqa: BLE001  Ray may be away, or another version of it has no such call
            return frozenset()
        names = {one.hex() if isinstance(one, bytes) else str(one) for one in draining}
        return frozenset(where for node, where in self.servers().items() if node in names)

    def _excluded(self, request: ExecutionRequest, but: frozenset[str]) -> list[str] | None:
        """Return the raylets that may not have an execution; None if one may soon.

        Raises JobError: none may.
        """
        found = self.servers(request.constraints)
        out = self._drained | self.leaving()
        staying = {node: where for node, where in found.items() if where not in out}
        nodes = [node for node, where in staying.items() if where not in but]
        if staying and not nodes:
            return None
        if not nodes:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no server matches the execution {printable(request.execution_id)}"
                + (", or all that do are being drained" if found else ""),
                hint="`ray start --labels KEY=VALUE` gives a raylet labels",
                retryable=True,
            )
        return [one["NodeID"] for one in self._ray.nodes() if one["NodeID"] not in nodes]

    def reserve(
        self,
        request: ExecutionRequest,
        at: str = "",
        *,
        but: Callable[[], frozenset[str]] = frozenset,
        wanted: Callable[[], bool] = lambda: True,
    ) -> RayReservation:
        """Return a server that has room for an execution, which is taken.

        Args:
            request: The execution.
            at: The address of the server that it has to be; "" for any.
            but: Returns the addresses of servers that it must not be when this is called.
            wanted: Whether the place is still wanted.

        Raises:
            JobError: None matches, or none has room in time.
            Unwanted: It is not wanted any more.
        """
        end = time.monotonic() + self._seconds
        try:
            while not self._asking.acquire(timeout=ASK_SECONDS):
                _go_on(wanted, end)
            try:
                while True:
                    found = self._reserved(request, at, but(), wanted, end)
                    if found is not None:
                        return found
                    _go_on(wanted, end)
                    time.sleep(ASK_SECONDS)
            finally:
                self._asking.release()
        except (JobError, Unwanted):
            raise
        except Exception as error:  # Ray has no common class of its errors
            name = printable(request.execution_id)
            late = isinstance(error, TimeoutError)
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no server has room for the execution {name}"
                if late
                else f"Ray cannot place the execution {name}: {type(error).__name__}: {error}",
                hint=f"it waited {self._seconds:g} s; `ray status` says what is free"
                if late
                else "`ray status` says whether the cluster works",
                retryable=True,
            ) from error

    def _reserved(
        self,
        request: ExecutionRequest,
        at: str,
        but: frozenset[str],
        wanted: Callable[[], bool],
        end: float,
    ) -> RayReservation | None:
        """Return a place; None if its raylet was lost before it said so, or is another one than it
        has to be, or all are away.

        Raises what Ray raises.
        """
        wants: dict[str, Any] = {
            "num_cpus": CPU if request.resources.cpu is None else request.resources.cpu,
            "resources": {SERVER: SHARE, **({f"{SERVER}@{at}": SHARE} if at else {})},
            "max_restarts": 0,  # a new actor would know nothing, and there is nothing to know
        }
        if request.resources.memory:
            wants["memory"] = request.resources.memory
        others: list[str] = []
        if not at:
            # Ray 2.60 does not place an actor on the second raylet of `in(...)` if the first has no
            # room; it does so with `!in(...)`.
            excluded = self._excluded(request, but)
            if excluded is None:
                return None
            others = excluded
            if others:
                wants["label_selector"] = {NODE_LABEL: f"!in({', '.join(others)})"}
        actor = self._class.options(**wants).remote()
        try:
            node = self._answer(actor, wanted, end)
            # `!in(...)` also takes a raylet whose labels the cluster has not heard of yet.
            fit = self.servers(() if at else request.constraints)
            server = None if node in others else fit.get(node)
        except self._ray.exceptions.RayActorError:
            server = None
        except BaseException:
            RayReservation(self._ray, actor, "").release()
            raise
        if server is None:
            RayReservation(self._ray, actor, "").release()
            return None
        return RayReservation(self._ray, actor, server)

    def _answer(self, actor: Any, wanted: Callable[[], bool], end: float) -> str:
        """Return the raylet on which Ray has placed an actor, as soon as it has."""
        asked = actor.node.remote()
        while True:
            ready, _ = self._ray.wait([asked], timeout=ASK_SECONDS)
            if ready:
                return str(self._ray.get(asked))
            _go_on(wanted, end)

    def close(self) -> None:
        """Leave the cluster; reservations that are left are given back."""
        self._ray.shutdown()
        _cluster.pop(id(self._ray), None)


def _go_on(wanted: Callable[[], bool], end: float) -> None:
    """Raise Unwanted or TimeoutError if nobody waits any more."""
    if not wanted():
        raise Unwanted("the place is not wanted any more")
    if time.monotonic() >= end:
        raise TimeoutError


__all__ = ["RayPlacement", "RayReservation"]
