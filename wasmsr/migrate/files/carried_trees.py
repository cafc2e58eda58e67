"""What stays on this host of the files of programs that came and went.

Beside `hosting`. A carried tree for which no folder was given gets one here, and when a program
leaves, what each of its trees was like then is noted: so its return needs only what has changed,
and notices what somebody else has changed meanwhile. The content of the trees is where it was.
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
from wasmsr.wasi.state.manifest import FILE, check_chunks, parse
from wasmsr.wasi.state.restore import TreeBase

NAME_MAX = 100
DIGITS = 32
BASE = "base"
"""The file beside the trees in which it stands what they were like."""
_PLAIN = re.compile(r"(?:[a-z0-9_-]|%2F)+")
_HASHED = "tree-"


def folder_name(guest: str) -> str:
    """Return the name on disk of a carried tree.

    A peer chose the tree's own name. A plain name is kept, with its slashes quoted, if every file
    system tells it apart from all others. Of any other name a digest is taken.
    """
    name = guest.replace("/", "%2F") if "%" not in guest else ""
    plain = _PLAIN.fullmatch(name) and len(name) <= NAME_MAX
    if plain and name != BASE and not name.startswith(_HASHED):
        return name
    return _HASHED + sha256(os.fsencode(guest)).hexdigest()[:DIGITS]


class CarriedTrees:
    """The files of programs, below one folder, which is made when it is needed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def _of(self, program: bytes) -> Path:
        return self._folder / program.hex()

    def place(self, program: bytes, guest: str) -> Path:
        """Return the folder for a carried tree of a program. What a program had there that has
        not left it for another host is put aside."""
        name = folder_name(guest)
        path = self._of(program) / name
        if guest not in self.bases(program) and path.exists() and any(path.iterdir()):
            number = 1
            while (aside := path.with_name(f"{name}.old-{number}")).exists():
                number += 1
            path.rename(aside)
        return path

    def owns(self, program: bytes, path: Path) -> bool:
        """Return whether that is a folder of ours."""
        return self._of(program) in path.parents

    def note(
        self, program: bytes, snapshot: SnapshotState, known: Mapping[str, KnownFiles]
    ) -> None:
        """Note what the carried trees of a program are like, which is about to leave; `known`:
        what need not be read again of them. Raises OSError."""
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
        """Return the trees of a program as they were when it left; none if it was not here, or
        nobody can tell any more."""
        try:
            raw = (self._of(program) / BASE).read_bytes()
            trees: Any = msgpack.unpackb(raw, strict_map_key=False)
            return {os.fsdecode(guest): _base(*found) for guest, found in trees.items()}
        except (OSError, ValueError, TypeError, AttributeError, FormatError, RecursionError):
            return {}

    def held(self, program: bytes) -> tuple[bytes, ...]:
        """Return digests of what those trees consist of."""
        found = {
            digest
            for base in self.bases(program).values()
            for entry in base.entries
            if entry.kind == FILE
            for _, digest, _ in entry.places
        }
        return tuple(sorted(found))

    def forget(self, program: bytes, *, here: bool) -> None:
        """Forget a program that has ended. After an end here its files belong to its user; after
        an end elsewhere nothing of the program is needed here."""
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


def _base(entries: object, marks: list[Any]) -> TreeBase:
    known: KnownFiles = {}
    for path, (inode, size, modified, changed), chunks in marks:
        check_chunks(size, chunks)
        known[path] = (inode, size, modified, changed), chunks
    return TreeBase(parse(entries), known)
