"""What files consist of: chunks of 64 KiB, each known by its digest.

`manifest` cuts files into chunks, `tree_restore` puts them together, and the file sections of a
snapshot store each chunk once. A chunk is read from its file when it is needed, and is verified
then: a file that was changed meanwhile is an error, never wrong content. Small files are kept in
memory as they were found, so most snapshots no longer depend on the files.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Iterator, Mapping
from hashlib import sha256
from struct import Struct
from struct import error as StructError
from typing import IO, Any, Final

from wasmsr.errors import SnapshotError
from wasmsr.wasi.filesystem.unnoticed import ChunkFolder

CHUNK: Final = 65536
"""Bytes of a chunk; the last chunk of a file may be shorter."""
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


def named_chunks(wasi: Mapping[str, Any]) -> list[bytes]:
    """Return the digests of the chunks that a saved WASI names, in the order of a capture.

    Args:
        wasi: What was captured, or read from a snapshot and not checked yet.

    Raises:
        ValueError: It is not what a snapshot has.
    """
    found: list[bytes] = []
    try:
        texts = [entry[6] for mount in wasi["mounts"] for entry in mount.get("tree", ())]
        texts += [one["chunks"] for one in wasi["unlinked"] if "chunks" in one]
        for text in texts:
            found.extend(digest for _, digest in PLACE.iter_unpack(text))
    except (AttributeError, IndexError, KeyError, TypeError, StructError) as error:
        raise ValueError("the saved WASI is not what a snapshot has") from error
    return found


class Contents:
    """Chunks by digest, in the order in which they were added. `size`: bytes of all of them."""

    def __init__(self) -> None:
        self.size = 0
        self._lengths: dict[bytes, int] = {}
        self._memory: dict[bytes, bytes] = {}
        self._files: dict[bytes, tuple[ChunkFolder, bytes, int]] = {}
        self._spool: dict[bytes, tuple[IO[bytes], int]] = {}
        self._room = HELD

    def __len__(self) -> int:
        return len(self._lengths)

    def __contains__(self, digest: object) -> bool:
        return digest in self._lengths

    def __iter__(self) -> Iterator[tuple[bytes, int]]:
        """(digest, length) of each chunk."""
        return iter(self._lengths.items())

    def add(
        self, digest: bytes, data: bytes, source: tuple[ChunkFolder, bytes, int] | None
    ) -> None:
        """Add a chunk that was just read; `source`: directory, path and offset where it can be
        read again, without which it is kept in memory."""
        if self._new(digest, len(data)):
            if source is None or self._room >= len(data):
                self._room -= len(data)
                self._memory[digest] = data
            else:
                self._files[digest] = source

    def add_file(self, digest: bytes, length: int, source: tuple[ChunkFolder, bytes, int]) -> None:
        """Add a chunk that is known to be there."""
        if self._new(digest, length):
            self._files[digest] = source

    def add_spooled(self, digest: bytes, length: int, spool: IO[bytes], offset: int) -> None:
        """Add a chunk that is in a file of our own."""
        if self._new(digest, length):
            self._spool[digest] = spool, offset

    def keep(self, before: Contents | None = None) -> None:
        """Copy the chunks that are in the program's files, so that these may change and vanish.

        Up to `HELD` bytes are kept in memory, the rest in a temporary file.

        Args:
            before: Chunks that were kept before. Those of them that are here too are shared.

        Raises:
            SnapshotError: A file is not what it was, or the host has no room.
        """
        import tempfile  # only here: a program that is saved once does not need it

        spool: IO[bytes] | None = None
        for digest in [*self._files]:
            if before is not None and before._lend(digest, self):
                continue
            data = self.read(digest)
            if len(data) <= self._room:
                self._room -= len(data)
                self._memory[digest] = data
                continue
            try:
                spool = spool or tempfile.TemporaryFile()  # noqa: SIM115 (open as long as we are)
                offset = spool.tell()
                spool.write(data)
            except OSError as error:
                raise SnapshotError(
                    f"there is no room for a copy of the program's files: {error.strerror}"
                ) from error
            self._spool[digest] = spool, offset
        self._files = {}

    def _lend(self, digest: bytes, other: Contents) -> bool:
        """Share a chunk with others, if it is in memory or in a file of our own."""
        if digest in self._memory:
            other._memory[digest] = self._memory[digest]
        elif digest in self._spool:
            other._spool[digest] = self._spool[digest]
        else:
            return False
        return True

    def joined(self, other: Contents) -> Contents:
        """Return the chunks of both."""
        both = Contents()
        for one in (self, other):
            both._memory |= one._memory
            both._files |= one._files
            both._spool |= one._spool
            for digest, length in one:
                both._new(digest, length)
        return both

    def without(self, held: Container[bytes]) -> Contents:
        """Return the same chunks without those that the reader has already."""
        rest = Contents()
        rest._memory, rest._files, rest._spool = self._memory, self._files, self._spool
        for digest, length in self:
            if digest not in held:
                rest._new(digest, length)
        return rest

    def only(self, named: Iterable[bytes]) -> Contents:
        """Return the chunks with these digests, in this order, as far as they are there."""
        rest = Contents()
        rest._memory, rest._files, rest._spool = self._memory, self._files, self._spool
        for digest in named:
            if digest in self._lengths:
                rest._new(digest, self._lengths[digest])
        return rest

    def _new(self, digest: bytes, length: int) -> bool:
        if digest in self._lengths:
            return False
        self._lengths[digest] = length
        self.size += length
        return True

    def read(self, digest: bytes) -> bytes:
        """Return a chunk.

        Raises:
            SnapshotError: It is not there, or not what it was.
        """
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
