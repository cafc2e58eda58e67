"""From a manifest to a directory tree of this host: a new one, or one that the program had before.

The way back from `manifest`. It has two steps, so that a move that fails leaves the host's files
alone. `TreeReconciler` compares what is there with what must be there, and refuses what it must not
change. `TreeReconciler.apply` changes the tree. Files with new content are made in a folder of the
tree and renamed to their places after the last one was read: a tree may take chunks from itself.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from typing import Final, Literal

from wasmsr.errors import SnapshotError
from wasmsr.wasi.filesystem.tree_walk import Cursor
from wasmsr.wasi.filesystem.trees import KnownFiles
from wasmsr.wasi.state.contents import CHUNK, PLACE, Contents
from wasmsr.wasi.state.manifest import (
    DIRECTORY,
    FILE,
    LINK,
    SAME,
    TreeEntry,
    TreeScan,
    is_staging,
    names,
    scan,
)
from wasmsr.wasi.state.staged_files import StagedFiles, new_folder, remove_folder

OnChanged = Literal["error", "keep", "truncate"]
"""What to do with a file that was changed since it was saved."""
ReadChunk = Callable[[bytes], bytes]
"""Gives the chunk of a digest."""
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class TreeReconciler:
    """The changes that make a directory the tree of a snapshot.

    `root`: host descriptor of the directory. `base`: the tree as it was when the program left it,
    if it was here before.
    """

    def __init__(
        self,
        root: int,
        guest: str,
        entries: list[TreeEntry],
        contents: Contents,
        *,
        on_changed: OnChanged,
        since: int | None,
        limit: int,
        base: list[TreeEntry] | None = None,
        known: KnownFiles | None = None,
        staged: StagedFiles | None = None,
    ) -> None:
        """`since`: when the snapshot was taken, realtime ns: what was changed on this host after
        that is what "truncate" undoes; nothing older is ever overwritten or removed. `staged`:
        files that were made ahead.

        Raises SnapshotError naming a file that is in the way, or one whose content is nowhere.
        """
        self.root = root
        self.guest = guest
        self.entries = entries
        self.contents = contents
        self._staged = staged
        self._cursor, self._other = Cursor(root), Cursor(root)
        self._kept: set[bytes] = set()
        held = sum(length for entry in entries for _, _, length in entry.places)
        if held > limit:
            raise SnapshotError(
                f"the files of {guest} hold {held} bytes, more than the {limit} that a program "
                "may carry here",
                hint="--carry-limit SIZE allows more",
            )
        local = Contents()
        self._scan = scan(root, guest, local, limit, known) if names(root) else TreeScan()
        self._local = {entry.path: entry for entry in self._scan.entries}
        self._wanted = {entry.path: entry for entry in entries}
        if base is not None:
            self._compare(base)
        else:
            self._look(on_changed, since)
        self._pieces = local
        self._find()

    def _named(self, path: bytes) -> str:
        return f"{self.guest.rstrip('/')}/{os.fsdecode(path)}"

    def _compare(self, base: list[TreeEntry]) -> None:
        """Nobody else may have edited the tree while the program was away."""
        before = {entry.path: entry for entry in base}
        for path in sorted(before.keys() | self._local.keys()):
            old, new = before.get(path), self._local.get(path)
            if old is None:
                what = "was made"
            elif new is None:
                what = "was removed"
            elif old.content != new.content or old.mode != new.mode:
                what = "was changed"
            else:
                continue
            raise SnapshotError(
                f"{self._named(path)} {what} on this host while the program was elsewhere",
                hint="put it back as it was, or give the program another folder",
            )

    def _look(self, on_changed: OnChanged, since: int | None) -> None:
        """Refuse to change a file that is not the program's, or that somebody has changed."""
        for path, found in self._local.items():
            wanted = self._wanted.get(path)
            if not path or (wanted is not None and wanted.content == found.content):
                continue
            if on_changed == "keep":
                self._kept.add(path)
            elif on_changed == "error" or since is None or self._scan.changed[path] <= since:
                what = "is not the program's" if wanted is None else "is another one"
                raise SnapshotError(
                    f"{self._named(path)} {what}: the folder that is given for {self.guest} must "
                    "be empty, or have the program's files as they were saved",
                    hint="--on-changed truncate undoes what was changed since, keep leaves it"
                    if on_changed == "error"
                    else None,
                )

    def _find(self) -> None:
        """Is all the content there?"""
        for entry in self.entries:
            if entry.path in self._kept:
                continue
            for _, digest, _ in entry.places:
                if digest not in self.contents and digest not in self._pieces:
                    raise SnapshotError(
                        f"the content of {self._named(entry.path)} is neither in the snapshot nor "
                        "on this host"
                    )

    # Doing it -------------------------------------------------------------------------------------

    def apply(self) -> None:
        """Make the changes. Raises SnapshotError if the host fails."""
        try:
            os.chmod(self.root, 0o700)
            self._clear_staging()
            staged = self._stage()
            with self._cursor, self._other:
                self._remove()
                self._build(staged)
                self._clear_staging(all=True)
                self._finish()
        except BaseException as error:
            with suppress(OSError):
                self._clear_staging(all=True)
            if not isinstance(error, OSError):
                raise
            raise SnapshotError(
                f"the files of {self.guest} cannot be restored: {error.strerror or error}"
            ) from error

    def _same(self, entry: TreeEntry) -> bool:
        """Return whether the entry is there already, or stays as it is."""
        found = self._local.get(entry.path)
        return entry.path in self._kept or (found is not None and found.content == entry.content)

    def _stage(self) -> dict[bytes, bytes]:
        """Make the files that are not there yet; path to temporary name in the root."""
        staged: dict[bytes, bytes] = {}
        folder = b""
        for entry in self.entries:
            if entry.kind != FILE or self._same(entry):
                continue
            made_ahead = self._staged and self._staged.take(entry, self._piece)
            if made_ahead:
                staged[entry.path] = made_ahead
                continue
            folder = folder or new_folder(self.root)
            name = folder + b"/%d" % len(staged)
            made = os.open(name, _NEW, 0o600, dir_fd=self.root)
            try:
                write_chunks(made, entry.size, entry.chunks, self._piece)
            finally:
                os.close(made)
            staged[entry.path] = name
        return staged

    def _piece(self, digest: bytes) -> bytes:
        if digest in self.contents:
            return self.contents.read(digest)
        return self._pieces.read(digest)

    def _remove(self) -> None:
        """Remove files that are not in the snapshot or have another kind, the deepest first."""
        cursor = self._cursor
        for path, found in self._local.items():
            if path and found.kind == DIRECTORY and found.mode & 0o700 != 0o700:
                above, name = self._at(cursor, path)
                os.chmod(name, 0o700, dir_fd=above)
        for path in sorted(self._local, reverse=True):
            if not path or path in self._kept:
                continue
            found, wanted = self._local[path], self._wanted.get(path)
            if wanted is not None and (
                wanted.content == found.content or {wanted.kind, found.kind} == {FILE}
            ):
                continue
            above, name = self._at(cursor, path)
            if found.kind == DIRECTORY:
                # The directory stays, because "keep" has kept a file below it.
                with suppress(OSError):
                    os.rmdir(name, dir_fd=above)
            else:
                os.unlink(name, dir_fd=above)

    def _build(self, staged: dict[bytes, bytes]) -> None:
        for entry in self.entries:
            if not entry.path or self._same(entry):
                continue
            above, name = self._at(self._cursor, entry.path)
            if entry.kind == DIRECTORY:
                os.mkdir(name, 0o700, dir_fd=above)
            elif entry.kind == FILE:
                os.rename(staged[entry.path], name, src_dir_fd=self.root, dst_dir_fd=above)
            elif entry.kind == LINK:
                os.symlink(entry.target, name, dir_fd=above)
        # Other names of files come last: the file may have been replaced.
        for entry in self.entries:
            if entry.kind == SAME and entry.path not in self._kept:
                self._link(entry)

    def _link(self, entry: TreeEntry) -> None:
        above, name = self._at(self._cursor, entry.path)
        far, other = self._at(self._other, entry.target)
        target = os.stat(other, dir_fd=far, follow_symlinks=False)
        with suppress(FileNotFoundError):
            found = os.stat(name, dir_fd=above, follow_symlinks=False)
            if (found.st_dev, found.st_ino) == (target.st_dev, target.st_ino):
                return
            os.unlink(name, dir_fd=above)
        os.link(other, name, src_dir_fd=far, dst_dir_fd=above, follow_symlinks=False)

    def _finish(self) -> None:
        """Permissions and times, the deepest first, since a directory's time is that of the last
        change in it, and its permissions may forbid one."""
        for entry in reversed(self.entries):
            if entry.path in self._kept or entry.kind == SAME:
                continue
            if not entry.path:
                self._attributes(self.root, b".", entry)
                continue
            self._attributes(*self._at(self._cursor, entry.path), entry)

    @staticmethod
    def _attributes(above: int, name: bytes, entry: TreeEntry) -> None:
        if entry.kind != LINK:
            os.chmod(name, entry.mode, dir_fd=above)
        os.utime(name, ns=(entry.atim, entry.mtim), dir_fd=above, follow_symlinks=False)

    def _at(self, cursor: Cursor, path: bytes) -> tuple[int, bytes]:
        """Return the directory that holds what `path` names, and the name; follow no link."""
        parts = path.split(b"/")
        return cursor.at(parts[:-1]), parts[-1]

    def _clear_staging(self, *, all: bool = False) -> None:
        """Remove the working folders of restores that were killed, and at the end of this one."""
        ours = self._staged.folder if self._staged and not all else b""
        for raw in names(self.root):
            if is_staging(raw) and raw != ours:
                remove_folder(self.root, raw)
        if self._staged and all:
            self._staged.close()


def write_chunks(made: int, size: int, chunks: bytes, piece: ReadChunk) -> None:
    """Fill an empty file; ranges without a chunk become holes. Raises OSError."""
    os.ftruncate(made, size)
    for number, digest in PLACE.iter_unpack(chunks):
        data = piece(digest)
        offset = number * CHUNK
        if len(data) != min(CHUNK, size - offset):
            raise SnapshotError("a piece of a file has another length than its place has room")
        while data:
            written = os.pwrite(made, data, offset)
            offset += written
            data = data[written:]
