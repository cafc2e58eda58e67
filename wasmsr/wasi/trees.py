"""The files of one mount, as the path calls see them: places found by path, and listings.

Between `mounts` (what was granted) and the calls. A tree finds places (`Location`) and lists
directories; what is open is a host descriptor in every kind of tree, so the calls on descriptors
know next to nothing of trees. `overlay` has the one kind that is not a directory of the host as it
is; `manifest` and `unpack` take trees to snapshots and back.
"""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Iterator, Mapping

from wasmsr.errors import WasiConfigError
from wasmsr.wasi.abi import Errno, Failure, FileType, file_type
from wasmsr.wasi.mounts import CARRY_LIMIT, Content, Mount
from wasmsr.wasi.resolve import Location

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

    from wasmsr.wasi.descriptors import Directory, File
    from wasmsr.wasi.manifest import Known
    from wasmsr.wasi.private import Private

Entries = list[tuple[bytes, int, int]]
"""A listing: name, inode and `filetype` of each entry."""
Layers = list[tuple[bytes, bytes, list[bytes]]]
"""Of an overlay: path of a directory in the upper layer, path below the base of what it covers, and
the names there that are not to be seen."""
SMALL_ARCHIVE: Final = 128 << 20
"""Bytes up to which an archive is unpacked into the host's memory."""
ENTRY_COST: Final = 4096
"""Bytes that a name counts for in a tree in memory."""


class Tree:
    """A directory of the host. `root` is its descriptor, open until `close`; `mode` the mount's."""

    digest: bytes | None = None
    """Of the archive that it was unpacked from."""

    def __init__(self, root: int, mode: str = "host", private: Private | None = None) -> None:
        """`private`: the folder of which `root` is the descriptor, to vanish on `close`."""
        self.root = root
        self.mode = mode
        self.private = private
        self.known: Known = {}
        """What the last capture read of files; those that look the same are not read again."""
        self.inodes: dict[tuple[int, int], bytes] = {}
        """Where it found each inode."""

    @property
    def folder(self) -> int:
        """Host descriptor of the folder of the host that was given for the mount."""
        return self.root

    def locate(self, directory: int, path: bytes) -> Location:
        """Where `path` leads from an open directory of this tree, and what can be done there."""
        return Location(directory, path)

    def list(self, directory: int) -> Entries:
        """`.` and `..`, then the names in the order of their bytes."""
        found = sorted(listing(directory))
        own = os.fstat(directory).st_ino
        # The inode above is nobody's business: the directory above may be outside.
        return [(b".", own, 3), (b"..", 0, 3), *found]

    def opened(self, file: File) -> None:
        """The program has this file of the tree open."""

    def touched(self, descriptor: File | Directory) -> None:
        """The attributes of something open are about to be changed."""

    def layers_at(self, inodes: Mapping[tuple[int, int], bytes]) -> Layers:
        """What ties an overlay to its base; `inodes`: where each directory is."""
        return []

    def put_layers(self, layers: Layers) -> None:
        """Tie an overlay to its base again, when its upper layer is in its place."""

    def close(self) -> None:
        if self.private is not None:
            self.private.close()
        else:
            os.close(self.root)


def listing(directory: int) -> Iterator[tuple[bytes, int, int]]:
    """Name, inode and `filetype` of what is in a directory of the host, in no order."""
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_file(follow_symlinks=False):
                kind = int(FileType.REGULAR_FILE)
            elif entry.is_dir(follow_symlinks=False):
                kind = int(FileType.DIRECTORY)
            elif entry.is_symlink():
                kind = int(FileType.SYMBOLIC_LINK)
            else:
                try:
                    kind = file_type(entry.stat(follow_symlinks=False).st_mode)
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
                raise Failure(Errno.ROFS) from None
            raise
        try:
            mode = os.fstat(host).st_mode
            if stat.S_ISDIR(mode):
                raise Failure(Errno.ISDIR)
            if writing != os.O_CREAT:
                if stat.S_ISREG(mode):
                    raise Failure(Errno.ROFS)
                # A device is written to, not the file system that its name is in.
                again = flags & ~(os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW)
                return os.open(f"/proc/self/fd/{host}", again)
            host, kept = -1, host
            return kept
        finally:
            if host >= 0:
                os.close(host)

    def mkdir(self) -> None:
        self._refuse_new()

    def symlink(self, content: bytes) -> None:
        self.for_new()
        self._refuse_new()

    def _refuse_new(self) -> None:
        try:
            self.look()
        except FileNotFoundError:
            raise Failure(Errno.ROFS) from None
        raise Failure(Errno.EXIST)

    def rmdir(self) -> None:
        raise Failure(Errno.INVAL if self.name == b"." else Errno.ROFS)

    def unlink(self) -> None:
        raise Failure(Errno.ISDIR if self.name == b"." else Errno.ROFS)

    def set_times(self, access: int | None, modification: int | None) -> None:
        raise Failure(Errno.ROFS)

    def link_to(self, new: Location) -> None:
        self.look()
        new.symlink(b"")

    def rename_to(self, new: Location) -> None:
        raise Failure(Errno.BUSY if b"." in (self.name, new.name) else Errno.ROFS)


class ReadOnlyTree(Tree):
    """A directory of the host, or an unpacked archive, to be read only."""

    def touched(self, descriptor: File | Directory) -> None:
        raise Failure(Errno.ROFS)

    def locate(self, directory: int, path: bytes) -> Location:
        return ReadOnlyLocation(directory, path)


class MemoryTree(Tree):
    """A private directory, in the host's memory where it has such, with a limit of its own."""

    def __init__(self, limit: int) -> None:
        from weakref import WeakSet

        from wasmsr.wasi.private import Private

        private = Private(memory=True)
        super().__init__(private.root, "mem", private)
        self.limit = self._room = limit
        self._open: WeakSet[File] = WeakSet()

    def locate(self, directory: int, path: bytes) -> Location:
        return _MemoryLocation(self, directory, path)

    def opened(self, file: File) -> None:
        file.charged = self
        self._open.add(file)

    def charge(self, size: int) -> None:
        self._room -= size
        if self._room >= 0:
            return
        # What was charged was an upper bound, and what was removed is not known yet: count.
        self._room = self.limit - self._used() - size
        if self._room < 0:
            self._room += size
            raise Failure(Errno.NOSPC)

    def _used(self) -> int:
        """Bytes that the tree takes, files that are open and have no name any more included."""
        from wasmsr.wasi import walks

        used = 0
        seen: set[int] = set()
        found = [os.fstat(file.host) for file in self._open if file.host >= 0]

        def visit(directory: int) -> list[bytes]:
            nonlocal used
            below: list[bytes] = []
            for entry in walks.entries(directory):
                used += ENTRY_COST
                if entry.is_dir(follow_symlinks=False):
                    below.append(os.fsencode(entry.name))
                else:
                    found.append(entry.stat(follow_symlinks=False))
            return below

        walks.walk(self.root, visit)
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


def open_tree(mount: Mount, limit: int = CARRY_LIMIT) -> Tree:
    """The tree of a mount at a program's beginning; `limit`: bytes that it may hold, where it is
    not the host's own folder. Raises WasiConfigError, naming the folder, if it cannot be opened."""
    mode = mount.settled
    try:
        if mode == "archive":
            return open_archive(mount, limit)
        if mode == "mem":
            tree = MemoryTree(limit)
            try:
                fill(tree, mount.files or {})
            except BaseException:
                tree.close()
                raise
            return tree
        if mode == "carry" and mount.host is None:
            from wasmsr.wasi.private import Private

            private = Private()
            return Tree(private.root, mode, private)
    except OSError as error:
        raise WasiConfigError(
            f"there is no room for the files of {mount.guest}: {error.strerror or error}"
        ) from error
    if mode == "overlay":
        from wasmsr.wasi.overlay import OverlayTree

        below = open_archive(mount, limit) if mount.is_archive else Tree(mount.open())
        try:
            return OverlayTree(below)
        except OSError as error:
            below.close()
            raise WasiConfigError(
                f"there is no room for the changes of {mount.guest}: {error.strerror or error}"
            ) from error
    if mode == "carry" and mount.is_archive:
        raise WasiConfigError(
            f"an archive cannot be carried: {mount.host}",
            hint=f"write --dir {mount.host}::{mount.guest}::overlay",
        )
    return (ReadOnlyTree if mode == "ro" else Tree)(mount.open(), mode)


def open_archive(mount: Mount, limit: int) -> ReadOnlyTree:
    """The archive of a mount, unpacked."""
    from wasmsr.wasi import archives

    assert mount.host is not None
    from wasmsr.wasi.private import Private

    path = mount.host
    room = archives.measure(path, limit)
    # On a disk it can take a millisecond to make a file, in memory it is microseconds.
    private = Private(memory=room <= SMALL_ARCHIVE, room=room)
    try:
        archives.unpack(path, private.root, limit)
        tree = ReadOnlyTree(private.root, "archive", private)
        tree.digest = archives.digest(path)
    except BaseException:
        private.close()
        raise
    return tree


def fill(tree: Tree, files: Content) -> None:
    """Put what the library's user gave into a new tree. Raises WasiConfigError, OSError."""
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
        except Failure as error:
            raise WasiConfigError(
                f"{name!r} cannot be made in memory: {Errno(error.errno).name}"
            ) from error


def _is_directory(location: Location) -> bool:
    try:
        return stat.S_ISDIR(location.stat(follow=True).st_mode)
    except FileNotFoundError:
        return False


def _put(location: Location, content: bytes | str | None, tree: Tree) -> None:
    if content is None:
        try:
            location.mkdir()
        except OSError as error:
            if error.errno != errno.EEXIST or not location.is_directory():
                raise
        return
    raw = content.encode() if isinstance(content, str) else content
    if isinstance(tree, MemoryTree):
        tree.charge(len(raw))
    with open(location.open(os.O_WRONLY | os.O_CREAT | os.O_TRUNC, False), "wb") as file:
        file.write(raw)
