"""Writes the mapped form of version 2: the sections, then each space with all pages at their place.

The file is written at its offsets, so it must be a regular file. Pages of zeros are not written:
they are holes, where the file system has such.
"""

from __future__ import annotations

import os

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
from wasmsr.snapshot.spaces.places import file_size, pack_places, places_after
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
    found, head, where = _write_head(plan, file, compress, handed)
    places = places_after(head, [(space.name, len(space.view)) for space in pages.spaces])
    os.ftruncate(file, file_size(head, places))
    if places:
        _write(file, where, b"".join(section_bytes(PLACES.kind, pack_places(places))))
    for space, place in zip(pages.spaces, places, strict=True):
        for first, count in space.runs:
            data = space.view[first * PAGE_SIZE : (first + count) * PAGE_SIZE]
            _write(file, place.offset + first * PAGE_SIZE, data)
    return found


def _write_head(
    plan: WritePlan, file: int, compress: bool, handed: bool
) -> tuple[Written, int, int]:
    """Write all up to the trailer.

    Returns:
        The digests, the length of what was written, and where the section *places* is.
    """
    flags = FLAG_TRAILER | (FLAG_HANDED if handed else 0)
    header = Header(flags, len(plan.payloads), plan.plain, bytes(32), plan.version, plan.form)
    rows = Rows(plan.version)
    at = where = 0
    with open(file, "wb", closefd=False) as out:
        at += out.write(header.encode())
        for number, (section, _) in enumerate(plan.payloads):
            if section is PLACES:
                where = at
            payload = payload_of(plan, number, rows)
            for piece in section_pieces(section, payload, compress, rows):
                at += out.write(piece)
        found = plan.written(rows)
        at += out.write(trailer_bytes(found.root))
    return found, at, where


def _write(file: int, at: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while len(view):
        written = os.pwrite(file, view, at)
        view, at = view[written:], at + written


__all__ = ["write_mapped"]
