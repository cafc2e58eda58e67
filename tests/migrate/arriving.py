"""A state that comes to a host as it does over the wire: its pages in one round, then its rest."""

from __future__ import annotations

from array import array

from wasmsr.migrate.hosting.host import HostedArrival, Hosting
from wasmsr.migrate.ports import Relays
from wasmsr.snapshot.live.rest import encode_rest
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, gather, page_map, runs_of
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState


def arrived(host: Hosting, state: SnapshotState, relays: Relays | None = None) -> HostedArrival:
    """Gives all of a state to a host; `restore` is what is left to do."""
    arrival = host.arrival(relays)
    views = [memoryview(memory.data).cast("B") for memory in state.memories]
    arrival.resize([len(view) // PAGE_SIZE for view in views])
    trees = {}
    for number, view in enumerate(views):
        tree = trees[SpaceName(MEMORY_SPACE, number)] = SpaceTree(len(view) // PAGE_SIZE)
        runs = runs_of(page_map(view))
        arrival.pages(number, runs, gather(view, runs), array("Q"))
        for first, count in zip(runs[::2], runs[1::2], strict=True):
            tree.set_pages(first, view[first * PAGE_SIZE : (first + count) * PAGE_SIZE])
    rest = encode_rest(state, trees)
    arrival.feed(rest.data)
    assert arrival.finish() == rest.root
    return arrival
