"""The leases of a device's modules, as its node keeps them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from wasmsr.fleet.device.module_run import ModuleRun
from wasmsr.node.leases.lease_terms import EVERY, LeaseTerms
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.ownership.failures import RegisterAway
from wasmsr.ownership.owner_record import EVERY_NODE, OwnerRecord


class ModuleLeases(Protocol):
    """What a module with a lease asks of its node; any thread but the connection's may call it."""

    def owner(self, run: ModuleRun) -> OwnerRecord | None:
        """Return what the register says of a module. Raises OwnershipError."""

    def is_ours(self, record: OwnerRecord) -> bool:
        """Return whether this node is the owner by a record."""

    def here(self, run: ModuleRun) -> NodeProgram | None:
        """Return the module's program that this node has, or had."""

    def submit(self, run: ModuleRun, code: bytes, caller: str) -> NodeProgram:
        """Begin the program of a module, as its first owner. Raises WasmsrError."""

    def ends(self, run: ModuleRun, epoch: int) -> Callable[[], int]:
        """Return what says when the lease of an epoch ends, by `boot_clock`."""


class NodeModuleLeases:
    """`ModuleLeases` of a real node."""

    def __init__(self, supervisor: NodeSupervisor) -> None:
        self._supervisor = supervisor

    def owner(self, run: ModuleRun) -> OwnerRecord | None:
        """Return what the register says of a module. Raises OwnershipError."""
        leases = self._supervisor.leases
        if leases is None:
            raise RegisterAway("this node has no register")
        return leases.decisions.register.read(bytes.fromhex(run.program))

    def is_ours(self, record: OwnerRecord) -> bool:
        """Return whether this node is the owner by a record."""
        return record.owner == self._supervisor.node

    def here(self, run: ModuleRun) -> NodeProgram | None:
        """Return the module's program that this node has, or had."""
        return self._supervisor.named(bytes.fromhex(run.program))

    def submit(self, run: ModuleRun, code: bytes, caller: str) -> NodeProgram:
        """Begin the program of a module, as its first owner. Raises WasmsrError."""
        self._supervisor.submit(
            iter([code]), run.spec, name=run.name, caller=caller, every=run.every or EVERY,
            lease=LeaseTerms(run.lease, (EVERY_NODE.hex(),)), program=run.program,
        )  # fmt: skip
        return self._supervisor.find(run.program)

    def ends(self, run: ModuleRun, epoch: int) -> Callable[[], int]:
        """Return what says when the lease of an epoch ends, by `boot_clock`.

        It says so also when the worker is lost, and nobody can have taken the module over yet.
        """
        known = 0

        def ends() -> int:
            nonlocal known
            here = self.here(run)
            leased = None if here is None else here.leased
            if leased is not None:
                owned = leased.keeper.program
                record = owned.record
                if record is not None and record.epoch == epoch:
                    known = max(known, owned.lease.times[1])
            return known

        return ends


__all__ = ["ModuleLeases", "NodeModuleLeases"]
