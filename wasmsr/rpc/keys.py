"""The key that the ends of one user share, in a file.

Without `--token-file`, the file is `remote/key` in the state folder, and only its user can read it.
The first end makes the file. A folder of `--state-dir` gets a copy of the key in the user's own
state folder, so that all ends of one user on one machine have the same key.
"""

from __future__ import annotations

import os
import secrets
import stat
from contextlib import suppress
from pathlib import Path

from wasmsr import small_files
from wasmsr.errors import MigrationError

SIZE = 32
"""Bytes of a key that wasmsr makes."""
LEAST, MOST = 16, 4096
"""Fewest and most bytes of a token file, without white space around them."""
NAME = Path("remote") / "key"


def own(state: Path, home: Path) -> bytes:
    """Return the key of this user.

    Args:
        state: The state folder.
        home: The user's own state folder, which is the default.

    Raises:
        MigrationError: The key cannot be made or read, or others could have read or written it.
    """
    path = state / NAME
    if not _there(path):
        key = secrets.token_bytes(SIZE)
        if state != home:
            # If the user's own folder cannot be used, only the ends with this `state` share a key.
            with suppress(MigrationError, OSError):
                key = own(home, home)
        try:
            _make(path, key)
        except OSError as error:
            raise _unusable(path, f"cannot be made: {error.strerror or error}") from error
    try:
        key, status = small_files.read(path, MOST)
    except OSError as error:
        raise _unusable(path, f"cannot be read: {error.strerror or error}") from error
    if status.st_uid != os.geteuid():
        raise _unusable(path, "belongs to another user")
    if stat.S_IMODE(status.st_mode) & 0o077:
        raise _unusable(path, f"can be used by others (mode {stat.S_IMODE(status.st_mode):04o})")
    if len(key) != SIZE:
        raise _unusable(path, f"has {len(key)} bytes instead of {SIZE}")
    return key


def token(path: Path) -> tuple[bytes, bool]:
    """Return the key in a file of the user, and whether other users of this machine can read it.

    Raises:
        MigrationError: The file cannot be read, or has too few or too many bytes.
    """
    try:
        content, status = small_files.read(path, MOST)
    except OSError as error:
        raise _bad_token(path, f"cannot be read: {error.strerror or error}") from error
    if len(content) > MOST:
        raise _bad_token(path, f"has more than {MOST} bytes")
    key = content.strip()
    if len(key) < LEAST:
        raise _bad_token(path, f"has {len(key)} bytes, fewer than the {LEAST} that a key needs")
    return key, small_files.is_open_to_others(status)


def _there(path: Path) -> bool:
    try:
        path.lstat()
    except OSError:
        return False
    return True


def _make(path: Path, key: bytes) -> None:
    """Make the complete file of a key, unless another process was first. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    with suppress(FileExistsError):
        small_files.create(path, key)


def _unusable(path: Path, why: str) -> MigrationError:
    return MigrationError(
        f"the key {path} {why}",
        phase="prepare",
        owner="source",
        hint="if that is not on purpose, remove the file: the next `wasmsr remote` makes a new key "
        "(then start the other end again too); or give both ends --token-file FILE",
    )


def _bad_token(path: Path, why: str) -> MigrationError:
    return MigrationError(
        f"the token file {path} {why}",
        phase="prepare",
        owner="source",
        hint="make one with `head -c 32 /dev/urandom | base64 >FILE; chmod 600 FILE` and give both "
        "ends the same",
    )
