"""Makes mapped files: they appear complete, nobody may write them, and a record admits them."""

from __future__ import annotations

import os
import stat
from typing import NamedTuple

from wasmsr.errors import DigestError, SnapshotError, printable
from wasmsr.snapshot.encoding.mapped_writer import write_mapped
from wasmsr.snapshot.format import appear
from wasmsr.snapshot.mapped.admission import admit
from wasmsr.snapshot.spaces.space_pages import Written
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.trust.policy import WRITE_PLAIN, WriteTrust

_READ = stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH


class SavedMapped(NamedTuple):
    """What was written.

    Attributes:
        size: Length of the file in bytes, holes included.
        written: The digests of the snapshot.
        admitted: Whether the file has an admission record, so that it can be mapped.
    """

    size: int
    written: Written
    admitted: bool


def save_mapped(
    state: SnapshotState,
    path: str | os.PathLike[str],
    *,
    handed: bool = False,
    root: bytes | None = None,
    readers: int = stat.S_IRUSR,
    trust: WriteTrust = WRITE_PLAIN,
) -> SavedMapped:
    """Write a mapped snapshot, which appears complete or not at all, and admit it.

    Nobody may write the file, its owner included. A snapshot can hold secrets, so only its owner
    may read it unless `readers` says otherwise.

    Args:
        state: What to write.
        path: Name of the file. A file that is there is replaced; programs that map it keep it.
        handed: Mark the snapshot as handed over.
        root: The root digest that the snapshot must have; None for any.
        readers: Permissions of which the bits to read are taken.
        trust: Keys that sign.

    Raises:
        SnapshotError: The file could not be written; nothing of it is left.
        EncryptionError: It should be encrypted.
        UnportableState, FormatError: As `encode`.
        DigestError: It would have another root digest.
    """
    found: list[Written] = []

    def write(number: int) -> int:
        written = write_mapped(state, number, handed=handed, trust=trust)
        if root is not None and written.root != root:
            raise DigestError("the copy would have another root digest, so it is not kept")
        found.append(written)
        return os.fstat(number).st_size

    target = os.path.realpath(os.fspath(path))
    if os.path.lexists(target) and not os.path.isfile(target):
        raise SnapshotError(
            f"{printable(os.fspath(path))} is no regular file, so it cannot be a mapped snapshot",
            hint="name a file: --output FILE",
        )
    try:
        size = appear(write, target, mode=stat.S_IRUSR | readers & _READ)
    except OSError as error:
        raise SnapshotError(
            f"cannot write the snapshot to {printable(os.fspath(path))}: {error.strerror or error}",
            hint="nothing was left half-written; free some space or name another folder",
        ) from error
    return SavedMapped(size, found[0], admit(target, found[0].root))


__all__ = ["SavedMapped", "save_mapped"]
