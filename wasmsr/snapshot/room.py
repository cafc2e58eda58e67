"""What a snapshot may ask of who reads it: every number in it is held against this first.

Beside `reader`, which asks here before it allocates anything. The limits are the reader's own. What
the snapshot says of limits is what held for the program where it was saved, and no reason to
believe it.
"""

from __future__ import annotations

from wasmsr.errors import FormatError
from wasmsr.interp.outcomes import Limits
from wasmsr.snapshot.container import (
    IGNORABLE,
    MESSAGE_LIMIT,
    MESSAGES,
    MODULE_LIMIT,
    Kind,
    section_title,
)
from wasmsr.snapshot.state import PAGE

FILES_LIMIT = 1 << 30
"""Bytes of content of files that are read unless somebody allows more (`--carry-limit`)."""
DEFAULT_LIMIT = 8 << 30
"""Bytes that a snapshot's memories, tables and modules may take together when it is read. Untouched
memory is not committed, so that this bounds what a file claims more than what it costs."""
IGNORABLE_LIMIT = 16 << 20
"""Bytes of all sections together that are skipped because nobody here knows them."""
FULL_MEMORIES = 8
"""How many memories of the largest size a program has room for that arrives with a limit of each.
Modules have one or two."""
FULL_TABLES = 4
"""Likewise how many tables, all of whose elements are in the file."""
BESIDE = 256 << 20
"""Bytes for modules and tables beside such memories."""
_GLOBALS, _HEADS, _QUEUE, _SMALL_FILES = 32 << 20, 1 << 20, 16 << 20, 1 << 20


class Room:
    """What is left for one snapshot.

    Args:
        total: bytes that memories, tables and embedded modules may take in all.
        files: bytes of content of carried files.
        limits: of the store in which it is to be restored; None: the default ones, and any memory
            that `total` has room for.
    """

    def __init__(self, total: int, files: int, limits: Limits | None = None) -> None:
        self.files = files
        self.memory_pages = None if limits is None else limits.memory_pages
        if limits is not None:
            total = min(total, FULL_MEMORIES * limits.memory_pages * PAGE + BESIDE)
        self._left = total
        limits = limits or Limits()
        self.elements = limits.table_elements
        self._messages, self._ignorable = MESSAGE_LIMIT, IGNORABLE_LIMIT
        self._most = {
            Kind.THREAD: limits.stack_frames * 24 + limits.stack_slots * 9 + _QUEUE,
            Kind.GLOBALS: _GLOBALS,
            Kind.TABLES: FULL_TABLES * limits.table_elements * 8 + _HEADS,
            Kind.BINARIES: MODULE_LIMIT,
            Kind.MEMORIES: _HEADS,
            Kind.EXCEPTIONS: limits.table_elements * 64 + _HEADS,
            Kind.FILE_INDEX: (files // 65536 + _SMALL_FILES) * 36,
        }

    def enter(self, kind: int, plain: int) -> None:
        """Hold the length of a section against what such a section may have. Raises FormatError."""
        if kind in MESSAGES:
            self._messages -= plain
            wrong = self._messages < 0
        elif kind & IGNORABLE:
            self._ignorable -= plain
            wrong = self._ignorable < 0
        else:
            wrong = plain > self._most.get(kind, plain)
        if wrong:
            raise FormatError(f"the {section_title(kind)} section is too large: {plain} bytes")

    def index(self, plain: int, sizes: list[int]) -> None:
        """Hold the length of the page index against the memories' sizes. Raises FormatError."""
        if plain > sum(sizes) // 4096 * 16 + _HEADS:
            raise FormatError("the page index has more runs than the memories have pages")

    def take(self, kind: int, size: int) -> None:
        """Take bytes of what memories, tables and modules have. Raises FormatError."""
        self._left -= size
        if self._left < 0:
            raise FormatError(
                f"the {section_title(kind)} section asks for {-self._left} bytes more "
                "than may be read",
                hint="a larger limit can be given",
            )

    def memories(self, sizes: list[int]) -> None:
        """Take memories of so many pages each. Raises FormatError."""
        for number, size in enumerate(sizes):
            if self.memory_pages is not None and size > self.memory_pages:
                raise FormatError(
                    f"memory {number} of {size} pages exceeds the limit of {self.memory_pages} "
                    "pages",
                    hint="--max-memory sets the limit anew",
                )
        self.take(Kind.MEMORIES, sum(sizes) * PAGE)

    def tables(self, sizes: list[tuple[int, int]]) -> None:
        """Take tables of so many elements each, of which so many are stored: the others are nulls,
        which cost the file nothing. Raises FormatError."""
        nulls = sum(size - stored for size, stored in sizes)
        if max([size for size, _ in sizes], default=0) > self.elements or nulls > self.elements:
            raise FormatError(
                f"the snapshot's tables are larger than what may be read: each may have "
                f"{self.elements} elements, and so many may be null in all of them",
                hint="Snapshot.load(FILE, limits=wasmsr.Limits(table_elements=...)) allows more",
            )
        self.take(Kind.TABLES, sum(size for size, _ in sizes) * 8)


__all__ = ["DEFAULT_LIMIT", "FILES_LIMIT", "IGNORABLE_LIMIT", "Room"]
