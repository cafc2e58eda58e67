"""Packs: files of pieces that only grow, and their indexes. Layout: docs/store-format.md.

A piece is at most 64 KiB: a page of a memory, a chunk of a file, or a part of a section or module.
Its name is its SHA-256.
"""

from __future__ import annotations

import os
import re
import secrets
import zlib
from collections.abc import Container
from hashlib import sha256
from struct import Struct
from typing import Any, NamedTuple

from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import ZSTD, open_batch
from wasmsr.snapshot.store.folder import PACKS, StoreFolder

PIECE = 65536
"""Bytes of the largest piece."""
PACK = 4 << 20
"""Bytes from which on a pack is full: nothing is appended to it."""
INDEX_LIMIT = 64 << 20
"""Bytes of the largest index that is read."""
HEAD = Struct("<8sHHI")
"""Magic, version, zero, number of entries."""
ENTRY = Struct("<32sQII")
"""SHA-256 of a piece, where it begins in the pack, stored bytes, plain bytes."""
MAGIC = b"WSRindx\n"
DIGEST = 32
"""Bytes of a SHA-256."""
_PACK_NAME = re.compile(r"[0-9a-f]{32}\Z")


class PackEntry(NamedTuple):
    """Where a piece is in its pack. Stored and plain length are equal if it is not compressed."""

    digest: bytes
    offset: int
    stored: int
    length: int

    @property
    def end(self) -> int:
        """The byte of the pack after the piece."""
        return self.offset + self.stored


def pack_name(pack: str) -> str:
    """Return the name of a pack's file."""
    return f"{PACKS}/{pack}.pack"


def index_name(pack: str) -> str:
    """Return the name of the file of a pack's index."""
    return f"{PACKS}/{pack}.index"


def packs_of(folder: StoreFolder) -> list[str]:
    """Return the names of all packs that have an index, sorted."""
    return [name for name in folder.listed(PACKS, ".index") if _PACK_NAME.match(name)]


def encode_index(entries: list[PackEntry]) -> bytes:
    """Return the bytes of an index."""
    head = HEAD.pack(MAGIC, 1, 0, len(entries))
    data = head + b"".join([ENTRY.pack(*entry) for entry in entries])
    return data + sha256(data).digest()


def decode_index(data: bytes, pack: str) -> list[PackEntry]:
    """Read an index.

    Raises:
        FormatError: It is no index, or impossible.
        VersionError: It has another version.
        DigestError: It is damaged.
    """
    name = f"the index of pack {pack}"
    if len(data) < HEAD.size + DIGEST or not data.startswith(MAGIC):
        raise FormatError(f"{name} is no index")
    _, version, zero, count = HEAD.unpack_from(data)
    if version != 1:
        raise VersionError(f"{name} has version {version}")
    if zero or HEAD.size + count * ENTRY.size + DIGEST != len(data):
        raise FormatError(f"{name} has another length than it says")
    body = memoryview(data)[:-DIGEST]
    if sha256(body).digest() != data[-DIGEST:]:
        raise DigestError(f"{name} is damaged: its digest differs")
    entries = [PackEntry(*fields) for fields in ENTRY.iter_unpack(body[HEAD.size :])]
    end = 0
    for entry in entries:
        if not 0 < entry.stored <= entry.length <= PIECE or entry.offset < end:
            raise FormatError(f"{name} has an impossible entry")
        end = entry.end
    return entries


def read_index(folder: StoreFolder, pack: str) -> list[PackEntry]:
    """Read a pack's index from the store; see `decode_index`."""
    return decode_index(folder.read(index_name(pack), INDEX_LIMIT), pack)


def read_piece(folder: StoreFolder, pack: str, entry: PackEntry) -> bytes:
    """Return the plain bytes of a piece.

    Raises:
        DigestError: The pack is damaged there.
    """
    data = folder.read_at(pack_name(pack), entry.offset, entry.stored)
    if len(data) == entry.stored and entry.stored < entry.length:
        data = _plain(data, entry.length)
    if len(data) != entry.length or sha256(data).digest() != entry.digest:
        raise DigestError(
            f"pack {pack} is damaged at byte {entry.offset}: a piece there is not what its digest "
            "names"
        )
    return data


def _plain(data: bytes, length: int) -> bytes:
    """Return a zstd frame's content; b"" if it is not one frame of that length."""
    try:
        return bytes(open_batch("store", ZSTD, zlib.crc32(data), data, length))
    except FormatError:
        return b""


class PackWriter:
    """Appends pieces to packs.

    Pieces can be found by others after `publish`. A writer that is killed before leaves bytes that
    no index names.

    Args:
        folder: The store.
        avoid: Packs to which nothing is appended.

    Attributes:
        written: Bytes appended.
    """

    def __init__(self, folder: StoreFolder, avoid: Container[str] = ()) -> None:
        import zstandard

        self.written = 0
        self._folder = folder
        self._avoid = avoid
        self._pack = ""
        self._number = -1
        self._size = 0
        self._entries: list[PackEntry] = []
        self._waiting: list[bytes] = []
        self._compressor: Any = zstandard.ZstdCompressor(level=1, write_content_size=True)

    def add(self, digest: bytes, data: bytes) -> None:
        """Append a piece."""
        if self._number < 0:
            self._begin()
        small: bytes = self._compressor.compress(data)
        stored = small if len(small) < len(data) else data
        self._entries.append(PackEntry(digest, self._size, len(stored), len(data)))
        self._waiting.append(stored)
        self._size += len(stored)
        self.written += len(stored)
        if self._size >= PACK:
            self.publish()
        elif len(self._waiting) == 64:
            self._flush()

    def _begin(self) -> None:
        """Open a pack that is not full and that no other writer has, or a new one."""
        folder = self._folder
        for pack in packs_of(folder):
            if pack in self._avoid or (folder.size(pack_name(pack)) or PACK) >= PACK:
                continue
            number = folder.append_to(pack_name(pack), new=False)
            if number is None:
                continue
            size = os.fstat(number).st_size
            try:
                entries = read_index(folder, pack)
            except SnapshotError:
                entries = []
            if entries and entries[-1].end <= size < PACK:
                self._pack, self._number, self._size, self._entries = pack, number, size, entries
                return
            os.close(number)
        self._pack, self._size, self._entries = secrets.token_hex(16), 0, []
        found = folder.append_to(pack_name(self._pack), new=True)
        assert found is not None
        self._number = found

    def _flush(self) -> None:
        self._folder.append(self._number, b"".join(self._waiting))
        self._waiting.clear()

    def publish(self) -> None:
        """Make all pieces last, and let others find them: first the pack, then its index."""
        if self._number < 0:
            return
        self._flush()
        self._folder.sync(self._number)
        self._folder.write(index_name(self._pack), encode_index(self._entries))
        self.close()

    def close(self) -> None:
        """Close the pack. What was not published is waste that `gc` removes."""
        if self._number >= 0:
            os.close(self._number)
            self._number = -1
        self._waiting.clear()
