"""The container of a snapshot: header, section heads, batches, checksums and digests.

This layer does not know what a section means. docs/snapshot-format.md specifies the layout; all
numbers are little-endian. Bytes that are wrong raise `FormatError`, `VersionError` or `DigestError`
before anything large is allocated.
"""

from __future__ import annotations

import threading
import zlib
from collections.abc import Callable, Iterable, Iterator
from hashlib import sha256
from struct import Struct
from typing import Any, NamedTuple, Protocol, TypeAlias

from wasmsr.errors import DigestError, FormatError, VersionError

Buffer: TypeAlias = bytes | bytearray | memoryview

MAGIC = b"\x89WSR\r\n\x1a\n"
"""As in PNG: a byte with the high bit set and both kinds of line end show what damaged a file."""
VERSIONS = (1, 2)
"""The versions of the format that are read and written."""
VERSION = 2
"""The version that is written unless the caller names another."""
FULL, INCREMENTAL, MAPPED = 1, 2, 3
"""Forms. Full: everything is in the file, page data in batches; the only form of version 1.
Incremental: the pages that changed since another snapshot, the base. Mapped: all pages are in the
file, each at its place, so that the file can be mapped."""
FORM_NAMES = {FULL: "full", INCREMENTAL: "incremental", MAPPED: "mapped"}
FLAG_HANDED = 1
"""Header flag: the program was handed to another host, which owns it now."""
FLAG_TRAILER = 2
"""Header flag of version 2: the root digest is in the trailer only, zeros are in the header."""
FLAG_ENCRYPTED = 4
"""Header flag of version 2: the batches of all sections but the signatures are encrypted."""
IGNORABLE = 0x8000
"""Section kinds with this bit may be skipped by a reader that does not know them."""

HEADER = Struct("<8sHHHHQ32sII")
TRAILER = Struct("<8s32sII")
TRAILER_MAGIC = b"WSR end\n"
SECTION = Struct("<HHIQ")
BATCH = Struct("<III")
FIRST = Struct("<HHIQIII")
"""A section's head and its first batch's together: no section is without a batch."""
LEAF = 65536
"""Bytes under one leaf of a digest tree."""
BATCH_SIZE = 262144
"""Plain bytes in every batch of a section but the last. Measured on program memories: zstd 1 gains
5 % over 64 KiB batches, and nothing more with larger ones."""
RAW, ZSTD, PREFIXED, XORED = 0, 1, 2, 3
"""Codecs of batches. Prefixed: zstd with what the base has in the same place as prefix; XORED: zstd
of the XOR with it. Both are only in incremental snapshots of version 2."""
PREFIX_WINDOW = 2 * BATCH_SIZE
"""Largest window of a prefixed batch: the prefix and the batch."""
ZSTD_LEVEL = 1
GROUP = 32
"""Batches that are compressed together on all cores: 8 MiB, which bounds a writer's memory."""


LINEAGE = 1
"""The kind of section that is no part of the content digest: the lineage."""


# Digests -----------------------------------------------------------------------------------------

_LEVELS = [bytes([level]) for level in range(8)]


class Tree:
    """A digest tree over a stream of bytes: SHA-256 of every 64 KiB, then of the digests.

    A node is SHA-256 over its level in one byte and up to 64 KiB of what lies below it: of the
    stream at level 0, else of the digests of the level below, concatenated. The top is the digest.
    """

    __slots__ = ("_hash", "_nodes", "_room")

    def __init__(self) -> None:
        self._nodes: list[bytes] = []
        self._hash = sha256(_LEVELS[0])
        self._room = LEAF

    def update(self, data: Buffer) -> None:
        """Add bytes to the stream, however they are cut."""
        view = memoryview(data)
        start, end = 0, len(view)
        while end - start > self._room:
            self._hash.update(view[start : start + self._room])
            self._nodes.append(self._hash.digest())
            start += self._room
            self._hash = sha256(_LEVELS[0])
            self._room = LEAF
        self._hash.update(view[start:])
        self._room -= end - start

    def digest(self) -> bytes:
        """Return the digest (32 bytes) of all that was added."""
        return climb(b"".join([*self._nodes, self._hash.digest()]))


def leaf_digests(data: Buffer) -> bytes:
    """Return the digests of the leaves of a stream (32 bytes each), of which `data` is a part."""
    view = memoryview(data)
    leaves = [view[start : start + LEAF] for start in range(0, len(view), LEAF)]
    return b"".join([sha256(b"".join((_LEVELS[0], leaf))).digest() for leaf in leaves])


def climb(digests: bytes) -> bytes:
    """Return the digest of a tree from those of its leaves, one or more."""
    level = 1
    while len(digests) > 32:
        digests = b"".join(
            [
                sha256(_LEVELS[level] + digests[start : start + LEAF]).digest()
                for start in range(0, len(digests), LEAF)
            ]
        )
        level += 1
    return digests


def tree_digest(payload: Buffer) -> bytes:
    """Return the digest of a whole payload; what `Tree` gives for it."""
    if len(payload) <= LEAF:
        return sha256(b"\0" + payload).digest()
    tree = Tree()
    tree.update(payload)
    return tree.digest()


class Rows:
    """The table of sections that the root digest is made over: one row (head, digest) for each."""

    __slots__ = ("_content", "_rest", "count", "plain", "version")

    def __init__(self, version: int = 1) -> None:
        self.version = version
        self._content: list[bytes] = []
        self._rest: list[bytes] = []
        self.count = self.plain = 0

    def __len__(self) -> int:
        return self.count

    def add(self, kind: int, length: int, digest: bytes, *, carrier: bool = False) -> None:
        """Add a section, in the order of the file.

        Args:
            kind: Its kind.
            length: Bytes of its payload.
            digest: The payload's tree digest.
            carrier: No digest covers it, because the content of other sections proves it.
        """
        if not carrier:
            rest = kind == LINEAGE or kind & IGNORABLE
            row = SECTION.pack(kind, 0, 0, length) + digest
            (self._rest if rest else self._content).append(row)
        self.plain += length
        self.count += 1

    def copy(self) -> Rows:
        """Return rows to which others can be added."""
        other = Rows(self.version)
        other._content, other._rest = list(self._content), list(self._rest)
        other.count, other.plain = self.count, self.plain
        return other

    def digests(self) -> tuple[bytes, bytes]:
        """Root and content digest (32 bytes each).

        The content digest leaves out the lineage and what a reader may skip: snapshots of the same
        state have the same content digest, wherever and whenever they were taken.
        """
        head = _CONTENT + self.version.to_bytes(2, "little") + FULL.to_bytes(2, "little")
        content = sha256(head + b"".join(self._content)).digest()
        return sha256(_ROOT + content + b"".join(self._rest)).digest(), content


_CONTENT = b"\xfe"
_ROOT = b"\xff"


# Header ------------------------------------------------------------------------------------------


class Header(NamedTuple):
    """The first 64 bytes.

    Attributes:
        flags: `FLAG_HANDED`, and in version 2 `FLAG_TRAILER` and `FLAG_ENCRYPTED`.
        sections: The number of sections.
        plain: Bytes of all payloads together.
        root: The root digest; zeros where only the trailer has it.
        version: The version of the format.
        form: `FULL`, `INCREMENTAL` or `MAPPED`.
    """

    flags: int
    sections: int
    plain: int
    root: bytes
    version: int = 1
    form: int = FULL

    @property
    def form_name(self) -> str:
        """The name of the form."""
        return FORM_NAMES[self.form]

    @property
    def handed(self) -> bool:
        """Whether the program was handed over to another host."""
        return bool(self.flags & FLAG_HANDED)

    @property
    def encrypted(self) -> bool:
        """Whether an encryption head and encrypted batches follow."""
        return bool(self.flags & FLAG_ENCRYPTED)

    def encode(self) -> bytes:
        """Return the 64 bytes of the header."""
        data = HEADER.pack(
            MAGIC,
            self.version,
            self.form,
            self.flags,
            self.sections,
            self.plain,
            self.root,
            0,
            0,
        )
        return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")

    @classmethod
    def decode(cls, data: Buffer) -> Header:
        """Read 64 bytes.

        Raises:
            FormatError: no snapshot, or impossible fields.
            VersionError: another version or form of the format.
            DigestError: the header's checksum differs.
        """
        magic, version, form, flags, sections, plain, root, reserved, crc = HEADER.unpack(data)
        if magic != MAGIC:
            raise FormatError(f"this is not a snapshot: {_describe_magic(magic)}")
        if version not in VERSIONS:
            raise VersionError(
                f"the snapshot has format version {version}; this wasmsr reads versions 1 and 2",
                hint="read it with the wasmsr that wrote it, or a newer one",
            )
        if zlib.crc32(data[:-4]) != crc:
            raise DigestError("the snapshot's header is damaged: its checksum differs")
        if form not in FORM_NAMES or (version == 1 and form != FULL):
            raise VersionError(f"the snapshot has form {form}, which this wasmsr does not read")
        known = FLAG_HANDED if version == 1 else FLAG_HANDED | FLAG_TRAILER | FLAG_ENCRYPTED
        if flags & ~known:
            raise VersionError(f"the snapshot's header has unknown flags ({flags:#06x})")
        if reserved != 0:
            raise FormatError("the reserved field of the snapshot's header is not zero")
        if form == MAPPED and flags & FLAG_ENCRYPTED:
            raise FormatError("the snapshot's header says that it is mapped and encrypted")
        if flags & FLAG_TRAILER and root != bytes(32):
            raise FormatError("the snapshot's header has a root digest and says that it has none")
        return cls(flags, sections, plain, root, version, form)


def trailer_bytes(root: bytes) -> bytes:
    """Return the 48 bytes after the last section of version 2."""
    data = TRAILER.pack(TRAILER_MAGIC, root, 0, 0)
    return data[:-4] + zlib.crc32(data[:-4]).to_bytes(4, "little")


def read_trailer(data: Buffer) -> bytes:
    """Return the root digest in a trailer.

    Raises:
        FormatError: It is no trailer.
        DigestError: Its checksum differs.
    """
    magic, root, reserved, crc = TRAILER.unpack(data)
    if magic != TRAILER_MAGIC:
        raise FormatError("the snapshot has no trailer after its last section")
    if zlib.crc32(data[:-4]) != crc:
        raise DigestError("the snapshot's trailer is damaged: its checksum differs")
    if reserved:
        raise FormatError("the reserved field of the snapshot's trailer is not zero")
    return bytes(root)


def _describe_magic(magic: bytes) -> str:
    if magic[:4] == b"\0asm":
        return "it is a WebAssembly module"
    if magic[:4] == b"\x28\xb5\x2f\xfd":
        return "it is a zstd file; decompress it first"
    if magic[:2] == b"\x1f\x8b":
        return "it is a gzip file; decompress it first"
    if magic[:4] == MAGIC[:4] or magic[1:4] == MAGIC[1:4]:
        return "its first bytes were changed, as by a transfer in text mode"
    return f"it begins with {magic.hex(' ')}"


# Batches -----------------------------------------------------------------------------------------


class _Codec(threading.local):
    """The zstd objects of one thread.

    They are made at first use: the import of zstandard takes longer than to read a small snapshot.
    """

    _compressor: Any = None
    _decompressor: Any = None

    @property
    def compressor(self) -> Any:
        if self._compressor is None:
            import zstandard

            self._compressor = zstandard.ZstdCompressor(
                level=ZSTD_LEVEL, write_checksum=False, write_content_size=True
            )
        return self._compressor

    @property
    def decompressor(self) -> Any:
        if self._decompressor is None:
            import zstandard

            self._decompressor = zstandard.ZstdDecompressor(max_window_size=BATCH_SIZE)
        return self._decompressor


_codec = _Codec()


Frame: TypeAlias = Callable[[int, Buffer], bytes]
"""Gives a batch its head, by its codec and its stored bytes; a cipher encrypts them first."""


def framed(codec: int, data: Buffer) -> bytes:
    """Return a batch with its head, as it is."""
    return BATCH.pack(codec, len(data), zlib.crc32(data)) + data


def section_bytes(kind: int, payload: bytes) -> Iterator[bytes]:
    """Yield a whole section, head and raw batches, as pieces; none for an empty one."""
    size = len(payload)
    if 0 < size <= BATCH_SIZE:  # nearly always
        yield FIRST.pack(kind, 0, 0, size, RAW, size, zlib.crc32(payload)) + payload
        return
    head = SECTION.pack(kind, 0, 0, len(payload))
    for start in range(0, len(payload), BATCH_SIZE):
        part = payload[start : start + BATCH_SIZE]
        yield head + BATCH.pack(RAW, len(part), zlib.crc32(part)) + part
        head = b""


class _Olds(Protocol):
    """Knows what the base has in place of batches."""

    def olds(self) -> Iterator[Buffer | None] | None:
        """Yield it for each batch; None if there is no base."""


def store_batches(
    batches: Iterable[Buffer],
    compress: bool,
    old: _Olds | None = None,
    frame: Frame = framed,
) -> Iterator[bytes]:
    """Each batch with its head, compressed where that makes it smaller; bounded memory.

    Args:
        batches: The plain bytes of each batch.
        compress: False stores all of them raw.
        old: Where the base's bytes come from, which can make a batch smaller.
        frame: Gives each batch its head.
    """
    if not compress:
        for batch in batches:
            yield frame(RAW, batch)
        return
    olds = None if old is None else old.olds()
    if olds is not None:
        for batch, before in zip(batches, olds, strict=True):
            yield frame(*_smallest(batch, before))
        return
    group: list[Buffer] = []
    for batch in batches:
        group.append(batch)
        if len(group) == GROUP:
            yield from _compress(group, frame)
            group = []
    yield from _compress(group, frame)


def _compress(group: list[Buffer], frame: Frame) -> Iterator[bytes]:
    compressor = _codec.compressor
    packed: Iterable[Any]
    if len(group) > 2 and hasattr(compressor, "multi_compress_to_buffer"):
        packed = compressor.multi_compress_to_buffer(group, threads=-1)
    else:
        packed = map(compressor.compress, group)
    for batch, small in zip(group, packed, strict=True):
        yield frame(*_shortest([(ZSTD, bytes(small))], batch))


def _shortest(candidates: list[tuple[int, bytes]], batch: Buffer) -> tuple[int, Buffer]:
    """Return codec and stored bytes of a batch, stored in the smallest way."""
    codec, data = min(candidates, key=lambda one: len(one[1]))
    return (codec, data) if len(data) < len(batch) else (RAW, batch)


def _smallest(batch: Buffer, old: Buffer | None) -> tuple[int, Buffer]:
    """Do the same, after the base's bytes were tried as prefix and with XOR."""
    plain = _codec.compressor
    candidates = [(ZSTD, plain.compress(batch))]
    if old is not None:
        candidates.append((PREFIXED, _prefixed(old).compress(batch)))
        candidates.append((XORED, plain.compress(_xor(batch, old))))
    return _shortest(candidates, batch)


def _prefixed(old: Buffer) -> Any:
    import zstandard

    parameters = zstandard.ZstdCompressionParameters.from_level(
        ZSTD_LEVEL, window_log=PREFIX_WINDOW.bit_length() - 1, write_content_size=True
    )
    prefix = zstandard.ZstdCompressionDict(bytes(old), dict_type=zstandard.DICT_TYPE_RAWCONTENT)
    return zstandard.ZstdCompressor(compression_params=parameters, dict_data=prefix)


def _xor(one: Buffer, other: Buffer) -> bytes:
    size = len(one)
    both = int.from_bytes(one, "little") ^ int.from_bytes(other, "little")
    return both.to_bytes(size, "little")


def check_batch(
    name: str, codec: int, stored: int, length: int, compressible: bool, *, version: int = 1
) -> None:
    """Check the head of a batch, of which nothing more need have been read.

    Args:
        name: The section's name.
        codec: The codec that the head gives.
        stored: The length that the head gives.
        length: The batch's plain length, which follows from the section's length.
        compressible: Whether the section's batches may be compressed.
        version: The version of the format.

    Raises:
        FormatError: a codec or a length that cannot be.
    """
    if codec == RAW:
        if stored != length:
            raise FormatError(
                f"a raw batch of the snapshot's {name} section has {stored} bytes "
                f"in place of {length}"
            )
    elif codec != ZSTD and not (version > 1 and codec in (PREFIXED, XORED)):
        raise FormatError(f"the {name} section has a batch of unknown codec {codec}")
    elif not compressible:
        raise FormatError(f"the {name} section may not be compressed")
    elif not 0 < stored < length:
        raise FormatError(
            f"a compressed batch of the {name} section has {stored} bytes for {length}"
        )


def check_crc(name: str, crc: int, stored: Buffer) -> None:
    """Compare the stored bytes of a batch with their checksum. Raises DigestError."""
    if zlib.crc32(stored) != crc:
        raise DigestError(f"the snapshot is damaged: a checksum in its {name} section differs")


def open_batch(
    name: str,
    codec: int,
    crc: int | None,
    stored: Buffer,
    length: int,
    old: Callable[[], bytes] | None = None,
) -> Buffer:
    """Return the plain bytes of a batch; for raw ones `stored` itself.

    Args:
        name: The section's name.
        codec: How the batch is stored.
        crc: The checksum of its stored bytes; None if `check_crc` has compared it.
        stored: The stored bytes.
        length: Its plain length.
        old: Returns what the base has in its place.

    Raises:
        DigestError: the checksum differs.
        FormatError: the zstd frame is not one frame of exactly `length` bytes.
    """
    if crc is not None:
        check_crc(name, crc, stored)
    if codec == RAW:
        return stored
    import zstandard

    what = f"a compressed batch of the {name} section"
    before = b"" if old is None or codec == ZSTD else old()
    try:
        size = zstandard.frame_content_size(stored)
        if size != length:
            raise FormatError(f"{what} holds {size} bytes in place of {length}")
        decompressor = _codec.decompressor
        if codec == PREFIXED:
            prefix = zstandard.ZstdCompressionDict(before, dict_type=zstandard.DICT_TYPE_RAWCONTENT)
            decompressor = zstandard.ZstdDecompressor(
                dict_data=prefix, max_window_size=PREFIX_WINDOW
            )
        plain = decompressor.decompress(
            stored, max_output_size=length, read_across_frames=False, allow_extra_data=False
        )
    except zstandard.ZstdError as error:
        raise FormatError(f"{what} cannot be decompressed: {error}") from error
    if len(plain) != length:
        raise FormatError(f"{what} holds {len(plain)} bytes in place of {length}")
    return _xor(plain, before) if codec == XORED else bytes(plain)
