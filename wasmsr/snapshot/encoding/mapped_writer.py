"""Writes the mapped form of version 2: the sections, then each space with all pages at their place.

The file is written at its offsets, so it must be a regular file. Pages of zeros are not written:
they are holes, where the file system has such.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from wasmsr.errors import EncryptionError
from wasmsr.snapshot.encoding.container import (
    FLAG_HANDED,
    FLAG_TRAILER,
    Header,
    Rows,
    section_bytes,
    trailer_bytes,
)
from wasmsr.snapshot.encoding.writer import WritePlan, payload_of, plan_of, section_pieces
from wasmsr.snapshot.sections.pages.places import PLACES
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.spaces.places import SpacePlace, file_size, pack_places, places_after
from wasmsr.snapshot.spaces.space_pages import SpacePages, Written
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import WRITE_PLAIN, WriteTrust


def write_mapped(
    state: SnapshotState,
    file: int,
    *,
    compress: bool = True,
    handed: bool = False,
    trust: WriteTrust = WRITE_PLAIN,
) -> Written:
    """Write a mapped snapshot.

    Args:
        state: What to write; its memories must not change meanwhile.
        file: A descriptor of an empty regular file, open for writing.
        compress: Store modules and carried files in zstd where that is smaller.
        handed: Mark the snapshot as handed over.
        trust: Keys that sign.

    Raises:
        EncryptionError: It should be encrypted, which a mapped snapshot cannot be.
        UnportableState, FormatError: As `encode`.
        OSError: The file cannot be written.
    """
    if trust.encrypt is not None:
        raise EncryptionError(
            "a mapped snapshot cannot be encrypted, because programs use its pages as they are",
            hint="encrypt a full one: wasmsr snapshot convert --format 2 --encrypt-with KEY",
        )
    plan = plan_of(state, 2, mapped=True)
    plan.trust = trust
    plan.sign()
    pages = plan.pages
    assert isinstance(pages, SpacePages)
    for _ in pages.batches():  # takes the digests, which the sections need
        pass
    head = MappedHead(plan, compress=compress, handed=handed)
    with open(file, "wb", closefd=False) as out:
        for piece in head.pieces():
            out.write(piece)
    places = head.places
    os.ftruncate(file, file_size(head.size, places))
    write_at(file, head.places_at, places_section(places))
    for space, place in zip(pages.spaces, places, strict=True):
        for first, count in space.runs:
            data = space.view[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            write_at(file, place.offset + first * PAGE_SIZE, data)
    return head.written


class MappedHead:
    """The bytes of a mapped snapshot up to the end of its trailer.

    Args:
        plan: The snapshot, with the digests of its pages.
        compress: Store modules and carried files in zstd where that is smaller.
        handed: Mark the snapshot as handed over.

    Attributes:
        size: Number of bytes.
        places_at: Where the section *places* begins, which has zeros in the pieces.
        sections: Where each section begins, by its kind.
        written: The digests of the snapshot. All of these are known after the last piece.
    """

    written: Written

    def __init__(self, plan: WritePlan, *, compress: bool = True, handed: bool = False) -> None:
        self._plan = plan
        self._compress = compress
        self._flags = FLAG_TRAILER | (FLAG_HANDED if handed else 0)
        self.size = self.places_at = 0
        self.sections: dict[int, int] = {}

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes."""
        for piece in self._pieces():
            self.size += len(piece)
            yield piece

    def _pieces(self) -> Iterator[bytes]:
        plan = self._plan
        payloads = plan.payloads
        header = Header(self._flags, len(payloads), plan.plain, bytes(32), plan.version, plan.form)
        yield header.encode()
        rows = Rows(plan.version)
        for number, (section, _) in enumerate(payloads):
            self.sections[section.kind] = self.size
            if section is PLACES:
                self.places_at = self.size
            payload = payload_of(plan, number, rows)
            yield from section_pieces(section, payload, self._compress, rows)
        self.written = plan.written(rows)
        yield trailer_bytes(self.written.root)

    @property
    def places(self) -> list[SpacePlace]:
        """Where the spaces are, after the last piece."""
        pages = self._plan.pages
        assert isinstance(pages, SpacePages)
        spaces = [(space.name, len(space.view)) for space in pages.spaces]
        return places_after(self.size, spaces)


def places_section(places: Sequence[SpacePlace]) -> bytes:
    """Return the whole section *places*, with its heads; nothing without places."""
    return b"".join(section_bytes(PLACES.kind, pack_places(places)))


def write_at(file: int, at: int, data: bytes | memoryview) -> None:
    """Write all of some bytes to their place in a file. Raises OSError."""
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


__all__ = ["MappedHead", "places_section", "write_at", "write_mapped"]
