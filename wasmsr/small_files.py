"""Small files that matter: keys, ids, records. Read with a limit, written whole or not at all.

`replace` and `create` write a part beside the file, sync it, give it the file's name and sync the
folder. All functions raise OSError. The writers of large files have code of their own: they sync as
they go.
"""

from __future__ import annotations

import errno
import os
import stat
from contextlib import suppress
from pathlib import Path

LONGEST = 200
"""Characters of a file's name that its part repeats."""


def read(path: Path | str, most: int) -> tuple[bytes, os.stat_result]:
    """Return at most `most` + 1 bytes of a regular file, and its status.

    A pipe or a device is refused, and the call never waits for one.
    """
    flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    with open(os.open(path, flags), "rb", buffering=0) as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file")
        data = b""
        while len(data) <= most and (more := file.read(most + 1 - len(data))):
            data += more
        return data, status


def is_open_to_others(status: os.stat_result) -> bool:
    """Return whether other users can use a file of this user.

    A file of another owner is not this user's to close: a container engine puts secrets there so.
    """
    return status.st_uid == os.geteuid() and bool(status.st_mode & 0o077)


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
