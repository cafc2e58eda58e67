"""The snapshots in which programs of a node begin: by digest, as long as somebody may need them.

Forks of one snapshot share its memory, so it stays as long as the node shows one of them. A program
that goes on in a snapshot needs it only once. The newest few of these stay for copies that are made
of one file, and the others are removed.
"""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Final

from wasmsr.node.failures import SubmissionRefused
from wasmsr.node.supervision.node_folder import NodeFolder

UNUSED: Final = 4
"""Snapshots that stay although no program has one."""


class KeptSnapshots:
    """The snapshots of one node. Any thread may call its methods."""

    def __init__(self, folder: NodeFolder, needed: Callable[[], set[str]]) -> None:
        """Take what they are about.

        Args:
            folder: The node's folder.
            needed: Returns the digests of snapshots in which programs have begun that share them.
        """
        self._folder, self._needed = folder, needed
        self._lock = threading.Lock()
        self._used = Counter[str]()

    @contextmanager
    def using(self, digest: str) -> Iterator[None]:
        """Keep a snapshot as long as the block lasts; "" is none."""
        if not digest:  # it does not wait for files that are removed
            yield
            return
        with self._lock:
            self._used[digest] += 1
        try:
            yield
        finally:
            with self._lock:
                self._used[digest] -= 1
                self._used += Counter()  # without those that nobody uses
                self._folder.trim_snapshots({*self._used, *self._needed()}, UNUSED)

    def take(self, digest: str, pieces: Iterable[bytes]) -> None:
        """Take the snapshot that was named, unless nothing of it comes.

        Args:
            digest: Its digest in hexadecimal digits.
            pieces: Its bytes, or nothing.

        Raises:
            SubmissionRefused: Another one comes, or it is too large.
            OSError: It cannot be written.
        """
        pieces = iter(pieces)
        first = next(pieces, None)
        if first is not None and self._folder.take_snapshot(chain([first], pieces)) != digest:
            raise SubmissionRefused("the snapshot that came is another one than was named")


__all__ = ["KeptSnapshots"]
