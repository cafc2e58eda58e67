"""Records of measurements: what a node publishes about a module that it has run."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from wasmsr.fleet.wire.failures import WireError

MOST: Final = 16 << 20
"""Bytes of the records of one module."""


@dataclass(frozen=True)
class RecordKind:
    """A kind of records.

    Attributes:
        form: One record, as `struct` writes it.
        columns: Names of its fields; times are in microseconds, memory is in bytes.
    """

    form: struct.Struct
    columns: tuple[str, ...]


TIMES = ("wall", "user", "system")
RECORD_KINDS: Mapping[str, RecordKind] = {
    "benchmarking": RecordKind(struct.Struct("<3I"), TIMES),
    "seeded": RecordKind(struct.Struct("<4I"), (*TIMES, "seed")),
    "opcodes": RecordKind(struct.Struct("<Q"), ("count",)),
    "instrumented": RecordKind(struct.Struct("<I"), ("count",)),
    "deployed": RecordKind(
        struct.Struct("<Q6I"), ("start", "wall", "cpu", "memory", "mqtt", "local", "out")
    ),
}
"""Each kind by the name that it has in a topic. `opcodes` has a record for each of the 256 first
bytes of an instruction, `instrumented` one for each loop, `deployed` one for each period: when it
began, how long it and its CPU time were, the memory, and the messages that came over the broker,
from the node itself, and that were written."""


def decode_records(kind: str, payload: bytes) -> Mapping[str, list[int]]:
    """Return the columns of records.

    Args:
        kind: Their kind.
        payload: Their bytes, as published.

    Raises:
        WireError: The kind is unknown, or the payload is no whole number of records.
    """
    found = _kind(kind)
    if len(payload) > MOST:
        raise WireError("records too large", len(payload))
    if len(payload) % found.form.size:
        raise WireError(f"{len(payload)} bytes are no whole number of records", kind)
    rows = list(found.form.iter_unpack(payload))
    return {name: [row[number] for row in rows] for number, name in enumerate(found.columns)}


def encode_records(kind: str, columns: Mapping[str, list[int]]) -> bytes:
    """Return the bytes of records.

    Raises:
        WireError: The kind is unknown, a column is absent or of another length, or a number does
            not fit.
    """
    found = _kind(kind)
    try:
        rows = list(zip(*(columns[name] for name in found.columns), strict=True))
        return b"".join(found.form.pack(*row) for row in rows)
    except (KeyError, ValueError, struct.error) as error:
        raise WireError(f"invalid records: {error}", kind) from None


def _kind(name: str) -> RecordKind:
    found = RECORD_KINDS.get(name)
    if found is None:
        raise WireError(
            "unknown kind of records", name, hint=f"there are {', '.join(RECORD_KINDS)}"
        )
    return found
