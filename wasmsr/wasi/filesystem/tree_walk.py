"""Directory trees of any depth, walked with one open directory at a time, and removed.

A program, an archive or a snapshot chooses how deep a tree is. It can be deeper than Python's
recursion, than a path is long and than a process has descriptors. So the walk goes down by name and
up by `..`, and checks that `..` leads back to where it came from. The walk follows no link and uses
no path, so it touches nothing outside of the tree, whatever others do to the tree meanwhile.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import IO, Final

_DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_PATH: Final = getattr(os, "O_PATH", 0)
_NO_ATIME: Final = getattr(os, "O_NOATIME", 0)


def walk(
    root: int,
    visit: Callable[[int], Iterable[bytes]],
    enter: Callable[[int, bytes], int] | None = None,
    left: Callable[[int, bytes], None] | None = None,
) -> None:
    """Go through the directory `root` (a host descriptor, which stays the caller's) and all below.

    Args:
        visit: called with a host descriptor of each directory when it is entered; gives the names
            of those in it that are to be entered too.
        enter: opens one of these, in the directory of that descriptor. What it cannot open (it
            raises OSError) is left out.
        left: called with a directory's descriptor and the name of one in it that is finished.

    Raises:
        OSError: the tree was moved meanwhile, or what a function raises.
    """
    enter = enter or quietly
    here = os.dup(root)
    try:
        todo = [list(visit(here))]
        above: list[tuple[int, int, bytes]] = []
        while True:
            if todo[-1]:
                name = todo[-1].pop()
                status = os.fstat(here)
                try:
                    below = enter(here, name)
                except OSError:
                    continue
                above.append((status.st_dev, status.st_ino, name))
                os.close(here)
                here = below
                todo.append(list(visit(here)))
                continue
            todo.pop()
            if not above:
                return
            device, inode, name = above.pop()
            up = os.open(b"..", _DIRECTORY, dir_fd=here)
            os.close(here)
            here = up
            status = os.fstat(here)
            if (status.st_dev, status.st_ino) != (device, inode):
                raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))
            if left is not None:
                left(here, name)
    finally:
        os.close(here)


class Cursor:
    """An open directory below `root`, which goes from path to path by the steps between them: as
    cheap as it can be where paths come in their order, at any depth.

    No link is followed. Use as a context manager, or call `close`.
    """

    def __init__(self, root: int, *, make: int | None = None) -> None:
        """`make`: permissions with which a directory that is missing is made; None: it is not."""
        self._root = root
        self._make = make
        self._here = -1
        self._parts: list[bytes] = []
        self._above: list[tuple[int, int]] = []

    def __enter__(self) -> Cursor:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the directories that are open."""
        if self._here >= 0:
            os.close(self._here)
        self._here = -1
        self._parts.clear()
        self._above.clear()

    def at(self, parts: Sequence[bytes]) -> int:
        """Return a host descriptor of the directory at that path, good until the next call.

        Raises:
            OSError: There is none.
        """
        shared = 0
        for one, other in zip(self._parts, parts, strict=False):
            if one != other:
                break
            shared += 1
        if self._here < 0 or len(self._parts) - shared > shared:
            self.close()  # it is nearer from the root
            self._here, shared = os.dup(self._root), 0
        while len(self._parts) > shared:
            self._up()
        for part in parts[shared:]:
            self._down(part)
        return self._here

    def _down(self, part: bytes) -> None:
        try:
            below = os.open(part, _DIRECTORY, dir_fd=self._here)
        except FileNotFoundError:
            if self._make is None:
                raise
            os.mkdir(part, self._make, dir_fd=self._here)
            below = os.open(part, _DIRECTORY, dir_fd=self._here)
        status = os.fstat(self._here)
        self._above.append((status.st_dev, status.st_ino))
        self._parts.append(part)
        self._move(below)

    def _up(self) -> None:
        self._move(os.open(b"..", _DIRECTORY, dir_fd=self._here))
        self._parts.pop()
        status = os.fstat(self._here)
        if (status.st_dev, status.st_ino) != self._above.pop():
            self.close()
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    def _move(self, directory: int) -> None:
        os.close(self._here)
        self._here = directory


def entries(directory: int) -> Iterator[os.DirEntry[str]]:
    """Yield the entries of an open directory.

    Raises:
        OSError: It cannot be read.
    """
    with os.scandir(directory) as found:
        yield from found


def quietly(directory: int, name: bytes) -> int:
    """Open the directory `name` there to be read, leaving its access time alone where the host
    allows that. Raises OSError."""
    try:
        found = os.open(name, _DIRECTORY | _NO_ATIME, dir_fd=directory)
    except PermissionError:
        # Only a file's owner may do that.
        found = os.open(name, _DIRECTORY, dir_fd=directory)
    if os.geteuid() and not os.fstat(found).st_mode & stat.S_IXUSR:
        # The directory could be listed, but neither its files nor the way back could be found.
        os.close(found)
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return found


Take = Callable[[tuple[bytes, ...], int, os.stat_result], None]
"""Gets the path of an entry as parts, a descriptor of the folder it is in, and its status."""


def each(root: int, take: Take) -> None:
    """Call `take` for all files, folders and links below an open folder, folders first.

    Raises:
        OSError: Something cannot be read. A folder that cannot be opened is named when all that can
            be read was taken: nobody is to think that it was empty.
    """
    parts: list[bytes] = []
    failed: list[OSError] = []

    def visit(directory: int) -> list[bytes]:
        below = []
        for entry in sorted(entries(directory), key=lambda one: one.name):
            name = os.fsencode(entry.name)
            status = os.stat(name, dir_fd=directory, follow_symlinks=False)
            take((*parts, name), directory, status)
            if stat.S_ISDIR(status.st_mode):
                below.append(name)
        return below[::-1]

    def enter(directory: int, name: bytes) -> int:
        try:
            found = quietly(directory, name)
        except OSError as error:
            failed.append(error)
            raise
        parts.append(name)
        return found

    def left(directory: int, name: bytes) -> None:
        parts.pop()

    walk(root, visit, enter, left)
    if failed:
        raise failed[0]


def sync(root: int) -> int:
    """Have all that is below an open folder on the disk; return how many bytes its files have.

    Raises:
        OSError: Something cannot be read or written.
    """
    size = 0

    def take(parts: tuple[bytes, ...], directory: int, status: os.stat_result) -> None:
        nonlocal size
        if stat.S_ISREG(status.st_mode):
            size += status.st_size
            with opened(directory, parts[-1]) as file:
                os.fsync(file.fileno())
        elif stat.S_ISDIR(status.st_mode):
            below = quietly(directory, parts[-1])
            try:
                os.fsync(below)
            finally:
                os.close(below)

    each(root, take)
    os.fsync(root)
    return size


def opened(directory: int, name: bytes) -> IO[bytes]:
    """Open a file there to be read; never a link. Raises OSError."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
    return open(os.open(name, flags, dir_fd=directory), "rb")


def clear(root: int, *, check: Callable[[], object] | None = None) -> None:
    """Remove everything in an open directory, even without the permission to write there.

    `check`: called for each directory; it may raise OSError to stop. What cannot be removed stays,
    and what it is in, and what is mounted there. Raises OSError only if the tree is moved
    meanwhile, or what `check` raises.
    """
    device = os.fstat(root).st_dev

    def visit(directory: int) -> list[bytes]:
        if check is not None:
            check()
        found: list[bytes] = []
        with suppress(OSError):
            _allow(directory)
        with suppress(OSError):
            for entry in list(entries(directory)):
                name = os.fsencode(entry.name)
                if entry.is_dir(follow_symlinks=False):
                    found.append(name)
                else:
                    with suppress(OSError):
                        os.unlink(name, dir_fd=directory)
        return found

    def left(directory: int, name: bytes) -> None:
        with suppress(OSError):
            os.rmdir(name, dir_fd=directory)

    walk(root, visit, lambda directory, name: _enter(directory, name, device), left)


def remove(path: Path) -> None:
    """Remove a directory and all in it; a link there is left alone. What cannot be removed stays.

    The directory above is only asked to forget the name.
    """
    with suppress(OSError):
        above = os.open(path.parent, _PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            root = _enter(above, os.fsencode(path.name), None)
        finally:
            os.close(above)
        try:
            clear(root)
            forget(path, root)
        finally:
            os.close(root)


def forget(path: Path, root: int) -> None:
    """Remove the empty directory `path` if it is the one that is open as `root`. Raises OSError."""
    if os.path.samestat(os.lstat(path), os.fstat(root)):
        os.rmdir(path)


def _allow(directory: int) -> None:
    """See that its owner may do all in an open directory. Raises OSError."""
    mode = stat.S_IMODE(os.fstat(directory).st_mode)
    if mode & stat.S_IRWXU != stat.S_IRWXU:
        os.chmod(directory, mode | stat.S_IRWXU)


def _enter(directory: int, name: bytes, device: int | None) -> int:
    """Open a directory that is to be removed, by a right that is given to it first if need be.
    `device`: it must be there (EXDEV), None for any. Raises OSError."""
    try:
        found = os.open(name, _DIRECTORY, dir_fd=directory)
    except PermissionError:
        if not _PATH:
            raise
        found = os.open(name, _PATH | _DIRECTORY, dir_fd=directory)
    try:
        status = os.fstat(found)
        if device not in (None, status.st_dev):
            raise OSError(errno.EXDEV, os.strerror(errno.EXDEV))
        if status.st_mode & stat.S_IRWXU != stat.S_IRWXU and _PATH:
            # By a descriptor: by its name another file could be meant by then.
            os.chmod(f"/proc/self/fd/{found}", stat.S_IMODE(status.st_mode) | stat.S_IRWXU)
        return os.open(b".", _DIRECTORY, dir_fd=found)
    finally:
        os.close(found)
