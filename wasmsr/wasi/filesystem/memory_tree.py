"""A tree of files in the host's memory, with a limit: mounts of mode `mem`."""

from __future__ import annotations

import errno
import os
import stat

from wasmsr.errors import WasiConfigError
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem import tree_walk
from wasmsr.wasi.filesystem.mounts import Content
from wasmsr.wasi.filesystem.path_resolution import Location
from wasmsr.wasi.filesystem.private_folders import PrivateFolder
from wasmsr.wasi.filesystem.trees import MountTree

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from wasmsr.wasi.filesystem.open_files import RegularFile
ENTRY_COST: Final = 4096
"""Bytes that a name counts for in a tree in memory."""


class MemoryTree(MountTree):
    """A private directory with a limit, in the host's memory if the host supports that."""

    def __init__(self, limit: int) -> None:
        from weakref import WeakSet

        private = PrivateFolder(memory=True)
        super().__init__(private.root, "mem", private)
        self.limit = self._room = limit
        self._open: WeakSet[RegularFile] = WeakSet()

    def locate(self, directory: int, path: bytes) -> Location:
        """Return the place of a path; files that are made there count."""
        return _MemoryLocation(self, directory, path)

    def opened(self, file: RegularFile) -> None:
        """Count the bytes that are written to the file."""
        super().opened(file)
        file.charged = self
        self._open.add(file)

    def charge(self, size: int) -> None:
        """Count bytes that are about to be written.

        Raises:
            CallError: ENOSPC, if that is too much.
        """
        self._room -= size
        if self._room >= 0:
            return
        # The count so far is an upper bound, and does not have removed files yet. So count again.
        self._room = self.limit - self._used() - size
        if self._room < 0:
            self._room += size
            raise CallError(errno.ENOSPC)

    def _used(self) -> int:
        """Bytes that the tree takes, with open files whose names were removed."""
        used = 0
        seen: set[int] = set()
        found = [os.fstat(file.host) for file in self._open if file.host >= 0]

        def visit(directory: int) -> list[bytes]:
            nonlocal used
            below: list[bytes] = []
            for entry in tree_walk.entries(directory):
                used += ENTRY_COST
                if entry.is_dir(follow_symlinks=False):
                    below.append(os.fsencode(entry.name))
                else:
                    found.append(entry.stat(follow_symlinks=False))
            return below

        tree_walk.walk(self.root, visit)
        for result in found:
            if result.st_ino not in seen:
                seen.add(result.st_ino)
                used += result.st_blocks * 512
        return used


class _MemoryLocation(Location):
    """A place where every new name is counted."""

    def __init__(self, tree: MemoryTree, directory: int, path: bytes) -> None:
        self._tree = tree
        super().__init__(directory, path)

    def open(self, flags: int, follow: bool) -> int:
        if flags & os.O_CREAT:
            self._tree.charge(ENTRY_COST)
        return super().open(flags, follow)

    def mkdir(self) -> None:
        self._tree.charge(ENTRY_COST)
        super().mkdir()

    def symlink(self, content: bytes) -> None:
        self._tree.charge(ENTRY_COST + len(content))
        super().symlink(content)

    def link_to(self, new: Location) -> None:
        self._tree.charge(ENTRY_COST)
        super().link_to(new)


def fill(tree: MemoryTree, files: Content) -> None:
    """Put the files of a library's user into a new tree. Raises WasiConfigError, OSError."""
    for name, content in files.items():
        parts = [part for part in os.fsencode(name).split(b"/") if part not in (b"", b".")]
        if not parts or b".." in parts:
            raise WasiConfigError(f"not a path below a mount: {name!r}")
        try:
            for depth in range(1, len(parts)):
                with tree.locate(tree.root, b"/".join(parts[:depth])) as location:
                    if not _is_directory(location):
                        _put(location, None, tree)
            with tree.locate(tree.root, b"/".join(parts)) as location:
                _put(location, content, tree)
        except CallError as error:
            raise WasiConfigError(
                f"{name!r} cannot be made in memory: {errno.errorcode[error.errno][1:]}"
            ) from error


def _is_directory(location: Location) -> bool:
    try:
        return stat.S_ISDIR(location.stat(follow=True).st_mode)
    except FileNotFoundError:
        return False


def _put(location: Location, content: bytes | str | None, tree: MemoryTree) -> None:
    if content is None:
        try:
            location.mkdir()
        except OSError as error:
            if error.errno != errno.EEXIST or not location.is_directory():
                raise
        return
    raw = content.encode() if isinstance(content, str) else content
    tree.charge(len(raw))
    with open(location.open(os.O_WRONLY | os.O_CREAT | os.O_TRUNC, False), "wb") as file:
        file.write(raw)
