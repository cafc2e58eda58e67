"""Compresses batches of pages as hard as the line and the CPU make worth while.

The destination takes only what fits the runs that a batch names.
"""

from __future__ import annotations

import time

import zstandard

from wasmsr.errors import FormatError
from wasmsr.snapshot.encoding.container import Buffer

LEVEL, HARD = 1, 3
"""Levels of zstd: the usual one, and the one for a slow line."""

HARD_BELOW = 8e6
"""Bytes a second of a line below which the CPU has time for `HARD`."""

WINDOW = 1 << 23
"""Bytes of the largest window of a frame that is unpacked."""

GAIN = 2
"""How many times sooner a compressed batch must be there: to compress takes the program's CPU."""

PROBE = 16
"""Every so many batches that are not compressed, one is, to see whether it would be worth while."""


class BatchPacker:
    """Chooses for each batch, by what the batches before have shown.

    Attributes:
        rate: Bytes a second that the line takes; 0.0 while nobody knows.
        raw: Bytes of pages that were packed so far.
        packed: Bytes that came of them.
    """

    def __init__(self, rate: float = 0.0) -> None:
        self.rate = rate
        self.raw = self.packed = 0
        self._speed = self._ratio = 0.0
        self._skipped = 0
        self._usual = zstandard.ZstdCompressor(level=LEVEL)
        self._hard = zstandard.ZstdCompressor(level=HARD)

    def pack(self, pages: Buffer) -> tuple[Buffer, bool]:
        """Return pages as they go over the wire, and whether they are compressed."""
        size = len(pages)
        self.raw += size
        data, packed = pages, False
        if size and self._worth():
            began = time.perf_counter()
            slow = 0.0 < self.rate < HARD_BELOW
            small = (self._hard if slow else self._usual).compress(pages)
            self._learn(size, len(small), time.perf_counter() - began)
            if len(small) < size - size // 16:
                data, packed = small, True
        self.packed += len(data)
        return data, packed

    def plain(self, pages: Buffer) -> tuple[Buffer, bool]:
        """Return pages as they are, and False, to learn how fast the line is."""
        self.raw += len(pages)
        self.packed += len(pages)
        return pages, False

    @property
    def ratio(self) -> float:
        """How many bytes came of one byte so far; 1.0 before the first."""
        return self.packed / self.raw if self.raw else 1.0

    def expected(self, pages: Buffer) -> float:
        """Return how many bytes come of one byte of pages such as these."""
        if not pages or not self._gains():
            return 1.0
        return min(1.0, len(self._usual.compress(pages)) / len(pages))

    def _worth(self) -> bool:
        """Return whether a compressed batch is there sooner than one that is not."""
        if self._gains():
            return True
        self._skipped += 1
        return self._skipped % PROBE == 0

    def _gains(self) -> bool:
        """Return whether batches have shown that compression gains enough, or nothing yet."""
        if not self.rate or not self._speed:
            return True
        return max(GAIN / self._speed, self._ratio / self.rate) < 1 / self.rate

    def _learn(self, size: int, small: int, seconds: float) -> None:
        speed, ratio = size / max(seconds, 1e-9), small / size
        first = not self._speed
        self._speed = speed if first else 0.8 * self._speed + 0.2 * speed
        self._ratio = ratio if first else 0.8 * self._ratio + 0.2 * ratio


def unpack(data: bytes, size: int, *, packed: bool) -> bytes:
    """Return the bytes of pages that came over the wire.

    Args:
        data: What came.
        size: How many bytes the pages have.
        packed: Whether `data` is compressed.

    Raises:
        FormatError: It is something else.
    """
    if not packed:
        if len(data) != size:
            raise FormatError(f"a batch of {size} bytes has {len(data)}")
        return data
    try:
        if zstandard.frame_content_size(data) != size:
            raise FormatError("a batch unpacks to more or less than it says")
        plain = zstandard.ZstdDecompressor(max_window_size=WINDOW).decompress(
            data, max_output_size=size, read_across_frames=False, allow_extra_data=False
        )
    except (zstandard.ZstdError, MemoryError) as error:
        raise FormatError(f"a batch cannot be unpacked: {error}") from error
    if len(plain) != size:
        raise FormatError("a batch unpacks to more or less than it says")
    return plain


__all__ = ["BatchPacker", "unpack"]
