"""The pages of a cut of a memory, which goes on meanwhile: each is copied before it is written."""

from __future__ import annotations

import threading
from collections.abc import Iterator

PAGE_BITS = 16
PAGE_BYTES = 1 << PAGE_BITS
"""Bytes of a page, the unit in which a memory is saved."""


class PageCut:
    """Pages as they were at the instant of a cut, which are given one after the other, once.

    To begin a cut copies no page. Whoever writes to a page of it calls `keep` first.

    Attributes:
        numbers: The numbers of the pages.
    """

    def __init__(self, buffer: memoryview, wanted: bytearray, lock: threading.Lock) -> None:
        """Begin.

        Args:
            buffer: The bytes of the memory.
            wanted: A byte for each page of the memory, 1 for those of the cut.
            lock: Held by whoever writes to the memory.
        """
        self._buffer, self._wanted, self._lock = buffer, wanted, lock
        self._kept: dict[int, bytes] = {}
        self.numbers = list(_places(wanted, 0, len(wanted)))

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        for number in self.numbers:
            with self._lock:
                data = self._kept.pop(number, None)
                if data is None:
                    data = self._copied(number)
            yield number, data

    def keep(self, first: int, end: int) -> None:
        """Copy those of the pages from `first` to `end` that are wanted; the lock is held."""
        for number in list(_places(self._wanted, first, end)):
            self._kept[number] = self._copied(number)

    def _copied(self, number: int) -> bytes:
        self._wanted[number] = 0
        return bytes(self._buffer[number << PAGE_BITS : number + 1 << PAGE_BITS])


def _places(flags: bytearray, first: int, end: int) -> Iterator[int]:
    """Yield where the ones are."""
    at = flags.find(1, first, end)
    while at >= 0:
        yield at
        at = flags.find(1, at + 1, end)
