"""The *rest* of a snapshot: all but the pages of its memories, which were sent before.

It is the head of the mapped form, from the header to the trailer. So one reader is enough for both.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from wasmsr.snapshot.earlier import EarlierState
from wasmsr.snapshot.encoding.mapped_writer import MappedHead, places_section
from wasmsr.snapshot.encoding.writer import plan_of
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.space_tree import SpaceTree
from wasmsr.snapshot.state import SnapshotState


@dataclass(frozen=True)
class EncodedRest:
    """A rest as bytes.

    Attributes:
        data: The bytes.
        root: The root digest of the snapshot.
        sections: Where each section begins, by its kind, ascending.
        earlier: The state, for a later rest.
    """

    data: bytes
    root: bytes
    sections: Mapping[int, int]
    earlier: EarlierState

    def since(self, before: EncodedRest) -> Iterator[tuple[int, int] | memoryview]:
        """Yield the rest in parts: offset and size of bytes that an earlier rest has too, or bytes.

        Sections that are the same in both are not sent again: tables, for instance.
        """
        view, old = memoryview(self.data), before._parts()
        start = 0
        for kind, (first, after) in self._parts().items():
            known = old.get(kind, (0, 0))
            if view[first:after] == memoryview(before.data)[slice(*known)]:
                if first > start:
                    yield view[start:first]
                yield known[0], after - first
                start = after
        if len(view) > start:
            yield view[start:]

    def _parts(self) -> dict[int, tuple[int, int]]:
        """Return where each section begins and ends, by its kind."""
        starts = [*self.sections.values(), len(self.data)]
        return {
            kind: (start, after)
            for kind, start, after in zip(self.sections, starts, starts[1:], strict=False)
        }


def encode_rest(
    state: SnapshotState,
    trees: Mapping[SpaceName, SpaceTree],
    *,
    compress: bool = True,
    since: EncodedRest | None = None,
) -> EncodedRest:
    """Return the rest of a snapshot.

    No page is read: of the memories only their sizes and digests count.

    Args:
        state: The state.
        trees: The digests of its memories.
        compress: Store modules and carried files in zstd where that is smaller.
        since: An earlier rest. What has not changed is not encoded again; and the state is not
            checked, because the end that reads the rest does it.

    Raises:
        UnportableState, FormatError: As `encode`.
        ValueError: A memory has no digests, or those of another size.
    """
    earlier = None if since is None else since.earlier
    plan = plan_of(state, 2, mapped=True, trees=trees, earlier=earlier)
    head = MappedHead(plan, compress=compress)
    rest = bytearray().join(head.pieces())
    section = places_section(head.places)
    rest[head.places_at : head.places_at + len(section)] = section
    payloads = {one.kind: data for one, data in plan.payloads if isinstance(data, bytes)}
    kept = EarlierState(replace(state, memories=[]), payloads)  # views of memory keep it alive
    return EncodedRest(bytes(rest), head.written.root, head.sections, kept)


__all__ = ["EncodedRest", "encode_rest"]
