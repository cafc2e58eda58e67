"""Prepared states that this process has open: under new sandboxes, and under woken ones."""

from __future__ import annotations

import os
import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

from wasmsr.snapshot.store.increments import IncrementBase

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits
    from wasmsr.snapshot.store.increments import StoredIncrements

KEPT = 8
"""Bases that stay open when no sandbox needs them. Each has a mapping of its file, and the digests
of its pages: 1 % of its size."""

_kept: OrderedDict[bytes, IncrementBase] = OrderedDict()
_lock = threading.Lock()


def open_base(path: str | os.PathLike[str], limits: Limits | None = None) -> IncrementBase:
    """Open a file, and keep what was opened for sandboxes that are woken. Raises SnapshotError."""
    return _keep(IncrementBase.open(path, limits=limits))


def base_in(
    increments: StoredIncrements, root: bytes, limits: Limits | None = None
) -> IncrementBase:
    """Return the base with a root digest: the one that is open, or that of the store.

    Args:
        increments: Those of the store.
        root: The digest.
        limits: Limits of the stores in which states over it are restored.

    Raises:
        SnapshotError: The store does not have it.
    """
    with _lock:
        found = _kept.get(root)
    return _keep(increments.base(root, limits=limits) if found is None else found)


def _keep(base: IncrementBase) -> IncrementBase:
    with _lock:
        base = _kept.pop(base.root, base)
        _kept[base.root] = base  # the last one is the one used last
        while len(_kept) > KEPT:
            _kept.popitem(last=False)
        return base


__all__ = ["base_in", "open_base"]
