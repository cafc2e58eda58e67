"""The carried trees of programs that came and went, which stay on this host.

A carried tree for which the user gives no folder gets a folder here. When a program leaves, this
host notes the state of each of its trees. When the program comes back, the source sends only what
has changed, and this host notices what somebody else has changed meanwhile.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgpack

from wasmsr.errors import FormatError
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.filesystem.tree_walk import remove
from wasmsr.wasi.filesystem.trees import KnownFiles
from wasmsr.wasi.state.manifest import FILE, check_chunks, is_staging, parse
from wasmsr.wasi.state.restore import TreeBase

NAME_MAX = 100
DIGITS = 32
BASE = "base"
"""The file beside the trees that has their noted state."""
_PLAIN = re.compile(r"(?:[a-z0-9_-]|%2F)+")
_HASHED = "tree-"


def folder_name(guest: str) -> str:
    """Return the name on disk of a carried tree.

    A peer has chosen the tree's own name. A plain name, which every file system tells apart from
    all others, stays as it is, with its slashes quoted. Its digest replaces any other name.
    """
    name = guest.replace("/", "%2F") if "%" not in guest else ""
    plain = _PLAIN.fullmatch(name) and len(name) <= NAME_MAX
    if plain and name != BASE and not name.startswith(_HASHED):
        return name
    return _HASHED + sha256(os.fsencode(guest)).hexdigest()[:DIGITS]


class CarriedTrees:
    """The carried trees of programs, below one folder, which is made when a program needs it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _of(self, program: bytes) -> Path:
        return self._folder / program.hex()

    def place(self, program: bytes, guest: str) -> Path:
        """Return the folder for a carried tree of a program.

        If there is a tree that no departure has noted, it is renamed and kept.
        """
        name = folder_name(guest)
        path = self._of(program) / name
        if guest not in self.bases(program) and _has_files(path):
            number = 1
            while (aside := path.with_name(f"{name}.old-{number}")).exists():
                number += 1
            path.rename(aside)
        return path

    def forget_bases(self, program: bytes) -> None:
        """Forget how the trees of a program were when it left.

        It is for one that does not come back as it left: it begins here, or goes on from a state
        that has all of its files. What is in the folders then is of an earlier life.
        """
        (self._of(program) / BASE).unlink(missing_ok=True)

    def owns(self, program: bytes, path: Path) -> bool:
        """Return whether `path` is a folder of this program here."""
        return self._of(program) in path.parents

    def note(
        self, program: bytes, snapshot: SnapshotState, known: Mapping[str, KnownFiles]
    ) -> None:
        """Note the state of the carried trees of a program that is about to leave.

        Args:
            program: The program's id.
            snapshot: Its state.
            known: For each tree, the files that need not be read again.

        Raises:
            OSError: The note cannot be written.
        """
        trees = {}
        for mount in (snapshot.wasi or {}).get("mounts", ()):
            if mount["mode"] == "carry":
                guest = os.fsdecode(mount["guest"])
                marks = [
                    [path, list(mark), chunks] for path, (mark, chunks) in known[guest].items()
                ]
                trees[os.fsencode(guest)] = [mount["tree"], marks]
        if not trees:
            return
        path = self._of(program) / BASE
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        part = path.with_suffix(".part")
        with open(part, "wb") as file:
            file.write(msgpack.packb(trees, use_bin_type=True))
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)

    def bases(self, program: bytes) -> dict[str, TreeBase]:
        """Return the trees of a program as they were when it left.

        There are none if the program was not here, or if the note is damaged.
        """
        try:
            raw = (self._of(program) / BASE).read_bytes()
            trees: Any = msgpack.unpackb(raw, strict_map_key=False)
            return {os.fsdecode(guest): _base(*found) for guest, found in trees.items()}
        except (OSError, ValueError, TypeError, AttributeError, FormatError, RecursionError):
            return {}

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return the digests of the pieces of files in those trees."""
        found = {
            digest
            for base in self.bases(program).values()
            for entry in base.entries
            if entry.kind == FILE
            for _, digest, _ in entry.places
        }
        return tuple(sorted(found))

    def forget(self, program: bytes, *, here: bool) -> None:
        """Forget a program that has ended.

        If it ended here, its files stay, for its user. If it ended elsewhere, they are removed.
        """
        folder = self._of(program)
        if not folder.is_dir():
            return
        if here:
            (folder / BASE).unlink(missing_ok=True)
            with suppress(OSError):
                folder.rmdir()
        else:
            remove(folder)
        with suppress(OSError):
            self._folder.rmdir()


def _has_files(path: Path) -> bool:
    """Return whether a folder has more than what a restore that was killed has left."""
    return path.exists() and any(not is_staging(os.fsencode(one.name)) for one in path.iterdir())


def _base(entries: object, marks: list[Any]) -> TreeBase:
    known: KnownFiles = {}
    for path, (inode, size, modified, changed), chunks in marks:
        check_chunks(size, chunks)
        known[path] = (inode, size, modified, changed), chunks
    return TreeBase(parse(entries), known)
