"""The file of a state that is written while it arrives, under its own name from the beginning.

So only its data remain to be synced when all of it is there. Until then its header is missing, and
no record names it.
"""

from __future__ import annotations

import os
import time
from contextlib import suppress
from pathlib import Path

from wasmsr.migrate.journal.durable import cannot, private, sync_folder
from wasmsr.migrate.protocol import JournalError
from wasmsr.snapshot.encoding.container import MAGIC


class ImageFile:
    """A new file, empty at first. Its name is on the disk from the beginning.

    Args:
        path: Its place. A file that is there is removed.

    Attributes:
        name: Its name in the journal's folder.
        fd: A descriptor, open for reading and writing until `commit` or `discard`.

    Raises:
        JournalError: It cannot be made.
    """

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._path = path
        self.fd = -1
        try:
            path.unlink(missing_ok=True)
            self.fd = private(str(path), os.O_RDWR | os.O_CREAT | os.O_EXCL)
            sync_folder(path.parent)
        except OSError as error:
            self.discard()
            raise cannot("be written", path, error) from error

    def small_sync(self) -> float:
        """Return the seconds of a small write and its sync, while there is no header yet.

        Raises:
            JournalError: The disk does not take it.
        """
        began = time.monotonic()
        try:
            os.pwrite(self.fd, b"\0", 0)
            os.fdatasync(self.fd)
        except OSError as error:
            raise cannot("be written", self._path, error) from error
        return time.monotonic() - began

    def commit(self) -> Path:
        """Bring all to the disk and close the file; return its place.

        Raises:
            JournalError: The disk fails, or the file was given up or is no snapshot. `discard`
                removes it.
        """
        if self.fd < 0:
            raise JournalError(f"{self._path} was given up before it was complete")
        try:
            os.fdatasync(self.fd)
            # No record may name a file in which no program is.
            complete = os.pread(self.fd, len(MAGIC), 0) == MAGIC
        except OSError as error:
            raise cannot("be written", self._path, error) from error
        if not complete:
            raise JournalError(f"{self._path} is not complete")
        self._close()
        return self._path

    def discard(self) -> None:
        """Close and remove the file; after `commit`, or again, this does nothing."""
        if self.fd < 0:
            return
        with suppress(OSError):
            mine, there = os.fstat(self.fd), os.lstat(self._path)
            if os.path.samestat(mine, there):  # and no later attempt's
                self._path.unlink()
        self._close()

    def _close(self) -> None:
        file, self.fd = self.fd, -1
        os.close(file)


def is_complete(path: Path) -> bool:
    """Return whether a file begins as a snapshot. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return file.read(len(MAGIC)) == MAGIC


__all__ = ["ImageFile", "is_complete"]
