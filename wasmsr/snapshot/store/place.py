"""What a store needs of the place where its files are: a folder here, or one of an object store."""

from __future__ import annotations

from contextlib import AbstractContextManager
from typing import Literal, Protocol

from wasmsr.errors import FormatError, VersionError

FORMAT = b"wasmsr store 2\n"
"""Content of the file `format`."""
PACKS = "packs"
"""The folder of packs and indexes."""
NAMES = "names"
"""The folder of manifests."""
LockMode = Literal["read", "write", "names", "alone"]
"""What a lock is for. `alone`, for the removal of pieces, excludes all others. `names`, for the
removal of a name, excludes itself: of two that remove one name, the second finds it gone."""


class StorePlace(Protocol):
    """The files of a store, by names with slashes.

    Attributes:
        path: The place, for messages and to name files in it.
        grows: Whether an existing file can be appended to.
    """

    path: str
    grows: bool

    def place(self, name: str) -> str:
        """Return the path or the address of a file."""

    def inside(self, path: str) -> bool:
        """Return whether a file of this host is in the store."""

    def locked(self, mode: LockMode) -> AbstractContextManager[None]:
        """Hold the store's lock; wait for it."""

    def listed(self, folder: str, suffix: str) -> list[str]:
        """Return the names, without suffix, of the files in a folder that have it; sorted."""

    def size(self, name: str) -> int | None:
        """Return the length of a file in bytes; None if there is none."""

    def read(self, name: str, limit: int) -> bytes:
        """Return a whole file. Raises FormatError if it has more than `limit` bytes."""

    def read_at(self, name: str, offset: int, length: int) -> bytes:
        """Return bytes of a file; fewer where it ends."""

    def write(self, name: str, data: bytes, *, replace: bool = True) -> bool:
        """Write a file, which appears whole or not at all, and lasts.

        Returns:
            Whether it was written; False if it is there and must not be replaced.
        """

    def remove(self, name: str, *, lasting: bool = False) -> None:
        """Remove a file if it is there.

        Args:
            name: The file.
            lasting: Whether it stays removed when the host loses its power.
        """

    def append_to(self, name: str, *, new: bool) -> int | None:
        """Open a file to append to it; nobody else appends until it is closed.

        Returns:
            A number for the calls below, or None if another writer has the file or it is gone.
        """

    def append(self, number: int, data: bytes) -> None:
        """Append bytes to a file that `append_to` has opened."""

    def sync(self, number: int) -> None:
        """Make what was appended last."""

    def close(self, number: int) -> None:
        """Close a file that `append_to` has opened."""

    def tidy(self) -> int:
        """Remove files that writers left when they were killed; return their number."""


def check_format(found: bytes, said: str) -> None:
    """Compare the content of a store's file `format` with ours.

    Raises:
        FormatError: It is no store.
        VersionError: It is a store of another version.
    """
    if not found.startswith(b"wasmsr store "):
        raise FormatError(f"{said} is no store of snapshots: its file format says otherwise")
    if found != FORMAT:
        raise VersionError(
            f"{said} is a store of another version", hint="use the wasmsr that wrote it"
        )


__all__ = ["FORMAT", "NAMES", "PACKS", "LockMode", "StorePlace", "check_format"]
