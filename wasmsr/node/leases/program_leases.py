"""What a program asks of the leases of its node."""

from __future__ import annotations

from typing import Protocol

from wasmsr.executor.process import ProcessExecutor
from wasmsr.migrate.decisions.leased_movable import LeasedMovable
from wasmsr.node.supervision.node_folder import ProgramFolder
from wasmsr.node.supervision.program_record import ProgramRecord, SavePoint
from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.owner_record import LastCheckpoint, OwnerRecord


class LeasedStayView(Protocol):
    """What leases see of a program."""

    id: bytes
    record: ProgramRecord
    folder: ProgramFolder
    leased: LeasedMovable | None


class ProgramLeases(Protocol):
    """What a program asks of the leases of its node (`leases.node_leases.NodeLeases`)."""

    def begin(self, program: LeasedStayView, executor: ProcessExecutor) -> LeasedMovable:
        """Become the first owner of a program. Raises WasmsrError."""

    def hold(
        self,
        program: LeasedStayView,
        executor: ProcessExecutor,
        keeper: LeaseKeeper | None = None,
    ) -> LeasedMovable:
        """Return a program that runs only as its lease lets it."""

    def own(self, program: LeasedStayView) -> None:
        """Note in the journal that this node owns a program. Raises WasmsrError."""

    def write_note(self, record: ProgramRecord) -> None:
        """Note in the store what another node needs. Raises WasmsrError."""

    def count(self, program: LeasedStayView, saved: SavePoint) -> None:
        """Make a checkpoint count. Raises WasmsrError."""

    def restore(
        self,
        program: LeasedStayView,
        executor: ProcessExecutor,
        last: LastCheckpoint,
        streams: tuple[int, ...],
    ) -> None:
        """Make a paused program of a checkpoint. Raises WasmsrError or OSError."""

    def end(self, leased: LeasedMovable, seconds: float = 1e9) -> bool:
        """End the record; return whether the register took it."""

    def give_back(self, leased: LeasedMovable) -> bool:
        """Give a paused program back; return whether the register took it."""

    def drop(self, program: bytes) -> None:
        """Forget a program, whose lease is not kept any more."""

    def lost(self, record: ProgramRecord) -> None:
        """Note in the journal that another node owns a program. Raises WasmsrError."""

    def forget(self, program: bytes) -> None:
        """Remove what the store has of a program that has ended."""

    def address_of(self, record: ProgramRecord, found: OwnerRecord) -> str:
        """Return where the owner that a record of the register names is called, or ""."""


__all__ = ["LeasedStayView", "ProgramLeases"]
