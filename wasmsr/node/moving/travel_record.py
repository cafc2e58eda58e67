"""What a node notes of a program, on the way to another node: bytes that a peer has sent are
hostile."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from wasmsr.errors import WasmsrError, printable
from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.leases.lease_terms import LeaseTerms
from wasmsr.node.supervision.program_record import LIVES, ProgramRecord, ProgramStanding
from wasmsr.node.supervision.submissions import checked_run, unplaced
from wasmsr.runspec.run_spec import RunSpec

LARGEST = 1 << 62
"""Most bytes of a stream, and most lives."""

SPEC_BYTES = 1 << 18
"""Bytes of the description of a run at most."""


@dataclass(frozen=True)
class TravelRecord:
    """What travels of a program's record.

    Attributes:
        program: Its id in hexadecimal digits.
        name, digest, submitted, submitter, life, begins, every: As in `ProgramRecord`.
        run: Its run.
        paused: Whether it was paused by request.
        lease: The terms of its lease, or None.
    """

    program: str
    name: str
    digest: str
    run: RunSpec
    submitted: float
    submitter: str
    life: int
    begins: tuple[tuple[int, int, int], ...]
    every: float | None
    paused: bool
    lease: LeaseTerms | None


def travel_out(record: ProgramRecord) -> bytes:
    """Return what travels of a record."""
    values = {
        "program": record.program,
        "name": record.name,
        "digest": record.digest,
        "spec": unplaced(record.spec),
        "submitted": record.submitted,
        "submitter": record.submitter,
        "life": record.life,
        "begins": record.begins,
        "every": record.every,
        "paused": record.standing is ProgramStanding.PAUSED or record.stands,
        "lease": None if record.lease is None else record.lease.as_dict(),
    }
    return json.dumps(values).encode()


def travel_in(data: bytes) -> TravelRecord:
    """Return what a peer says of a program.

    Raises:
        SubmissionRefused: It says what cannot be, or sets what nobody may set.
    """
    try:
        values = json.loads(data)
        if not isinstance(values, dict):
            raise ValueError("it is no object")
        return _checked(values)
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise SubmissionRefused(
            f"what the other node notes of the program cannot be read: {error}"
        ) from None


def _checked(values: Mapping[str, Any]) -> TravelRecord:
    for name, size in (("program", 32), ("digest", 64)):
        if len(values[name]) != size or bytes.fromhex(values[name]).hex() != values[name]:
            raise ValueError(f"{name} is none")
    every = values["every"]
    if every is not None and not 0.1 <= float(every) <= 86_400:
        raise ValueError("checkpoints are 0.1 to 86,400 seconds apart")
    begins = tuple((_count(life), _count(out), _count(err)) for life, out, err in values["begins"])
    if len(begins) > LIVES or len(json.dumps(values["spec"])) > SPEC_BYTES:
        raise ValueError("it is too long")
    try:
        run = checked_run(values["spec"])
    except WasmsrError as error:
        raise SubmissionRefused(error.message, hint=error.hint) from None
    lease = None if values.get("lease") is None else LeaseTerms.read(values["lease"])
    if lease is not None:
        lease.check(run)
    submitted = float(values["submitted"])
    if not 0 <= submitted < 1 << 40:
        raise ValueError("it was submitted at no time")
    return TravelRecord(
        values["program"],
        printable(str(values["name"]), 100),
        values["digest"],
        run,
        submitted,
        printable(str(values["submitter"]), 200),
        _count(values["life"]),
        begins,
        None if every is None else float(every),
        values["paused"] is True,
        lease,
    )


def _count(value: Any) -> int:
    if type(value) is not int or not 0 <= value < LARGEST:
        raise ValueError(f"{value!r} is no count")
    return value


__all__ = ["TravelRecord", "travel_in", "travel_out"]
