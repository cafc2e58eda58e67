"""Functions over pages that version 2 needs: in the core where it is built, otherwise in Python."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.pages import PAGE_SIZE, page_map

ZERO_DIGEST = sha256(bytes(PAGE_SIZE)).digest()
"""The digest of a page of zeros."""


def _digest_blocks(data: Buffer, size: int) -> bytes:
    """Return the SHA-256 of each block of `size` bytes, 32 bytes each."""
    view = memoryview(data)
    blocks = [view[start : start + size] for start in range(0, len(view), size)]
    return b"".join([sha256(block).digest() for block in blocks])


def _load_digest_blocks() -> Callable[[Buffer, int], bytes | bytearray]:
    try:
        from wasmsr.snapshot.memory.page_engine import block_digests
    except (ImportError, AttributeError):
        return _digest_blocks
    return block_digests


digest_blocks: Callable[[Buffer, int], bytes | bytearray] = _load_digest_blocks()
"""The SHA-256 of each block of so many bytes, 32 bytes each."""


def _load_page_digests() -> Callable[[Buffer], bytes | bytearray]:
    try:
        from wasmsr.snapshot.memory.page_engine import page_digests
    except (ImportError, AttributeError):
        return lambda data: _digest_blocks(data, PAGE_SIZE)
    return lambda data: page_digests(data, ZERO_DIGEST)


page_digests: Callable[[Buffer], bytes | bytearray] = _load_page_digests()
"""The digest of each page, 32 bytes each."""


def page_runs(view: memoryview) -> Iterator[tuple[int, int]]:
    """Yield the longest runs of pages (first, count) of a space that are not zeros."""
    flags = page_map(view)
    first = flags.find(1)
    while first >= 0:
        end = flags.find(0, first)
        if end < 0:
            end = len(flags)
        yield first, end - first
        first = flags.find(1, end)


def gather(view: memoryview, runs: Sequence[tuple[int, int]]) -> Buffer:
    """Return pages of a space, joined.

    Args:
        view: The space.
        runs: The pages (first, count).
    """
    parts = [view[first * PAGE_SIZE : (first + count) * PAGE_SIZE] for first, count in runs]
    return parts[0] if len(parts) == 1 else b"".join(parts)


__all__ = ["PAGE_SIZE", "ZERO_DIGEST", "digest_blocks", "gather", "page_digests", "page_runs"]
