"""Section *memories*: bounds and sizes of all memories. Format document, section 5.12."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from struct import Struct
from typing import TYPE_CHECKING, Any

from wasmsr.errors import SnapshotError
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.flags import bounds_flags, read_bounds
from wasmsr.snapshot.encoding.pages import PAGE_SIZE, page_map
from wasmsr.snapshot.encoding.read_limits import HEADS_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.rules import (
    MAX_PAGES,
    MAX_PAGES64,
    MAX_SIZE64,
    CheckScope,
    check_address_type,
    check_size,
    invalid,
)
from wasmsr.snapshot.state import PAGE, MemoryState, SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

MEMORY = Struct("<QQQQ")
"""Flags, minimum, maximum, size in Wasm pages."""
_KEYS = ("name", "pages", "minimum", "maximum", "address")


class MemoriesSection(Section):
    """Bounds and size of each memory; its bytes are page data."""

    kind = 12
    name = "memories"
    payload = "array"
    present = "there are memories"
    early = True
    place = 60

    def page_spaces(self, state: SnapshotState) -> Sequence[Buffer]:
        """Return the memories' bytes, by address."""
        return [memory.data for memory in state.memories]

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return 32 bytes for each memory."""
        return b"".join(
            [
                MEMORY.pack(bounds_flags(m), m.minimum, m.maximum or 0, len(m.data) // PAGE)
                for m in state.memories
            ]
        )

    def limit(self, limits: ReadLimits) -> int:
        """Return 1 MiB."""
        return HEADS_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Allocate the state's memories, as far as the reader's limits allow."""
        if len(data) % MEMORY.size:
            raise self.malformed("it ends in the middle of a memory")
        found: list[tuple[int, int | None, int, bool]] = []
        for flags, minimum, maximum, size in MEMORY.iter_unpack(data):
            bound, address64 = read_bounds(self, flags, maximum)
            if size > (MAX_SIZE64 if address64 else MAX_PAGES):
                raise self.malformed(f"a memory has {size} pages")
            found.append((minimum, bound, size, address64))
        draft.limits.take_memories([size for _, _, size, _ in found])
        for minimum, bound, size, address64 in found:
            try:
                memory = draft.allocate(size * PAGE)
            except (MemoryError, OSError) as error:
                raise SnapshotError(
                    f"there is no room for the snapshot's memory of {size * PAGE} bytes"
                ) from error
            draft.state.memories.append(MemoryState(minimum, bound, memory, address64))
            draft.page_spaces.append(memoryview(memory))

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check bounds and sizes."""
        for number, memory in enumerate(state.memories):
            check_address_type("memory", number, memory, state.limits.features)
            if len(memory.data) % PAGE:
                raise invalid(f"memory {number} is not made of whole pages")
            size = len(memory.data) // PAGE
            most = MAX_PAGES64 if memory.address64 else MAX_PAGES
            check_size("memory", number, size, memory, most, state.limits.memory_pages)

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return size and bounds of each memory, and how many bytes are in pages with content."""
        memories = [
            {
                "name": names.memories.get(address),
                "pages": len(one.data) // PAGE,
                "minimum": one.minimum,
                "maximum": one.maximum,
                "address": "i64" if one.address64 else "i32",
                "bytes": len(one.data),
                "nonzero_bytes": sum(page_map(memoryview(one.data))) * PAGE_SIZE,
            }
            for address, one in enumerate(state.memories)
        ]
        return {"memories": memories}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the memories."""
        from wasmsr.snapshot.inspect.text_tables import size, text

        yield (
            "Memories",
            ("", "name", "pages", "minimum", "maximum", "address", "bytes", "not zero"),
            [
                (
                    str(n),
                    *(text(m[key]) for key in _KEYS),
                    size(m["bytes"]),
                    size(m["nonzero_bytes"]),
                )
                for n, m in enumerate(description["memories"])
            ],
        )


SECTIONS = (MemoriesSection(),)
