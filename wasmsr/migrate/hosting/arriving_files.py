"""The carried files of a program that comes, made between the rounds, while it runs elsewhere.

What is made is in the working folder of each tree, and is no part of it: the tree changes when the
program is this host's. It is advice. What cannot be made now is made then.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import takewhile
from pathlib import Path

from wasmsr.errors import SnapshotError, WasmsrError
from wasmsr.wasi.state.contents import Contents
from wasmsr.wasi.state.manifest import TreeEntry, TreeScan, names, scan
from wasmsr.wasi.state.restore import TreeBase
from wasmsr.wasi.state.staged_files import DIRECTORY, StagedFiles

SECONDS = 5.0
"""How long files are made after one round: the source waits for it."""


class ArrivingFiles:
    """Makes the files of all carried trees of one program. One thread calls it at a time.

    Args:
        trees: Folder and entries of each tree, as it was before the first round, by guest path.
        bases: The trees that were here before, by guest path.
        limit: Bytes that a tree may hold.
        find: Gives a piece that has come, or None.

    Attributes:
        folders: The folders, by guest path.
        staged: The files that are made ahead, by guest path.
    """

    def __init__(
        self,
        trees: Mapping[str, tuple[Path, list[TreeEntry]]],
        bases: Mapping[str, TreeBase],
        limit: int,
        find: Callable[[bytes], bytes | None],
    ) -> None:
        self.folders = {guest: folder for guest, (folder, _) in trees.items()}
        self.staged: dict[str, StagedFiles] = {}
        self._here: dict[str, Contents] = {}
        self._find = find
        self._made: list[Path] = []
        try:
            for guest, (folder, entries) in trees.items():
                self._begin(guest, folder, entries, bases.get(guest), limit)
        except (WasmsrError, OSError):
            self.close()  # the restore finds what is wrong, and says so

    def _begin(
        self, guest: str, folder: Path, entries: list[TreeEntry], base: TreeBase | None, limit: int
    ) -> None:
        above = takewhile(lambda one: not one.exists(), (folder, *folder.parents))
        self._made += reversed(list(above))
        os.makedirs(folder, mode=0o700, exist_ok=True)
        root = os.open(folder, DIRECTORY)
        try:
            here = self._here[guest] = Contents()
            known = None if base is None else base.known
            found = scan(root, guest, here, limit, known) if names(root) else TreeScan()
            same = {one.path: one.content for one in found.entries}
            new = [one for one in entries if same.get(one.path) != one.content]
            self.staged[guest] = StagedFiles(root, new, limit)
        finally:
            os.close(root)

    def work(self) -> None:
        """Write the pieces that have come since."""
        until = time.monotonic() + SECONDS
        try:
            for guest, staged in self.staged.items():
                here = self._here[guest]

                def piece(digest: bytes, here: Contents = here) -> bytes | None:
                    found = self._find(digest)
                    if found is None and digest in here:
                        try:
                            return here.read(digest)
                        except SnapshotError:
                            return None  # somebody has changed the file
                    return found

                staged.work(piece, lambda: time.monotonic() < until)
        except OSError:
            self.close()

    def close(self) -> None:
        """Remove what was made, but for what has become a part of a tree."""
        for staged in self.staged.values():
            staged.close()

    def give_up(self) -> None:
        """Remove what was made, and folders that were made for it: the program does not come."""
        self.close()
        for folder in reversed(self._made):
            with suppress(OSError):  # it has something by now
                folder.rmdir()


__all__ = ["ArrivingFiles"]
