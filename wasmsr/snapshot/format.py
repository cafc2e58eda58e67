"""snapshot.bin: the front door of the format, and the files around it.

`encode` (in `writer`) gives pieces that may be written or sent as they are, `decode` and `Decoder`
(in `reader`) take them, however they are cut; `save` and `load` put a file around them. The format
is specified in docs/snapshot-format.md.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Iterable
from contextlib import suppress
from typing import TypeAlias

from wasmsr.errors import FormatError, HandedOver, SnapshotError
from wasmsr.snapshot.container import FLAG_HANDED, HEADER, Header
from wasmsr.snapshot.reader import DEFAULT_LIMIT, FILES_LIMIT, Decoder, SectionSize, decode
from wasmsr.snapshot.state import Snapshot
from wasmsr.snapshot.writer import content_digest, encode

__all__ = [
    "DEFAULT_LIMIT",
    "FILES_LIMIT",
    "Decoder",
    "SectionSize",
    "content_digest",
    "decode",
    "encode",
    "load",
    "mark_handed",
    "read_file",
    "save",
    "save_pieces",
]

Path: TypeAlias = str | os.PathLike[str]
_CHUNK = 1 << 20


def save(snapshot: Snapshot, path: Path, *, compress: bool = True, handed: bool = False) -> int:
    """Write a snapshot to a file; the number of bytes written.

    The file appears by rename when it is complete and on the disk, so that a full disk or a crash
    leaves the old one as it was. Like a core dump it may hold secrets, so only its owner may read
    it. What is not a regular file (a pipe, a device) is written directly.

    Raises:
        SnapshotError: it could not be written; nothing of it is left.
        UnportableState, FormatError: as `encode`.
    """
    return save_pieces(encode(snapshot, compress=compress, handed=handed), path)


def save_pieces(pieces: Iterable[bytes], path: Path) -> int:
    """Write what `encode` gives, or what came over the wire, as `save` does."""
    target = os.path.realpath(os.fspath(path))
    try:
        if os.path.exists(target) and not os.path.isfile(target):
            if os.path.isdir(target):
                raise SnapshotError(f"cannot write the snapshot: {path} is a folder")
            with open(target, "wb") as file:
                return sum(file.write(piece) for piece in pieces)
        return _replace(pieces, target)
    except OSError as error:
        raise SnapshotError(
            f"cannot write the snapshot to {path}: {error.strerror or error}",
            hint="nothing was left half-written; free some space or name another folder",
        ) from error


def _replace(pieces: Iterable[bytes], target: str) -> int:
    folder, name = os.path.split(target)
    number, temporary = tempfile.mkstemp(prefix=f".{name[:200]}.", suffix=".part", dir=folder)
    try:
        with open(number, "wb", buffering=0) as file:
            written = 0
            for piece in pieces:
                view = memoryview(piece)
                while len(view):
                    count = file.write(view) or 0
                    written += count
                    view = view[count:]
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    _sync_folder(folder)
    return written


def _sync_folder(folder: str) -> None:
    """Make a rename last. Some file systems cannot, and the file itself is safe by now."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def load(
    path: Path, *, adopt: bool = False, limit: int = DEFAULT_LIMIT, files: int = FILES_LIMIT
) -> Snapshot:
    """Read a snapshot from a file.

    Args:
        adopt: read it even if it was handed over to another host.
        limit: bytes that its memories, tables and embedded modules may take in all.
        files: bytes of content of carried files.
    Raises:
        SnapshotError: the file cannot be read.
        HandedOver: another host owns the program now.
        FormatError, VersionError, DigestError: what is wrong with it.
    """
    decoder = read_file(path, Decoder(limit=limit, files=files))
    snapshot = decoder.finish()
    if decoder.header is not None and decoder.header.handed and not adopt:
        raise HandedOver(
            f"the program in {path} was handed over to another host, which owns it now",
            hint="--adopt resumes it here nevertheless; then it may run twice",
        )
    return snapshot


def read_file(path: Path, decoder: Decoder) -> Decoder:
    """Feed a file to a decoder, which is returned."""
    try:
        with open(path, "rb", buffering=0) as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise SnapshotError(f"cannot read the snapshot: {path} is a folder")
            while piece := file.read(_CHUNK):
                decoder.feed(piece)
    except OSError as error:
        raise SnapshotError(
            f"cannot read the snapshot {path}: {error.strerror or error}"
        ) from error
    return decoder


def mark_handed(path: Path) -> None:
    """Mark a snapshot file as handed over, on the disk when this returns.

    Sixty-four bytes are written in place, within one sector, so that a crash leaves the old header
    or the new one; the header's own checksum would show anything else. The mark says who owns the
    program, not what it is, and is not part of the digests.

    Raises:
        SnapshotError: the file cannot be written; FormatError and its kin: it is no snapshot.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            data = file.read(HEADER.size)
            if len(data) < HEADER.size:
                raise FormatError(f"{path} is not a snapshot")
            old = Header.decode(data)
            file.seek(0)
            new = Header(old.flags | FLAG_HANDED, old.sections, old.plain, old.root)
            file.write(new.encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise SnapshotError(
            f"cannot mark {path} as handed over: {error.strerror or error}"
        ) from error
