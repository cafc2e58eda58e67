"""Folders of the host that belong to one program: trees in memory, upper layers, unpacked archives.

Such a folder is on the host only because the kernel keeps files better than we do. Its process
holds a lock on it. The next process that makes such a folder removes those whose process was
killed.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Final

from wasmsr.wasi.filesystem import tree_walk

PREFIX: Final = "wasmsr-tree-"
MEMORY = "/dev/shm"
"""Where Linux has a file system in memory that everybody may use."""
WORTHWHILE: Final = 64 << 20
"""Bytes that must be free there; containers often have next to nothing."""
SWEEP_SECONDS: Final = 0.5
"""Most seconds in which a start removes the folders of dead processes."""


def keep_in(folder: str) -> None:
    """Make all such folders of this process in a folder of its own, in memory or not."""
    global MEMORY
    MEMORY = tempfile.tempdir = folder


class PrivateFolder:
    """A folder that vanishes with `close`. `root`: its host descriptor; `path`: where it is."""

    def __init__(self, *, memory: bool = False, room: int = 0) -> None:
        """`memory`: in the host's memory rather than on its disk, where there are `room` bytes, and
        as many more for others. Raises OSError."""
        above = _memory(room) if memory else tempfile.gettempdir()
        _sweep(above)
        # Renamed after the lock: a folder with the prefix and without a lock has a dead process.
        made = tempfile.mkdtemp(prefix=".wasmsr-", dir=above)
        self.root = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self.root, fcntl.LOCK_EX)
        self.path = Path(above) / (PREFIX + os.path.basename(made).removeprefix(".wasmsr-"))
        os.rename(made, self.path)

    def close(self) -> None:
        """Remove the folder."""
        if self.root >= 0:
            root, self.root = self.root, -1
            try:
                with suppress(OSError):
                    tree_walk.clear(root)
                    tree_walk.forget(self.path, root)
            finally:
                os.close(root)


def _memory(room: int) -> str:
    try:
        free = os.statvfs(MEMORY)
        if os.access(MEMORY, os.W_OK) and free.f_bavail * free.f_frsize >= max(
            WORTHWHILE, 2 * room
        ):
            return MEMORY
    except OSError:
        pass
    return tempfile.gettempdir()


def _sweep(above: str) -> None:
    """Remove folders of killed processes, for a moment only, because a start must not wait long.
    The next start removes more."""
    end = time.monotonic() + SWEEP_SECONDS

    def check() -> None:
        if time.monotonic() > end:
            raise TimeoutError

    with suppress(OSError), os.scandir(above) as found:
        for entry in found:
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    check()
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                        _remove_dead(Path(entry.path), check)


def _remove_dead(path: Path, check: Callable[[], object]) -> None:
    """Remove a private folder that no living process has locked. Raises OSError."""
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        tree_walk.clear(found, check=check)
        tree_walk.forget(path, found)
    finally:
        os.close(found)
