"""Remote memory through pages that this process holds: a buffer of fixed size, written back."""

from __future__ import annotations

from collections import OrderedDict

from wasmsr.errors import printable
from wasmsr.mem.failures import RemoteMemoryError, TransportError
from wasmsr.mem.transports import MemoryTransport
from wasmsr.mem.wire.commands import OUT_OF_BOUNDS

SMALLEST_PAGE = 256
LARGEST_PAGE = 1 << 16
"""Bytes of a page."""
MOST_PARTS = 32
"""Parts of a page that were changed, before they are written."""


class BufferedMemory:
    """The bytes of a memory, some of them held here.

    What is written goes to the memory when its page has to leave the buffer, with `flush`, and at
    the end of a `with` block. The page that was used least recently leaves first. Two buffers over
    the same bytes do not see each other before `flush` of one and `forget` of the other.

    Attributes:
        transport: The way to the memory.
        page: Bytes of a page.
        held: Pages that the buffer may hold.
    """

    def __init__(
        self, transport: MemoryTransport, *, page: int = 4096, buffer: int = 1 << 20
    ) -> None:
        """Make a buffer.

        Args:
            transport: The way to the memory.
            page: Bytes of a page: a power of two, 256 to 65,536.
            buffer: Bytes that are held here: one page at least.

        Raises:
            TransportError: One of them is wrong.
        """
        if not SMALLEST_PAGE <= page <= LARGEST_PAGE or page & (page - 1):
            raise TransportError(
                f"a page of {page} bytes; it is a power of two, {SMALLEST_PAGE} to {LARGEST_PAGE}"
            )
        if buffer < page:
            raise TransportError(f"a buffer of {buffer} bytes has no room for a page of {page}")
        self.transport = transport
        self.page = page
        self.held = buffer // page
        self._pages: OrderedDict[int, memoryview] = OrderedDict()
        self._last: int | None = None
        self._last_page = memoryview(b"")
        self._dirty: dict[int, list[tuple[int, int]]] = {}
        """Of each page that was changed, what was: first byte and the one after the last."""
        self._spare: list[memoryview] = []
        self._size = transport.size()

    def __enter__(self) -> BufferedMemory:
        return self

    def __exit__(self, *error: object) -> None:
        self.flush()

    def read(self, addr: int, into: memoryview) -> None:
        """Copy bytes of the memory to a buffer of the caller.

        A part that is longer than the buffer is read around it.

        Raises:
            RemoteMemoryError: The memory refused, or is away.
        """
        size = len(into)
        if not size:
            return
        page, offset = divmod(addr, self.page)
        if offset + size <= self.page:  # most reads are of one page, and of the same as before
            if page != self._last:
                self._check(addr, size, "read")
                self._last_page = self._hold(page)
                # The end of the memory is in its last page: each read there is checked.
                self._last = page if self._length(page) == self.page else None
            into[:] = self._last_page[offset : offset + size]
            return
        self._check(addr, size, "read")
        if size > self.held * self.page // 2:
            self._write_back(addr, size)
            self.transport.read_into(addr, into)
            return
        for at, page, offset, count in self._parts(addr, len(into)):
            into[at : at + count] = self._hold(page)[offset : offset + count]

    def write(self, addr: int, data: memoryview) -> None:
        """Copy bytes to the memory; they are there after `flush`.

        Raises:
            RemoteMemoryError: The memory refused, or is away.
        """
        self._check(addr, len(data), "write")
        if len(data) > self.held * self.page // 2:
            self._write_back(addr, len(data))
            for page in self._range(addr, len(data)):
                self._drop(page)
            self.transport.write_from(addr, data)
            return
        for at, page, offset, count in self._parts(addr, len(data)):
            whole = count == self.page
            held = self._hold(page, fetch=not whole)
            held[offset : offset + count] = data[at : at + count]
            self._note(page, offset, offset + count)

    def flush(self) -> None:
        """Write all that was changed to the memory."""
        for page in sorted(self._dirty):
            self._send(page)

    def forget(self) -> None:
        """Write back, and hold nothing: the next reads see what others have written."""
        self.flush()
        self._pages.clear()
        self._last = None

    # ---- pages -----------------------------------------------------------------------------------

    def _check(self, addr: int, size: int, verb: str) -> None:
        if addr < 0 or (self._size and addr + size > self._size):
            raise RemoteMemoryError(
                f"memory {printable(self.transport.name)}: to {verb} {size} bytes at {addr} is out "
                f"of bounds; it has {self._size or 'an unknown number of'} bytes",
                status=OUT_OF_BOUNDS,
            )

    def _range(self, addr: int, size: int) -> range:
        return range(addr // self.page, (addr + size + self.page - 1) // self.page)

    def _parts(self, addr: int, size: int) -> list[tuple[int, int, int, int]]:
        """Return (offset in the caller's bytes, page, offset in it, count) of each part."""
        found, at = [], 0
        while at < size:
            page, offset = divmod(addr + at, self.page)
            count = min(self.page - offset, size - at)
            found.append((at, page, offset, count))
            at += count
        return found

    def _hold(self, page: int, fetch: bool = True) -> memoryview:
        found = self._pages.get(page)
        if found is not None:
            self._pages.move_to_end(page)
            return found
        self._last = None  # its page may be the one that leaves
        while len(self._pages) >= self.held:
            oldest = next(iter(self._pages))
            if oldest in self._dirty:
                self._send(oldest)
            self._spare.append(self._pages.pop(oldest))
        found = self._spare.pop() if self._spare else memoryview(bytearray(self.page))
        if fetch:
            try:
                self.transport.read_into(page * self.page, found[: self._length(page)])
            except BaseException:
                self._spare.append(found)
                raise
        self._pages[page] = found
        return found

    def _length(self, page: int) -> int:
        """Bytes of a page that are in the memory: its last page may be shorter."""
        if not self._size:
            return self.page
        left = self._size - page * self.page
        return min(self.page, left) if left > 0 else self.page

    def _note(self, page: int, start: int, end: int) -> None:
        parts = self._dirty.setdefault(page, [])
        if parts and parts[-1][0] <= start <= parts[-1][1]:
            parts[-1] = parts[-1][0], max(end, parts[-1][1])  # most writes follow the last one
            return
        parts.append((start, end))
        if len(parts) > MOST_PARTS:
            self._send(page)

    def _send(self, page: int) -> None:
        """Write what was changed of a page, and nothing else: others may write beside it."""
        start = end = 0
        for first, last in [*sorted(self._dirty[page]), (self.page + 1, self.page + 1)]:
            if first <= end:
                end = max(end, last)
                continue
            if start < end:
                self.transport.write_from(page * self.page + start, self._pages[page][start:end])
            start, end = first, last
        del self._dirty[page]

    def _write_back(self, addr: int, size: int) -> None:
        for page in self._range(addr, size):
            if page in self._dirty:
                self._send(page)

    def _drop(self, page: int) -> None:
        self._pages.pop(page, None)
        self._dirty.pop(page, None)
        self._last = None
