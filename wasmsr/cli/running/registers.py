"""Registers by the text of an option, and programs by the first digits of their ids."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr.cli.moving.addresses import state_folder
from wasmsr.cli.options.usage import UsageError
from wasmsr.ownership.failures import OwnershipError
from wasmsr.ownership.register import Register

if TYPE_CHECKING:
    from wasmsr.ownership.owner_record import OwnerRecord

ID_DIGITS = 32


def ownership_folder(state_dir: str | None) -> Path:
    """Return the folder for the node id and for what belongs to leased programs."""
    return state_folder(state_dir) / "ownership"


def open_register(text: str | None, state_dir: str | None) -> Register:
    """Open a register: an etcd by its addresses, a file, or the user's own file.

    Raises:
        OwnershipError: It cannot be opened.
        MissingPackageError: An etcd needs a package that is not installed.
    """
    if text is not None and "://" in text:
        from wasmsr.http.etcd_backend import EtcdBackend  # only here: it takes long

        return Register(EtcdBackend([one.strip() for one in text.split(",")]))
    from wasmsr.ownership.sqlite_backend import SqliteBackend

    path = Path(text) if text is not None else ownership_folder(state_dir) / "register.db"
    return Register(SqliteBackend(path))


def find_program(register: Register, text: str) -> OwnerRecord:
    """Return the record of a program by the first digits of its id.

    Raises:
        UsageError: No program, or more than one, has such an id.
        OwnershipError: The register does not work, or the record cannot be read.
    """
    digits = text.strip().lower()
    if not re.fullmatch(r"[0-9a-f]{1,32}", digits):
        raise UsageError(f"{text!r} is no id of a program: hexadecimal digits are expected.")
    if len(digits) == ID_DIGITS:
        found = [bytes.fromhex(digits)]
    else:
        found = [one for one in register.programs() if one.hex().startswith(digits)]
    if len(found) > 1:
        raise UsageError(f"{len(found)} programs have an id that begins with {digits}.")
    record = register.read(found[0]) if found else None
    if record is None:
        raise OwnershipError(
            f"the register has no program {digits}", hint="wasmsr ownership ls shows all programs"
        )
    return record
