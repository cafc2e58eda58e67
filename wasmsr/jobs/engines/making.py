"""Makes the executor of a plan."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from wasmsr.errors import WasmsrError, printable
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.engines.engine_port import RunEngine
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.servers.server_port import JobServer, ServerPlacement

Connect = Callable[[str, Mapping[str, str]], JobServer]
"""Opens the node at an address; the files prove who asks (`engine_plan.PROOFS`)."""


def cannot_connect(address: str, proof: Mapping[str, str]) -> JobServer:
    """Raise JobError: this process has no way to other servers."""
    raise JobError(
        "ExecutorSpecValidationErr",
        f"this process cannot ask the server {printable(address)}",
        hint="`wasmsr job service` can",
    )


def make_engine(
    plan: EnginePlan, folder: Path, connect: Connect, note: Callable[..., None]
) -> RunEngine:
    """Return a new executor.

    Args:
        plan: What runs the executions.
        folder: The folder of executions that bring none.
        connect: Opens a node.
        note: Gets events; see `JobExecutor`.

    Raises:
        JobError: The cluster cannot be reached, or has no servers.
        MissingPackageError: The package `ray` is not there.
        OSError: The folder cannot be made.
    """
    if not plan.is_elsewhere:
        from wasmsr.jobs.executor import JobExecutor

        return JobExecutor(folder, compat="bacalhau" if plan.compat else None, note=note)
    from wasmsr.jobs.servers.server_executor import ServerExecutor
    from wasmsr.jobs.servers.spread_placement import SpreadPlacement

    proof = dict(plan.proof)

    def cpus(address: str) -> float | None:
        """Return how many CPUs a node has, or None."""
        try:
            node = connect(address, proof)
        except WasmsrError:
            return None
        try:
            return node.info().get("cpus")
        except WasmsrError:
            return None
        finally:
            node.close()

    placement: ServerPlacement
    if plan.ray:
        from wasmsr.jobs.servers.ray_placement import RayPlacement

        placement = RayPlacement(plan.ray, seconds=float("inf"))  # its job has time-outs
        servers = placement.matching(())
        if not servers:
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no raylet of {printable(plan.ray)} names a wasmsr node",
                hint='ray start ... --resources \'{"wasmsr": 1000, "wasmsr@HOST:PORT": 1}\'',
                retryable=True,
            )
    else:
        servers = [one.address for one in plan.servers]
        placement = SpreadPlacement(plan.servers, cpus)
    return ServerExecutor(
        folder,
        lambda address: connect(address, proof),
        servers,
        lease=None if plan.lease is None else {"seconds": plan.lease},
        placement=placement,
        note=note,
    )


__all__ = ["Connect", "cannot_connect", "make_engine"]
