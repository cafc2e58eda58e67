"""Packs: frames of pieces, in files that only grow, and their indexes: docs/store-format.md.

A piece is at most 64 KiB: a page of a memory, a chunk of a file, or a part of a section or module.
Its name is its SHA-256. A frame has several pieces, which are compressed together.
"""

from __future__ import annotations

import re
import secrets
import zlib
from collections.abc import Container, Iterator
from dataclasses import dataclass
from hashlib import sha256
from struct import Struct
from typing import Any, NamedTuple

from wasmsr.errors import DigestError, FormatError, SnapshotError, VersionError
from wasmsr.snapshot.encoding.container import ZSTD, open_batch
from wasmsr.snapshot.store.place import PACKS, StorePlace

PIECE = 65536
"""Bytes of the largest piece."""
FRAME_SIZE = 262144
"""Bytes that the pieces of a frame may have together: sixty-four pages. As large as a batch of a
snapshot, so one snapshot alone is about as large in a store as its file."""
FRAME_PIECES = 1024
"""How many pieces a frame may have."""
PACK = 4 << 20
"""Bytes from which on a pack is full: nothing is appended to it."""
PACK_PIECES = 65536
"""Pieces from which on a pack is full."""
PACK_LIMIT = 8 << 20
"""Bytes of the largest pack that is read."""
INDEX_LIMIT = 4 << 20
"""Bytes of the largest index that is read."""
HEAD = Struct("<8sHHII")
"""Magic, version, zero, number of frames, number of pieces."""
FRAME = Struct("<QII")
"""Where a frame begins in the pack, its stored bytes, the number of its pieces."""
ENTRY = Struct("<32sI")
"""SHA-256 of a piece, its bytes."""
MAGIC = b"WSRindx\n"
VERSION = 2
"""Version of packs, indexes and manifests."""
DIGEST = 32
"""Bytes of a SHA-256."""
ZSTD_LEVEL = 3
"""Compression of frames: nobody waits for a store as a paused program waits for a snapshot."""
_PACK_NAME = re.compile(r"[0-9a-f]{32}\Z")


class PackEntry(NamedTuple):
    """A piece, its frame in the pack, and where it is in the frame; `place` is a byte."""

    digest: bytes
    frame: int
    place: int
    length: int


class PackFrame(NamedTuple):
    """A frame: where it begins in the pack, its stored and its plain bytes.

    It is a zstd frame if stored and plain bytes differ in number.
    """

    offset: int
    stored: int
    length: int


@dataclass(slots=True)
class PackIndex:
    """What is in a pack.

    Attributes:
        frames: Its frames, in the order of the pack.
        raw: Digest and length of each piece, packed as in the file.
        counts: The number of pieces of each frame.
    """

    frames: list[PackFrame]
    raw: bytes
    counts: list[int]

    def entries(self) -> Iterator[PackEntry]:
        """Yield all pieces, in the order of the pack."""
        pieces = ENTRY.iter_unpack(self.raw)
        for number, count in enumerate(self.counts):
            place = 0
            for _ in range(count):
                digest, length = next(pieces)
                yield PackEntry(digest, number, place, length)
                place += length

    @property
    def stored(self) -> int:
        """Bytes of all frames together."""
        return sum(frame.stored for frame in self.frames)

    @property
    def end(self) -> int:
        """The byte of the pack after the last frame."""
        return self.frames[-1].offset + self.frames[-1].stored if self.frames else 0


def pack_name(pack: str) -> str:
    """Return the name of a pack's file."""
    return f"{PACKS}/{pack}.pack"


def index_name(pack: str) -> str:
    """Return the name of the file of a pack's index."""
    return f"{PACKS}/{pack}.index"


def packs_of(folder: StorePlace) -> list[str]:
    """Return the names of all packs that have an index, sorted."""
    return [name for name in folder.listed(PACKS, ".index") if _PACK_NAME.match(name)]


def encode_index(index: PackIndex) -> bytes:
    """Return the bytes of an index."""
    count = len(index.raw) // ENTRY.size
    parts = [HEAD.pack(MAGIC, VERSION, 0, len(index.frames), count)]
    for frame, pieces in zip(index.frames, index.counts, strict=True):
        parts.append(FRAME.pack(frame.offset, frame.stored, pieces))
    data = b"".join([*parts, index.raw])
    return data + sha256(data).digest()


def decode_index(data: bytes, pack: str) -> PackIndex:
    """Read an index.

    Raises:
        FormatError: It is no index, or impossible.
        VersionError: It has another version.
        DigestError: It is damaged.
    """
    name = f"the index of pack {pack}"
    if len(data) < HEAD.size + DIGEST or not data.startswith(MAGIC):
        raise FormatError(f"{name} is no index")
    _, version, zero, frames, pieces = HEAD.unpack_from(data)
    if version != VERSION:
        raise VersionError(f"{name} has version {version}")
    start = HEAD.size + frames * FRAME.size
    if zero or start + pieces * ENTRY.size + DIGEST != len(data):
        raise FormatError(f"{name} has another length than it says")
    body = memoryview(data)[:-DIGEST]
    if sha256(body).digest() != data[-DIGEST:]:
        raise DigestError(f"{name} is damaged: its digest differs")
    found = PackIndex([], bytes(body[start:]), [])
    lengths = (length for _, length in ENTRY.iter_unpack(found.raw))
    end = left = 0
    for offset, stored, count in FRAME.iter_unpack(body[HEAD.size : start]):
        left += count
        if not 0 < count <= FRAME_PIECES or left > pieces:
            raise FormatError(f"{name} has an impossible frame")
        plain = 0
        for _ in range(count):
            length = next(lengths)
            if not 0 < length <= PIECE:
                raise FormatError(f"{name} has a piece of {length} bytes")
            plain += length
        if not 0 < stored <= plain <= FRAME_SIZE or offset < end:
            raise FormatError(f"{name} has an impossible frame")
        found.frames.append(PackFrame(offset, stored, plain))
        found.counts.append(count)
        end = offset + stored
    if left != pieces:
        raise FormatError(f"{name} has pieces without a frame")
    return found


def read_index(folder: StorePlace, pack: str) -> PackIndex:
    """Read a pack's index from the store; see `decode_index`."""
    return decode_index(folder.read(index_name(pack), INDEX_LIMIT), pack)


def read_frame(folder: StorePlace, pack: str, frame: PackFrame) -> bytes:
    """Return the plain bytes of a frame; its pieces are not compared with their digests.

    Raises:
        DigestError: The pack is damaged there.
    """
    data = folder.read_at(pack_name(pack), frame.offset, frame.stored)
    if len(data) == frame.stored and frame.stored < frame.length:
        data = _plain(data, frame.length)
    if len(data) != frame.length:
        raise _damaged(pack, frame)
    return data


def piece_of(pack: str, frame: PackFrame, plain: bytes, entry: PackEntry) -> bytes:
    """Return a piece of a frame.

    Raises:
        DigestError: It is not what its digest names.
    """
    data = plain[entry.place : entry.place + entry.length]
    if sha256(data).digest() != entry.digest:
        raise _damaged(pack, frame)
    return data


def _damaged(pack: str, frame: PackFrame) -> DigestError:
    return DigestError(
        f"pack {pack} is damaged at byte {frame.offset}: a piece there is not what its digest names"
    )


def read_pieces(folder: StorePlace, pack: str, index: PackIndex) -> Iterator[tuple[bytes, bytes]]:
    """Yield digest and bytes of all pieces of a pack. Raises DigestError."""
    plain, at = b"", -1
    for entry in index.entries():
        frame = index.frames[entry.frame]
        if entry.frame != at:
            plain, at = read_frame(folder, pack, frame), entry.frame
        yield entry.digest, piece_of(pack, frame, plain, entry)


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

    def __init__(self, folder: StorePlace, avoid: Container[str] = ()) -> None:
        import zstandard

        self.written = 0
        self._folder = folder
        self._avoid = avoid
        self._pack = ""
        self._number: int | None = None
        self._size = 0
        self._index = PackIndex([], b"", [])
        self._raw = bytearray()
        self._pieces: list[bytes] = []
        self._plain = 0
        self._waiting: list[bytes] = []
        self._compressor: Any = zstandard.ZstdCompressor(level=ZSTD_LEVEL, write_content_size=True)

    def add(self, digest: bytes, data: bytes) -> None:
        """Append a piece."""
        if self._number is None:
            self._begin()
        if self._plain + len(data) > FRAME_SIZE or len(self._pieces) == FRAME_PIECES:
            self._end_frame()
            if self._size >= PACK or len(self._raw) >= PACK_PIECES * ENTRY.size:
                self.publish()
                self._begin()
        self._raw += ENTRY.pack(digest, len(data))
        self._pieces.append(data)
        self._plain += len(data)

    def _begin(self) -> None:
        """Open a pack that is not full and that no other writer has, or a new one."""
        folder = self._folder
        for pack in packs_of(folder) if folder.grows else ():
            if pack in self._avoid or (folder.size(pack_name(pack)) or PACK) >= PACK:
                continue
            number = folder.append_to(pack_name(pack), new=False)
            if number is None:
                continue
            size = folder.size(pack_name(pack)) or 0
            try:
                index = read_index(folder, pack)
            except SnapshotError:
                index = PackIndex([], b"", [])
            room = len(index.raw) < PACK_PIECES * ENTRY.size
            if index.frames and index.end <= size < PACK and room:
                self._open(pack, number, size, index)
                return
            folder.close(number)
        pack = secrets.token_hex(16)
        found = folder.append_to(pack_name(pack), new=True)
        assert found is not None
        self._open(pack, found, 0, PackIndex([], b"", []))

    def _open(self, pack: str, number: int, size: int, index: PackIndex) -> None:
        self._pack, self._number, self._size, self._index = pack, number, size, index
        self._raw = bytearray(index.raw)

    def _end_frame(self) -> None:
        """Compress the pieces of a frame together."""
        if not self._pieces:
            return
        plain = b"".join(self._pieces)
        small: bytes = self._compressor.compress(plain)
        stored = small if len(small) < len(plain) else plain
        self._index.frames.append(PackFrame(self._size, len(stored), len(plain)))
        self._index.counts.append(len(self._pieces))
        self._pieces, self._plain = [], 0
        self._waiting.append(stored)
        self._size += len(stored)
        self.written += len(stored)
        if len(self._waiting) == 4:
            self._flush()

    def _flush(self) -> None:
        assert self._number is not None
        self._folder.append(self._number, b"".join(self._waiting))
        self._waiting.clear()

    def publish(self) -> None:
        """Make all pieces last, and let others find them: first the pack, then its index."""
        if self._number is None:
            return
        self._end_frame()
        self._flush()
        self._folder.sync(self._number)
        self._index.raw = bytes(self._raw)
        self._folder.write(index_name(self._pack), encode_index(self._index))
        self.close()

    def close(self) -> None:
        """Close the pack. What was not published is waste that `gc` removes."""
        if self._number is not None:
            self._folder.close(self._number)
            self._number = None
        self._waiting.clear()
        self._pieces, self._plain = [], 0
