"""Folders of the host that are a program's own: trees in memory, upper layers, unpacked archives.

Below `trees`. Such a folder is on the host only because the kernel keeps files better than we do;
nobody else uses it. It has a lock as long as its process lives, so that what a killed process left
is found, and removed, by the next one that makes such a folder.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

PREFIX: Final = "wasmsr-tree-"
MEMORY: Final = "/dev/shm"
"""Where Linux has a file system in memory that everybody may use."""
WORTHWHILE: Final = 64 << 20
"""Bytes that must be free there; containers often have next to nothing."""


class Private:
    """A folder that vanishes with `close`. `root`: its host descriptor; `path`: where it is."""

    def __init__(self, *, memory: bool = False) -> None:
        """`memory`: in the host's memory rather than on its disk, where that is possible.

        Raises OSError.
        """
        above = _memory() if memory else tempfile.gettempdir()
        _sweep(above)
        # Renamed when it is locked: a name with the prefix and without a lock is a dead one's.
        made = tempfile.mkdtemp(prefix=".wasmsr-", dir=above)
        self.root = os.open(made, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self.root, fcntl.LOCK_EX)
        self.path = Path(above) / (PREFIX + os.path.basename(made).removeprefix(".wasmsr-"))
        os.rename(made, self.path)

    def close(self) -> None:
        if self.root >= 0:
            remove(self.path)
            os.close(self.root)
            self.root = -1


def _memory() -> str:
    try:
        free = os.statvfs(MEMORY)
        if os.access(MEMORY, os.W_OK) and free.f_bavail * free.f_frsize >= WORTHWHILE:
            return MEMORY
    except OSError:
        pass
    return tempfile.gettempdir()


def _sweep(above: str) -> None:
    """Remove what processes left that were killed."""
    with suppress(OSError):
        for entry in os.scandir(above):
            if entry.name.startswith(PREFIX) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):
                    if entry.stat(follow_symlinks=False).st_uid == os.getuid():
                        _remove_dead(entry.path)


def _remove_dead(path: str) -> None:
    found = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        fcntl.flock(found, fcntl.LOCK_EX | fcntl.LOCK_NB)
        remove(Path(path))
    finally:
        os.close(found)


def remove(path: Path) -> None:
    """Remove a folder and all in it, also where the program took away the right to do so."""

    def again(function: Callable[..., Any], name: str, _: object) -> None:
        with suppress(OSError):
            above = os.path.dirname(name)
            os.chmod(above, stat.S_IRWXU)
            if os.path.isdir(name) and not os.path.islink(name):
                os.chmod(name, stat.S_IRWXU)
                shutil.rmtree(name, ignore_errors=True)
            else:
                os.unlink(name)

    shutil.rmtree(path, onerror=again)
