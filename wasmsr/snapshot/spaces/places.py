"""Where the spaces of a mapped snapshot are in its file. Format document, section 13.7.

After the trailer comes a region for each space, in their order, with every page at its place. So
the file can be mapped in place of the memory. Pages of zeros may be holes of the file.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from struct import Struct
from typing import NamedTuple

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import BATCH, BATCH_SIZE, SECTION
from wasmsr.snapshot.memory.space_name import SpaceName
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE

PLACE = Struct("<HHIQQ")
"""Kind of the space, flags, number of the space, offset in the file, length in bytes."""
ALIGNMENT = 65536
"""Regions begin at multiples of so many bytes: hosts with larger pages must be able to map them."""
PADDING_LIMIT = 256 << 20
"""Bytes of the longest section *padding*."""


class SpacePlace(NamedTuple):
    """Where a space is: its name, its first byte in the file, and its bytes."""

    name: SpaceName
    offset: int
    length: int


def aligned(offset: int) -> int:
    """Return the next multiple of `ALIGNMENT`."""
    return -(-offset // ALIGNMENT) * ALIGNMENT


def padding_for(head: int, end: int) -> int:
    """Return how long the payload of the section *padding* must be.

    Args:
        head: Bytes from the start of the file to the end of the trailer, without that section.
        end: Where the first region is to begin; a multiple of `ALIGNMENT`.

    Returns:
        Bytes, 0 for no such section. The head then ends at `end`, or at most 12 bytes before, where
        one byte more would begin another batch.

    Raises:
        ValueError: The head is longer.
    """
    if aligned(head) > end:
        raise ValueError(f"a head of {head} bytes does not fit before {end}")
    if aligned(head) == end:
        return 0
    whole, rest = divmod(end - head - SECTION.size, BATCH_SIZE + BATCH.size)
    return whole * BATCH_SIZE + max(0, rest - BATCH.size)


def places_after(head: int, spaces: Iterable[tuple[SpaceName, int]]) -> list[SpacePlace]:
    """Return the one place of each space.

    Args:
        head: Bytes from the start of the file to the end of the trailer.
        spaces: Name and bytes of each space, in the order of the file.
    """
    found = []
    end = head
    for name, length in spaces:
        offset = aligned(end)
        found.append(SpacePlace(name, offset, length))
        end = offset + length
    return found


def file_size(head: int, places: Sequence[SpacePlace]) -> int:
    """Return the bytes of a file whose trailer ends at `head`."""
    return aligned(places[-1].offset + places[-1].length) if places else head


def pack_places(places: Iterable[SpacePlace]) -> bytes:
    """Return the section *places*."""
    return b"".join(PLACE.pack(p.name.kind, 0, p.name.number, p.offset, p.length) for p in places)


def read_places(data: bytes | bytearray | memoryview, pages: Sequence[int]) -> list[SpacePlace]:
    """Read the section *places*; `check_places` says whether the offsets are right.

    Args:
        data: The payload.
        pages: Number of pages of each memory, by address.

    Raises:
        FormatError: It has other spaces than the snapshot, or other lengths.
    """
    found = []
    for number, (kind, flags, stated, offset, length) in enumerate(PLACE.iter_unpack(data)):
        name = SpaceName(0, number)
        if kind != name.kind or stated != name.number:
            raise FormatError(f"the places section has another space in place of {name}")
        if flags:
            raise FormatError(f"the place of {name} has unknown flags")
        if length != pages[number] * PAGE_SIZE:
            raise FormatError(
                f"the place of {name} has {length} bytes, and {name} has "
                f"{pages[number] * PAGE_SIZE}"
            )
        found.append(SpacePlace(name, offset, length))
    return found


def check_places(head: int, places: Sequence[SpacePlace], padding: int = 0) -> None:
    """Compare places with the only ones that there can be.

    Args:
        head: Bytes from the start of the file to the end of the trailer.
        places: What the section *places* says.
        padding: Bytes of the section *padding*, which are part of the head.

    Raises:
        FormatError: A place overlaps another or the head, is not aligned, or leaves a gap; or the
            padding does not just reach up to the first place.
    """
    if padding:
        stored = SECTION.size + -(-padding // BATCH_SIZE) * BATCH.size + padding
        right_padding = padding_for(head - stored, aligned(head))
        if padding != right_padding:
            raise FormatError(
                f"the padding of the mapped snapshot has {padding} bytes in place of "
                f"{right_padding}"
            )
    right = places_after(head, [(place.name, place.length) for place in places])
    for place, wanted in zip(places, right, strict=True):
        if place != wanted:
            raise FormatError(
                f"the place of {place.name} begins at {place.offset} and not at {wanted.offset}, "
                "where the part of the file before it ends"
            )


__all__ = [
    "ALIGNMENT",
    "PADDING_LIMIT",
    "PLACE",
    "SpacePlace",
    "aligned",
    "check_places",
    "file_size",
    "pack_places",
    "padding_for",
    "places_after",
    "read_places",
]
