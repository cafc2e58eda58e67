"""The core's functions over pages (core/pages), with Python's types, on several threads.

A memory is given as any buffer of bytes in format "B" whose length is a multiple of a page. It must
not change during a call. Runs of pages are an `array("Q")` of numbers in pairs: first page, number
of pages.
"""

from __future__ import annotations

import mmap
import os
from array import array
from collections.abc import Sequence
from functools import cache
from typing import Any, TypeAlias

from wasmsr._ffi import ffi, lib
from wasmsr.snapshot.memory.parts import PART, in_parts

Buffer: TypeAlias = bytes | bytearray | memoryview
Runs: TypeAlias = "array[int]"
"""First page and number of pages, in turn."""

PAGE_SIZE: int = lib.WSR_PAGE
"""Bytes of a page: 4 KiB."""
DIGEST = 32
"""Bytes of a SHA-256 digest."""
_LARGE = 1 << 20
"""Bytes from which on a copy consists of fresh pages of the operating system."""
_LOST = 2**64 - 1 if ffi.sizeof("size_t") == 8 else 2**32 - 1


def _of(data: Buffer | Runs, type_: str = "uint8_t *") -> Any:
    """Return a pointer to the bytes of a buffer, which must outlive it."""
    return ffi.from_buffer(type_, data)


def _writable(data: Buffer, type_: str = "uint8_t *") -> Any:
    return ffi.from_buffer(type_, data, require_writable=True)


def _count(data: Buffer) -> int:
    pages, rest = divmod(len(data), PAGE_SIZE)
    if rest:
        raise ValueError(f"{len(data)} bytes are not whole pages")
    return pages


@cache
def sha256_variant() -> int:
    """Return how this CPU computes SHA-256 best: a number of the core's."""
    return int(lib.wsr_sha256_best())


def sha256_by() -> str:
    """Return how this CPU computes SHA-256, in words."""
    if sha256_variant() == lib.WSR_SHA256_PORTABLE:
        return "portable code"
    return "the CPU's instructions"


# ---- which pages ----


def page_map(data: Buffer) -> bytearray:
    """Return one byte for each page: 0 where all of it is zero, otherwise 1."""
    pages = _count(data)
    flags = bytearray(pages)
    source, target = _of(data), _of(flags)

    def work(first: int, end: int) -> None:
        lib.wsr_page_map(
            source + first * PAGE_SIZE, (end - first) * PAGE_SIZE, PAGE_SIZE, target + first
        )

    in_parts(pages, work)
    return flags


def differences(one: Buffer, other: Buffer, *, size: int = PAGE_SIZE) -> bytearray:
    """Return one byte for each page: 1 where two memories of one length differ, otherwise 0.

    Args:
        one, other: What to compare.
        size: Bytes of a page; with `DIGEST`, digests of pages can be compared.
    """
    if len(one) != len(other) or len(one) % size:
        raise ValueError("two memories of different lengths, or not whole pages")
    count = len(one) // size
    flags = bytearray(count)
    a, b, target = _of(one), _of(other), _of(flags)

    def work(first: int, end: int) -> None:
        lib.wsr_page_differences(
            a + first * size, b + first * size, (end - first) * size, size, target + first
        )

    in_parts(count, work)
    return flags


def runs_of(flags: Buffer) -> Runs:
    """Return the runs of pages whose flag is 1."""
    source = _of(flags)
    count = lib.wsr_flag_runs(source, len(flags), ffi.NULL, 0)
    runs = array("Q", bytes(16 * count))
    if count:
        lib.wsr_flag_runs(source, len(flags), _of(runs, "wsr_page_run *"), count)
    return runs


def pairs_of(runs: Runs) -> list[tuple[int, int]]:
    """Return runs as pairs (first page, number of pages)."""
    return list(zip(runs[::2], runs[1::2], strict=True))


def pages_in(runs: Runs, pages: int) -> int:
    """Return how many pages runs have.

    Args:
        runs: The runs; they may overlap.
        pages: Number of pages of the memory.

    Raises:
        ValueError: A run is out of bounds.
    """
    count: int = lib.wsr_run_pages(_of(runs, "wsr_page_run *"), len(runs) // 2, pages)
    if count == _LOST:
        raise ValueError("a run of pages is out of bounds")
    return count


# ---- copies ----


def copy_pages(source: Buffer, target: Buffer) -> None:
    """Copy a memory into one of zeros, of the same length, without touching its zero pages."""
    pages = _count(source)
    if len(target) != len(source):
        raise ValueError("two memories of different lengths")
    a, b = _of(source), _writable(target)

    def work(first: int, end: int) -> None:
        size = (end - first) * PAGE_SIZE
        lib.wsr_copy_pages(b + first * PAGE_SIZE, a + first * PAGE_SIZE, size)

    in_parts(pages, work)


def copied(data: Buffer) -> bytes | memoryview:
    """Return a copy of a memory that nobody can write to.

    In a large one zero pages take no room.

    Raises:
        MemoryError, OSError: The host has no room.
    """
    if len(data) < _LARGE:
        return bytes(data)
    copy = memoryview(mmap.mmap(-1, len(data), flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
    copy_pages(data, copy)
    return copy.toreadonly()


def copy_runs(source: Buffer, runs: Runs, target: Buffer) -> None:
    """Copy pages to their places in a memory of zeros, of the same length.

    Zero pages and those that no run has are not touched.

    Raises:
        ValueError: A run is out of bounds; nothing is copied then.
    """
    pages = _count(source)
    if len(target) != len(source):
        raise ValueError("two memories of different lengths")
    pages_in(runs, pages)
    a, b, n = _of(source), _writable(target), len(runs) // 2
    pointer = _of(runs, "wsr_page_run *")

    def work(first: int, end: int) -> None:
        lib.wsr_copy_runs(b, a, pages, pointer + first, end - first)

    in_parts(n, work, part=max(1, n // 8))


def gather(data: Buffer, runs: Runs) -> bytearray:
    """Return the pages of runs, one after the other.

    Raises:
        ValueError: A run is out of bounds.
    """
    pages = _count(data)
    count = pages_in(runs, pages)
    result = bytearray(count * PAGE_SIZE)
    pointer = _of(runs, "wsr_page_run *")
    lib.wsr_gather(_of(data), pages, pointer, len(runs) // 2, _of(result), count)
    return result


def scatter(source: Buffer, runs: Runs, data: Buffer, *, fresh: bool = False) -> None:
    """Write pages to the places that runs give; the way back of `gather`.

    Args:
        source: The pages, one after the other.
        runs: Where they belong.
        data: The memory.
        fresh: The memory's pages there are all zero. Zero pages are skipped then, so that they take
            no memory.

    Raises:
        ValueError: A run is out of bounds, or the runs have another number of pages; nothing is
            written then.
    """
    pages, count, n = _count(data), _count(source), len(runs) // 2
    pointer = _of(runs, "wsr_page_run *")
    done = lib.wsr_scatter(_of(source), count, pointer, n, _writable(data), pages, fresh)
    if done == _LOST:
        raise ValueError("a run of pages is out of bounds, or there are not as many pages")


def xor(one: Buffer, other: Buffer) -> bytearray:
    """Return the exclusive or of two buffers of one length."""
    if len(one) != len(other):
        raise ValueError("two buffers of different lengths")
    result = bytearray(len(one))
    lib.wsr_xor(_of(result), _of(one), _of(other), len(one))
    return result


# ---- digests ----


def page_digests(data: Buffer, zero: bytes) -> bytearray:
    """Return the SHA-256 of each page, 32 bytes each.

    Args:
        data: The memory.
        zero: What stands for a zero page in place of its digest (32 bytes).
    """
    if len(zero) != DIGEST:
        raise ValueError("the digest of zero pages has another length")
    pages = _count(data)
    digests = bytearray(pages * DIGEST)
    source, target, variant = _of(data), _of(digests), sha256_variant()

    def work(first: int, end: int) -> None:
        lib.wsr_page_digests(
            variant, source + first * PAGE_SIZE, end - first, zero, target + first * DIGEST
        )

    in_parts(pages, work)
    return digests


def block_digests(data: Buffer, size: int) -> bytearray:
    """Return the SHA-256 of each block of `size` bytes, 32 bytes each: one level of a tree.

    Raises:
        ValueError: The last block is shorter.
    """
    blocks, rest = divmod(len(data), size)
    if rest:
        raise ValueError(f"{len(data)} bytes are not whole blocks of {size}")
    digests = bytearray(blocks * DIGEST)
    source, target, variant = _of(data), _of(digests), sha256_variant()

    def work(first: int, end: int) -> None:
        lib.wsr_block_digests(
            variant, source + first * size, end - first, size, target + first * DIGEST
        )

    in_parts(blocks, work, part=max(1, PART * PAGE_SIZE // size))
    return digests


def leaf_digests(level: int, data: Buffer, leaf: int) -> bytearray:
    """Return the digest of each leaf of `leaf` bytes: SHA-256 of the byte `level` and the leaf.

    The last leaf may be shorter. No bytes have no leaf. The work is done on this thread.
    """
    digests = bytearray(-(-len(data) // leaf) * DIGEST)
    lib.wsr_leaf_digests(sha256_variant(), level, _of(data), len(data), leaf, _of(digests))
    return digests


# ---- equal pages ----


@cache
def _secret() -> tuple[bytes, int]:
    """Return the key of the hash of pages, and the multiplier of tables, for this process."""
    return os.urandom(PAGE_SIZE), int.from_bytes(os.urandom(8), "little") | 1


class EqualPages:
    """The pages of several memories, zero pages left out, each of equal ones stored once.

    The stored pages have numbers in the order of first use.

    Attributes:
        entries: Runs of the pages that are not zero, as numbers in fours: memory, first page,
            number of pages, number of the first stored page.
        sources: The same for the pages in which the stored pages are, in their order.
        stored: Number of stored pages.
    """

    def __init__(self, memories: Sequence[Buffer], *, key: bytes | None = None) -> None:
        self._memories = memories
        secret, multiplier = _secret()
        self._key = secret if key is None else key
        hashes = [array("Q", bytes(8 * _count(memory))) for memory in memories]
        total = sum(map(self._hash, memories, hashes))
        if total >= 1 << 31:
            raise ValueError("the memories have too many pages")
        entries, sources = bytearray(16 * total), bytearray(16 * total)
        bits = (2 * total + 1).bit_length()
        self._table, self._hashes = bytearray(4 << bits), bytearray(8 * total)
        self._pointers = [_of(memory) for memory in memories]
        self._spaces = ffi.new("uint8_t const *[]", self._pointers)
        self._c = ffi.new(
            "wsr_equal_pages *",
            {
                "spaces": self._spaces,
                "multiplier": multiplier,
                "bits": bits,
                "room": total,
                "table": _of(self._table, "uint32_t *"),
                "hashes": _of(self._hashes, "uint64_t *"),
                "entries": _of(entries, "wsr_page_entry *"),
                "sources": _of(sources, "wsr_page_entry *"),
            },
        )
        for number, page_hashes in enumerate(hashes):
            pointer = _of(page_hashes, "uint64_t *")
            if not lib.wsr_add_pages(self._c, number, pointer, len(page_hashes)):
                raise ValueError("a memory has changed while its pages were compared")
        self._buffers = entries, sources
        self.stored: int = self._c.stored
        self.entries = array("I", memoryview(entries)[: 16 * self._c.n_entries].tobytes())
        self.sources = array("I", memoryview(sources)[: 16 * self._c.n_sources].tobytes())

    def _hash(self, memory: Buffer, hashes: array[int]) -> int:
        found: list[int] = []
        key = _of(self._key, "uint32_t *")
        source, target = _of(memory), _of(hashes, "uint64_t *")

        def work(first: int, end: int) -> None:
            found.append(
                lib.wsr_page_hashes(key, source + first * PAGE_SIZE, end - first, target + first)
            )

        in_parts(len(hashes), work)
        return sum(found)

    def copy(self, first: int, count: int, target: Buffer) -> None:
        """Copy stored pages into a buffer, which has room for `count`."""
        if len(target) < count * PAGE_SIZE or not lib.wsr_stored_pages(
            self._c, first, count, _writable(target)
        ):
            raise ValueError("there are no such stored pages, or no room for them")
