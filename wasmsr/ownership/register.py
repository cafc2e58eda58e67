"""The register: one permanent record for each leased program, changed by compare-and-swap.

A *backend* keeps bytes (`sqlite_backend.py`, `wasmsr/http/etcd_backend.py`). `Register` is the same
over each of them: it reads and checks records, and it finds out what became of a swap whose answer
did not come.
"""

from __future__ import annotations

import time
from typing import Protocol

from wasmsr.ownership.failures import OwnershipError, RegisterAway, SwapInDoubt, SwapRefused
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.record_bytes import check_record, decode_record, encode_record

PATIENCE = 2.0
"""Seconds in which `swap` asks what became of a swap without an answer."""

PAUSE = 0.05
"""Seconds between two such questions."""


class Unanswered(Exception):
    """A backend got no answer, or one that says nothing. The swap may happen, now or later."""


class RegisterBackend(Protocol):
    """What keeps the bytes. Any thread may call it.

    Every method raises `RegisterAway` if what was asked for has not happened and will not, and
    `RegisterDamaged` or `RecordTooNew` for a register that cannot be read.
    """

    def get(self, program: bytes) -> bytes | None:
        """Return the newest bytes of a program; never older ones."""

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        """Replace the bytes if they are `old` (None: if there are none), durably.

        Returns:
            False if they are others; nothing has happened then.

        Raises:
            Unanswered: Nobody can tell.
        """

    def programs(self) -> list[bytes]:
        """Return the ids of all programs, in order."""

    def close(self) -> None:
        """Close files and connections."""


class Register:
    """The records of all leased programs."""

    def __init__(self, backend: RegisterBackend, *, patience: float = PATIENCE) -> None:
        """Use a backend; `patience` is in seconds, see `PATIENCE`."""
        self.backend = backend
        self.patience = patience

    def read(self, program: bytes) -> OwnerRecord | None:
        """Return the newest record of a program, or None if the register has none.

        Raises:
            RegisterAway: The register does not work.
            RegisterDamaged: It answers with something that is no answer.
            RecordDamaged, RecordTooNew: Its record cannot be read.
        """
        try:
            data = self.backend.get(program)
        except OwnershipError as error:
            raise _of(error, program, None) from error
        return None if data is None else decode_record(data, program)

    def swap(self, old: OwnerRecord | None, new: OwnerRecord) -> None:
        """Replace a record by the next one; return when that is durable.

        A swap whose answer does not come is looked up: the record that is there then tells by its
        attempt and serial whether the swap happened. It is repeated as long as it did not, because
        a repeated swap cannot happen twice.

        Args:
            old: The record that was read, or None to make the first one.
            new: What `OwnerRecord.next` of it gave.

        Raises:
            SwapRefused: The register has another record.
            SwapInDoubt: Nobody can tell.
            RegisterAway: The register does not work. Nothing has happened.
            ValueError: `new` cannot follow `old`. A bug in the caller.
        """
        check_step(old, new)
        before = None if old is None else encode_record(old)
        after = encode_record(new)
        end = time.monotonic() + self.patience
        doubt: BaseException | None = None
        while True:
            try:
                if self.backend.compare_and_swap(new.program, before, after):
                    return
                found = self.read(new.program)
            except Unanswered as error:
                doubt = error
            except RegisterAway as error:
                if doubt is None:
                    raise _of(error, new.program, old) from error
                # An earlier try got no answer. It may still arrive.
            except OwnershipError as error:
                if doubt is None:
                    raise
                raise self._doubt(old, new, error) from error
            else:
                if found == new or (found is not None and _descends(found, new)):
                    return
                raise SwapRefused(
                    "another has changed its record", program=new.program, record=found
                )
            if time.monotonic() >= end:
                raise self._doubt(old, new, doubt) from doubt
            time.sleep(PAUSE)

    @staticmethod
    def _doubt(old: OwnerRecord | None, new: OwnerRecord, why: BaseException) -> SwapInDoubt:
        return SwapInDoubt(
            f"the register did not say whether it took attempt {new.attempt.hex()[:8]} "
            f"(epoch {new.epoch}): {why}",
            program=new.program,
            record=old,
            hint="the program stays paused until the register answers",
        )

    def programs(self) -> list[bytes]:
        """Return the ids of all programs. Raises RegisterAway or RegisterDamaged."""
        return self.backend.programs()

    def close(self) -> None:
        """Close the backend."""
        self.backend.close()


def _of(error: OwnershipError, program: bytes, record: OwnerRecord | None) -> OwnershipError:
    """Return a backend's error with the program and the last record that was read."""
    return type(error)(error.what, program=program, record=record, hint=error.hint)


def _descends(found: OwnerRecord, new: OwnerRecord) -> bool:
    """Return whether `found` came after `new`: only its owner can have gone on from it."""
    same = (found.epoch, found.attempt, found.owner) == (new.epoch, new.attempt, new.owner)
    return same and found.serial > new.serial


def check_step(old: OwnerRecord | None, new: OwnerRecord) -> None:
    """Check that a record can follow another one. Raises ValueError."""
    check_record(new)
    if old is None:
        if (new.epoch, new.serial) != (1, 1):
            raise ValueError("a first record has epoch 1 and serial 1")
        return
    if old.program != new.program or new.serial != old.serial + 1:
        raise ValueError("a record follows one of the same program, with the next serial")
    if old.standing is Standing.ENDED:
        raise ValueError("nothing follows the record of a program that has ended")
    if new.epoch == old.epoch:
        if (new.owner, new.attempt) != (old.owner, old.attempt):
            raise ValueError("a new owner or attempt has a new epoch")
    elif new.epoch != old.epoch + 1 or new.attempt == old.attempt:
        raise ValueError("a new owner has the next epoch and an attempt of its own")
