"""System calls over the pages of this process, with types and exceptions; `_sys.c` makes them."""

from __future__ import annotations

import os
from threading import Lock
from typing import Any

from wasmsr._ffi import ffi, lib
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, Buffer, Runs, pages_in
from wasmsr.snapshot.memory.parts import in_parts

PRIVATE: int = lib.WSYS_PRIVATE_PAGES
"""Scan for pages that are not those of the file that is mapped there."""
WRITTEN: int = lib.WSYS_WRITTEN_PAGES
"""Scan for pages that were written since the last scan."""

_PART = 32768
"""Pages that one thread scans: 128 MiB, which take about 3 ms."""


def _error(number: int) -> OSError:
    return OSError(-number, os.strerror(-number))


_table: tuple[int, int] | None = None
_opening = Lock()


def open_page_table() -> int:
    """Return a descriptor of the kernel's table of the pages of this process.

    One is enough for a process. A child needs its own: the parent's shows the parent's pages.
    """
    global _table
    with _opening:
        if _table is None or _table[0] != os.getpid():
            fd = os.open("/proc/self/pagemap", os.O_RDONLY | os.O_CLOEXEC)
            if _table is not None:
                os.close(_table[1])
            _table = os.getpid(), fd
        return _table[1]


def scan(start: int, how: int, flags: bytearray, pages: int, *, at_once: int = _PART) -> int:
    """Mark pages of this process with 1, and leave other flags as they are.

    Args:
        start: The address of the first page.
        how: `PRIVATE`, or `WRITTEN`, which begins anew for the pages that it finds.
        flags: A byte for each page; as many as `pages` or more.
        pages: How many pages are scanned.
        at_once: Pages that one thread scans at a time.

    Returns:
        How many were marked.

    Raises:
        OSError: The kernel refuses, or lacks the call.
    """
    if len(flags) < pages:
        raise ValueError(f"{len(flags)} flags for {pages} pages")
    table = open_page_table()
    target = ffi.from_buffer("uint8_t *", flags, require_writable=True)
    found: list[int] = []

    def work(first: int, end: int) -> None:
        count = lib.wsys_scan_pages(
            table, start + first * PAGE_SIZE, end - first, how, target + first
        )
        if count < 0:
            raise _error(count)
        found.append(count)

    in_parts(pages, work, part=at_once)
    return sum(found)


def watch_writes(start: int, size: int) -> int:
    """Let the kernel note writes to a range of addresses; return a descriptor that ends it.

    Raises:
        OSError: ENOSYS, EINVAL: the kernel lacks it. EPERM: a sandbox forbids it.
    """
    fd: int = lib.wsys_watch_writes(start, size)
    if fd < 0:
        raise _error(fd)
    return fd


def write_pages(fd: int, offset: int, start: int, runs: Runs) -> None:
    """Write pages of this process to a file, each to its place.

    Args:
        fd: The file.
        offset: Where page 0 is in the file.
        start: The address of page 0.
        runs: Which pages.

    Raises:
        OSError: The file takes no more.
    """
    _write(fd, offset, ffi.cast("uint8_t *", start), runs)


def write_view(fd: int, offset: int, view: Buffer, runs: Runs) -> None:
    """Write pages of a buffer to a file, each to its place.

    Args:
        fd: The file.
        offset: Where page 0 is in the file.
        view: The memory.
        runs: Which pages.

    Raises:
        ValueError: A run is out of bounds.
        OSError: The file takes no more.
    """
    pages_in(runs, len(view) // PAGE_SIZE)
    _write(fd, offset, ffi.from_buffer("uint8_t *", view), runs)


def _write(fd: int, offset: int, data: Any, runs: Runs) -> None:
    pointer = ffi.from_buffer("wsys_run *", runs)
    result = lib.wsys_write_pages(fd, offset, data, pointer, len(runs) // 2)
    if result < 0:
        raise _error(result)


_probed: dict[str, str] = {}
_probing = Lock()


def refusal_of(how: int) -> str | None:
    """Return why this host cannot find pages in a way, or None where a small try found them.

    The first call for each way tries it on a few pages, which takes less than 1 ms.
    """
    name = "written" if how == WRITTEN else "private"
    with _probing:
        if name not in _probed:
            _probed[name] = _try(how)
        return _probed[name] or None


def _try(how: int) -> str:
    """Write, read and leave alone pages over a file and without one; return what went wrong."""
    import mmap

    pages = 8
    size = pages * PAGE_SIZE
    area, watch, file = None, -1, -1
    try:
        if PAGE_SIZE != mmap.PAGESIZE:
            return f"the host has pages of {mmap.PAGESIZE} bytes"
        file = os.memfd_create("wsr-try", os.MFD_CLOEXEC)
        os.ftruncate(file, size)
        area = mmap.mmap(file, size, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_WRITE)
        start = int(ffi.cast("uintptr_t", ffi.from_buffer(area)))
        flags = bytearray(pages)
        if how == WRITTEN:
            area[5 * PAGE_SIZE] = 1
            watch = watch_writes(start, size)
            scan(start, how, flags, pages)
        read = [area[PAGE_SIZE], area[3 * PAGE_SIZE]]
        area[2 * PAGE_SIZE] = area[3 * PAGE_SIZE] = area[7 * PAGE_SIZE + 9] = 1
        flags = bytearray(pages)
        scan(start, how, flags, pages)
        if read != [0, 0] or flags != bytes((0, 0, 1, 1, 0, 0, 0, 1)):
            return "the kernel names other pages than were written"
    except (OSError, AttributeError) as error:
        return str(getattr(error, "strerror", None) or error)
    finally:
        if area is not None:
            area.close()
        for fd in (watch, file):
            if fd >= 0:
                os.close(fd)
    return ""
