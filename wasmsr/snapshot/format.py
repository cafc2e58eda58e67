"""snapshot.bin: the front door of the format, and the files around it.

`encode` (in `writer`) returns pieces that can be written or sent as they are. `decode` and
`Decoder` (in `reader`) take them, however they are cut. `save` and `load` write and read a file.
The format is specified in docs/snapshot-format.md.
"""

from __future__ import annotations

import os
import stat
import tempfile
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from typing import TYPE_CHECKING, TypeAlias

from wasmsr.errors import EncryptionError, FormatError, HandedOver, SnapshotError, printable
from wasmsr.snapshot.encoding.container import FLAG_HANDED, HEADER, VERSION, Header
from wasmsr.snapshot.encoding.peek import read_section
from wasmsr.snapshot.encoding.read_limits import DEFAULT_LIMIT, FILES_LIMIT
from wasmsr.snapshot.encoding.reader import Decoder, SectionSize, decode
from wasmsr.snapshot.encoding.writer import content_digest, encode
from wasmsr.snapshot.sections.program.store import STORE
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import READ_ANY, WRITE_PLAIN, ReadTrust, WriteTrust

if TYPE_CHECKING:
    from wasmsr.interp.outcomes import Limits

__all__ = [
    "DEFAULT_LIMIT",
    "FILES_LIMIT",
    "Decoder",
    "SectionSize",
    "appear",
    "content_digest",
    "decode",
    "encode",
    "is_of_module",
    "load",
    "mark_handed",
    "read_file",
    "save",
    "save_pieces",
    "sync_folder",
]

Path: TypeAlias = str | os.PathLike[str]
_CHUNK = 1 << 20
_STORE_READ = 16 << 20
"""Bytes of a store section that are looked at for a module's digest."""


def save(
    state: SnapshotState,
    path: Path,
    *,
    compress: bool = True,
    handed: bool = False,
    trust: WriteTrust = WRITE_PLAIN,
) -> int:
    """Write a snapshot to a file.

    The file appears by rename when it is complete and on the disk: a full disk or a crash leaves
    the old file as it was. A snapshot can hold secrets, like a core dump, so only its owner can
    read the file. A pipe or a device is written directly.

    Args:
        state: What to write.
        path: Name of the file.
        compress: Store pages, modules and files in zstd where that is smaller.
        handed: Mark the snapshot as handed over.
        trust: Keys that sign and encrypt; with one of them the version is at least 2.

    Returns:
        The number of bytes written.

    Raises:
        SnapshotError: The file could not be written; nothing of it is left.
        UnportableState, FormatError: As `encode`.
    """
    version = max(VERSION, 2) if trust.adds else VERSION
    pieces = encode(state, compress=compress, handed=handed, version=version, trust=trust)
    return save_pieces(pieces, path)


def save_pieces(
    pieces: Iterable[bytes],
    path: Path | int,
    *,
    names: Iterator[str] | None = None,
    what: str = "snapshot",
) -> int:
    """Write what `encode` gives, or what came over the wire, as `save` does.

    Args:
        path: A file, or an open descriptor, which stays open.
        names: Further names. The file gets the first that no file has; none is replaced.
    """
    try:
        if isinstance(path, int):
            with open(path, "wb", closefd=False) as file:
                return sum(file.write(piece) for piece in pieces)
        if names is not None:
            return _replace(pieces, next(names), names)
        target = os.path.realpath(os.fspath(path))
        if os.path.exists(target) and not os.path.isfile(target):
            if os.path.isdir(target):
                raise SnapshotError(f"cannot write the {what}: {printable(path)} is a folder")
            with open(target, "wb") as file:
                return sum(file.write(piece) for piece in pieces)
        return _replace(pieces, target)
    except OSError as error:
        where = f"to {printable(path)}" if not isinstance(path, int) else "to where it should go"
        raise SnapshotError(
            f"cannot write the {what} {where}: {error.strerror or error}",
            hint="nothing was left half-written; free some space or name another folder",
        ) from error


def _replace(pieces: Iterable[bytes], target: str, others: Iterator[str] | None = None) -> int:
    """Write a file that appears as `target` when it is complete.

    Args:
        pieces: The bytes.
        target: Name of the file, which is replaced.
        others: Further names. With them no file is replaced: the file gets the first free name.
    """

    def write(number: int) -> int:
        with open(number, "wb", buffering=0, closefd=False) as file:
            written = 0
            for piece in pieces:
                view = memoryview(piece)
                while len(view):
                    count = file.write(view) or 0
                    written += count
                    view = view[count:]
        return written

    return appear(write, target, others)


def appear(
    write: Callable[[int], int], target: str, others: Iterator[str] | None = None, *, mode: int = 0
) -> int:
    """Make a file that appears under its name when it is complete and on the disk.

    Args:
        write: Writes a new file, given as a descriptor, and returns its size.
        target: Name of the file, which is replaced.
        others: Further names. With them no file is replaced: the file gets the first free name.
        mode: Its permissions; 0 for the owner alone.

    Returns:
        What `write` returned.
    """
    folder, name = os.path.split(target)
    number, temporary = tempfile.mkstemp(
        prefix=f".{name[:200]}.", suffix=".part", dir=folder or os.curdir
    )
    try:
        try:
            written = write(number)
            if mode:
                os.fchmod(number, mode)
            os.fsync(number)
        finally:
            os.close(number)
        if others is None:
            os.replace(temporary, target)
        else:
            _give_free_name(temporary, target, others)
    except BaseException:
        with suppress(OSError):
            os.unlink(temporary)
        raise
    sync_folder(folder or os.curdir)
    return written


def _give_free_name(temporary: str, target: str, others: Iterator[str]) -> None:
    """Rename a file to the first name that no file has: a link, unlike a rename, replaces none."""
    while True:
        try:
            os.link(temporary, target)
        except FileExistsError:
            target = next(others)
        except OSError:  # a file system without hard links
            os.replace(temporary, target)
            return
        else:
            os.unlink(temporary)
            return


def sync_folder(folder: str) -> None:
    """Make a rename last. Some file systems cannot, and the file itself is safe by now."""
    with suppress(OSError):
        number = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(number)
        finally:
            os.close(number)


def is_of_module(path: Path, digest: bytes, *, trust: ReadTrust = READ_ANY) -> bool:
    """Return whether a file is a snapshot of a program with the module of this SHA-256.

    Only the first batch of the section that names the modules is read.

    Args:
        path: The file.
        digest: The SHA-256.
        trust: Keys that decrypt.

    Raises:
        OSError: The file cannot be read.
        EncryptionError: The file is encrypted, and no key decrypts it.
    """
    try:
        with open(path, "rb") as file:
            _, store = read_section(file, STORE.kind, limit=_STORE_READ, trust=trust)
    except EncryptionError:
        raise
    except SnapshotError:
        return False
    return store is not None and digest in store  # digests are in it as they are


def load(
    path: Path,
    *,
    adopt: bool = False,
    limit: int = DEFAULT_LIMIT,
    limits: Limits | None = None,
    files: int = FILES_LIMIT,
    trust: ReadTrust = READ_ANY,
) -> SnapshotState:
    """Read a snapshot from a file.

    Large memories are read-only files in memory, which stores that are restored share as long as
    they do not write to them. Those of a mapped file that is admitted are the file itself.

    Args:
        adopt: Read it even if it was handed over to another host.
        limit: Bytes that its memories, tables and embedded modules may take in all.
        limits: Of the store in which it is to be restored, where these are not the default ones.
        files: Bytes of content of carried files.
        trust: Keys that decrypt, and whose signature is asked for.

    Raises:
        SnapshotError: The file cannot be read.
        SignatureError, EncryptionError: The file is not trusted, or no key decrypts it.
        HandedOver: Another host owns the program now.
        FormatError, VersionError, DigestError: What is wrong with it.
    """
    from wasmsr.snapshot.mapped.opening import open_mapped
    from wasmsr.snapshot.memory.adoption import allocate, share

    decoder = open_mapped(path, limit=limit, limits=limits, files=files, trust=trust)
    if decoder is None:
        decoder = Decoder(limit=limit, limits=limits, files=files, allocate=allocate, trust=trust)
        read_file(path, decoder)
    snapshot = decoder.finish()
    share(snapshot.memories)
    if decoder.header is not None and decoder.header.handed and not adopt:
        raise HandedOver(
            f"the program in {path} was handed over to another host, which owns it now",
            hint="--adopt resumes it here nevertheless; then it may run twice",
        )
    return snapshot


def read_file(path: Path, decoder: Decoder) -> Decoder:
    """Feed a file to a decoder, which is returned.

    What a runnable module has written when it was saved is read as a snapshot too.
    """
    from wasmsr.snapshot.runnable.doorway import as_snapshot

    try:
        with open(path, "rb", buffering=0) as file:
            if stat.S_ISDIR(os.fstat(file.fileno()).st_mode):
                raise SnapshotError(f"cannot read the snapshot: {path} is a folder")
            for piece in as_snapshot(iter(lambda: file.read(_CHUNK), b"")):
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
        SnapshotError: The file cannot be written.
        FormatError: The file is no snapshot; also VersionError and DigestError.
    """
    try:
        with open(path, "r+b", buffering=0) as file:
            data = file.read(HEADER.size)
            if len(data) < HEADER.size:
                raise FormatError(f"{path} is not a snapshot")
            old = Header.decode(data)
            file.seek(0)
            file.write(old._replace(flags=old.flags | FLAG_HANDED).encode())
            os.fsync(file.fileno())
    except OSError as error:
        raise SnapshotError(
            f"cannot mark {path} as handed over: {error.strerror or error}"
        ) from error
