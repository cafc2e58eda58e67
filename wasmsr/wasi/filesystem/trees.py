"""The files of one mount, as the path calls see them: places found by path, and listings.

A tree finds places (`Location`) and lists directories. An open file is a host descriptor in every
kind of tree, so the calls on descriptors need no tree. This file has the directories of the host as
they are; `memory_tree` and `overlay` have the other kinds.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping
from threading import Lock

from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem.path_resolution import Location
from wasmsr.wasi.streams.descriptor import FileKind, kind_of

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.wasi.filesystem.open_files import Directory, RegularFile, WriteWatch
    from wasmsr.wasi.filesystem.private_folders import PrivateFolder

Listing = list[tuple[bytes, int, int]]
"""A listing: name, inode and kind of each entry."""
OverlayLayers = list[tuple[bytes, bytes, list[bytes]]]
"""Of an overlay: path of a directory in the upper layer, path below the base of what it covers, and
the names there that are not to be seen."""


FileSignature = tuple[int, int, int, int]
"""Inode, size, modification and change time in ns, by which an unchanged file is known."""
KnownFiles = dict[bytes, tuple[FileSignature, bytes]]
"""Path of a file: its signature when it was read last, and its chunks."""


class MountTree:
    """A directory of the host. `root` is its descriptor, open until `close`; `mode` the mount's."""

    digest: bytes | None = None
    """Of the archive that it was unpacked from."""

    def __init__(self, root: int, mode: str = "host", private: PrivateFolder | None = None) -> None:
        """`private`: the folder of which `root` is the descriptor, to vanish on `close`."""
        self.root = root
        self.mode = mode
        self.private = private
        self.known: KnownFiles = {}
        """The files that the last capture read. Files that look the same are not read again."""
        self.inodes: dict[tuple[int, int], bytes] = {}
        """The path at which that capture found each inode."""
        self.watch: WriteWatch | None = None
        """Hears of writes to files of the tree while the program leaves."""
        self._holders = 1
        self._counting = Lock()

    def share(self) -> MountTree:
        """Return the tree for one more process, which closes it too.

        Only trees to be read, and folders of the host as they are, can be shared.
        """
        with self._counting:
            self._holders += 1
        return self

    @property
    def base(self) -> MountTree:
        """The tree that can be shared: of an overlay the one below, otherwise this one."""
        return self

    @property
    def folder(self) -> int:
        """Host descriptor of the folder of the host that was given for the mount."""
        return self.root

    def locate(self, directory: int, path: bytes) -> Location:
        """Where `path` leads from an open directory of this tree, and what can be done there."""
        return Location(directory, path)

    def list(self, directory: int) -> Listing:
        """Return `.` and `..`, then the names in the order of their bytes."""
        found = sorted(listing(directory))
        own = os.fstat(directory).st_ino
        # The program gets no inode of the directory above, which may be outside.
        return [(b".", own, 3), (b"..", 0, 3), *found]

    def opened(self, file: RegularFile) -> None:
        """Note that the program has this file of the tree open."""
        file.watch = self.watch

    def touched(self, descriptor: RegularFile | Directory) -> None:
        """Prepare for a change of the attributes of something open."""

    def layers_at(self, inodes: Mapping[tuple[int, int], bytes]) -> OverlayLayers:
        """Return what ties an overlay to its base.

        Args:
            inodes: Where each directory is.
        """
        return []

    def put_layers(self, layers: OverlayLayers) -> None:
        """Tie an overlay to its base again, when its upper layer is in its place."""

    def close(self) -> None:
        """Close the tree; a private folder vanishes. The last of several processes closes it."""
        with self._counting:
            self._holders -= 1
            if self._holders:
                return
        if self.private is not None:
            self.private.close()
        else:
            os.close(self.root)


def listing(directory: int) -> Iterator[tuple[bytes, int, int]]:
    """Return name, inode and kind of each entry of a directory of the host, in no order."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                kind = int(FileKind.REGULAR_FILE)
            elif entry.is_dir(follow_symlinks=False):
                kind = int(FileKind.DIRECTORY)
            elif entry.is_symlink():
                kind = int(FileKind.SYMBOLIC_LINK)
            else:
                try:
                    kind = int(kind_of(entry.stat(follow_symlinks=False).st_mode))
                except FileNotFoundError:
                    continue
            yield os.fsencode(entry.name), entry.inode(), kind


class ReadOnlyLocation(Location):
    """A place where nothing can be changed: EROFS, as on a file system mounted read-only."""

    def _open_here(self, flags: int) -> int:
        writing = flags & (os.O_ACCMODE | os.O_CREAT | os.O_TRUNC)
        if not writing:
            return super()._open_here(flags)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            self._refuse_new()
        try:
            host = super()._open_here(flags & ~(os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        except FileNotFoundError:
            if flags & os.O_CREAT:
                raise CallError(errno.EROFS) from None
            raise
        try:
            mode = os.fstat(host).st_mode
            if stat.S_ISDIR(mode):
                raise CallError(errno.EISDIR)
            if writing != os.O_CREAT:
                if stat.S_ISREG(mode):
                    raise CallError(errno.EROFS)
                # A device is written to, not the file system that its name is in.
                again = flags & ~(os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
                return os.open(f"/proc/self/fd/{host}", again)
            host, kept = -1, host
            return kept
        finally:
            if host >= 0:
                os.close(host)

    def mkdir(self) -> None:
        """Fail: nothing can be made here."""
        self._refuse_new()

    def symlink(self, content: bytes) -> None:
        """Fail: nothing can be made here."""
        self.for_new()
        self._refuse_new()

    def _refuse_new(self) -> None:
        try:
            self.look()
        except FileNotFoundError:
            raise CallError(errno.EROFS) from None
        raise CallError(errno.EEXIST)

    def rmdir(self) -> None:
        """Fail: nothing can be removed here."""
        raise CallError(errno.EINVAL if self.name == b"." else errno.EROFS)

    def unlink(self) -> None:
        """Fail: nothing can be removed here."""
        raise CallError(errno.EISDIR if self.name == b"." else errno.EROFS)

    def set_times(self, access: int | None, modification: int | None) -> None:
        """Fail: nothing can be changed here."""
        raise CallError(errno.EROFS)

    def link_to(self, new: Location) -> None:
        """Fail: nothing can be made here."""
        self.look()
        new.symlink(b"")

    def rename_to(self, new: Location) -> None:
        """Fail: nothing can be changed here."""
        raise CallError(errno.EBUSY if b"." in (self.name, new.name) else errno.EROFS)


class InputLocation(ReadOnlyLocation):
    """A place in an input of a job: opening for writing succeeds, and then a write is EBADF.

    The programs of jobs are used to it: the file systems of Bacalhau open every file to read it.
    """

    def _open_here(self, flags: int) -> int:
        if flags & os.O_CREAT and flags & os.O_EXCL:
            self._refuse_new()
        writing = flags & (os.O_ACCMODE | os.O_TRUNC)
        host = super()._open_here(flags & ~(os.O_ACCMODE | os.O_CREAT | os.O_EXCL | os.O_TRUNC))
        if writing and stat.S_ISDIR(os.fstat(host).st_mode):
            os.close(host)
            raise CallError(errno.EISDIR)
        return host

    def _refuse_new(self) -> None:
        self.look()
        raise CallError(errno.EEXIST)


class ReadOnlyTree(MountTree):
    """A directory of the host, or an unpacked archive, to be read only."""

    def touched(self, descriptor: RegularFile | Directory) -> None:
        """Fail: nothing can be changed here."""
        raise CallError(errno.EROFS)

    def locate(self, directory: int, path: bytes) -> Location:
        """Return where a path leads; nothing can be changed there."""
        return ReadOnlyLocation(directory, path)


class InputTree(ReadOnlyTree):
    """The inputs of a job; see `InputLocation`."""

    def locate(self, directory: int, path: bytes) -> Location:
        """Return where a path leads; nothing can be changed there."""
        return InputLocation(directory, path)
