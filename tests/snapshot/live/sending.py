"""What an end that sends does, in one process: pages in rounds, then the rest."""

from __future__ import annotations

from array import array
from pathlib import Path

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.live.incoming import IncomingState
from wasmsr.snapshot.live.rest import encode_rest
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState

LIMIT = 64 << 20


def trees_of(state: SnapshotState) -> dict[SpaceName, SpaceTree]:
    """The digests of a state's memories."""
    found = {}
    for number, memory in enumerate(state.memories):
        tree = SpaceTree(len(memory.data) // PAGE_SIZE)
        tree.set_pages(0, bytes(memory.data))
        found[SpaceName(0, number)] = tree
    return found


def rest_of(state: SnapshotState) -> tuple[bytes, bytes]:
    """The rest of a state, and its root."""
    rest = encode_rest(state, trees_of(state))
    return rest.data, rest.root


def runs(*pairs: tuple[int, int]) -> array[int]:
    """Runs of pages from pairs (first, count)."""
    return array("Q", [number for pair in pairs for number in pair])


def incoming(image: int | None = None, rest: int = 0, limit: int = LIMIT) -> IncomingState:
    """What takes a state."""
    return IncomingState(limit=limit, limits=None, files=1 << 20, image=image, rest=rest)


def send_memory(target: IncomingState, number: int, data: Buffer) -> None:
    """Send a whole memory in one run."""
    target.resize(number, len(data) // PAGE_SIZE)
    if len(data):
        target.take(number, runs((0, len(data) // PAGE_SIZE)), bytes(data))


def send(state: SnapshotState, image: int | None = None, rest: int | None = None) -> IncomingState:
    """Send everything up to the last byte of the rest."""
    data, _ = rest_of(state)
    target = incoming(image, len(data) if rest is None else rest)
    for number, memory in enumerate(state.memories):
        send_memory(target, number, memory.data)
    target.feed(data)
    return target


def received(state: SnapshotState, path: Path, rest: int | None = None) -> bytes:
    """The image of a state that was sent."""
    with open(path, "w+b") as file:
        target = send(state, file.fileno(), rest)
        assert target.finish() == state
        target.sync()
    return path.read_bytes()
