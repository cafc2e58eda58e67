"""Modules under a lease: who takes one over when its device is lost.

The orchestrator asks another device, the *heir*, as soon as it hears of the loss. The heir waits
for the end of the lease, and then asks the register for the next epoch. So nobody runs a module
because the orchestrator believes that its device is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.owners import FleetOwners
from wasmsr.fleet.orchestrator.rows import (
    OURS,
    FleetState,
    ModuleRow,
    RuntimeRow,
    device_uuids,
)
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.owner_record import OwnerRecord, Standing

A, E, K, D = FleetState.ALIVE, FleetState.ENDING, FleetState.KILLED, FleetState.DEAD


class ModuleDesk(Protocol):
    """What is done for modules, in the transaction that is under way."""

    def start(self, module: ModuleRow, runtime: str) -> None:
        """Have a runtime begin a module."""

    def give(self, module: ModuleRow, runtime: str) -> None:
        """Ask a runtime to run a module, or to take it over."""

    def stop(self, module: ModuleRow, runtime: str) -> None:
        """Ask a runtime to have a module no more."""


class Succession:
    """The owners and heirs of a list's modules.

    Args:
        fleet: The list.
        clock: Seconds since any moment.
        lease: Seconds of new leases; 0 for none.
        desk: What is done for modules.
    """

    def __init__(
        self, fleet: FleetList, clock: Callable[[], float], lease: float, desk: ModuleDesk
    ) -> None:
        self.lease = lease
        self.owners = FleetOwners(fleet, clock, self._owned)
        self._fleet, self._desk = fleet, desk

    def can_lease(self, module: ModuleRow, runtime: RuntimeRow) -> bool:
        """Return whether a module has a lease on a runtime, so that another can take it over.

        Folders of a device cannot be fenced, and a measurement is of one device.
        """
        args = module.args or {}
        return (
            self.lease > 0
            and runtime.runtime_type == OURS
            and (runtime.metadata or {}).get("leases") is True
            and args.get("fault_crash") == "restore"
            and not args.get("dirs")
            and args.get("repeat") is None
        )

    def find_overdue(self, since: float) -> None:
        """Note as lost the modules whose leases have ended, or that were given back.

        Args:
            since: Since when everything that was said has come here.
        """
        for module in self._fleet.in_state(ModuleRow, A):
            if module.program is not None and self.owners.overdue(module.program, since):
                ended = {"reason": "killed", "message": "its lease has ended"}
                self._fleet.put(replace(module, status=K, ended=ended))

    def lose_heir(self, runtime: str) -> None:
        """Note that a runtime is gone, which was to take modules over."""
        for module in self._fleet.in_state(ModuleRow, K, A):
            if module.heir == runtime:
                self._fleet.put(replace(module, heir=None))

    def remind(self, runtime: str, running: set[str]) -> None:
        """Ask a runtime again to take over what it does not have: it has not heard of it."""
        for module in self._fleet.in_state(ModuleRow, K):
            if module.heir == runtime and module.uuid not in running:
                self._desk.give(replace(module, epoch=module.epoch + 1), runtime)

    def relieve(self, module: ModuleRow) -> ModuleRow:
        """Return a module without heir, who is told so."""
        if module.heir is None:
            return module
        self._desk.stop(module, module.heir)
        return replace(module, heir=None)

    def end(self, module: ModuleRow) -> ModuleRow:
        """Return a module that nobody may run again."""
        self.owners.end(module.program)
        return self.relieve(module)

    def seek_heirs(self) -> None:
        """Ask runtimes to take over the modules whose owners are lost."""
        fleet = self._fleet
        lost = [one for one in fleet.in_state(ModuleRow, K) if one.program is not None]
        if not lost:
            return
        loads, runtimes = fleet.loads(), fleet.in_state(RuntimeRow, A)
        for module in lost:
            if module.heir is not None:
                loads[module.heir] = loads.get(module.heir, 0) + 1
        for module in lost:
            assert module.program is not None
            try:
                found = self.owners.read(module.program)
            except OwnershipError:
                continue  # nobody may run it until an operator has put its record right
            if found is not None and found.standing is Standing.ENDED:
                self._bury(module)
                continue
            rooms = [
                one
                for one in runtimes
                if one.uuid != module.parent
                and self.can_lease(module, one)
                and set(module.apis) <= set(one.apis)
                and (not one.max_nmodules or loads.get(one.uuid, 0) < one.max_nmodules)
            ]
            if module.heir is not None or not rooms:
                continue
            heir = min(rooms, key=lambda one: (loads.get(one.uuid, 0), one.name, one.uuid)).uuid
            loads[heir] = loads.get(heir, 0) + 1
            if found is None:  # it has never run
                if module.parent is not None:
                    self._desk.stop(module, module.parent)  # its program will be another one
                self._desk.start(module, heir)
            else:
                row = fleet.put(replace(module, heir=heir))
                self._desk.give(replace(row, epoch=row.epoch + 1), heir)

    def _bury(self, module: ModuleRow) -> None:
        """Note that a module has ended whose device was lost before it said how."""
        said = "it has ended, and its runtime was lost before it said how"
        row = replace(self.relieve(module), status=D, ended={"reason": "error", "message": said})
        self._fleet.put(row)

    def _owned(self, module: ModuleRow, before: OwnerRecord | None, new: OwnerRecord) -> None:
        """Note in the list who owns a module by a swap that was made."""
        taken = before is None or before.epoch != new.epoch
        lost = module.status is K or module.heir is not None
        if new.standing is not Standing.OWNED or not (taken or lost):
            return
        _, runtime = device_uuids(new.owner)
        row = module if module.heir == runtime else self.relieve(module)
        row = replace(row, parent=runtime, epoch=max(module.epoch, new.epoch), heir=None)
        if module.status is E:  # somebody wants it ended
            self._desk.stop(row, runtime)
        else:
            row = replace(row, status=A, ended=None)
        self._fleet.put(row)


__all__ = ["ModuleDesk", "Succession"]
