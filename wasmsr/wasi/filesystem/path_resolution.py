"""Paths that cannot leave a directory.

On Linux the kernel finds the directory that holds the last component in one call (openat2). The
call follows no link and cannot leave the first directory. Where it meets a link, or there is no
such call, the path is walked one component at a time. Each component is opened relative to the one
before, and the kernel follows no symbolic link: we read links and walk them. `..` goes back to the
descriptor that the walk came from, so it cannot pass the first one. O_NOFOLLOW refuses a directory
that another process replaces by a link meanwhile. Both ways lead to the same places and errors.

Absolute paths, absolute links and a `..` too many are EPERM, as in wasmtime. More than 40 links in
one path are ELOOP (Linux, path_resolution(7)). Names are bytes and need not be UTF-8.
"""

from __future__ import annotations

import errno
import os

from wasmsr.wasi import syscalls
from wasmsr.wasi.errors import CallError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Final

MAX_LINKS: Final = 40
# O_PATH: passing through a directory needs no right to read it.
_STEP: Final = getattr(os, "O_PATH", os.O_RDONLY) | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
BY_KERNEL: bool = syscalls.can_open_beneath()
"""Whether the kernel is asked to resolve paths."""


class Location:
    """Where a path leads: the last component, and an open directory that holds it.

    `parent`: host descriptor of that directory, ours until `close`.
    `name`: the last component; `b"."` where the path ends in a directory already entered.
    `above`: the components from the first directory to `parent`, free of links and `..`.
    `slash`: the path, or a link that was expanded at its end, ended in a slash, so it must name a
    directory.
    Use as a context manager, or call `close`.
    """

    __slots__ = ("_entered", "_links", "_root", "above", "name", "parent", "slash")

    def __init__(self, root: int, path: bytes) -> None:
        if not path:
            raise CallError(errno.ENOENT)
        if b"\0" in path:
            raise CallError(errno.EINVAL)
        self._root = root
        self._entered: list[int] = []
        self._links = 0
        self.parent = root
        self.above: list[bytes] = []
        self.name = b"."
        self.slash = False
        if b"/" not in path and path != b"." and path != b"..":
            self.name = path
            return
        try:
            self._walk(path)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> Location:
        return self

    def __exit__(self, *_: object) -> None:
        if self._entered:
            self.close()

    def close(self) -> None:
        """Close the directories that the walk opened."""
        while self._entered:
            os.close(self._entered.pop())
        self.parent = self._root

    @property
    def path(self) -> tuple[bytes, ...]:
        """The components from the first directory to the named file."""
        if self.name == b".":
            return tuple(self.above)
        return (*self.above, self.name)

    def _walk(self, path: bytes) -> None:
        """Walk from the first directory along `path`; afterwards `name` is the rest of the path."""
        if path.startswith(b"/"):
            raise CallError(errno.EPERM)
        self.slash = self.slash or path.endswith(b"/")
        parts = [part for part in path.split(b"/") if part]
        self.name = b"."
        if BY_KERNEL and len(parts) > 1 and self._jump(parts):
            return
        todo = parts[::-1]
        while todo:
            part = todo.pop()
            if part == b".":
                continue
            if part == b"..":
                self._back()
                continue
            if not todo:
                self.name = part
                return
            try:
                self._enter(part)
            except OSError as error:
                # A link is ENOTDIR here (O_DIRECTORY comes before O_NOFOLLOW's ELOOP on Linux).
                if error.errno not in (errno.ENOTDIR, errno.ELOOP):
                    raise
                target = self._read_link(part)
                if target is None:
                    raise CallError(errno.ENOTDIR) from None
                todo.extend(step for step in reversed(target.split(b"/")) if step)

    def _jump(self, parts: list[bytes]) -> bool:
        """Let the kernel open the directory that has the last of `parts`.

        Return False if it cannot, for example because of a link. Nothing has changed then, and the
        walk finds the reason."""
        above: list[bytes] = []
        for part in parts:
            if part == b"..":
                if not above:
                    return False
                above.pop()
            elif part != b".":
                above.append(part)
        through = parts
        if parts[-1] not in (b".", b".."):
            through = parts[:-1]
            self.name = above.pop()
        try:
            directory = syscalls.open_beneath(self._root, b"/".join(through), _STEP)
        except OSError as error:
            self.name = b"."
            if error.errno == errno.ENOENT:
                raise
            return False
        self._entered.append(directory)
        self.parent = directory
        self.above = above
        return True

    def _enter(self, part: bytes) -> None:
        self._entered.append(os.open(part, _STEP, dir_fd=self.parent))
        self.parent = self._entered[-1]
        self.above.append(part)

    def _back(self) -> None:
        if not self._entered:
            raise CallError(errno.EPERM)
        os.close(self._entered.pop())
        self.parent = self._entered[-1] if self._entered else self._root
        self.above.pop()

    def _read_link(self, part: bytes) -> bytes | None:
        """Return the target of the link `part`, or None if it is no link."""
        try:
            target = os.readlink(part, dir_fd=self.parent)
        except OSError as error:
            if error.errno == errno.EINVAL:
                return None
            raise
        self._links += 1
        if self._links > MAX_LINKS:
            raise CallError(errno.ELOOP)
        if target.startswith(b"/"):
            raise CallError(errno.EPERM)
        return target

    def expand(self) -> bool:
        """Walk along `name` if it is a symbolic link; return whether it is one.

        The caller repeats this, because the target may be a link too. ELOOP ends the loop.
        """
        if self.name == b".":
            return False
        target = self._read_link(self.name)
        if target is None:
            return False
        if not target:
            raise CallError(errno.ENOENT)
        # From the first directory again: `above` is free of links, and has no descriptor each.
        path = b"/".join((*self.above, target))
        self.close()
        self.above = []
        self._walk(path)
        return True

    def stat(self, follow: bool) -> os.stat_result:
        """Return the attributes of what is there.

        A final link is expanded if `follow`, or if the path ended in a slash.

        Raises:
            CallError: ENOTDIR: the path ended in a slash and names no directory.
        """
        while True:
            result = self.look()
            kind = result.st_mode & 0o170000
            if kind == 0o120000 and (follow or self.slash) and self.expand():
                continue
            if self.slash and kind != 0o040000:
                raise CallError(errno.ENOTDIR)
            return result

    def look(self) -> os.stat_result:
        """Return the attributes of what is there, of a link itself."""
        return os.stat(self.name, dir_fd=self.parent, follow_symlinks=False)

    def _open_here(self, flags: int) -> int:
        """Open what is there; `flags` have O_NOFOLLOW. Raises OSError as the host does."""
        return os.open(self.name, flags, 0o666, dir_fd=self.parent)

    def open(self, flags: int, follow: bool) -> int:
        """Open what is there (a host descriptor), never through a link that the kernel follows.

        After a slash there must be a directory, and nothing is created (EISDIR). The slash may come
        from a link, so this is decided anew for each link that is expanded, as Linux does.
        """
        flags |= os.O_NOFOLLOW | os.O_CLOEXEC
        while True:
            if self.slash and self.name != b".":
                if flags & os.O_CREAT:
                    raise CallError(errno.EISDIR)
                flags |= os.O_DIRECTORY
                follow = True
            try:
                return self._open_here(flags)
            except OSError as error:
                # A link: ELOOP, or ENOTDIR when a directory was asked for.
                if error.errno not in (errno.ELOOP, errno.ENOTDIR):
                    raise
                if follow:
                    if not self.expand():
                        raise
                elif error.errno == errno.ENOTDIR and self._is_link():
                    raise CallError(errno.ELOOP) from None
                else:
                    raise

    def _is_link(self) -> bool:
        mode = self.look().st_mode
        return mode & 0o170000 == 0o120000

    # What the calls do at a place. The other kinds of trees do the same in their own way.

    def mkdir(self) -> None:
        """Make a directory here."""
        os.mkdir(self.name, dir_fd=self.parent)

    def rmdir(self) -> None:
        """Remove the empty directory here."""
        os.rmdir(self.name, dir_fd=self.parent)

    def unlink(self) -> None:
        """Remove the name of something that is no directory (EISDIR)."""
        if self.name == b".":
            raise CallError(errno.EISDIR)
        if self.slash:
            raise CallError(errno.EISDIR if self.is_directory() else errno.ENOTDIR)
        os.unlink(self.name, dir_fd=self.parent)

    def symlink(self, content: bytes) -> None:
        """Make a symbolic link here that says `content`."""
        os.symlink(content, self.for_new(), dir_fd=self.parent)

    def readlink(self) -> bytes:
        """Return the target of this link.

        Raises:
            OSError: EINVAL: there is no link.
        """
        if self.slash:
            self.stat(follow=True)
        return os.readlink(self.name, dir_fd=self.parent)

    def set_times(self, access: int | None, modification: int | None) -> None:
        """ns since 1970, None for what is to stay; of a link itself, since `stat` has gone along
        those to be followed."""
        syscalls.set_times(self.parent, self.name, access, modification)

    def link_to(self, new: Location) -> None:
        """Make `new` another name of this file; do not follow a link."""
        if new.slash:
            self.look()  # an error of this place comes first
        os.link(
            self.name,
            new.for_new(),
            src_dir_fd=self.parent,
            dst_dir_fd=new.parent,
            follow_symlinks=False,
        )

    def rename_to(self, new: Location) -> None:
        """Rename this file to `new`."""
        if self.name == b"." or new.name == b".":
            raise CallError(errno.EBUSY)
        if (self.slash or new.slash) and not self.is_directory():
            raise CallError(errno.ENOTDIR)
        os.rename(self.name, new.name, src_dir_fd=self.parent, dst_dir_fd=new.parent)

    def is_directory(self) -> bool:
        """Return whether a directory is here; a link to one does not count."""
        mode = self.look().st_mode
        return mode & 0o170000 == 0o040000

    def for_new(self) -> bytes:
        """Return the name under which something other than a directory is to be made.

        Raises:
            CallError: After a slash: EEXIST for a directory, ENOTDIR for a file.
            OSError: After a slash: ENOENT for nothing.
        """
        if self.slash:
            mode = self.look().st_mode
            raise CallError(errno.EEXIST if mode & 0o170000 == 0o040000 else errno.ENOTDIR)
        return self.name
