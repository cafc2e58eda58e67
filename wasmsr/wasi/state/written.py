"""What a program writes to its carried files while it leaves: which chunks must be read again.

A scan reads a file whole if the file has another signature than before. A file that the program
itself has written, and nobody else, need not be read whole: each write is noted, with the signature
of the file before and after it. If one write's signature follows the other, and the first one is
that of the last scan, only the noted chunks have changed.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from threading import Lock
from typing import Final

from wasmsr.wasi.filesystem.trees import FileSignature, KnownFiles
from wasmsr.wasi.state.contents import CHUNK

Identity = tuple[int, int]
"""Device and inode."""
WHOLE: Final = 1 << 20
"""Chunks of one write above which a file is read whole: 64 GiB."""


def signature_of(result: os.stat_result) -> FileSignature:
    """Return what an unchanged file is known by."""
    return result.st_ino, result.st_size, result.st_mtime_ns, result.st_ctime_ns


@dataclass
class WrittenFile:
    """What was written to one file.

    Attributes:
        before: Its signature before the first write.
        after: Its signature after the last write; None if it must be read whole: somebody else has
            changed it between, or its size was set.
        numbers: Numbers of the chunks that have changed.
    """

    before: FileSignature
    after: FileSignature | None
    numbers: set[int] = field(default_factory=set)


class WrittenFiles:
    """The writes of a program to one tree. The program's thread notes, the mover's thread asks.

    Attributes:
        known: What the scans have read, as far as the next scan need not read it again.
        taken: What was written between the last scan but one and the last scan.
        ours: The files that the program has written since the beginning.
    """

    def __init__(self, known: KnownFiles) -> None:
        self.known = dict(known)
        self.taken: dict[Identity, WrittenFile] = {}
        self.ours: set[Identity] = set()
        self._now: dict[Identity, WrittenFile] = {}
        self._lock = Lock()

    def writing(self, host: int, perform: Callable[[], int], position: int | None = None) -> int:
        """Write, and note the chunks; see `open_files.WriteWatch`."""
        before = os.fstat(host)
        count = perform()
        after = os.fstat(host)
        end = os.lseek(host, 0, os.SEEK_CUR) if position is None else position + count
        first, last = (end - count) // CHUNK, (end - 1) // CHUNK
        identity = after.st_dev, after.st_ino
        then = signature_of(before)
        with self._lock:
            file = self._now.get(identity)
            if file is None:
                file = self._now[identity] = WrittenFile(then, then)
                self.ours.add(identity)
            if file.after != then or last - first > WHOLE:
                file.after = None
                return count
            file.after = signature_of(after)
            file.numbers.update(range(first, last + 1))
            grown = after.st_size - before.st_size
            if grown == count:
                # A file that is open to append grows at its end, whatever the position says.
                last = (after.st_size - 1) // CHUNK
                file.numbers.update(range(before.st_size // CHUNK, last + 1))
            elif grown:
                # What was the last chunk is longer now, wherever the write began.
                file.numbers.add(before.st_size // CHUNK)
        return count

    def resized(self, host: int) -> None:
        """Note that a file must be read whole, whatever its signature is."""
        result = os.fstat(host)
        identity, now = (result.st_dev, result.st_ino), signature_of(result)
        with self._lock:
            self._now.setdefault(identity, WrittenFile(now, None)).after = None
            self.ours.add(identity)

    def take(self) -> None:
        """Begin anew; what was noted until now is `taken`."""
        with self._lock:
            self.taken, self._now = self._now, {}

    def since(self, identity: Identity) -> WrittenFile | None:
        """Return what was written to a file since `take`, or None for nothing."""
        with self._lock:
            found = self._now.get(identity)
            return found and WrittenFile(found.before, found.after, set(found.numbers))

    @property
    def pending(self) -> int:
        """Bytes of the chunks that were written since `take`, about."""
        with self._lock:
            return sum(len(file.numbers) for file in self._now.values()) * CHUNK


__all__ = ["WrittenFile", "WrittenFiles", "signature_of"]
