"""The files of one mount, as the path calls see them: places found by path, and listings.

Between `mounts` (what was granted) and the calls. A tree finds places (`Location`) and lists
directories; what is open is a host descriptor in every kind of tree, so the calls on descriptors
know nothing of trees. The one here is a directory of the host as it is.
"""

from __future__ import annotations

import os

from wasmsr.wasi.abi import FileType, file_type
from wasmsr.wasi.mounts import Mount
from wasmsr.wasi.resolve import Location

Entries = list[tuple[bytes, int, int]]
"""A listing: name, inode and `filetype` of each entry."""


class Tree:
    """A directory of the host. `root` is its descriptor, open until `close`."""

    def __init__(self, root: int) -> None:
        self.root = root

    def locate(self, directory: int, path: bytes) -> Location:
        """Where `path` leads from an open directory of this tree, and what can be done there."""
        return Location(directory, path)

    def list(self, directory: int) -> Entries:
        """`.` and `..`, then the names in the order of their bytes."""
        found: Entries = []
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
                found.append((os.fsencode(entry.name), entry.inode(), kind))
        found.sort()
        own = os.fstat(directory).st_ino
        # The inode above is nobody's business: the directory above may be outside.
        return [(b".", own, 3), (b"..", 0, 3), *found]

    def close(self) -> None:
        os.close(self.root)


def open_tree(mount: Mount) -> Tree:
    """The tree of a mount. Raises WasiConfigError, naming the directory, if it cannot be opened."""
    return Tree(mount.open())
