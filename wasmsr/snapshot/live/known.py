"""The image of a program that was here: its pages need not be sent again when it comes back."""

from __future__ import annotations

import os
import weakref

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.live.early import address_space
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE

_PIECE = 1 << 20


class KnownImage:
    """The memories in a mapped snapshot that this end has written.

    The pages are not trusted: whoever takes some compares the digest of all with the sender's.

    Args:
        file: A descriptor of the snapshot, which now belongs to the image.

    Attributes:
        size: Bytes of the file.

    Raises:
        SnapshotError: The file is no snapshot.
        OSError: It cannot be read.
    """

    def __init__(self, file: int) -> None:
        self._close = weakref.finalize(self, os.close, file)
        self._close.atexit = False
        self._file = file
        self._regions: list[tuple[int, int]] = []
        sizes: list[memoryview] = []

        def allocate(size: int) -> memoryview:
            sizes.append(address_space(size))
            return sizes[-1]

        def region(offset: int, length: int) -> memoryview:
            self._regions.append((offset, length))
            return sizes[len(self._regions) - 1]

        decoder = Decoder(allocate=allocate, map_pages=region)
        at = 0
        while not decoder.complete:
            piece = os.pread(file, _PIECE, at)
            if not piece:
                break
            decoder.feed(piece)
            at += len(piece)
        decoder.finish()
        self.size = os.fstat(file).st_size

    def pages(self, memory: int, first: int, count: int) -> bytes:
        """Return pages of a memory.

        Raises:
            FormatError: It has no such pages, or not any more.
            OSError: The file cannot be read.
        """
        offset, length = self._regions[memory] if memory < len(self._regions) else (0, 0)
        start, size = first * PAGE_SIZE, count * PAGE_SIZE
        data = os.pread(self._file, size, offset + start) if start + size <= length else b""
        if len(data) != size:
            raise FormatError("pages are named as known that this end does not have")
        return data

    def close(self) -> None:
        """Close the file. Again does nothing."""
        self._close()


__all__ = ["KnownImage"]
