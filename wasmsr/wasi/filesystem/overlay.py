"""A directory that is read through and never written: changes go into a tree of their own.

A kind of tree (`trees`). The upper layer is a private directory with everything that the program
has changed. The base below it is a directory of the host, or an unpacked archive.

A directory or symbolic link is made in the upper layer when a path first leads over it. A file is
made there when it is first written (copy-up). So all that can be changed is in one ordinary
directory tree. An `OverlayLayer` ties a directory of the upper layer to the base. It is found by
inode, so it stays with a directory that is renamed. A file that was opened for reading before its
copy-up keeps the base's content, as in the overlay file system of Linux.
"""

from __future__ import annotations

import errno
import os
import stat

from wasmsr.wasi.errors import CallError
from wasmsr.wasi.filesystem.path_resolution import Location
from wasmsr.wasi.filesystem.private_folders import PrivateFolder
from wasmsr.wasi.filesystem.trees import Listing, MountTree, OverlayLayers, listing
from wasmsr.wasi.filesystem.unnoticed import extents

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping

    from wasmsr.wasi.filesystem.open_files import Directory, RegularFile

_PIECE = 1 << 20
"""Bytes that a copy-up moves at once."""
_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class OverlayLayer:
    """What is below a directory of the upper layer: `origin`, a path below the base; `hidden`,
    names there that the program has removed, renamed or replaced."""

    __slots__ = ("hidden", "origin")

    def __init__(self, origin: bytes, hidden: set[bytes] | None = None) -> None:
        self.origin = origin
        self.hidden = hidden or set()


class OverlayTree(MountTree):
    """`root` is the upper layer, `below` the tree of the base."""

    def __init__(self, below: MountTree) -> None:
        private = PrivateFolder()
        super().__init__(private.root, "overlay", private)
        self.below = below
        self.digest = below.digest
        self.layers = {os.fstat(self.root).st_ino: OverlayLayer(b"")}
        _attributes(self.root, b".", os.fstat(below.root))

    @property
    def base(self) -> MountTree:
        """The tree below, which several overlays can share."""
        return self.below

    @property
    def folder(self) -> int:
        """Host descriptor of the base."""
        return self.below.root

    def locate(self, directory: int, path: bytes) -> Location:
        """Return where a path leads, in both layers."""
        return OverlayLocation(self, directory, path)

    def list(self, directory: int) -> Listing:
        """Return `.` and `..`, then the names of both layers in the order of their bytes."""
        found = {entry[0]: entry for entry in listing(directory)}
        layer = self.layer(directory)
        if layer is not None:
            for name, inode, kind in self._base_listing(layer):
                if name not in layer.hidden:
                    found.setdefault(name, (name, inode, kind))
        own = os.fstat(directory).st_ino
        return [(b".", own, 3), (b"..", 0, 3), *sorted(found.values())]

    def _base_listing(self, layer: OverlayLayer) -> Listing:
        try:
            with self.below.locate(self.below.root, layer.origin or b".") as location:
                directory = location.open(os.O_RDONLY | os.O_DIRECTORY, False)
        except (OSError, CallError):
            return []  # somebody else has removed it
        try:
            return [*listing(directory)]
        finally:
            os.close(directory)

    def layer(self, directory: int) -> OverlayLayer | None:
        """Return what is below an open directory of the upper layer."""
        return self.layers.get(os.fstat(directory).st_ino)

    def base_path(self, directory: int, name: bytes) -> bytes | None:
        """Return the path below the base of what can be seen there, if there may be one."""
        layer = self.layer(directory)
        if layer is None or name in layer.hidden or name in (b".", b".."):
            return None
        return layer.origin + b"/" + name if layer.origin else name

    def base_stat(self, path: bytes) -> os.stat_result | None:
        """Return the attributes of the file of the base at a path; follow no link.

        Returns:
            None, if there is nothing.
        """
        try:
            with self.below.locate(self.below.root, path) as location:
                if b"/".join(location.path) == path:
                    return location.look()
        except (OSError, CallError):
            pass
        return None

    def hide(self, directory: int, name: bytes) -> None:
        """Hide what the base has there."""
        layer = self.layer(directory)
        if layer is not None:
            layer.hidden.add(name)

    def raised(self, directory: int, name: bytes, content: bool) -> os.stat_result | None:
        """See that a directory or link of the base is in the upper layer, with `content` a file
        too. The attributes of a file of the base that was left there; None for all else."""
        if name in (b".", b".."):
            return None
        try:
            os.stat(name, dir_fd=directory, follow_symlinks=False)
            return None
        except FileNotFoundError:
            pass
        path = self.base_path(directory, name)
        result = None if path is None else self.base_stat(path)
        if path is None or result is None:
            return None
        kind = stat.S_IFMT(result.st_mode)
        if kind in (stat.S_IFDIR, stat.S_IFLNK) or (content and kind == stat.S_IFREG):
            self._raise(directory, name, path, result)
            return None
        return result

    def _raise(self, directory: int, name: bytes, path: bytes, result: os.stat_result) -> None:
        above = os.fstat(directory)
        if stat.S_ISDIR(result.st_mode):
            os.mkdir(name, 0o700, dir_fd=directory)
            made = os.stat(name, dir_fd=directory, follow_symlinks=False)
            self.layers[made.st_ino] = OverlayLayer(path)
        elif stat.S_ISLNK(result.st_mode):
            with self.below.locate(self.below.root, path) as location:
                os.symlink(location.readlink(), name, dir_fd=directory)
        else:
            with self.below.locate(self.below.root, path) as location:
                self._copy(location.open(os.O_RDONLY, False), directory, name)
        _attributes(directory, name, result)
        # To the program nothing has changed here.
        os.utime(b".", ns=(above.st_atime_ns, above.st_mtime_ns), dir_fd=directory)

    @staticmethod
    def _copy(source: int, directory: int, name: bytes) -> None:
        made = os.open(name, _NEW, 0o600, dir_fd=directory)
        try:
            copy(source, made)
        except BaseException:
            os.unlink(name, dir_fd=directory)
            raise
        finally:
            os.close(made)
            os.close(source)

    def touched(self, descriptor: RegularFile | Directory) -> None:
        """Copy up a file of the base that is open for reading, and move the descriptor."""
        if not stat.S_ISREG(os.fstat(descriptor.host).st_mode):
            return
        before = os.fstat(descriptor.host)
        with self.locate(self.root, b"/".join(descriptor.place.path)) as location:
            found = location.look()
            if (found.st_dev, found.st_ino) != (before.st_dev, before.st_ino):
                return
            self.raised(location.parent, location.name, True)
            above = location.open(os.O_RDONLY, False)
        try:
            os.lseek(above, os.lseek(descriptor.host, 0, os.SEEK_CUR), os.SEEK_SET)
            os.dup2(above, descriptor.host, inheritable=False)
        finally:
            os.close(above)

    def layers_at(self, inodes: Mapping[tuple[int, int], bytes]) -> OverlayLayers:
        """Return path, origin and hidden names of each layer."""
        device = os.fstat(self.root).st_dev
        found = []
        for inode, layer in self.layers.items():
            path = inodes.get((device, inode))
            if path is not None:
                found.append((path, layer.origin, sorted(layer.hidden)))
        return sorted(found)

    def put_layers(self, layers: OverlayLayers) -> None:
        """Tie the upper layer to the base again."""
        self.layers.clear()
        for path, origin, hidden in layers:
            # A checked snapshot has just made the upper layer, so no link is on the way.
            result = os.stat(path or b".", dir_fd=self.root, follow_symlinks=False)
            self.layers[result.st_ino] = OverlayLayer(origin, set(hidden))

    def close(self) -> None:
        """Close both layers."""
        self.below.close()
        super().close()


class OverlayLocation(Location):
    """A place in an overlay. `parent` is a directory of the upper layer."""

    def __init__(self, tree: OverlayTree, directory: int, path: bytes) -> None:
        self._tree = tree
        super().__init__(directory, path)

    def _jump(self, parts: list[bytes]) -> bool:
        return False  # every directory on the way may have to be made first

    def _enter(self, part: bytes) -> None:
        if self._tree.raised(self.parent, part, False) is not None:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))  # a file there
        super()._enter(part)

    def _read_link(self, part: bytes) -> bytes | None:
        if self._tree.raised(self.parent, part, False) is not None:
            return None
        return super()._read_link(part)

    def _up(self, content: bool = True) -> os.stat_result | None:
        return self._tree.raised(self.parent, self.name, content)

    def _base(self) -> bytes | None:
        """Return the path of what the base has here, if that is anything."""
        path = self._tree.base_path(self.parent, self.name)
        return path if path is not None and self._tree.base_stat(path) is not None else None

    def look(self) -> os.stat_result:
        """Return the attributes of what is there, of a link itself."""
        return self._up(content=False) or super().look()

    def exists(self) -> bool:
        """Return whether something is there."""
        try:
            self.look()
        except FileNotFoundError:
            return False
        return True

    def _open_here(self, flags: int) -> int:
        result = self._up(content=False)
        if result is None:
            return super()._open_here(flags)
        if flags & os.O_CREAT and flags & os.O_EXCL:
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))
        reading = flags & (os.O_ACCMODE | os.O_TRUNC) == os.O_RDONLY
        if reading or not stat.S_ISREG(result.st_mode):
            path = self._tree.base_path(self.parent, self.name)
            assert path is not None
            with self._tree.below.locate(self._tree.below.root, path) as location:
                return location.open(flags & ~os.O_CREAT, False)
        self._up()
        return super()._open_here(flags & ~os.O_CREAT)

    def _must_be_new(self) -> None:
        if self.exists():
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST))

    def mkdir(self) -> None:
        """Make a directory here, in the upper layer."""
        self._must_be_new()
        super().mkdir()

    def symlink(self, content: bytes) -> None:
        """Make a symbolic link here, in the upper layer."""
        self.for_new()
        self._must_be_new()
        super().symlink(content)

    def rmdir(self) -> None:
        """Remove the directory here, and hide that of the base."""
        if self._up(content=False) is not None:
            raise CallError(errno.ENOTDIR)
        self._empty()
        hidden = self._base() is not None
        super().rmdir()
        if hidden:
            self._tree.hide(self.parent, self.name)

    def _empty(self) -> None:
        """Forget the layer of this directory, which must be empty for the program (ENOTEMPTY)."""
        if self.name == b"." or not self.is_directory():
            return  # the host has the right error
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(self.name, flags, dir_fd=self.parent)
        try:
            if len(self._tree.list(directory)) > 2:
                raise CallError(errno.ENOTEMPTY)
            self._tree.layers.pop(os.fstat(directory).st_ino, None)
        finally:
            os.close(directory)

    def readlink(self) -> bytes:
        """Return the target of this link."""
        if not self.slash and self._up(content=False) is not None:
            raise CallError(errno.EINVAL)  # a file of the base
        return super().readlink()

    def unlink(self) -> None:
        """Remove the name here, and hide that of the base."""
        if self.name != b"." and not self.slash and not self.is_directory():
            base = self._base()
            if base is not None:
                in_base = self._up(content=False) is not None
                self._tree.hide(self.parent, self.name)
                if in_base:
                    return
        super().unlink()

    def set_times(self, access: int | None, modification: int | None) -> None:
        """Set the times of this file, after a copy-up."""
        self._up()
        super().set_times(access, modification)

    def link_to(self, new: Location) -> None:
        """Give this file another name, after a copy-up."""
        assert isinstance(new, OverlayLocation)
        self.look()
        self._up()
        new.for_new()
        new._must_be_new()
        super().link_to(new)

    def rename_to(self, new: Location) -> None:
        """Rename this file, after a copy-up, and hide the file of the base."""
        assert isinstance(new, OverlayLocation)
        if self.name == b"." or new.name == b".":
            raise CallError(errno.EBUSY)
        self._up()
        new._up(content=False)
        if self.is_directory() and self._holds(new):
            raise CallError(errno.EINVAL)  # into itself, whatever is there
        if new.exists() and new.is_directory() and self.is_directory() and not self._is(new):
            new._empty()
        hidden, covered = self._base() is not None, new._base() is not None
        if new._up(content=False) is not None and self.is_directory():
            raise CallError(errno.ENOTDIR)
        super().rename_to(new)
        if self._is(new):
            return  # two names of one file: by POSIX both stay
        if hidden:
            self._tree.hide(self.parent, self.name)
        if covered:
            self._tree.hide(new.parent, new.name)

    def _holds(self, new: Location) -> bool:
        """Return whether the other place is below this one, as far as their paths say so."""
        own = self.path
        return self._root == new._root and len(own) < len(new.path) and new.path[: len(own)] == own

    def _is(self, new: Location) -> bool:
        try:
            one, other = Location.look(self), Location.look(new)
        except FileNotFoundError:
            return False
        return (one.st_dev, one.st_ino) == (other.st_dev, other.st_ino)


def _attributes(directory: int, name: bytes, result: os.stat_result) -> None:
    """Give a copy in the upper layer the permissions and times of its original."""
    if not stat.S_ISLNK(result.st_mode):
        # Ours must stay able to work in it.
        ours = stat.S_IRWXU if stat.S_ISDIR(result.st_mode) else 0
        os.chmod(name, stat.S_IMODE(result.st_mode) & 0o777 | ours, dir_fd=directory)
    times = (result.st_atime_ns, result.st_mtime_ns)
    os.utime(name, ns=times, dir_fd=directory, follow_symlinks=False)


def copy(source: int, target: int) -> None:
    """Copy an open file into an empty one; holes and zeros become holes. Raises OSError."""
    size = os.fstat(source).st_size
    os.ftruncate(target, size)
    for start, end in extents(source, size):
        while start < end:
            data = os.pread(source, min(_PIECE, end - start), start)
            if not data:
                break
            os.pwrite(target, data, start)
            start += len(data)
