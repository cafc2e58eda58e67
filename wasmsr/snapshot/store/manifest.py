"""Manifests: what a name stands for, as the list of the pieces of all sections of a snapshot.

The snapshot is a full one of version 2, whatever was put. Layout: docs/store-format.md.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from hashlib import sha256
from itertools import chain
from struct import Struct
from typing import NamedTuple, TypeAlias

from wasmsr.errors import DigestError, FormatError, VersionError
from wasmsr.snapshot.encoding.container import (
    BATCH,
    BATCH_SIZE,
    FLAG_HANDED,
    FLAG_TRAILER,
    FULL,
    HEADER,
    SECTION,
    TRAILER,
    Buffer,
    Header,
    read_trailer,
    store_batches,
    trailer_bytes,
)
from wasmsr.snapshot.encoding.section import PieceList
from wasmsr.snapshot.format import encode
from wasmsr.snapshot.sections.host.files import CHUNK
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.store.pack import DIGEST, PIECE, VERSION
from wasmsr.snapshot.trust.policy import WRITE_PLAIN, WriteTrust

MAGIC = b"WSRname\n"
HEAD = Struct("<8sHHI32s")
"""Magic, version, flags (1 = handed over), number of sections, root digest."""
PART = Struct("<HHIQ")
"""Kind of a section, form of its references, their number, its plain length."""
REFERENCE = Struct("<32sI")
"""SHA-256 and length of a piece."""
DIRECT, LISTS = 0, 1
"""References are of the pieces of the section, or of pieces that have these references."""
MANIFEST_LIMIT = 16 << 20
"""Bytes of the largest manifest that is read: enough for 100 GiB of pages."""
PIECES_LIMIT = 16 << 20
"""How many pieces a snapshot may have: 64 GiB of pages."""
LIST = 256
"""References in the longest list that is written. A list ends after a digest whose last six bits
are zeros, on average after 64: so an equal run of pages has equal lists, wherever it begins."""
BINARIES, FILE_INDEX, FILE_DATA, PAGE_BYTES = 11, 24, 25, 35
"""Kinds of sections that are cut where their content has borders."""

ReadPiece: TypeAlias = Callable[[bytes, int], bytes]
"""Returns a piece by digest and length."""


class ManifestSection(NamedTuple):
    """A section of a snapshot.

    Attributes:
        kind: Its kind.
        plain: Bytes of its payload.
        references: Its pieces, packed as in the file: a tuple for each would need three times the
            memory.
        form: `DIRECT` or `LISTS`.
    """

    kind: int
    plain: int
    references: bytes
    form: int = DIRECT

    def pieces(self, read: ReadPiece) -> Iterator[tuple[bytes, int]]:
        """Yield SHA-256 and length of each piece.

        Raises:
            FormatError: A list is none, or the pieces have another length than the section.
        """
        left = self.plain
        for digest, length in self._listed(read):
            left -= length
            if not 0 < length <= PIECE or left < 0:
                break
            yield digest, length
        else:
            if not left:
                return
        raise FormatError("a manifest has a section of another length than its pieces")

    def _listed(self, read: ReadPiece) -> Iterator[tuple[bytes, int]]:
        if self.form == DIRECT:
            yield from REFERENCE.iter_unpack(self.references)
            return
        for digest, length in REFERENCE.iter_unpack(self.references):
            data = read(digest, length)
            if len(data) % REFERENCE.size:
                raise FormatError("a manifest has a list that is none")
            yield from REFERENCE.iter_unpack(data)

    def lists(self) -> Iterator[tuple[bytes, int]]:
        """Yield SHA-256 and length of each list."""
        if self.form == LISTS:
            yield from REFERENCE.iter_unpack(self.references)


@dataclass(slots=True)
class Manifest:
    """What a name stands for.

    Attributes:
        root: The root digest of the snapshot.
        handed: Whether the program was handed over to another host.
        sections: Its sections, ascending by kind.
    """

    root: bytes
    handed: bool
    sections: list[ManifestSection]

    @property
    def plain(self) -> int:
        """Plain bytes of all sections."""
        return sum(section.plain for section in self.sections)

    def pieces(self, read: ReadPiece) -> Iterator[tuple[bytes, int]]:
        """Yield digest and length of all pieces, lists included; some more than once.

        Raises:
            SnapshotError: A list cannot be read, or there are too many pieces.
        """
        left = PIECES_LIMIT
        for section in self.sections:
            for one in chain(section.lists(), section.pieces(read)):
                left -= 1
                if left < 0:
                    raise FormatError("a manifest has too many pieces")
                yield one

    def encode(self) -> bytes:
        """Return the bytes of the manifest."""
        parts = [HEAD.pack(MAGIC, VERSION, int(self.handed), len(self.sections), self.root)]
        for kind, plain, references, form in self.sections:
            count = len(references) // REFERENCE.size
            parts += [PART.pack(kind, form, count, plain), references]
        data = b"".join(parts)
        return data + sha256(data).digest()

    def stream(self, read: ReadPiece) -> Iterator[bytes]:
        """Yield the bytes of the snapshot, uncompressed."""
        flags = FLAG_TRAILER | (FLAG_HANDED if self.handed else 0)
        yield Header(flags, len(self.sections), self.plain, bytes(32), 2, FULL).encode()
        for section in self.sections:
            yield SECTION.pack(section.kind, 0, 0, section.plain)
            yield from store_batches(_content(section, read).batches(), False)
        yield trailer_bytes(self.root)


def _content(section: ManifestSection, read: ReadPiece) -> PieceList:
    return PieceList(
        section.plain, lambda: (read(digest, length) for digest, length in section.pieces(read))
    )


def decode_manifest(data: bytes, name: str) -> Manifest:
    """Read a manifest.

    Raises:
        FormatError: It is no manifest, or impossible.
        VersionError: It has another version.
        DigestError: It is damaged.
    """
    said = f"the manifest of {name}"
    if len(data) < HEAD.size + DIGEST or not data.startswith(MAGIC):
        raise FormatError(f"{said} is no manifest")
    _, version, flags, count, root = HEAD.unpack_from(data)
    if version != VERSION:
        raise VersionError(f"{said} has version {version}")
    body = memoryview(data)[:-DIGEST]
    if sha256(body).digest() != data[-DIGEST:]:
        raise DigestError(f"{said} is damaged: its digest differs")
    if flags & ~1 or count > 0xFFFF:
        raise FormatError(f"{said} has unknown flags or too many sections")
    at = HEAD.size
    sections = []
    for _ in range(count):
        if at + PART.size > len(body):
            raise FormatError(f"{said} ends in the middle of a section")
        kind, form, number, plain = PART.unpack_from(body, at)
        at += PART.size
        end = at + number * REFERENCE.size
        if form not in (DIRECT, LISTS) or end > len(body):
            raise FormatError(f"{said} has an impossible section")
        section = ManifestSection(kind, plain, bytes(body[at:end]), form)
        lengths = [length for _, length in REFERENCE.iter_unpack(section.references)]
        if not all(0 < length <= PIECE for length in lengths):
            raise FormatError(f"{said} has a piece of an impossible length")
        if form == DIRECT and sum(lengths) != plain:
            raise FormatError(f"{said} has a section of another length than its pieces")
        sections.append(section)
        at = end
    if at != len(body):
        raise FormatError(f"{said} has bytes after its last section")
    return Manifest(root, bool(flags), sections)


def cut(
    state: SnapshotState,
    handed: bool,
    take: Callable[[bytes, bytes], None],
    trust: WriteTrust = WRITE_PLAIN,
) -> Manifest:
    """Cut a snapshot into pieces.

    Args:
        state: The snapshot.
        handed: Whether its program was handed over.
        take: Gets digest and bytes of each piece.
        trust: The signatures that it has.

    Returns:
        The manifest.
    """
    stream = _Stream(encode(state, version=2, compress=False, handed=handed, trust=trust))
    header = Header.decode(stream.read(HEADER.size))
    sections = []
    chunks = b""
    for _ in range(header.sections):
        kind, _, _, plain = SECTION.unpack(stream.read(SECTION.size))
        references = bytearray()
        batches = _batches(stream, plain)
        if kind == FILE_INDEX:
            chunks = b"".join(batches)
            batches = iter([chunks])
        for piece in _cut(batches, _lengths(kind, plain, state, chunks)):
            digest = sha256(piece).digest()
            take(digest, piece)
            references += REFERENCE.pack(digest, len(piece))
        sections.append(_section(kind, plain, bytes(references), take))
    return Manifest(read_trailer(stream.read(TRAILER.size)), handed, sections)


def _section(
    kind: int, plain: int, references: bytes, take: Callable[[bytes, bytes], None]
) -> ManifestSection:
    """Return a section; if it has many pieces, their references are pieces too."""
    if len(references) <= LIST * REFERENCE.size:
        return ManifestSection(kind, plain, references)
    lists = bytearray()
    start = 0
    for at in range(REFERENCE.size, len(references) + 1, REFERENCE.size):
        ends = not references[at - 5] & 63  # the last byte of a digest
        if ends or at - start == LIST * REFERENCE.size or at == len(references):
            part = references[start:at]
            digest = sha256(part).digest()
            take(digest, part)
            lists += REFERENCE.pack(digest, len(part))
            start = at
    return ManifestSection(kind, plain, bytes(lists), LISTS)


def _lengths(kind: int, plain: int, state: SnapshotState, chunks: bytes) -> Iterator[int]:
    """Yield the lengths of the pieces of a section."""
    parts: Iterable[int] = [plain]
    if kind == PAGE_BYTES:
        yield from (PAGE_SIZE for _ in range(plain // PAGE_SIZE))
        return
    if kind == FILE_DATA:
        parts = [length for _, length in CHUNK.iter_unpack(chunks)]
    elif kind == BINARIES:
        parts = [len(module.binary) for module in state.modules if module.binary]
    for part in parts:
        for start in range(0, part, PIECE):
            yield min(PIECE, part - start)


def _batches(stream: _Stream, plain: int) -> Iterator[bytes]:
    """Yield the batches of a section, which are raw."""
    for start in range(0, plain, BATCH_SIZE):
        _, size, _ = BATCH.unpack(stream.read(BATCH.size))
        assert size == min(BATCH_SIZE, plain - start)
        yield stream.read(size)


def _cut(batches: Iterator[bytes], lengths: Iterable[int]) -> Iterator[bytes]:
    """Yield bytes that come in batches in pieces of these lengths."""
    stream = _Stream(batches)
    for length in lengths:
        yield stream.read(length)


class _Stream:
    """Reads exact numbers of bytes from pieces of any length."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces = pieces
        self._view: memoryview = memoryview(b"")

    def read(self, size: int) -> bytes:
        """Return that many bytes."""
        parts: list[Buffer] = []
        while size > len(self._view):
            parts.append(self._view)
            size -= len(self._view)
            self._view = memoryview(next(self._pieces))
        parts.append(self._view[:size])
        self._view = self._view[size:]
        return b"".join(parts)
