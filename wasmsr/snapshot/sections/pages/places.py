"""Section *places* of version 2: where a mapped file has its spaces. Format document, 13.7."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import MAPPED, Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.spaces.places import PLACE, read_places
from wasmsr.snapshot.spaces.space_pages import SpacePages
from wasmsr.snapshot.state import SnapshotState


class PlacesSection(Section):
    """The offset and length of each space in a mapped file.

    No digest covers it: the same state has the same digests in all forms.
    """

    kind = 40
    name = "places"
    payload = "array"
    present = "the form is mapped and there are memories"
    early = True
    versions = (2,)
    carrier = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return zeros in place of 24 bytes for each space: the writer knows the offsets last."""
        assert isinstance(pages, SpacePages)
        return bytes(PLACE.size * len(pages.spaces)) if pages.form == MAPPED else b""

    def begin(self, draft: Draft, size: int) -> None:
        """Refuse it in other forms, and compare the length with the number of spaces."""
        if draft.form != MAPPED:
            raise FormatError(f"a snapshot that is not mapped has a {self.name} section")
        self.expect_size(size, len(draft.page_spaces) * PLACE.size)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Note the places."""
        sizes = [len(space) // PAGE_SIZE for space in draft.page_spaces]
        draft.places = read_places(data, sizes)

    def absent(self, draft: Draft) -> None:
        """Refuse a mapped snapshot without places."""
        if draft.form == MAPPED and draft.page_spaces:
            raise FormatError(f"the mapped snapshot has no {self.name} section")

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: the head of the file says its form."""
        return {}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Any]:
        """Yield nothing."""
        return iter(())


PLACES = PlacesSection()
SECTIONS = (PLACES,)
