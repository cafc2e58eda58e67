"""The errors of ownership. Each names the program, its record, and who owns it now."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wasmsr.errors import EXIT_MIGRATION, WasmsrError

if TYPE_CHECKING:
    from wasmsr.ownership.owner_record import OwnerRecord


class OwnershipError(WasmsrError):
    """Nobody here may run the program, or nobody can tell who may.

    Attributes:
        what: What happened, without the program and the record.
        program: The program's id, or b"" if the error is about the whole register.
        record: The newest record that was read, or None.
    """

    exit_code = EXIT_MIGRATION

    def __init__(
        self,
        what: str,
        *,
        program: bytes = b"",
        record: OwnerRecord | None = None,
        hint: str | None = None,
    ) -> None:
        """Make the error; program and record are added to the sentence `what`."""
        self.what = what
        self.program = program
        self.record = record
        name = f"program {program.hex()[:8]}: " if program else ""
        said = f"; {record.sentence()}" if record else ""
        super().__init__(f"{name}{what}{said}", hint=hint)

    @property
    def owner(self) -> bytes | None:
        """Node id of the owner by the newest record that was read, or None if nobody can tell."""
        return self.record.owner if self.record else None


class RegisterAway(OwnershipError):
    """The register does not work at the moment. What was asked for has not happened."""


class RegisterDamaged(OwnershipError):
    """The register answers with something that is no answer."""


class RecordDamaged(OwnershipError):
    """The register has bytes for the program that are no record. Nobody owns it by them."""


class RecordTooNew(OwnershipError):
    """A newer version of wasmsr wrote the record or the register."""


class SwapRefused(OwnershipError):
    """The record has changed since it was read. Nothing has happened; `record` is the new one."""


class SwapInDoubt(OwnershipError):
    """Nobody can tell whether the register carried the swap out, or will.

    The swap may still arrive. Only another swap that succeeds makes sure that it has no effect.
    `record` is the record before the swap.
    """


class LeaseLost(OwnershipError):
    """The lease has ended, or another owner has the program. It must not run here."""


class LogDamaged(OwnershipError):
    """The files of a program's output are not what its epochs wrote."""


class EffectRefused(OwnershipError):
    """An effect outside comes from an older epoch, or cannot be fenced."""
