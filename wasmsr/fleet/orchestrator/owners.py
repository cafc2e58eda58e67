"""The register of a fleet: who owns the modules that go on elsewhere when their device is lost.

The records are in the list of the fleet, so a swap and what follows from it are one transaction.
`wasmsr.ownership` says what they mean; this keeps them, and does not decide who may run what.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from typing import Any, Final

from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.rows import FleetState, ModuleRow, RuntimeRow, device_uuids
from wasmsr.fleet.wire.failures import WireError
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.lease import MARGIN
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.record_bytes import decode_record, encode_record
from wasmsr.ownership.register import check_step

ID_BYTES: Final = 16
GRACE: Final = 1.0
"""Seconds after a lease and its margin in which its owner may still be heard."""

Owned = Callable[[ModuleRow, "OwnerRecord | None", OwnerRecord], None]
"""Is told each swap: the module, the record before, and the new one."""


def new_program() -> str:
    """Return the id of a new record, for a module that is given to a runtime now.

    Another one that was given the module before, and comes too late, has another id: so it can
    neither make the record nor write over what the store has of the program. Nobody has the id,
    either, if the list is lost, or an older copy of it comes back.
    """
    return secrets.token_hex(ID_BYTES)


class FleetOwners:
    """The records of a list. The caller holds `FleetList.changing` around what changes them.

    Args:
        fleet: The list.
        clock: Seconds since any moment.
        owned: Is told each swap.
    """

    def __init__(self, fleet: FleetList, clock: Callable[[], float], owned: Owned) -> None:
        self._fleet, self._clock, self._owned = fleet, clock, owned
        self._swapped: dict[str, float] = {}
        """When each record was swapped last, since this process began."""

    def read(self, program: str) -> OwnerRecord | None:
        """Return a record, or None without one.

        Raises:
            OwnershipError: It cannot be read.
        """
        found = self._fleet.owner(program)
        return None if found is None else decode_record(found, bytes.fromhex(program))

    def can_go_on(self, program: str | None) -> bool:
        """Return whether others can run a program: it has a checkpoint, and has not ended."""
        try:
            found = None if program is None else self.read(program)
        except OwnershipError:
            return False
        if found is None or found.checkpoint is None:
            return False
        return found.standing is not Standing.ENDED

    def is_live(self, program: str | None) -> bool:
        """Return whether a module may go on by its record, as far as that can be read."""
        try:
            found = None if program is None else self.read(program)
        except OwnershipError:
            return True
        return found is not None and found.standing is not Standing.ENDED

    def end(self, program: str | None) -> None:
        """End a record: its owner hears that when it renews its lease, and nobody is the next."""
        try:
            found = None if program is None else self.read(program)
        except OwnershipError:
            return  # nobody can renew it, either
        if program is not None and found is not None and found.standing is not Standing.ENDED:
            self._fleet.own(program, encode_record(found.next(standing=Standing.ENDED)))
            self._swapped.pop(program, None)

    def overdue(self, program: str, since: float) -> bool:
        """Return whether nobody owns a program any more, as far as can be heard here.

        The lease of its owner has ended, or the owner has given it back and does not take it again.

        Args:
            program: The program.
            since: Since when every renewal has come here, by the clock.
        """
        now, swapped = self._clock(), self._swapped.get(program, since)
        if swapped > now:
            swapped = since  # somebody has set the clock back
        quiet = now - max(since, swapped)
        if quiet < GRACE:
            return False
        try:
            found = self.read(program)
        except OwnershipError:
            return False
        if found is None or found.standing is Standing.ENDED:
            return False
        if found.standing is Standing.RELEASED:
            return True
        return quiet > found.lease / 1000 * (1 + MARGIN) + GRACE

    # -- questions ---------------------------------------------------------------------------------

    def take_reading(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Answer with a record."""
        found = self._fleet.owner(data["program"])
        return {"result": "ok", "record": None if found is None else found.decode()}

    def take_swap(self, data: Mapping[str, Any]) -> dict[str, Any]:
        """Replace a record if it is the one that the caller has read; see `Register.swap`.

        Raises:
            WireError: The record cannot be replaced so, whatever it is.
        """
        program, old = data["program"], data.get("old")
        before = self._fleet.owner(program)
        if before != (None if old is None else old.encode()):
            return {"result": "ok", "done": False}
        module = self._fleet.leased(program)
        if module is None:
            raise WireError("no Module has this program", program)
        bytes_of = data["new"].encode()
        try:
            found = None if before is None else decode_record(before, bytes.fromhex(program))
            new = decode_record(bytes_of, bytes.fromhex(program))
            check_step(found, new)
        except (OwnershipError, ValueError) as error:
            raise WireError("no record that can follow", str(error)) from None
        self._check(module, found, new)
        self._fleet.own(program, bytes_of)
        self._swapped[program] = self._clock()
        if new.standing is Standing.ENDED:
            del self._swapped[program]
        self._owned(module, found, new)
        return {"result": "ok", "done": True}

    def _check(self, module: ModuleRow, old: OwnerRecord | None, new: OwnerRecord) -> None:
        """Refuse a record that says what the list does not allow."""
        if new.standing is Standing.ENDED:
            return
        _, runtime = device_uuids(new.owner)
        if module.status is FleetState.DEAD:
            raise WireError("the Module has ended", module.uuid)
        if self._fleet.get(RuntimeRow, runtime) is None:
            raise WireError("invalid Runtime Name/UUID", runtime)
        if old is None and module.parent != runtime:
            raise WireError("the Module was given to another Runtime", module.uuid)


__all__ = ["FleetOwners", "new_program"]
