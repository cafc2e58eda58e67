"""Checkpoints of leased programs in a store of snapshots, each under a name of its epoch.

A name is PROGRAM@EPOCH.ROOT, with the first digits of the root digest. So an owner of an older
epoch cannot replace what its successor needs.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from wasmsr.errors import SnapshotError
from wasmsr.ownership.owner_record import LastCheckpoint
from wasmsr.snapshot.store.place import NAMES
from wasmsr.snapshot.store.store import SnapshotStore
from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust

PREFIX = "store:"
"""What an address in a record begins with if it is that of a store."""

ROOT_DIGITS = 16
"""Hexadecimal digits of the root digest in a name."""


def is_stored(last: LastCheckpoint) -> bool:
    """Return whether a checkpoint is in a store, and not in a folder."""
    return last.store.startswith(PREFIX)


def stored_name(program: bytes, last: LastCheckpoint) -> str:
    """Return the name of a checkpoint in its store."""
    return f"{program.hex()}@{last.epoch}.{last.root.hex()[:ROOT_DIGITS]}"


def put_checkpoint(program: bytes, last: LastCheckpoint, folder: str, reads: ReadTrust) -> None:
    """Put the last checkpoint of a folder into its store.

    Raises:
        SnapshotError: It cannot be read or stored, or the folder has another one by now.
    """
    store = SnapshotStore(last.store.removeprefix(PREFIX), create=True)
    done = store.put(folder, stored_name(program, last), replace=True, trust=reads)
    if done.root != last.root:
        raise SnapshotError("the last checkpoint of the folder is another one by now")


def remove_checkpoint(program: bytes, last: LastCheckpoint) -> None:
    """Remove a name that no record needs any more; its pieces stay until `wasmsr store gc`."""
    with suppress(SnapshotError, OSError):  # it stays: room, and nothing else
        SnapshotStore(last.store.removeprefix(PREFIX)).remove(stored_name(program, last))


def fetch_checkpoint(
    program: bytes, last: LastCheckpoint, path: Path, reads: ReadTrust, writes: WriteTrust
) -> None:
    """Write a stored checkpoint to a file of this host.

    Raises:
        SnapshotError: The store has no such checkpoint, or it is damaged.
    """
    path.unlink(missing_ok=True)
    store = SnapshotStore(last.store.removeprefix(PREFIX))
    copied = store.get(stored_name(program, last), os.fspath(path), trust=reads, write=writes)
    if copied.root != last.root:
        raise SnapshotError(
            f"the store has another checkpoint by the name {stored_name(program, last)}"
        )


def remove_others(program: bytes, last: LastCheckpoint) -> None:
    """Remove the names of a program's checkpoints up to the epoch of one, which stays."""
    with suppress(SnapshotError, OSError):
        store = SnapshotStore(last.store.removeprefix(PREFIX))
        kept = stored_name(program, last)
        for name in store.names():
            epoch = name.removeprefix(f"{program.hex()}@").partition(".")[0]
            ours = name.startswith(f"{program.hex()}@") and epoch.isdigit()
            if ours and int(epoch) <= last.epoch and name != kept:
                store.remove(name)


# ---- what another host needs beside a checkpoint -------------------------------------------------


def write_note(address: str, name: str, data: bytes) -> None:
    """Write a small file beside the checkpoints of a store. Raises SnapshotError."""
    SnapshotStore(address, create=True).folder.write(f"{NAMES}/{name}", data)


def read_note(address: str, name: str, limit: int) -> bytes | None:
    """Return such a file, or None if it is not there.

    Raises:
        SnapshotError: The store cannot be read, or the file has more than `limit` bytes.
    """
    place = SnapshotStore(address).folder
    path = f"{NAMES}/{name}"
    return None if place.size(path) is None else place.read(path, limit)


def notes(address: str, prefix: str, suffix: str) -> list[str]:
    """Return the names of such files, without suffix. Raises SnapshotError."""
    found = SnapshotStore(address).folder.listed(NAMES, suffix)
    return [name for name in found if name.startswith(prefix)]


def remove_note(address: str, name: str) -> None:
    """Remove such a file; one that stays takes room, and nothing else."""
    with suppress(SnapshotError, OSError):
        SnapshotStore(address).folder.remove(f"{NAMES}/{name}")
