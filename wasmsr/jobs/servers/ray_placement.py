"""Ray says on which server an execution runs, and how many run there at the same time.

A wasmsr node runs beside each raylet, and the raylet has two resources that say so:

    ray start ... --resources '{"wasmsr": 1000, "wasmsr@HOST:PORT": 1}'

An execution has an actor there that takes its CPUs and its memory. The actor does nothing: it is a
reservation. The program belongs to the node, so it is of no consequence for it if the actor, its
raylet or all of Ray is lost. Ray decides nothing about ownership.
"""

from __future__ import annotations

from contextlib import suppress
from typing import Any, Final

from wasmsr.errors import MissingPackageError, printable
from wasmsr.jobs.execution.requests import ExecutionRequest
from wasmsr.jobs.failures import JobError

SERVER: Final = "wasmsr"
"""The resource of every raylet that has a node beside it."""

SHARE: Final = 0.001
"""How much of it a reservation takes: it only says that it needs such a raylet."""

CPU: Final = 0.5
"""CPUs that an execution takes that names none."""

QUEUE_SECONDS: Final = 300.0
"""How long an execution waits for a server that has room."""


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
            raise MissingPackageError("ray", "--ray") from error
        self._ray, self._seconds = ray, seconds
        try:
            ray.init(
                address=address,
                namespace="wasmsr",
                log_to_driver=False,
                configure_logging=False,
                ignore_reinit_error=True,
            )
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

    def servers(self) -> dict[str, str]:
        """Return the addresses of the nodes beside raylets that live, by the raylet's id."""
        found: dict[str, str] = {}
        for one in self._ray.nodes():
            for name in one["Resources"] if one["Alive"] else ():
                if name.startswith(f"{SERVER}@"):
                    found[one["NodeID"]] = name.removeprefix(f"{SERVER}@")
        return found

    def reserve(self, request: ExecutionRequest, at: str = "") -> RayReservation:
        """Return a server that has room for an execution, which is taken.

        Args:
            request: The execution.
            at: The address of the server that it has to be; "" for any.

        Raises:
            JobError: None has room in time.
        """
        wants: dict[str, Any] = {
            "num_cpus": CPU if request.resources.cpu is None else request.resources.cpu,
            "resources": {SERVER: SHARE, **({f"{SERVER}@{at}": SHARE} if at else {})},
            "max_restarts": 0,  # a new actor would know nothing, and there is nothing to know
        }
        if request.resources.memory:
            wants["memory"] = request.resources.memory
        actor = self._class.options(**wants).remote()
        try:
            node = self._ray.get(actor.node.remote(), timeout=self._seconds)
            return RayReservation(self._ray, actor, self.servers()[node])
        except BaseException as error:
            RayReservation(self._ray, actor, "").release()
            if not isinstance(error, Exception):
                raise
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no server has room for the execution {printable(request.execution_id)}: "
                f"{type(error).__name__}",
                hint=f"it waited {self._seconds:g} s; `ray status` says what is free",
                retryable=True,
            ) from error

    def close(self) -> None:
        """Leave the cluster; reservations that are left are given back."""
        self._ray.shutdown()


__all__ = ["RayPlacement", "RayReservation"]
