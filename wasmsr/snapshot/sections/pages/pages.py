"""Sections *page index* and *page data*: the bytes of memories. Format document, section 5.13.

They store all page spaces that sections declare, in the order of these sections.
"""

from __future__ import annotations

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.pages import PAGE_SIZE, PageMap, Placement
from wasmsr.snapshot.encoding.section import BulkPayload, Draft, Section, Sink, WrittenPages
from wasmsr.snapshot.state import SnapshotState


class PageIndexSection(Section):
    """Which page of which space each stored page is."""

    kind = 13
    name = "page index"
    versions = (1,)
    payload = "array"
    present = "any page is stored"
    early = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return 16 bytes for each run of pages."""
        assert isinstance(pages, PageMap)
        return pages.index()

    def begin(self, draft: Draft, size: int) -> None:
        """Compare the length with the spaces' sizes."""
        draft.limits.check_page_index(size, [len(space) for space in draft.page_spaces])

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Note where the stored pages belong."""
        draft.placement = Placement.parse(data, [len(space) for space in draft.page_spaces])


class PageDataSection(Section):
    """The stored pages, each once."""

    kind = 14
    name = "page data"
    versions = (1,)
    payload = "pages"
    present = "any page is stored"
    compressible = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes | BulkPayload:
        """Return the stored pages."""
        assert isinstance(pages, PageMap)
        return pages

    def begin(self, draft: Draft, size: int) -> None:
        """Compare the length with the page index."""
        self.expect_size(size, draft.placement.stored * PAGE_SIZE)

    def sink(self, draft: Draft) -> Sink:
        """Return what writes the pages into their spaces."""
        return _PageSink(draft.placement, draft.page_spaces)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Do nothing: the sink has written the pages."""

    def absent(self, draft: Draft) -> None:
        """Refuse a page index without page data."""
        if draft.placement.stored:
            raise FormatError(f"the snapshot has no {self.name} section")


class _PageSink:
    """Writes stored pages where they belong, and copies those that are used again."""

    def __init__(self, placement: Placement, spaces: list[memoryview]) -> None:
        self._placement = placement
        self._spaces = spaces

    def take(self, start: int, data: Buffer) -> None:
        self._placement.fill(start // PAGE_SIZE, data, self._spaces)

    def close(self) -> None:
        self._placement.repeat(self._spaces)


SECTIONS = (PageIndexSection(), PageDataSection())
