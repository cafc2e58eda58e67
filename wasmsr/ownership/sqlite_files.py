"""Files of SQLite that are ours: opened for their user alone, and told from others by their header.

Which tables are in one, and what an error is called, is the matter of whoever has it.
"""

from __future__ import annotations

import os
import sqlite3
from pathlib import Path


class ForeignDatabase(Exception):
    """A file is a database of something else."""


class NewerDatabase(Exception):
    """A newer version of wasmsr has made a file; the argument is its version."""


def connect(path: Path, busy: float) -> sqlite3.Connection:
    """Open a file for any thread, and make it if it is missing; only its user can read it.

    Args:
        path: The file.
        busy: Seconds that a call waits for another process that writes.

    Raises:
        OSError: It cannot be opened or made.
    """
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    return sqlite3.connect(path, timeout=busy, isolation_level=None, check_same_thread=False)


def version_of(database: sqlite3.Connection, application: int, newest: int) -> int:
    """Return the version of the tables of a file of ours; 0 if it is new and empty.

    Args:
        database: The file.
        application: What its header says (`application_id`).
        newest: The newest version that can be read.

    Raises:
        ForeignDatabase: It is of something else.
        NewerDatabase: It has a newer version.
        sqlite3.Error: It cannot be read.
    """
    run = database.execute
    (version,) = run("PRAGMA user_version").fetchone()
    (kind,) = run("PRAGMA application_id").fetchone()
    (tables,) = run("SELECT count(*) FROM sqlite_master").fetchone()
    if version == 0 and kind == 0 and tables == 0:
        return 0
    if kind != application:
        raise ForeignDatabase
    if version > newest:
        raise NewerDatabase(version)
    return int(version)


def mark(database: sqlite3.Connection, application: int, version: int) -> None:
    """Write what `version_of` reads. Raises sqlite3.Error."""
    database.execute(f"PRAGMA application_id = {application}")
    database.execute(f"PRAGMA user_version = {version}")


__all__ = ["ForeignDatabase", "NewerDatabase", "connect", "mark", "version_of"]
