"""Folders of results, copied and packed. A program has made them: links in them are kept as links,
and none is followed; they can be deeper than a path is long."""

from __future__ import annotations

import os
import stat
import tarfile
from pathlib import Path

from wasmsr.wasi.filesystem import archives, tree_walk

PIECE = 1 << 20
"""Bytes that are copied at once."""


def folder_of(path: Path) -> int:
    """Return a descriptor of a folder. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def copy(source: Path, target: Path) -> None:
    """Copy a folder to a path that is free, with modes of files and times, synced.

    Raises:
        OSError: It cannot be read or written.
    """
    target.mkdir(mode=0o700)
    from_, to = folder_of(source), folder_of(target)
    try:
        with tree_walk.Cursor(to) as cursor:

            def take(parts: tuple[bytes, ...], directory: int, status: os.stat_result) -> None:
                above, name = cursor.at(parts[:-1]), parts[-1]
                if stat.S_ISDIR(status.st_mode):
                    os.mkdir(name, 0o700, dir_fd=above)
                elif stat.S_ISLNK(status.st_mode):
                    os.symlink(os.readlink(name, dir_fd=directory), name, dir_fd=above)
                elif stat.S_ISREG(status.st_mode):
                    _copy_file(directory, above, name, status)

            tree_walk.each(from_, take)
    finally:
        os.close(from_)
        os.close(to)


def _copy_file(directory: int, above: int, name: bytes, status: os.stat_result) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, flags, 0o600 | stat.S_IMODE(status.st_mode), dir_fd=above)
    with tree_walk.opened(directory, name) as source, open(made, "wb") as file:
        while piece := source.read(PIECE):
            file.write(piece)
        file.flush()
        os.utime(file.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
        os.fsync(file.fileno())


def pack(source: Path, target: Path) -> None:
    """Pack a folder into a tar archive with gzip. Owners are left out.

    Raises:
        OSError: It cannot be read or written.
    """
    root = folder_of(source)
    try:
        with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=6) as archive:
            archives.pack(root, archive)
    finally:
        os.close(root)


__all__ = ["copy", "folder_of", "pack"]
