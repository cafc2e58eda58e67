"""Sandboxes in a store of snapshots: no memory, no process, and equal pages only once."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wasmsr.errors import SnapshotError
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.snapshot.store.store import SnapshotStore

if TYPE_CHECKING:
    from wasmsr.snapshot.state import SnapshotState

StoreName = SnapshotStore | str | os.PathLike[str]


def put_away(state: SnapshotState, store: StoreName, name: str) -> None:
    """Put a state into a store, under a name that is free. Raises SnapshotError."""
    with tempfile.TemporaryDirectory(prefix="wasmsr-park-") as folder:
        path = Path(folder) / "state"
        Snapshot(state).save(path, compress=False)
        _open(store, create=True).put(path, name)


def fetched(store: StoreName, name: str) -> tuple[SnapshotState, bytes]:
    """Return the state that a name has, and its root digest. Raises SnapshotError."""
    with tempfile.TemporaryDirectory(prefix="wasmsr-wake-") as folder:
        path = Path(folder) / "state"
        root = _open(store).get(name, str(path)).root
        return Snapshot.load(path).state, root


def take_out(store: StoreName, name: str, root: bytes) -> None:
    """Remove a name, so that nobody gets its state again.

    Args:
        store: The store.
        name: The name.
        root: The root digest of the state that was read. Another one may have the name by now: it
            was parked by whoever has woken ours.

    Raises:
        SnapshotError: The state is gone: somebody else has taken it.
    """
    try:
        _open(store).remove(name, root=root)
    except SnapshotError as error:
        raise SnapshotError(f"the sandbox {name} was woken by somebody else: {error}") from error


def _open(store: StoreName, *, create: bool = False) -> SnapshotStore:
    return store if isinstance(store, SnapshotStore) else SnapshotStore(store, create=create)


__all__ = ["StoreName", "fetched", "put_away", "take_out"]
