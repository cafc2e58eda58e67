"""Files that are on the disk when a call returns, and the error where they cannot be."""

from __future__ import annotations

import os
from pathlib import Path

from wasmsr.migrate.protocol import JournalError


def private(path: str, flags: int) -> int:
    """Open a file that only its owner may read: an opener for `open`."""
    return os.open(path, flags | os.O_CLOEXEC, 0o600)


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Raises OSError."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def replace_file(path: Path, data: bytes) -> None:
    """Give a file other content, all of it or nothing. Raises OSError."""
    part = path.with_name(path.name + ".part")
    with open(part, "wb", opener=private) as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(part, path)
    sync_folder(path.parent)


def cannot(verb: str, path: Path, error: OSError, more: str = "") -> JournalError:
    """Return the error for a file that cannot be used.

    Args:
        verb: What cannot be done, as "be written".
        path: The file.
        error: Why.
        more: What else there is to say.
    """
    return JournalError(
        f"{path} cannot {verb}: {error.strerror or error}{more}",
        hint="--state-dir FOLDER keeps decisions and states in another folder",
    )


__all__ = ["cannot", "private", "replace_file", "sync_folder"]
