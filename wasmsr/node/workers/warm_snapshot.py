"""The state that a warm parent holds for workers whose programs begin in a snapshot.

The parent reads and checks the snapshot once. Its memories are files in memory, which all workers
map and share as long as they do not write.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from wasmsr.errors import SnapshotError

if TYPE_CHECKING:
    from wasmsr.interp.modules.module import Module
    from wasmsr.snapshot.moments.moment import Moment

PIECE = 1 << 20


class WarmSnapshot(NamedTuple):
    """What tells one held snapshot from another.

    Attributes:
        path: The file.
        digest: SHA-256 of the file in hexadecimal digits.
        max_pages: Limit of each memory in pages of 64 KiB; None keeps the snapshot's.
    """

    path: str
    digest: str
    max_pages: int | None


def hold(snapshot: WarmSnapshot, module: Module) -> Moment:
    """Return the state of a snapshot, whole and checked.

    Args:
        snapshot: The snapshot.
        module: The module of its program.

    Raises:
        SnapshotError: The file is another one, is damaged, or is of another module.
        OSError, MemoryError: The host has no room.
    """
    # Only here: the supervisor, which names snapshots, reads none.
    from wasmsr.program.restoring import excessive, module_of
    from wasmsr.snapshot.format import load
    from wasmsr.snapshot.moments.moment import Moment

    digest = hashlib.sha256()
    with open(snapshot.path, "rb") as file:
        while piece := file.read(PIECE):
            digest.update(piece)
    if digest.hexdigest() != snapshot.digest:
        raise SnapshotError(f"{snapshot.path} is not the snapshot {snapshot.digest[:16]}")
    state = load(Path(snapshot.path))
    module_of(state, module, None)
    if snapshot.max_pages is not None:
        state.limits.memory_pages = min(state.limits.memory_pages, snapshot.max_pages)
    if (sentence := excessive(state.limits)) is not None:
        raise SnapshotError(f"the program was saved {sentence}")
    moment = Moment.of_state(state, modules=[module], features=module.allowed_features)
    _try_out(moment)
    return moment


def _try_out(moment: Moment) -> None:
    """Make a fork and throw it away: what it imports and reads, workers have from the start."""
    guests = [] if moment.wasi is None else moment.wasi.state.mounts
    if not any(guests):  # the folders of one that has some are not known here
        (store,) = moment.fork(1)
        wasi = store.wasi
        store.close()
        if wasi is not None:
            wasi.close()


__all__ = ["WarmSnapshot", "hold"]
