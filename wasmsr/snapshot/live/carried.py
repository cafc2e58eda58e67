"""Chunks of carried files that arrive while their program still runs elsewhere.

They arrive before the state that names them. Each is compared with its digest, none comes twice,
and all of them together have a limit. Where an image is written they are in it at once, as its
section *file data*; without an image they are in a temporary file.
"""

from __future__ import annotations

import os
import weakref
import zlib
from collections.abc import Sequence
from typing import IO

from wasmsr.errors import DigestError, FormatError
from wasmsr.snapshot.encoding.container import BATCH, BATCH_SIZE, RAW, SECTION, Buffer
from wasmsr.snapshot.encoding.mapped_writer import write_at
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.sections.host.files import CHUNK, CHUNK_SIZE, FILE_INDEX, spool
from wasmsr.wasi.state.contents import Contents, digest_of

_PIECE = 1 << 20


def image_limit(limit: int) -> int:
    """Return how many bytes of files an image can have.

    Args:
        limit: How many may come in the rounds, and how many in the rest.
    """
    return 2 * limit


def stored_size(size: int) -> int:
    """Return how many bytes a section of so many raw bytes takes, with all heads."""
    return SECTION.size + -(-size // BATCH_SIZE) * BATCH.size + size


class FileArea:
    """The section *file data* of an image, which grows chunk by chunk at one place.

    Args:
        file: A descriptor of the image. The area uses a copy of it.
        at: Where the section begins.

    Attributes:
        at: Where the section begins.
        size: Bytes of the chunks.
        close: Closes the copy; otherwise it is closed when nobody needs the area.
    """

    def __init__(self, file: int, at: int) -> None:
        self._file = os.dup(file)
        self.close = weakref.finalize(self, os.close, self._file)
        self.close.atexit = False
        self.at = at
        self.size = 0
        self._crc = 0
        self._position = 0

    @property
    def end(self) -> int:
        """Where the section ends."""
        return self.at + stored_size(self.size)

    def _place(self, offset: int) -> int:
        """Return where a byte of the payload is in the image."""
        return self.at + SECTION.size + (offset // BATCH_SIZE + 1) * BATCH.size + offset

    def append(self, data: Buffer) -> None:
        """Write the next bytes. Raises OSError."""
        view = memoryview(data)
        while view:
            room = BATCH_SIZE - self.size % BATCH_SIZE
            part, view = view[:room], view[room:]
            write_at(self._file, self._place(self.size), part)
            self._crc = zlib.crc32(part, self._crc if room < BATCH_SIZE else 0)
            self.size += len(part)
            if len(part) == room:
                self._head(self.size - BATCH_SIZE, BATCH_SIZE)

    def _head(self, start: int, size: int) -> None:
        write_at(self._file, self._place(start) - BATCH.size, BATCH.pack(RAW, size, self._crc))

    def finish(self, kind: int) -> None:
        """Write the head of the section, and that of its last batch. Raises OSError."""
        write_at(self._file, self.at, SECTION.pack(kind, 0, 0, self.size))
        if rest := self.size % BATCH_SIZE:
            self._head(self.size - rest, rest)

    def move(self, at: int) -> None:
        """Move the section to another place. Raises OSError."""
        end = self.end
        pieces = range(self.at, end, _PIECE)
        for start in pieces if at < self.at else reversed(pieces):
            data = os.pread(self._file, min(_PIECE, end - start), start)
            write_at(self._file, start + at - self.at, data)
        self.at = at

    # As a file that `Contents` reads from.

    def seek(self, offset: int) -> None:
        """Note where `read` begins."""
        self._position = offset

    def read(self, size: int) -> bytes:
        """Return bytes of the payload. Raises OSError."""
        found = []
        offset = self._position
        while size:
            part = min(size, BATCH_SIZE - offset % BATCH_SIZE)
            found.append(os.pread(self._file, part, self._place(offset)))
            offset, size = offset + part, size - part
        self._position = offset
        return b"".join(found)


class IncomingFiles:
    """Takes chunks.

    Args:
        limit: Bytes that all of them may have together.

    Attributes:
        contents: The chunks that have come.
        area: Where they are in the image; None without an image, or before the first one.
    """

    def __init__(self, limit: int) -> None:
        self.contents = Contents()
        self.area: FileArea | None = None
        self._limit = limit
        # A host that is started again reads the image, so its reader must take the index.
        self._most = FILE_INDEX.limit(ReadLimits(0, image_limit(limit))) // CHUNK.size
        self._spool: IO[bytes] | None = None

    def __len__(self) -> int:
        return len(self.contents)

    def check(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        """Compare chunks with their digests, and with what may come.

        Raises:
            FormatError: They cannot be, came before, or are more than was agreed.
            DigestError: One is not what its digest names.
        """
        if not digests or len(digests) != len(lengths) or len(data) != sum(lengths):
            raise FormatError("pieces of files came without the bytes that belong to them")
        if self.contents.size + len(data) > self._limit:
            raise FormatError(
                f"more than the {self._limit} bytes of files came that were agreed",
                hint="--carry-limit SIZE allows more",
            )
        view = memoryview(data)
        seen = set()
        for digest, length in zip(digests, lengths, strict=True):
            if not 0 < length <= CHUNK_SIZE:
                raise FormatError("a piece of a file is empty or too long")
            if digest in self.contents or digest in seen:
                raise FormatError("a piece of a file came twice")
            seen.add(digest)
            if digest_of(view[:length]) != digest:
                raise DigestError("a piece of a file that came is not what its digest names")
            view = view[length:]

    def keep(self, digests: Sequence[bytes], lengths: Sequence[int], data: Buffer) -> None:
        """Keep chunks that were checked, in the area if there is one.

        Raises:
            FormatError: There are more of them than a reader of the image takes.
            OSError: There is no room for them.
        """
        if len(self.contents) + len(digests) > self._most:
            raise FormatError(f"more than {self._most} pieces of files came")
        if self.area is not None:
            start = self.area.size
            self.area.append(data)
        else:
            if self._spool is None:
                self._spool = spool()
            start = self._spool.seek(0, os.SEEK_END)
            self._spool.write(data)
        holder = self.area or self._spool
        for digest, length in zip(digests, lengths, strict=True):
            self.contents.add_spooled(digest, length, holder, start)  # type: ignore[arg-type]
            start += length

    def close(self) -> None:
        """Forget the chunks, which nobody got."""
        if self.area is not None:
            self.area.close()
        if self._spool is not None:
            self._spool.close()

    def index(self) -> bytes:
        """Return the payload of the section *file index*."""
        return b"".join([CHUNK.pack(digest, length) for digest, length in self.contents])


__all__ = ["FileArea", "IncomingFiles", "image_limit", "stored_size"]
