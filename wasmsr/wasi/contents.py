"""What files consist of: chunks of 64 KiB, each known by its digest.

Between trees (`manifest` cuts files into chunks, `unpack` puts them together) and the snapshot,
whose file sections store every chunk once. A chunk is read where it lies when it is needed, and
verified then: what changed on the host meanwhile is an error, never wrong content. Small ones are
kept in memory as they are found, so that most snapshots do not depend on the files any more.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Collection, Iterator
from hashlib import sha256
from struct import Struct
from typing import IO, Final

from wasmsr.errors import SnapshotError

CHUNK: Final = 65536
"""Bytes in a chunk; the last one of a file may be shorter."""
DIGEST: Final = 32
PLACE: Final = Struct("<Q32s")
"""A chunk in a file: its number, and its digest."""
HELD: Final = 64 << 20
"""Bytes that are kept in memory; the rest is read again when it is needed."""
ZEROS: Final = bytes(CHUNK)


def digest_of(data: bytes | memoryview) -> bytes:
    """SHA-256 over a zero byte and the chunk: a leaf of the snapshot's digest trees."""
    found = sha256(b"\0")
    found.update(data)
    return found.digest()


def open_to_read(root: int, path: bytes, flags: int = 0) -> int:
    """Open what is below `root`, leaving its access time alone where the host allows that. Raises
    OSError."""
    flags |= os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(path, flags | _NO_ATIME, dir_fd=root)
    except PermissionError:
        # Only a file's owner may do that.
        return os.open(path, flags, dir_fd=root)


_NO_ATIME: Final = getattr(os, "O_NOATIME", 0)
OPEN_FILES: Final = "/proc/self/fd"
"""Where Linux has the files that are open, to be opened again."""


class Reader:
    """An open regular file to be read while it is saved, such that neither the program nor anybody
    else who has it open can notice: it is opened again, which gives it an offset of its own, and
    leaves its access time alone.

    Where a host cannot do that (no /proc, no descriptor left), `host` is the one given, and whoever
    moves its offset puts it back; see `own`. Use as a context manager.
    """

    __slots__ = ("host", "own")

    def __init__(self, given: int) -> None:
        """Raises OSError if it can be read in no way."""
        self.host, self.own = given, False
        flags = os.O_RDONLY | os.O_NOCTTY | os.O_NONBLOCK | os.O_CLOEXEC
        for more in (_NO_ATIME, 0):
            try:
                again = os.open(f"{OPEN_FILES}/{given}", flags | more)
            except OSError:
                continue
            if os.path.samestat(os.fstat(again), os.fstat(given)):
                self.host, self.own = again, True
                return
            os.close(again)
        os.pread(given, 0, 0)  # EBADF where it is open only to be written

    def __enter__(self) -> Reader:
        return self

    def __exit__(self, *_: object) -> None:
        if self.own:
            os.close(self.host)

    def extents(self, size: int) -> Iterator[tuple[int, int]]:
        """Where there is data, as (start, end)."""
        if self.own:
            yield from extents(self.host, size)
            return
        offset = os.lseek(self.host, 0, os.SEEK_CUR)
        try:
            found = list(extents(self.host, size))
        finally:
            os.lseek(self.host, offset, os.SEEK_SET)
        yield from found


def extents(file: int, size: int) -> Iterator[tuple[int, int]]:
    """Where there is data in an open file, as (start, end). Moves the file's offset."""
    position = 0
    while position < size:
        try:
            start = os.lseek(file, position, os.SEEK_DATA)
            end = os.lseek(file, start, os.SEEK_HOLE)
        except OSError as error:
            if error.errno == errno.ENXIO:
                return  # a hole is all that is left
            start, end = position, size  # a file system that does not know holes
        yield start, min(end, size)
        position = end


class Folder:
    """A directory, open as long as somebody may read chunks below it."""

    def __init__(self, root: int) -> None:
        self.root = os.dup(root)

    def __del__(self) -> None:
        os.close(self.root)

    def read(self, path: bytes, offset: int, size: int) -> bytes:
        """Raises OSError."""
        file = open_to_read(self.root, path)
        try:
            return os.pread(file, size, offset)
        finally:
            os.close(file)


class Contents:
    """Chunks by digest, in the order in which they were added. `size`: bytes of all of them."""

    def __init__(self) -> None:
        self.size = 0
        self._lengths: dict[bytes, int] = {}
        self._memory: dict[bytes, bytes] = {}
        self._files: dict[bytes, tuple[Folder, bytes, int]] = {}
        self._spool: dict[bytes, tuple[IO[bytes], int]] = {}
        self._room = HELD

    def __len__(self) -> int:
        return len(self._lengths)

    def __contains__(self, digest: bytes) -> bool:
        return digest in self._lengths

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """(digest, length) of each chunk."""
        return iter(self._lengths.items())

    def add(self, digest: bytes, data: bytes, source: tuple[Folder, bytes, int] | None) -> None:
        """Add a chunk that was just read; `source`: directory, path and offset where it can be
        read again, without which it is kept in memory."""
        if self._new(digest, len(data)):
            if source is None or self._room >= len(data):
                self._room -= len(data)
                self._memory[digest] = data
            else:
                self._files[digest] = source

    def add_file(self, digest: bytes, length: int, source: tuple[Folder, bytes, int]) -> None:
        """Add a chunk that is known to be there."""
        if self._new(digest, length):
            self._files[digest] = source

    def add_spooled(self, digest: bytes, length: int, spool: IO[bytes], offset: int) -> None:
        """Add a chunk that lies in a file of our own."""
        if self._new(digest, length):
            self._spool[digest] = spool, offset

    def without(self, held: Collection[bytes]) -> Contents:
        """The same but for chunks that somebody has already."""
        rest = Contents()
        rest._memory, rest._files, rest._spool = self._memory, self._files, self._spool
        for digest, length in self:
            if digest not in held:
                rest._new(digest, length)
        return rest

    def _new(self, digest: bytes, length: int) -> bool:
        if digest in self._lengths:
            return False
        self._lengths[digest] = length
        self.size += length
        return True

    def read(self, digest: bytes) -> bytes:
        """The chunk. Raises SnapshotError if it is not there, or not what it was."""
        if digest in self._memory:
            return self._memory[digest]
        length = self._lengths.get(digest)
        if length is None:
            raise SnapshotError("a piece of a file is neither in the snapshot nor on this host")
        if digest in self._spool:
            spool, offset = self._spool[digest]
            spool.seek(offset)
            return spool.read(length)
        folder, path, offset = self._files[digest]
        name = os.fsdecode(path)
        try:
            data = folder.read(path, offset, length)
        except OSError as error:
            raise SnapshotError(
                f"the file {name} cannot be read any more: {error.strerror}"
            ) from error
        if digest_of(data) != digest:
            raise SnapshotError(
                f"the file {name} was changed while the program that has it was being saved"
            )
        return data
