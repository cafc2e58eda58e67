"""Folders of results, copied and packed. A program has made them: links in them are kept as links,
and none is followed; they can be deeper than a path is long."""

from __future__ import annotations

import errno
import os
import stat
import tarfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import IO

from wasmsr.wasi.filesystem import tree_walk

PIECE = 1 << 20
"""Bytes that are copied at once."""

Take = Callable[[tuple[bytes, ...], int, os.stat_result], None]
"""Gets the path of an entry as parts, a descriptor of the folder it is in, and its status."""


def each(root: int, take: Take) -> None:
    """Call `take` for all files, folders and links below an open folder, folders first.

    Raises:
        OSError: Something cannot be read.
    """
    parts: list[bytes] = []

    def visit(directory: int) -> Iterable[bytes]:
        below = []
        for entry in sorted(tree_walk.entries(directory), key=lambda one: one.name):
            name = os.fsencode(entry.name)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            take((*parts, name), directory, status)
            if stat.S_ISDIR(status.st_mode):
                below.append(name)
        return reversed(below)

    def enter(directory: int, name: bytes) -> int:
        found = tree_walk.quietly(directory, name)
        parts.append(name)
        return found

    def left(directory: int, name: bytes) -> None:
        parts.pop()

    tree_walk.walk(root, lambda directory: list(visit(directory)), enter, left)


def opened(directory: int, name: bytes) -> IO[bytes]:
    """Open a file there to be read; never a link."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return open(os.open(name, flags, dir_fd=directory), "rb")


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

            each(from_, take)
    finally:
        os.close(from_)
        os.close(to)


def _copy_file(directory: int, above: int, name: bytes, status: os.stat_result) -> None:
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    made = os.open(name, flags, 0o600 | stat.S_IMODE(status.st_mode), dir_fd=above)
    with opened(directory, name) as source, open(made, "wb") as file:
        while piece := source.read(PIECE):
            file.write(piece)
        file.flush()
        os.utime(file.fileno(), ns=(status.st_mtime_ns, status.st_mtime_ns))
        os.fsync(file.fileno())


def pack(source: Path, target: Path, most: int | None = None) -> None:
    """Pack a folder into a tar archive with gzip. Owners are left out.

    Args:
        source: The folder.
        target: The archive.
        most: Files, folders and links that it may have; None for any number.

    Raises:
        OSError: It cannot be read or written, or has more of them.
    """
    root, count = folder_of(source), 0
    try:
        with tarfile.open(target, "w:gz", format=tarfile.PAX_FORMAT, compresslevel=6) as archive:

            def take(parts: tuple[bytes, ...], directory: int, status: os.stat_result) -> None:
                nonlocal count
                count += 1
                if most is not None and count > most:
                    raise OSError(errno.EFBIG, f"it has more than {most} files and folders")
                item = tarfile.TarInfo(os.fsdecode(b"/".join(parts)))
                item.mode, item.mtime = stat.S_IMODE(status.st_mode), int(status.st_mtime)
                if stat.S_ISDIR(status.st_mode):
                    item.type = tarfile.DIRTYPE
                    archive.addfile(item)
                elif stat.S_ISLNK(status.st_mode):
                    item.type = tarfile.SYMTYPE
                    item.linkname = os.fsdecode(os.readlink(parts[-1], dir_fd=directory))
                    archive.addfile(item)
                elif stat.S_ISREG(status.st_mode):
                    with opened(directory, parts[-1]) as file:
                        item.size = os.fstat(file.fileno()).st_size
                        archive.addfile(item, file)

            each(root, take)
    finally:
        os.close(root)


__all__ = ["copy", "each", "folder_of", "opened", "pack"]
