"""Sections *page runs*, *page bytes* and *spaces* of version 2. Format document, section 13.3.

They store all page spaces that sections declare, in the order of these sections. Every page is at
its place: equal pages are not shared.
"""

from __future__ import annotations

from wasmsr.errors import DigestError, FormatError
from wasmsr.snapshot.encoding.container import MAPPED, Buffer
from wasmsr.snapshot.encoding.section import BulkPayload, Draft, Section, Sink, WrittenPages
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.spaces.space_pages import SPACE, SpaceDigests, SpacePages
from wasmsr.snapshot.state import SnapshotState


class PageRunsSection(Section):
    """Which pages of which spaces are stored, or are zeros now."""

    kind = 34
    name = "page runs"
    payload = "array"
    present = "any page is stored"
    early = True
    versions = (2,)
    carrier = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return 16 bytes for each run of pages."""
        assert isinstance(pages, SpacePages)
        return pages.index()

    def begin(self, draft: Draft, size: int) -> None:
        """Refuse it in a mapped file, and compare the length with the spaces' sizes."""
        if draft.form == MAPPED:
            raise FormatError(f"a mapped snapshot has a {self.name} section")
        draft.limits.check_page_index(size, [len(space) for space in draft.page_spaces])

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Note where the stored pages belong."""
        runs = draft.page_runs
        runs.parse(data, incremental=draft.base is not None)
        runs.clear()


class PageBytesSection(Section):
    """The stored pages, in the order of the runs."""

    kind = 35
    name = "page bytes"
    payload = "pages"
    present = "any page is stored"
    compressible = True
    versions = (2,)
    carrier = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes | BulkPayload:
        """Return the stored pages."""
        assert isinstance(pages, SpacePages)
        return pages

    def begin(self, draft: Draft, size: int) -> None:
        """Compare the length with the page runs."""
        self.expect_size(size, draft.page_runs.stored * PAGE_SIZE)

    def sink(self, draft: Draft) -> Sink:
        """Return what writes the pages into their spaces."""
        return draft.page_runs

    def old(self, draft: Draft, start: int, size: int) -> bytes:
        """Return what the base has in place of a batch."""
        if draft.base is None or draft.base.sparse:
            return super().old(draft, start, size)
        return draft.page_runs.old(start, size)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Do nothing: the sink has written the pages."""

    def absent(self, draft: Draft) -> None:
        """Refuse page runs without page bytes."""
        if draft.runs is not None and draft.runs.stored:
            raise FormatError(f"the snapshot has no {self.name} section")


class SpacesSection(Section):
    """Size and digest of each space, by position."""

    kind = 36
    name = "spaces"
    payload = "array"
    present = "there are memories"
    versions = (2,)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes | BulkPayload:
        """Return 48 bytes for each space."""
        assert isinstance(pages, SpacePages)
        return SpaceDigests(pages)

    def begin(self, draft: Draft, size: int) -> None:
        """Compare the length with the number of spaces."""
        self.expect_size(size, len(draft.page_spaces) * SPACE.size)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Compare the digests with those of the pages, unless these are mapped and not read."""
        for place, (view, entry) in enumerate(
            zip(draft.page_spaces, SPACE.iter_unpack(data), strict=True)
        ):
            kind, flags, number, pages, digest = entry
            name = SpaceName(0, place)
            if (kind, number, pages) != (*name, len(view) // PAGE_SIZE):
                raise self.malformed(f"it has another name or size of {name}")
            if flags:
                raise self.malformed(f"{name} has unknown flags")
            draft.space_digests.append(digest)
            if draft.map_pages is None and digest != draft.page_runs.spaces[place].tree.root():
                raise DigestError(
                    f"the snapshot is damaged: the content of {name} is not what its digest names"
                )

    def absent(self, draft: Draft) -> None:
        """Refuse memories without digests."""
        if draft.page_spaces:
            raise FormatError(f"the snapshot has no {self.name} section")


SECTIONS = (PageRunsSection(), PageBytesSection(), SpacesSection())
