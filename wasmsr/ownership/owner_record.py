"""The record of a leased program: one value, which changes only as a whole.

A record is permanent. It is never removed, so an epoch is never given twice. docs/ownership.md
explains the fields.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum
from typing import Any

EVERY_NODE = bytes(16)
"""In a failover set: every node that has the register may take the program over."""


class Standing(Enum):
    """Whether somebody owns the program."""

    OWNED = "owned"
    """The owner may run it while its lease lasts."""
    RELEASED = "released"
    """The owner has given it back after a checkpoint. Another may take it at once."""
    ENDED = "ended"
    """The program has ended, or failed with its host. Nobody may run it again."""


class FailoverPolicy(Enum):
    """What happens to a program whose owner is lost."""

    RESTART = "restart"
    """Another owner starts it from the beginning."""
    RESTORE = "restore"
    """Another owner restores the last checkpoint; without one, it starts from the beginning."""
    FAIL = "fail"
    """It has failed: the record ends."""


@dataclass(frozen=True)
class LastCheckpoint:
    """The checkpoint that counts.

    Attributes:
        root: The digest of its root, 32 bytes.
        store: Address of the store that has it.
        epoch: The epoch whose owner wrote it.
        output: Bytes of the program's standard output that belong to it.
        errors: Bytes of its standard error that belong to it.
    """

    root: bytes
    store: str
    epoch: int
    output: int = 0
    errors: int = 0


@dataclass(frozen=True)
class OwnerRecord:
    """Who owns a program.

    Attributes:
        program: The program's id, 16 bytes.
        owner: Node id of the owner, 16 bytes.
        epoch: The number of the owner, from 1 on; one more with each new owner.
        attempt: The id of the try by which the owner got the program, 16 bytes.
        serial: How often the record was swapped. So no two records of a program are equal.
        lease: Milliseconds that the lease lasts from each renewal on.
        deadline: When the lease ends by the owner's clock, in milliseconds since the Unix epoch.
            It is for people: nobody decides by the clock of another machine (`RecordWatch`).
        standing: Whether somebody owns the program.
        policy: What happens when the owner is lost.
        failover: The nodes that may take the program over; `EVERY_NODE` stands for all.
        checkpoint: The checkpoint that counts, or None.
    """

    program: bytes
    owner: bytes
    epoch: int
    attempt: bytes
    serial: int
    lease: int
    deadline: int
    standing: Standing = Standing.OWNED
    policy: FailoverPolicy = FailoverPolicy.RESTORE
    failover: tuple[bytes, ...] = ()
    checkpoint: LastCheckpoint | None = None

    def sentence(self) -> str:
        """Return who owns the program, as a sentence for errors."""
        if self.standing is Standing.ENDED:
            return f"by the register it has ended in epoch {self.epoch}"
        if self.standing is Standing.RELEASED:
            return f"by the register nobody owns it since epoch {self.epoch}"
        return f"by the register node {self.owner.hex()[:8]} owns it in epoch {self.epoch}"

    def may_go_to(self, node: bytes) -> bool:
        """Return whether the failover set has a node."""
        return node in self.failover or EVERY_NODE in self.failover

    def next(self, **changes: Any) -> OwnerRecord:
        """Return the record that replaces this one, with the next serial and some changes."""
        return replace(self, serial=self.serial + 1, **changes)
