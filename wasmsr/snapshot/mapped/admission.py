"""Admission records: which mapped files this user has checked, and how far.

A mapped file may be used without reading its pages only if nobody has changed it since all of it
was checked. A record binds the levels of checking and the root digest to the identity of the file:
device, inode, size, times of modification and change, owner and permissions. So a copy, a moved
file or a changed one has no record.

Records are files in a folder of the user's own. They are not beside the snapshots, because what
comes with a snapshot from elsewhere must not vouch for it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from typing import NamedTuple

from wasmsr.errors import SnapshotError, printable
from wasmsr.snapshot.encoding.canonical import pack, unpack

STRUCTURAL, SEMANTIC, PAGES = "structural", "semantic", "pages"
"""Levels of checking: the form of the file and the digests of its sections; what can be checked of
the state without its modules; the digests of all pages."""
ALL_LEVELS = (STRUCTURAL, SEMANTIC, PAGES)
"""What a file must have passed to be mapped."""

_KEYS = ("version", "path", "identity", "root", "levels")
_VERSION = 1
_SIZE = 65536
"""Bytes of the largest record."""
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


class Admission(NamedTuple):
    """What a record says of a file.

    Attributes:
        path: Where the file was when it was admitted.
        root: The root digest of the snapshot.
        levels: The levels of checking that the file has passed.
    """

    path: bytes
    root: bytes
    levels: tuple[str, ...]


def identity(status: os.stat_result) -> list[int]:
    """Return what tells a file and its content apart from all others."""
    return [
        status.st_dev,
        status.st_ino,
        status.st_size,
        status.st_mtime_ns,
        status.st_ctime_ns,
        status.st_uid,
        stat.S_IMODE(status.st_mode),
    ]


def records_folder() -> str:
    """Return the folder of the records, in the user's state folder."""
    import sys

    if sys.platform != "linux":
        import platformdirs

        return os.path.join(platformdirs.user_state_dir("wasmsr", appauthor=False), "admitted")
    base = os.environ.get("XDG_STATE_HOME", "")  # as platformdirs, whose import takes long
    if not os.path.isabs(base):
        base = os.path.expanduser("~/.local/state")
    return os.path.join(base, "wasmsr", "admitted")


def check_unwritable(path: str, status: os.stat_result) -> None:
    """Refuse to map a file that others may write, because they could change a running program.

    Raises:
        SnapshotError: Its permissions or its owner allow it; the hint is the command to type.
    """
    said = printable(path)
    if status.st_uid not in (os.geteuid(), 0):
        raise SnapshotError(
            f"{said} belongs to another user (uid {status.st_uid}), who could change it while it "
            "is mapped",
            hint=f"wasmsr snapshot convert --mapped {said} -o FILE makes one that is yours",
        )
    if status.st_mode & _OTHERS_WRITE:
        mode = f"{stat.S_IMODE(status.st_mode):03o}"
        raise SnapshotError(
            f"others may write {said} (mode {mode}), and it would be mapped",
            hint=f"chmod a-w {said}",
        )


def find(status: os.stat_result) -> Admission | None:
    """Return the record of a file that is open, or None if it has none that counts.

    Args:
        status: Of the open file, not of its name.
    """
    folder = records_folder()
    try:
        if not _is_own(os.stat(folder)):
            return None
        number = os.open(_record(folder, status), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None
    try:
        own = os.fstat(number)
        if not stat.S_ISREG(own.st_mode) or not _is_own(own):
            return None
        data = os.read(number, _SIZE)
    except OSError:
        return None
    finally:
        os.close(number)
    return _read(data, identity(status))


def _read(data: bytes, wanted: list[int]) -> Admission | None:
    try:
        record = unpack(data)
    except ValueError:
        return None
    if type(record) is not dict or tuple(record) != _KEYS or record["version"] != _VERSION:
        return None
    path, root, levels = record["path"], record["root"], record["levels"]
    if record["identity"] != wanted or type(path) is not bytes or type(root) is not bytes:
        return None
    if type(levels) is not list or any(type(level) is not str for level in levels):
        return None
    return Admission(path, root, tuple(levels))


def admit(path: str, root: bytes, levels: tuple[str, ...] = ALL_LEVELS) -> bool:
    """Write the record of a file that has been checked.

    Records of files that are gone are removed.

    Args:
        path: The file.
        root: Its root digest.
        levels: The levels of checking that it has passed.

    Returns:
        Whether there is a record now; without one, the file is read and not mapped.
    """
    folder = records_folder()
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        if not _is_own(os.stat(folder)):
            return False
        status = os.stat(path)
        values = (_VERSION, os.fsencode(os.path.realpath(path)), identity(status), root, [*levels])
        data = pack(dict(zip(_KEYS, values, strict=True)), "an admission record")
        target = _record(folder, status)
        temporary = f"{target}.{os.getpid()}.part"
        with open(temporary, "wb", opener=_private) as file:
            file.write(data)
        os.replace(temporary, target)
    except OSError:
        return False
    _tidy(folder)
    return True


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _record(folder: str, status: os.stat_result) -> str:
    return os.path.join(folder, f"{status.st_dev:x}-{status.st_ino:x}")


def _is_own(status: os.stat_result) -> bool:
    """Return whether only this user can change a file of records."""
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE


def _tidy(folder: str) -> None:
    """Remove records of files that are no longer where they were admitted."""
    with suppress(OSError):
        for name in os.listdir(folder):
            record = os.path.join(folder, name)
            with suppress(OSError, ValueError, TypeError, KeyError):
                with open(record, "rb") as file:
                    path = unpack(file.read(_SIZE))["path"]
                if not os.path.lexists(path):
                    os.unlink(record)


__all__ = [
    "ALL_LEVELS",
    "PAGES",
    "SEMANTIC",
    "STRUCTURAL",
    "Admission",
    "admit",
    "check_unwritable",
    "find",
    "identity",
    "records_folder",
]
