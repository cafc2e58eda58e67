"""Files of a tree that are made before it is known that they count.

A program that moves has most of its files long before its last state. They are made in the working
folder of the tree (`tree_restore`), so that only what has changed since is written when the tree is
put in its place. Whatever is not there, or cannot be used, is made then.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from wasmsr.errors import SnapshotError
from wasmsr.wasi.filesystem.tree_walk import clear
from wasmsr.wasi.state.contents import CHUNK, PLACE, ZEROS
from wasmsr.wasi.state.manifest import FILE, STAGING, TreeEntry

MOST: Final = 256
"""Files of a tree that are made ahead, the largest of them: others are made fast."""

DIRECTORY: Final = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW: Final = os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_OLD: Final = os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC

FindPiece = Callable[[bytes], bytes | None]
"""Gives the chunk of a digest, or None if it has not come."""


def new_folder(root: int) -> bytes:
    """Make a working folder of a tree, and return its name. Raises OSError."""
    folder = STAGING + secrets.token_hex(8).encode()
    os.mkdir(folder, 0o700, dir_fd=root)
    return folder


def remove_folder(root: int, name: bytes) -> None:
    """Remove a working folder, as far as that is possible."""
    with suppress(OSError):
        folder = os.open(name, DIRECTORY, dir_fd=root)
        try:
            clear(folder)
            os.rmdir(name, dir_fd=root)
        finally:
            os.close(folder)


@dataclass
class _Staged:
    """A file: its name in the root, size, chunks that are to come, and those that are there."""

    name: bytes
    size: int
    left: list[tuple[int, bytes]]
    there: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    """Number to digest and length."""


class StagedFiles:
    """The files of one tree. One thread calls it at a time.

    Args:
        root: Host descriptor of the tree, which stays the caller's.
        entries: The tree as it was a while ago, checked.
        limit: Bytes that the tree may hold; nothing is made of a larger one.

    Attributes:
        folder: The working folder, or b"" while nothing is made.
    """

    def __init__(self, root: int, entries: Iterable[TreeEntry], limit: int) -> None:
        self._root = os.dup(root)
        self.folder = b""
        files = [one for one in entries if one.kind == FILE and one.size >= CHUNK]
        held = sum(length for one in files for _, _, length in one.places)
        files.sort(key=lambda one: -one.size)
        self._files = {
            one.path: _Staged(b"%d" % number, one.size, list(PLACE.iter_unpack(one.chunks)))
            for number, one in enumerate(files[:MOST] if held <= limit else [])
        }

    def work(self, piece: FindPiece, go_on: Callable[[], bool]) -> None:
        """Write the chunks that have come.

        Args:
            piece: Gives them.
            go_on: Is asked before each.

        Raises:
            OSError: There is no room.
        """
        for staged in self._files.values():
            if staged.left and go_on():
                self._write(staged, piece, go_on)

    def _write(self, staged: _Staged, piece: FindPiece, go_on: Callable[[], bool]) -> None:
        host, left = -1, []
        try:
            for at, (number, digest) in enumerate(staged.left):
                if not go_on():
                    left += staged.left[at:]
                    break
                data = piece(digest)
                if data is None or len(data) != min(CHUNK, staged.size - number * CHUNK):
                    left.append((number, digest))
                    continue
                if host < 0:
                    host = self._open(staged)
                _put(host, data, number * CHUNK)
                staged.there[number] = digest, len(data)
            staged.left = left
        finally:
            if host >= 0:
                os.close(host)

    def _open(self, staged: _Staged) -> int:
        if not self.folder:
            self.folder = new_folder(self._root)
        name = self.folder + b"/" + staged.name
        host = os.open(name, _OLD if staged.there else _NEW, 0o600, dir_fd=self._root)
        if not staged.there:
            os.ftruncate(host, staged.size)
        return host

    def take(self, entry: TreeEntry, piece: Callable[[bytes], bytes]) -> bytes | None:
        """Give a file the content of an entry.

        Args:
            entry: A file.
            piece: Gives its chunks.

        Returns:
            Its name in the root; None if it was not made ahead.

        Raises:
            SnapshotError: The entry cannot be.
            OSError: There is no room.
        """
        staged = self._files.pop(entry.path, None)
        if staged is None or not staged.there:
            return None
        name = self.folder + b"/" + staged.name
        try:
            host = os.open(name, _OLD, dir_fd=self._root)
        except OSError:
            return None  # somebody has cleared the folder
        try:
            os.ftruncate(host, entry.size)
            old = staged.there
            for number, digest in PLACE.iter_unpack(entry.chunks):
                length = min(CHUNK, entry.size - number * CHUNK)
                if old.pop(number, None) != (digest, length):
                    data = piece(digest)
                    if len(data) != length:
                        raise SnapshotError(
                            "a piece of a file has another length than its place has room"
                        )
                    _put(host, data, number * CHUNK)
            for number in old:  # a hole now, or beyond the end
                room = min(CHUNK, entry.size - number * CHUNK)
                _put(host, ZEROS[: max(0, room)], number * CHUNK)
        finally:
            os.close(host)
        return name

    def close(self) -> None:
        """Remove what was made and not taken; again, this does nothing."""
        root, self._root, self._files = self._root, -1, {}
        if root < 0:
            return
        if self.folder:
            remove_folder(root, self.folder)
        os.close(root)


def _put(host: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        written = os.pwrite(host, view, offset)
        view, offset = view[written:], offset + written


__all__ = ["StagedFiles", "new_folder", "remove_folder"]
