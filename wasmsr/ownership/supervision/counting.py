"""Makes checkpoints count: into the store, into the record, and then the older ones go."""

from __future__ import annotations

from wasmsr.ownership.keeper import LeaseKeeper
from wasmsr.ownership.owner_record import LastCheckpoint
from wasmsr.ownership.supervision.stored import (
    is_stored,
    put_checkpoint,
    remove_checkpoint,
    remove_others,
)
from wasmsr.snapshot.trust.policy import ReadTrust


class CheckpointCounter:
    """The checkpoints of one program, as its owner makes them count. One thread calls it.

    Attributes:
        pending: The newest checkpoint that the record does not name yet, or None.
    """

    def __init__(self, keeper: LeaseKeeper) -> None:
        self.pending: LastCheckpoint | None = None
        self._keeper = keeper
        self._epoch = 0

    def put(self, last: LastCheckpoint, folder: str, reads: ReadTrust) -> None:
        """Put the last checkpoint of a folder into its store, if it has one.

        Raises:
            SnapshotError: It cannot be read or stored.
        """
        if is_stored(last):
            put_checkpoint(self._keeper.program.program, last, folder, reads)
        self.pending = last

    def count(self) -> LastCheckpoint | None:
        """Let the record name the newest checkpoint; return it, or None if it does not count yet.

        What is in the store and counts no more is removed after that. An owner that has lost the
        program removes nothing, because its swap is refused.
        """
        last, keeper = self.pending, self._keeper
        with keeper.lock:
            record = keeper.program.record
        before = record.checkpoint if record is not None else None
        if last is None or not keeper.renew(last):
            return None
        self.pending = None
        if is_stored(last):
            program = keeper.program.program
            if last.epoch != self._epoch:
                self._epoch = last.epoch
                remove_others(program, last)
            elif before is not None and is_stored(before) and before.root != last.root:
                remove_checkpoint(program, before)
        return last


__all__ = ["CheckpointCounter"]
