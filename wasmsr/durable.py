"""Small files that are whole and on the disk when a call returns, or are not there at all.

Each function writes a part beside the file, syncs it, gives it the file's name and syncs the
folder. All raise OSError. The writers of large files have code of their own: they sync as they go.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

LONGEST = 200
"""Characters of a file's name that its part repeats."""


def replace(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file, or give it other content."""
    part = _written_part(path, data, mode)
    try:
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def create(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Write a file that is not there yet. Raises FileExistsError if another process was first."""
    part = _written_part(path, data, mode)
    try:
        os.link(part, path)  # unlike a rename, it replaces nothing
    finally:
        part.unlink(missing_ok=True)
    sync_folder(path.parent)


def _written_part(path: Path, data: bytes, mode: int) -> Path:
    part = path.with_name(f".{path.name[:LONGEST]}.{os.urandom(8).hex()}.part")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
    try:
        with open(os.open(part, flags, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return part


def sync_folder(folder: Path) -> None:
    """Make the names in a folder last. Some file systems cannot; the files are safe even so."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
