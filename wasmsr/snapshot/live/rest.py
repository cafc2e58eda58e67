"""The *rest* of a snapshot: all but the pages of its memories, which were sent before.

It is the head of the mapped form, from the header to the trailer. So one reader is enough for both.
"""

from __future__ import annotations

from collections.abc import Mapping

from wasmsr.snapshot.encoding.mapped_writer import MappedHead, places_section
from wasmsr.snapshot.encoding.writer import plan_of
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState


def encode_rest(
    state: SnapshotState, trees: Mapping[SpaceName, SpaceTree], *, compress: bool = True
) -> tuple[bytes, bytes]:
    """Return the rest of a snapshot, and its root digest.

    No page is read: of the memories only their sizes and digests count.

    Args:
        state: The state.
        trees: The digests of its memories.
        compress: Store modules and carried files in zstd where that is smaller.

    Raises:
        UnportableState, FormatError: As `encode`.
        ValueError: A memory has no digests, or those of another size.
    """
    head = MappedHead(plan_of(state, 2, mapped=True, trees=trees), compress=compress)
    rest = bytearray().join(head.pieces())
    section = places_section(head.places)
    rest[head.places_at : head.places_at + len(section)] = section
    return bytes(rest), head.written.root


__all__ = ["encode_rest"]
