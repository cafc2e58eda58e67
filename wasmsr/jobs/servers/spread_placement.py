"""Places executions on servers that a command names: where the smallest part is taken."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Final

from wasmsr.errors import printable
from wasmsr.jobs.description.job import Constraint
from wasmsr.jobs.engines.engine_plan import PlannedServer, matching
from wasmsr.jobs.execution.requests import ExecutionRequest
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.servers.server_port import Unwanted

CPU: Final = 0.5
"""CPUs that an execution takes that names none."""

ASK_SECONDS: Final = 1.0
"""How often one that waits asks whether it is still wanted."""


class SpreadReservation:
    """What an execution takes of a server.

    Attributes:
        server: The address of the server's node.
    """

    def __init__(self, placement: SpreadPlacement, server: str, cpu: float) -> None:
        self._placement, self.server, self._cpu = placement, server, cpu

    def release(self) -> None:
        """Give it back."""
        cpu, self._cpu = self._cpu, 0.0
        self._placement.give_back(self.server, cpu)


class SpreadPlacement:
    """Counts the CPUs that executions take of each server. Any thread may use it."""

    patience = 10.0
    """Seconds for which an execution that is to move waits for room on another server."""

    def __init__(
        self,
        servers: Sequence[PlannedServer],
        cpus: Callable[[str], float | None] = lambda address: None,
    ) -> None:
        """Take servers.

        Args:
            servers: The servers.
            cpus: Says how many CPUs a server has for which nobody has said how many may be taken;
                None if it does not answer, or does not say.
        """
        self._servers, self._ask = list(servers), cpus
        self._most = {one.address: one.cpu for one in servers}
        """CPUs of each server that may be taken; None as long as that is not known."""
        self._taken = {one.address: 0.0 for one in servers}
        self._drained: frozenset[str] = frozenset()
        self._lock = threading.Condition()

    def avoid(self, servers: frozenset[str]) -> None:
        """Begin nothing on these servers from now on."""
        with self._lock:
            self._drained = servers
            self._lock.notify_all()

    def leaving(self) -> frozenset[str]:
        """Return nothing: a server does not say that it will go."""
        return frozenset()

    def matching(self, constraints: Iterable[Constraint]) -> list[str]:
        """Return the addresses of the servers whose labels meet constraints."""
        return [one.address for one in matching(self._servers, constraints)]

    def reserve(
        self,
        request: ExecutionRequest,
        at: str = "",
        *,
        but: Callable[[], frozenset[str]] = frozenset,
        wanted: Callable[[], bool] = lambda: True,
    ) -> SpreadReservation:
        """Return a place on the server with the fewest taken CPUs, as soon as one has room.

        Args:
            request: The execution.
            at: The server that it has to be, which may be over its limit then; "" for any.
            but: Returns the addresses of servers that it must not be now.
            wanted: Whether the place is still wanted.

        Raises:
            JobError: No server can ever have it.
            Unwanted: It is not wanted any more.
        """
        cpu = CPU if request.resources.cpu is None else request.resources.cpu
        while True:
            out = frozenset() if at else but()
            if not at:  # otherwise there is no choice, and none that is frozen is waited for
                self._hear(out)
            with self._lock:
                fit = self._fit(request, cpu, at)
                free = [
                    one
                    for one in fit
                    if at or (one.address not in self._drained | out and self._has_room(one, cpu))
                ]
                if free:
                    found = min(free, key=self._part)
                    self._taken[found.address] += cpu
                    return SpreadReservation(self, found.address, cpu)
                if not wanted():
                    raise Unwanted(f"{printable(request.execution_id)} is not wanted any more")
                self._lock.wait(ASK_SECONDS)

    def _hear(self, away: frozenset[str]) -> None:
        """Ask servers how many CPUs they have, unless that is known, or they are away."""
        for address in [one for one, most in self._most.items() if most is None]:
            if address not in away:
                self._most[address] = self._ask(address)

    def _part(self, server: PlannedServer) -> float:
        return self._taken[server.address] / (self._most.get(server.address) or 1.0)

    def _has_room(self, server: PlannedServer, cpu: float) -> bool:
        most = self._most[server.address]
        return most is None or self._taken[server.address] + cpu <= most + 1e-9

    def _fit(self, request: ExecutionRequest, cpu: float, at: str) -> list[PlannedServer]:
        """Return the servers that could have an execution. Raises JobError: there is none."""
        name = printable(request.execution_id)
        if at:
            self._taken.setdefault(at, 0.0)
            return [PlannedServer(at)]
        found = matching(self._servers, request.constraints)
        if not found:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no server matches the execution {name}",
                hint="--server ADDRESS,KEY=VALUE gives a server a label",
            )
        large = [one for one in found if (self._most[one.address] or cpu) >= cpu]
        if not large:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"the execution {name} asks for {cpu:g} CPUs, and no server has so many",
                hint="Resources.CPU can be less: it decides how many executions run at once",
            )
        return large

    def give_back(self, server: str, cpu: float) -> None:
        """Count CPUs of a server as free again."""
        with self._lock:
            self._taken[server] -= cpu
            self._lock.notify_all()

    def close(self) -> None:
        """Do nothing: there is no connection."""


__all__ = ["SpreadPlacement", "SpreadReservation"]
