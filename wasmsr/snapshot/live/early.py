"""The rest of a state that a program had before it was stopped: what a store can be prepared from.

Only the sizes of its memories count. Their pages are on their way, and belong to no one state yet.
"""

from __future__ import annotations

import mmap

from wasmsr.errors import FormatError
from wasmsr.interp.outcomes import Limits
from wasmsr.snapshot.earlier import EarlierState
from wasmsr.snapshot.encoding.container import MAPPED, Buffer
from wasmsr.snapshot.encoding.read_limits import BESIDE
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.state import SnapshotState


def address_space(size: int) -> memoryview:
    """Return zeros that nobody reads or writes, in place of a memory of which the size counts."""
    if not size:
        return memoryview(b"")
    return memoryview(mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))


class EarlyRest:
    """Takes the bytes of an earlier rest, and keeps them: the last rest repeats most of them.

    Args:
        limit: Bytes that all memories may have together.
        limits: Limits of the store in which the state is to be restored.
        files: Bytes of content of carried files.

    Attributes:
        data: The bytes that have come.
    """

    def __init__(self, *, limit: int, limits: Limits | None, files: int) -> None:
        self.data = bytearray()
        self._sizes: list[memoryview] = []
        self._given = 0
        self._decoder: Decoder | None = Decoder(
            limit=limit + BESIDE,
            limits=limits,
            files=files,
            allocate=self._allocate,
            map_pages=self._region,
        )

    def feed(self, piece: Buffer) -> None:
        """Take the next bytes.

        Raises:
            FormatError, VersionError, DigestError: What is wrong with them.
        """
        decoder = self._decoder
        assert decoder is not None, "the earlier rest was given away"
        decoder.feed(piece)
        self.data += piece
        if decoder.header is not None and decoder.header.form != MAPPED:
            raise FormatError("the earlier rest must be the head of a mapped snapshot")
        if decoder.complete and len(self.data) > decoder.head_size:
            raise FormatError("bytes follow the end of the earlier rest")

    def finish(self) -> SnapshotState:
        """Return the state; its memories have their sizes, and read as zeros.

        Raises:
            FormatError: The bytes end too early.
        """
        assert self._decoder is not None
        return self._decoder.finish()

    def give(self) -> EarlierState:
        """Return the state, for the rest that comes later; once, after `finish`."""
        assert self._decoder is not None
        # It refers to this object, and would keep the bytes until Python looks for cycles.
        decoder, self._decoder = self._decoder, None
        return decoder.as_earlier()

    def part(self, offset: int, size: int) -> memoryview:
        """Return bytes of it. Raises FormatError if it has no such bytes."""
        if size <= 0 or offset < 0 or offset + size > len(self.data):
            raise FormatError("the rest repeats bytes that the earlier rest does not have")
        return memoryview(self.data)[offset : offset + size]

    def _allocate(self, size: int) -> memoryview:
        self._sizes.append(address_space(size))
        return self._sizes[-1]

    def _region(self, offset: int, length: int) -> memoryview:
        number, self._given = self._given, self._given + 1
        return self._sizes[number]


__all__ = ["EarlyRest", "address_space"]
