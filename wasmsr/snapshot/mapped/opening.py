"""Opens mapped files without reading their pages, where a record of this user admits them."""

from __future__ import annotations

import mmap
import os
import stat
from typing import TYPE_CHECKING

from wasmsr.errors import DigestError, FormatError, SnapshotError, printable
from wasmsr.snapshot.encoding.container import HEADER, MAGIC, MAPPED
from wasmsr.snapshot.encoding.read_limits import DEFAULT_LIMIT, FILES_LIMIT
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.snapshot.mapped.admission import ALL_LEVELS, check_unwritable, find
from wasmsr.snapshot.memory.adoption import file_bytes
from wasmsr.snapshot.trust.policy import READ_ANY, ReadTrust

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits

_FIRST_PIECE = 65536
_PIECE = 1 << 20


def open_mapped(
    path: str | os.PathLike[str],
    *,
    limit: int = DEFAULT_LIMIT,
    limits: Limits | None = None,
    files: int = FILES_LIMIT,
    trust: ReadTrust = READ_ANY,
) -> Decoder | None:
    """Return what has read a mapped file, whose pages were neither read nor copied.

    The memories of its state are private mappings of the file. The sections are read and checked
    each time; the pages were when the file was admitted.

    Args:
        path: The file.
        limit: Bytes that memories, tables and modules may take.
        limits: Limits of the store in which the state is to be restored.
        files: Bytes of content of carried files.
        trust: Keys whose signature is asked for.

    Returns:
        A decoder that has finished. None if the file must be read as others are: it is not mapped,
        or it has no admission record. Its pages are then copied and compared with their digests, so
        that nobody can change or cut the file under the program.

    Raises:
        SnapshotError: Others may write the file.
        FormatError, VersionError, DigestError: What is wrong with it.
    """
    place = os.fspath(path)
    try:
        if not stat.S_ISREG(os.stat(place).st_mode):  # to open a pipe would take what is in it
            return None
        number = os.open(place, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError:
        return None  # whoever reads the file says why
    try:
        status = os.fstat(number)
        if not stat.S_ISREG(status.st_mode) or not _is_mapped(os.pread(number, HEADER.size, 0)):
            return None
        check_unwritable(place, status)
        admission = find(status)
        if admission is None or not set(ALL_LEVELS) <= set(admission.levels):
            return None
        try:
            decoder = _read(number, limit, limits, files, trust)
            if decoder.root != admission.root:
                raise DigestError("it is not the snapshot that was admitted: its root differs")
            if decoder.stored != status.st_size:
                raise FormatError(f"it has {status.st_size} bytes in place of {decoder.stored}")
        except SnapshotError as error:
            raise type(error)(f"{printable(place)}: {error.message}", hint=error.hint) from error
    except OSError as error:
        raise SnapshotError(
            f"cannot read the snapshot {printable(place)}: {error.strerror or error}"
        ) from error
    finally:
        os.close(number)
    return decoder


def _is_mapped(head: bytes) -> bool:
    """Return whether a file begins as a mapped snapshot."""
    if len(head) < HEADER.size:
        return False
    magic, version, form, *_ = HEADER.unpack(head)
    return bool(magic == MAGIC and version > 1 and form == MAPPED)


def _read(number: int, limit: int, limits: Limits | None, files: int, trust: ReadTrust) -> Decoder:
    size = os.fstat(number).st_size

    def pages(offset: int, length: int) -> memoryview:
        if offset + length > size:
            raise FormatError("the file is cut off: a memory goes beyond its end")
        return file_bytes(number, offset, length)

    decoder = Decoder(
        limit=limit,
        limits=limits,
        files=files,
        allocate=_address_space,
        map_pages=pages,
        trust=trust,
    )
    at, length = 0, _FIRST_PIECE
    while not decoder.complete:
        piece = os.pread(number, length, at)
        if not piece:
            break
        decoder.feed(piece)
        at, length = at + len(piece), _PIECE
    decoder.finish()
    return decoder


def _address_space(size: int) -> bytearray | memoryview:
    """Return zeros that hold the place of a memory until its region is known."""
    if not size:
        return bytearray()
    flags = mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS
    return memoryview(mmap.mmap(-1, size, flags=flags, prot=mmap.PROT_READ))


__all__ = ["open_mapped"]
