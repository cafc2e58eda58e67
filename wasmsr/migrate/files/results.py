"""Files that a program brought along, and that go into the user's folder when it has ended.

While a packaged program moves, its files are in a carried tree. When it has ended, they go where
the program would have made them without a move.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path


def deliver(tree: Path, folder: Path, replaces: str) -> tuple[list[str], list[str]]:
    """Move the files at the top of `tree` into `folder`; remove `tree` if nothing is left in it.

    Args:
        tree: The program's tree.
        folder: The user's folder.
        replaces: Name of the file that may replace one in `folder`. All others replace none.

    Returns:
        Names of the files that were moved, and of those that were not.
    """
    moved: list[str] = []
    left: list[str] = []
    try:
        root = os.open(tree, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return moved, left
    try:
        for name in sorted(os.listdir(root)):
            try:
                done = _move(root, name, folder, name == replaces)
            except OSError:
                done = False
            (moved if done else left).append(name)
    finally:
        os.close(root)
    with suppress(OSError):
        os.rmdir(tree)
    return moved, left


def _move(root: int, name: str, folder: Path, replace: bool) -> bool:
    if name.startswith(".") or not stat.S_ISREG(os.lstat(name, dir_fd=root).st_mode):
        return False
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    part = folder / f".{secrets.token_hex(8)}.part"
    source = os.open(name, flags, dir_fd=root)
    try:
        with open(source, "rb", buffering=0, closefd=False) as file, open(part, "xb") as copy:
            while piece := file.read(1 << 20):
                copy.write(piece)
        if replace:
            os.replace(part, folder / name)
        else:
            os.link(part, folder / name)
    except FileExistsError:
        return False
    finally:
        os.close(source)
        with suppress(OSError):
            part.unlink()
    os.unlink(name, dir_fd=root)
    return True
