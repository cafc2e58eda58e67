"""Sections *file index* and *file data*: carried files. Format document, section 5.16."""

from __future__ import annotations

from dataclasses import replace
from struct import Struct
from typing import IO, TYPE_CHECKING

from wasmsr.errors import DigestError, FormatError, SnapshotError
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import HEADS_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.section import (
    BulkPayload,
    Draft,
    PieceList,
    ReadBase,
    Section,
    Sink,
    WrittenPages,
)
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.wasi.state.contents import Contents

CHUNK = Struct("<32sI")
"""Digest and length of a chunk."""
CHUNK_SIZE = 65536
"""Bytes of a chunk that is not the last of its file."""
SPOOL_SIZE = 64 << 20
"""Bytes of files that a reader keeps in memory before they go to a temporary file."""


class FileIndexSection(Section):
    """Digest and length of each chunk."""

    kind = 24
    name = "file index"
    carrier = True
    payload = "array"
    present = "files are carried that are not all zeros"

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return 36 bytes for each chunk."""
        return b"".join([CHUNK.pack(digest, length) for digest, length in _stored(state, pages)])

    def limit(self, limits: ReadLimits) -> int:
        """Return the length for full chunks and a million small files."""
        return (limits.files // CHUNK_SIZE + HEADS_LIMIT) * CHUNK.size

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Do nothing: the section *file data* has used the index."""

    def chunks(self, data: Buffer) -> list[tuple[bytes, int]]:
        """Return digest and length of each chunk. Raises FormatError."""
        if len(data) % CHUNK.size:
            raise self.malformed("it ends in the middle of a chunk")
        chunks = list(CHUNK.iter_unpack(data))
        if len({digest for digest, _ in chunks}) != len(chunks):
            raise self.malformed("a chunk is there twice")
        if not all(0 < length <= CHUNK_SIZE for _, length in chunks):
            raise self.malformed("a chunk is empty or too long")
        return chunks


FILE_INDEX = FileIndexSection()


class FileDataSection(Section):
    """The chunks, one after the other."""

    kind = 25
    name = "file data"
    carrier = True
    payload = "bytes"
    present = "with the file index"
    compressible = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes | BulkPayload:
        """Return the chunks' bytes."""
        files = _stored(state, pages)
        if not files:
            return b""
        return PieceList(files.size, lambda: (files.read(digest) for digest, _ in files))

    def begin(self, draft: Draft, size: int) -> None:
        """Compare the length with the file index and the reader's limit."""
        self.expect_size(size, sum(length for _, length in self._chunks(draft)))
        if size > draft.limits.files:
            raise FormatError(
                f"the snapshot carries {size} bytes of files, more than the {draft.limits.files} "
                "that may be read",
                hint="--carry-limit SIZE allows more",
            )

    def _chunks(self, draft: Draft) -> list[tuple[bytes, int]]:
        return FILE_INDEX.chunks(draft.payloads.get(FILE_INDEX.kind, b""))

    def sink(self, draft: Draft) -> Sink:
        """Return what writes the chunks into a temporary file."""
        return _ChunkSink(self._chunks(draft), draft.state)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Do nothing: the sink has taken the chunks."""

    def absent(self, draft: Draft) -> None:
        """Refuse a file index without file data."""
        if FILE_INDEX.kind in draft.payloads:
            raise FormatError(f"the snapshot has no {self.name} section")

    def inherit(self, draft: Draft, base: ReadBase) -> None:
        """Add the base's chunks."""
        files, found = base.state.files, draft.state.files
        if files is not None:
            draft.state.files = files if found is None else found.joined(files)


def _stored(state: SnapshotState, pages: WrittenPages) -> Contents:
    """Return the chunks that are stored: those that the base does not have."""
    from wasmsr.wasi.state.contents import Contents

    files = state.files
    if files is None:
        return Contents()
    return files if pages.base is None else files.without(pages.base.chunks)


def without_unused(state: SnapshotState) -> SnapshotState:
    """Return a state without the chunks that only the snapshots below it needed.

    A checkpoint has all chunks of those below it, because those above it may leave them out.
    """
    if not state.files or state.wasi is None:
        return state
    from wasmsr.wasi.state.contents import named_chunks

    try:
        files = state.files.only(named_chunks(state.wasi))
    except ValueError:  # whoever uses the state says what is wrong with it
        return state
    return replace(state, files=files or None)


class _ChunkSink:
    """Compares each chunk with its digest on its way into a temporary file."""

    def __init__(self, chunks: list[tuple[bytes, int]], state: SnapshotState) -> None:
        from wasmsr.wasi.state.contents import Contents

        self._waiting = iter(chunks)
        self._wanted = next(self._waiting, None)
        self._rest = bytearray()
        self._spool = spool()
        self._position = 0
        self._files = Contents()
        self._state = state

    def take(self, start: int, data: Buffer) -> None:
        from wasmsr.wasi.state.contents import digest_of

        rest = self._rest
        rest += data
        used = 0
        while self._wanted is not None and len(rest) - used >= self._wanted[1]:
            digest, length = self._wanted
            piece = bytes(rest[used : used + length])
            if digest_of(piece) != digest:
                raise DigestError("a piece of a file in the snapshot is not what it should be")
            _write(self._spool, piece)
            self._files.add_spooled(digest, length, self._spool, self._position)
            self._position += length
            used += length
            self._wanted = next(self._waiting, None)
        del rest[:used]

    def close(self) -> None:
        self._state.files = self._files


def spool() -> IO[bytes]:
    """Return a file without a name, closed when nobody needs it; a small one stays in memory."""
    import tempfile

    return tempfile.SpooledTemporaryFile(max_size=SPOOL_SIZE)


def _write(spool: IO[bytes], piece: bytes) -> None:
    try:
        spool.write(piece)
    except OSError as error:
        raise SnapshotError(
            f"there is no room for the snapshot's files: {error.strerror or error}"
        ) from error


FILE_DATA = FileDataSection()
SECTIONS = (FILE_INDEX, FILE_DATA)
