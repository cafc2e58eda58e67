"""What another node needs to take a program over, beside its checkpoint: notes in the store.

    PROGRAM.module         the program's own module
    PROGRAM.DIGEST.module  another one of its modules
    PROGRAM.EPOCH.run      what the owner of an epoch has noted of the program, and its address

The note of the newest epoch that is not above the record's counts. So an owner that has lost the
program changes nothing by writing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from wasmsr.errors import FormatError, SnapshotError, printable
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.moving.travel_record import TravelRecord, travel_in, travel_out
from wasmsr.node.supervision.node_folder import MODULE_BYTES
from wasmsr.node.supervision.program_record import ProgramRecord
from wasmsr.node.supervision.submissions import all_modules
from wasmsr.ownership.supervision.stored import notes, read_note, remove_note, write_note
from wasmsr.runspec.run_spec import RunSpec

RUN = ".run"
MODULE = ".module"
NOTE_BYTES = 1 << 19
"""Bytes of a note at most."""


class RunNote(NamedTuple):
    """What an owner has noted.

    Attributes:
        run: The program.
        address: Where other nodes call that owner, or "".
    """

    run: TravelRecord
    address: str


class LeaseNotes:
    """The notes in one store. Any thread may call its methods, which raise SnapshotError."""

    def __init__(self, address: str, advertised: str = "") -> None:
        """Use a store.

        Args:
            address: The address of the store.
            advertised: Where other nodes call this one, or "".
        """
        self.address = address
        self._advertised = advertised

    def write(self, record: ProgramRecord) -> None:
        """Write what this node notes of a program in the record's epoch."""
        values = {"record": travel_out(record).decode(), "address": self._advertised}
        name = f"{record.program}.{record.epoch:012d}{RUN}"
        write_note(self.address, name, json.dumps(values).encode())

    def write_modules(self, record: ProgramRecord, module: Callable[[str], Path]) -> None:
        """Write the modules of a program; `module` returns the file of one. Raises OSError too."""
        for digest in all_modules(record.digest, RunSpec.read(record.spec)):
            name = _module_note(record.program, digest, record.digest)
            write_note(self.address, name, module(digest).read_bytes())

    def read(self, program: str, epoch: int) -> RunNote:
        """Return the note that counts in an epoch.

        Raises:
            SnapshotError: There is none, or it cannot be read.
        """
        found = [name for name in notes(self.address, f"{program}.", RUN) if _epoch(name) <= epoch]
        data = read_note(self.address, max(found) + RUN, NOTE_BYTES) if found else None
        if data is None:
            raise SnapshotError(
                f"the store {printable(self.address)} has no note of program {program[:8]}",
                hint="give all nodes of a failover set the same --checkpoints-store",
            )
        try:
            values = json.loads(data)
            run = travel_in(values["record"].encode())
            if run.program != program:
                raise ValueError("it is of another program")
            return RunNote(run, printable(str(values["address"]), 200))
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise FormatError(f"the note of program {program[:8]} is damaged: {error}") from None
        except SubmissionRefused as error:
            raise FormatError(
                f"the note of program {program[:8]} is damaged: {error.message}"
            ) from None

    def module(self, run: TravelRecord, digest: str) -> bytes:
        """Return a module of a program, which can be another one than its digest says."""
        program = run.program
        name = _module_note(program, digest, run.digest)
        data = read_note(self.address, name, MODULE_BYTES)
        if data is None:
            raise SnapshotError(
                f"the store {printable(self.address)} has no module of program {program[:8]}"
            )
        return data

    def remove(self, program: str) -> None:
        """Remove the notes of a program that has ended."""
        for name in notes(self.address, f"{program}.", RUN):
            remove_note(self.address, name + RUN)
        for name in notes(self.address, f"{program}.", MODULE):
            remove_note(self.address, name + MODULE)
        remove_note(self.address, f"{program}{MODULE}")


def _module_note(program: str, digest: str, own: str) -> str:
    return f"{program}{MODULE}" if digest == own else f"{program}.{digest}{MODULE}"


def _epoch(name: str) -> int:
    digits = name.rpartition(".")[2]
    return int(digits) if digits.isdigit() and len(digits) == 12 else 1 << 62


__all__ = ["LeaseNotes", "RunNote"]
