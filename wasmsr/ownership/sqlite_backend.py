"""The register of one host: a file of SQLite. It is the default and needs no service."""

from __future__ import annotations

import sqlite3
import threading
from contextlib import suppress
from pathlib import Path

from wasmsr.ownership import sqlite_files
from wasmsr.ownership.failures import RecordTooNew, RegisterAway, RegisterDamaged
from wasmsr.ownership.register import Unanswered

APPLICATION = 0x57534F57
"""The application id in the file's header."""

SCHEMA = 1
"""The version of the tables (`user_version` of the file)."""

BUSY_SECONDS = 2.0
"""How long a call waits for another process that writes."""

TABLE = "CREATE TABLE records (program BLOB PRIMARY KEY, record BLOB NOT NULL) WITHOUT ROWID"


class SqliteBackend:
    """Records in a file. Each commit is synced before `compare_and_swap` returns."""

    def __init__(self, path: Path, *, busy: float = BUSY_SECONDS) -> None:
        """Open the file, and make it if it is missing.

        Args:
            path: The file; only its user can read it.
            busy: Seconds that a call waits for another process that writes.

        Raises:
            RegisterAway: The file cannot be opened.
            RegisterDamaged: It is another kind of file.
            RecordTooNew: A newer version of wasmsr made it.
        """
        self.path = path
        self._lock = threading.Lock()
        try:
            self._database = sqlite_files.connect(path, busy)
        except OSError as error:
            raise RegisterAway(f"the register {path} cannot be opened: {error.strerror}") from error
        try:
            self._prepare()
        except sqlite3.Error as error:
            self._database.close()
            raise self._error(error) from error
        except BaseException:
            self._database.close()
            raise

    def _prepare(self) -> None:
        run = self._database.execute
        run("PRAGMA journal_mode = WAL")
        run("PRAGMA synchronous = FULL")
        run("BEGIN IMMEDIATE")
        try:
            try:
                version = sqlite_files.version_of(self._database, APPLICATION, SCHEMA)
            except sqlite_files.ForeignDatabase:
                sentence = f"{self.path} is a database, but no register of wasmsr"
                raise RegisterDamaged(sentence) from None
            except sqlite_files.NewerDatabase as error:
                raise RecordTooNew(
                    f"the register {self.path} has version {error}; this wasmsr reads up to "
                    f"{SCHEMA}",
                    hint="install the wasmsr that made it",
                ) from None
            if not version:
                run(TABLE)
                sqlite_files.mark(self._database, APPLICATION, SCHEMA)
            run("COMMIT")
        except BaseException:
            self._rollback()
            raise

    def _rollback(self) -> None:
        with suppress(sqlite3.Error):  # after some errors SQLite has rolled back already
            self._database.execute("ROLLBACK")

    def _error(self, error: sqlite3.Error) -> RegisterAway | RegisterDamaged:
        """Return our error for one of SQLite after which nothing has happened."""
        if isinstance(error, sqlite3.OperationalError):
            return RegisterAway(f"the register {self.path} does not work: {error}")
        return RegisterDamaged(
            f"the register {self.path} is damaged: {error}",
            hint="nobody may run its programs until an operator has put it right",
        )

    def get(self, program: bytes) -> bytes | None:
        """Return the newest bytes of a program; see `RegisterBackend.get`."""
        with self._lock:
            try:
                return self._get(program)
            except sqlite3.Error as error:
                raise self._error(error) from error

    def _get(self, program: bytes) -> bytes | None:
        row = self._database.execute(
            "SELECT record FROM records WHERE program = ?", (program,)
        ).fetchone()
        if row is None:
            return None
        return row[0] if isinstance(row[0], bytes) else str(row[0]).encode("utf-8", "replace")

    def compare_and_swap(self, program: bytes, old: bytes | None, new: bytes) -> bool:
        """Replace the bytes if they are `old`; see `RegisterBackend.compare_and_swap`."""
        with self._lock:
            try:
                self._database.execute("BEGIN IMMEDIATE")
                if self._get(program) != old:
                    self._rollback()
                    return False
                self._database.execute("REPLACE INTO records VALUES (?, ?)", (program, new))
            except sqlite3.Error as error:
                self._rollback()
                raise self._error(error) from error
            try:
                self._database.execute("COMMIT")
            except sqlite3.Error as error:
                # The commit may be on the disk although its sync failed.
                self._rollback()
                raise Unanswered(str(error)) from error
            return True

    def programs(self) -> list[bytes]:
        """Return the ids of all programs."""
        with self._lock:
            try:
                rows = self._database.execute("SELECT program FROM records ORDER BY program")
                return [bytes(row[0]) for row in rows]
            except (sqlite3.Error, TypeError) as error:
                if isinstance(error, sqlite3.Error):
                    raise self._error(error) from error
                raise RegisterDamaged(f"{self.path} has an id that is no bytes") from error

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()
