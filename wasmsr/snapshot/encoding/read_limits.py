"""What a reader of a snapshot allows: each number in a snapshot is compared with it first.

The reader asks here before it allocates anything. The limits are the reader's own. The limits in a
snapshot are those of the program where it was saved; a reader does not trust them.
"""

from __future__ import annotations

from wasmsr.errors import FormatError
from wasmsr.interp.outcomes import Limits
from wasmsr.snapshot.state import PAGE

FILES_LIMIT = 1 << 30
"""Bytes of content of carried files unless the user allows more (`--carry-limit`)."""
DEFAULT_LIMIT = 8 << 30
"""Bytes of a snapshot's memories, tables and modules together. The operating system commits no
memory that is not touched; so this bounds what a file claims rather than what it costs."""
MESSAGE_LIMIT = 128 << 20
"""Bytes of all msgpack sections together: WASI carries the content of files without a name."""
IGNORABLE_LIMIT = 16 << 20
"""Bytes of all sections that are skipped."""
HEADS_LIMIT = 1 << 20
"""Bytes of the heads of tables, memories, exceptions or small files."""
FULL_MEMORIES = 8
"""How many memories of the largest allowed size a snapshot may have. Modules have one or two."""
BESIDE = 256 << 20
"""Bytes of modules and tables beside full memories."""


class ReadLimits:
    """What is left for one snapshot.

    Args:
        total: Bytes that memories, tables and embedded modules may have together.
        files: Bytes of content of carried files.
        limits: Limits of the store in which the snapshot is to be restored. None gives the default
            ones, and any memory that `total` allows.

    Attributes:
        store: Limits of the store, the default ones where none were given.
        files: Bytes of content of carried files.
    """

    def __init__(self, total: int, files: int, limits: Limits | None = None) -> None:
        self.files = files
        self._memory_pages = None if limits is None else limits.memory_pages
        if limits is not None:
            total = min(total, FULL_MEMORIES * limits.memory_pages * PAGE + BESIDE)
        self._left = total
        self.store = limits or Limits()
        self._messages, self._ignorable = MESSAGE_LIMIT, IGNORABLE_LIMIT

    def take_messages(self, size: int) -> bool:
        """Take bytes of what all msgpack sections may have; False if they are too many."""
        self._messages -= size
        return self._messages >= 0

    def take_ignorable(self, size: int) -> bool:
        """Take bytes of what all skipped sections may have; False if they are too many."""
        self._ignorable -= size
        return self._ignorable >= 0

    def check_page_index(self, size: int, spaces: list[int]) -> None:
        """Compare the length of the page index with the spaces' sizes. Raises FormatError."""
        if size > sum(spaces) // 4096 * 16 + HEADS_LIMIT:
            raise FormatError("the page index has more runs than the memories have pages")

    def take(self, name: str, size: int) -> None:
        """Take bytes of what memories, tables and modules may have. Raises FormatError."""
        left = self._left - size
        if left < 0:
            raise FormatError(
                f"the {name} section asks for {-left} bytes more than may be read",
                hint="a larger limit can be given",
            )
        self._left = left

    def take_memories(self, sizes: list[int]) -> None:
        """Take memories of these sizes, in Wasm pages. Raises FormatError."""
        for number, size in enumerate(sizes):
            self._check_memory(number, size)
        self.take("memories", sum(sizes) * PAGE)

    def take_growth(self, number: int, size: int, more: int) -> None:
        """Take what a memory grows by.

        Args:
            number: The memory.
            size: All that it has then, in Wasm pages.
            more: How many of them are new.

        Raises:
            FormatError: It is more than is left.
        """
        self._check_memory(number, size)
        self.take("memories", more * PAGE)

    def _check_memory(self, number: int, size: int) -> None:
        if self._memory_pages is not None and size > self._memory_pages:
            raise FormatError(
                f"memory {number} of {size} pages exceeds the limit of {self._memory_pages} pages",
                hint="--max-memory sets the limit anew",
            )

    def take_tables(self, sizes: list[tuple[int, int]]) -> None:
        """Take tables: size and number of stored elements of each.

        The other elements are null. They cost the file nothing, so their number has a bound.

        Raises:
            FormatError: A table is too large, or too many elements are null.
        """
        nulls = sum(size - stored for size, stored in sizes)
        most = self.store.table_elements
        if max([size for size, _ in sizes], default=0) > most or nulls > most:
            raise FormatError(
                f"the snapshot's tables are larger than what may be read: each may have "
                f"{most} elements, and so many may be null in all of them",
                hint="Snapshot.load(FILE, limits=wasmsr.Limits(table_elements=...)) allows more",
            )
        self.take("tables", sum(size for size, _ in sizes) * 8)


__all__ = ["DEFAULT_LIMIT", "FILES_LIMIT", "IGNORABLE_LIMIT", "MESSAGE_LIMIT", "ReadLimits"]
