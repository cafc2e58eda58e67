"""The bytes of a record: JSON in one canonical form, because the register compares bytes."""

from __future__ import annotations

import json
from typing import Any

from wasmsr.ownership.failures import RecordDamaged, RecordTooNew
from wasmsr.ownership.owner_record import (
    FailoverPolicy,
    LastCheckpoint,
    OwnerRecord,
    Standing,
)

RECORD_VERSION = 1
"""The version of the bytes. A reader refuses a newer one."""

RECORD_BYTES = 1 << 16
"""Bytes of a record at most."""

NODE_BYTES = 16
"""Bytes of an id of a node, a program or an attempt."""

ROOT_BYTES = 32
"""Bytes of the digest of a checkpoint."""

FAILOVER = 256
"""Nodes in a failover set at most."""

ADDRESS = 4096
"""Characters of the address of a store at most."""

LARGEST = (1 << 63) - 1
"""The largest number of a record."""


def encode_record(record: OwnerRecord) -> bytes:
    """Return the canonical bytes of a record."""
    last = record.checkpoint
    values: dict[str, Any] = {
        "version": RECORD_VERSION,
        "program": record.program.hex(),
        "owner": record.owner.hex(),
        "epoch": record.epoch,
        "attempt": record.attempt.hex(),
        "serial": record.serial,
        "lease": record.lease,
        "deadline": record.deadline,
        "standing": record.standing.value,
        "policy": record.policy.value,
        "failover": [node.hex() for node in record.failover],
        "checkpoint": last
        and {
            "root": last.root.hex(),
            "store": last.store,
            "epoch": last.epoch,
            "output": last.output,
            "errors": last.errors,
        },
    }
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode("ascii")


def decode_record(data: bytes, program: bytes) -> OwnerRecord:
    """Return the record of a program from its bytes.

    Raises:
        RecordTooNew: A newer version of wasmsr wrote it.
        RecordDamaged: The bytes are no record, or one of another program.
    """

    def damaged(why: str) -> RecordDamaged:
        return RecordDamaged(
            f"its record in the register is damaged: {why}",
            program=program,
            hint="nobody may run the program until an operator has put the record right",
        )

    if len(data) > RECORD_BYTES:
        raise damaged(f"{len(data)} bytes; {RECORD_BYTES} are the most")
    try:
        values = json.loads(data)
        version = values["version"]
        if type(version) is int and version > RECORD_VERSION:
            raise RecordTooNew(
                f"its record in the register has version {version}; this wasmsr reads up to "
                f"{RECORD_VERSION}",
                program=program,
                hint="install the wasmsr that the other nodes have",
            )
        record = _record(values)
        if encode_record(record) != data:
            raise ValueError("not in canonical form")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise damaged(str(error) or type(error).__name__) from error
    if record.program != program:
        raise damaged(f"it is that of program {record.program.hex()[:8]}")
    return record


def check_record(record: OwnerRecord) -> None:
    """Check a record before it is written. Raises ValueError."""
    data = encode_record(record)
    if len(data) > RECORD_BYTES:
        raise ValueError(f"a record of {len(data)} bytes; {RECORD_BYTES} are the most")
    if _record(json.loads(data)) != record:
        raise ValueError("a record that does not read back")


def _record(values: dict[str, Any]) -> OwnerRecord:
    last = values["checkpoint"]
    failover = values["failover"]
    if type(failover) is not list or len(failover) > FAILOVER:
        raise ValueError("failover")
    return OwnerRecord(
        program=_bytes(values, "program"),
        owner=_bytes(values, "owner"),
        epoch=_number(values, "epoch", 1),
        attempt=_bytes(values, "attempt"),
        serial=_number(values, "serial", 1),
        lease=_number(values, "lease", 1),
        deadline=_number(values, "deadline"),
        standing=Standing(values["standing"]),
        policy=FailoverPolicy(values["policy"]),
        failover=tuple(_bytes({"failover": node}, "failover") for node in failover),
        checkpoint=None
        if last is None
        else LastCheckpoint(
            root=_bytes(last, "root", ROOT_BYTES),
            store=_address(last["store"]),
            epoch=_number(last, "epoch", 1, values["epoch"]),
            output=_number(last, "output"),
            errors=_number(last, "errors"),
        ),
    )


def _bytes(values: dict[str, Any], name: str, size: int = NODE_BYTES) -> bytes:
    text = values[name]
    if type(text) is not str or len(text) != 2 * size:
        raise ValueError(name)
    return bytes.fromhex(text)


def _number(values: dict[str, Any], name: str, least: int = 0, most: int = LARGEST) -> int:
    number = values[name]
    if type(number) is not int or not least <= number <= most:
        raise ValueError(name)
    return number


def _address(text: Any) -> str:
    if type(text) is not str or len(text) > ADDRESS:
        raise ValueError("store")
    return text
