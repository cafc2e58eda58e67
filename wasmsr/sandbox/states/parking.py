"""Sandboxes in a store of snapshots: no memory, no process, and equal pages only once.

A sandbox that was forked from a prepared file is put as an increment over it: only pages that it
has written are read, compressed and stored, and `wake` maps the rest. The store keeps the prepared
file too, so a parked sandbox does not depend on the user's folder of caches. Any other sandbox is
put as a whole snapshot.
"""

from __future__ import annotations

import os
from array import array
from itertools import chain
from typing import TYPE_CHECKING, NamedTuple

from wasmsr.errors import SnapshotError
from wasmsr.sandbox.states.bases import base_in
from wasmsr.snapshot.memory.page_engine import gather
from wasmsr.snapshot.moments.images import MemoryImage, WrittenPages
from wasmsr.snapshot.moments.moment import images_of
from wasmsr.snapshot.store.increments import check_owned
from wasmsr.snapshot.store.store import SnapshotStore, check_name

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits
    from wasmsr.sandbox.call import PendingCall
    from wasmsr.sandbox.machine import Machine
    from wasmsr.sandbox.results import SandboxLimits
    from wasmsr.snapshot.encoding.reader import Decoder
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.snapshot.store.increments import IncrementBase

StoreName = SnapshotStore | str | os.PathLike[str]


class FetchedState(NamedTuple):
    """A state that a store has.

    Attributes:
        state: The state. With a base, its memories have only the pages that differ from it.
        root: Its root digest.
        base: What it is an increment over; None if it is whole.
        images: With a base, the memories.
    """

    state: SnapshotState
    root: bytes
    base: IncrementBase | None = None
    images: tuple[MemoryImage, ...] = ()


def put_away(
    machine: Machine,
    call: PendingCall | None,
    limits: SandboxLimits,
    store: StoreName,
    name: str,
) -> None:
    """Put the state of a machine that does not run into a store, under a name that is free.

    Args:
        machine: The machine.
        call: The call that it is in.
        limits: What it may use.
        store: The store, which is made if it is not there.
        name: The name.

    Raises:
        SnapshotError: It cannot be stored.
    """
    place = _open(store, create=True)
    dirty = machine.changed()
    state = machine.state(call, limits, views=True)
    if machine.base is None or dirty is None or place.increments is None:
        place.put_state(state, name)
    else:
        place.put_increment(state, name, machine.base, dirty)


def fetched(store: StoreName, name: str, limits: Limits | None = None) -> FetchedState:
    """Return the state that a name has.

    Args:
        store: The store.
        name: The name.
        limits: Limits of the store in which the state is to be restored.

    Raises:
        SnapshotError: There is none, it is damaged, larger than the limits, or another host owns
            its program.
    """
    check_name(name)
    place = _open(store)
    increments = place.increments
    if increments is None or not increments.has(name):
        return FetchedState(*place.state(name, limits=limits))
    with increments.opened(name) as found:
        base = base_in(increments, found.base, limits)
        decoder = found.read(base, sparse=True, limits=limits)
        check_owned(decoder, name)
        images = _images(base, decoder)
        return FetchedState(decoder.finish(), found.root, base, images)


def _images(base: IncrementBase, decoder: Decoder) -> tuple[MemoryImage, ...]:
    """Return the memories of an increment: the base's, and the pages that differ."""
    below = images_of(base.state.memories)
    made = []
    stored = decoder.stored_pages
    memories = decoder.finish().memories
    for number, before in enumerate(below):
        view = memoryview(memories[number].data)
        runs = array("Q", chain.from_iterable(stored[number]))
        written = WrittenPages(runs, gather(view, runs))
        made.append(MemoryImage(len(view), before=before, written=written))
    return (*made, *images_of(memories[len(below) :]))


def take_out(store: StoreName, name: str, root: bytes) -> None:
    """Remove a name, so that nobody gets its state again, also if the host loses its power now.

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


__all__ = ["FetchedState", "StoreName", "fetched", "put_away", "take_out"]
