"""The list of a fleet: a file of SQLite with managers, runtimes, modules and messages to send.

One process writes it. Every change and the messages that follow from it are one transaction. A
message stays in the list until the broker has it, so no crash loses one.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.orchestrator.rows import (
    OPEN,
    FleetState,
    ManagerRow,
    ModuleRow,
    Outgoing,
    RuntimeRow,
)
from wasmsr.ownership import sqlite_files

APPLICATION = 0x57534642
"""The application id in the file's header: WSFB."""
SCHEMA = 2
"""The version of the tables (`user_version` of the file)."""

DEAD_KEPT = 1000
"""Managers, runtimes and modules that are over and can still be asked for."""
HEARD_KEPT = 1024
"""Requests that are known again. A broker sends few messages before it waits for an answer."""

_TABLES = """
CREATE TABLE IF NOT EXISTS managers (
    uuid TEXT PRIMARY KEY, name TEXT NOT NULL, status TEXT NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS runtimes (
    uuid TEXT PRIMARY KEY, name TEXT NOT NULL, runtime_type TEXT NOT NULL,
    max_nmodules INTEGER NOT NULL, apis TEXT NOT NULL, platform TEXT, metadata TEXT, parent TEXT,
    status TEXT NOT NULL, seen REAL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS modules (
    "index" INTEGER PRIMARY KEY AUTOINCREMENT, uuid TEXT NOT NULL UNIQUE, name TEXT NOT NULL,
    file TEXT NOT NULL, parent TEXT, apis TEXT NOT NULL, args TEXT, channels TEXT NOT NULL,
    status TEXT NOT NULL, epoch INTEGER NOT NULL, ended TEXT, program TEXT, heir TEXT
);
CREATE INDEX IF NOT EXISTS modules_by_status ON modules (status, parent);
CREATE INDEX IF NOT EXISTS modules_by_program ON modules (program);
CREATE TABLE IF NOT EXISTS owners (
    program TEXT PRIMARY KEY, record BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS outgoing (
    number INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, payload BLOB NOT NULL
);
CREATE TABLE IF NOT EXISTS heard (
    number INTEGER PRIMARY KEY AUTOINCREMENT, digest BLOB NOT NULL UNIQUE
);
CREATE TABLE IF NOT EXISTS dead (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, uuid TEXT NOT NULL,
    UNIQUE (kind, uuid)
);
"""

_SECOND = (
    "ALTER TABLE modules ADD COLUMN program TEXT",
    "ALTER TABLE modules ADD COLUMN heir TEXT",
)
"""What makes a list of version 1 one of version 2, beside new tables."""

_JSON = {"apis", "platform", "metadata", "args", "channels", "ended"}
_TUPLES = {"apis", "channels"}
_TABLE = {ManagerRow: "managers", RuntimeRow: "runtimes", ModuleRow: "modules"}

FleetRow = TypeVar("FleetRow", ManagerRow, RuntimeRow, ModuleRow)


class FleetList:
    """The list. Any thread may use it; use it as a context manager, or call `close`."""

    def __init__(self, path: Path) -> None:
        """Open the file, and make it if it is missing.

        Raises:
            FleetError: It cannot be opened, is no list of a fleet or of a newer version, or another
                process has it.
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            self._database = sqlite_files.connect(path, 0)
        except OSError as error:
            raise self._unusable(f"cannot be opened: {error.strerror}") from error
        try:
            with self._told():
                self._database.execute("PRAGMA locking_mode = EXCLUSIVE")
                self._database.execute("PRAGMA journal_mode = WAL")
                self._database.execute("PRAGMA synchronous = FULL")
                with self.changing():
                    self._prepare()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> FleetList:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._database.close()

    def _prepare(self) -> None:
        run = self._database.execute
        try:
            version = sqlite_files.version_of(self._database, APPLICATION, SCHEMA)
        except sqlite_files.ForeignDatabase:
            raise self._unusable("is a database, but no list of a fleet") from None
        except sqlite_files.NewerDatabase as error:
            raise self._unusable(
                f"has version {error}; this wasmsr reads up to {SCHEMA}",
                "install the wasmsr that made it",
            ) from None
        for statement in _SECOND if version == 1 else ():
            run(statement)
        if version < SCHEMA:
            sqlite_files.mark(self._database, APPLICATION, SCHEMA)
        for statement in _TABLES.split(";")[:-1]:
            run(statement)

    def _unusable(self, sentence: str, hint: str | None = None) -> FleetError:
        return FleetError(f"the list of the fleet {self.path} {sentence}", hint=hint)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an error of SQLite into one of fleets."""
        try:
            yield
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                hint = "another orchestrator has it; end that one, or take another --db"
                raise self._unusable("is in use", hint) from error
            raise self._unusable(f"cannot be used: {error}") from error
        except sqlite3.Error as error:
            raise self._unusable(f"cannot be used: {error}") from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        """One transaction: what the block changes is in the list as a whole, or not at all."""
        with self._lock, self._told():
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._database.execute("ROLLBACK")
                raise
            self._database.execute("COMMIT")

    # -- rows --------------------------------------------------------------------------------------

    def put(self, row: FleetRow) -> FleetRow:
        """Add a row, or replace the one with its UUID; return it, a module with its index."""
        names = list(type(row).__dataclass_fields__)
        values = [_stored(name, getattr(row, name)) for name in names]
        if isinstance(row, ModuleRow) and not row.index:
            names, values = names[1:], values[1:]
        columns = ", ".join(f'"{name}"' for name in names)
        marks = ", ".join("?" * len(names))
        with self._lock, self._told():
            self._database.execute(
                f"INSERT OR REPLACE INTO {_TABLE[type(row)]} ({columns}) VALUES ({marks})", values
            )
            if row.status is FleetState.DEAD:
                self._bury(_TABLE[type(row)], row.uuid)
            found = self.get(type(row), row.uuid)
        assert found is not None
        return found

    def _bury(self, table: str, uuid: str) -> None:
        """Note that a row is over, and remove those that have been so for the longest."""
        run = self._database.execute
        run("INSERT OR REPLACE INTO dead (kind, uuid) VALUES (?, ?)", (table, uuid))
        too_many = "SELECT number FROM dead ORDER BY number DESC LIMIT 1 OFFSET ?"
        for (last,) in run(too_many, (DEAD_KEPT,)).fetchall():
            run(
                "DELETE FROM owners WHERE program IN (SELECT program FROM modules "
                "WHERE status = 'D' AND uuid IN "
                "(SELECT uuid FROM dead WHERE number <= ? AND kind = 'modules'))",
                (last,),
            )
            for kind in _TABLE.values():
                run(
                    f"DELETE FROM {kind} WHERE status = 'D' AND uuid IN "
                    "(SELECT uuid FROM dead WHERE number <= ? AND kind = ?)",
                    (last, kind),
                )
            run("DELETE FROM dead WHERE number <= ?", (last,))

    def get(self, kind: type[FleetRow], uuid: str) -> FleetRow | None:
        """Return the row with a UUID."""
        return next(iter(self._rows(kind, "WHERE uuid = ?", uuid)), None)

    def named(self, kind: type[FleetRow], name: str) -> list[FleetRow]:
        """Return the rows with a name that are not dead."""
        return self._rows(kind, "WHERE name = ? AND status != 'D'", name)

    def ending_with(self, kind: type[FleetRow], digits: str) -> list[FleetRow]:
        """Return the rows whose UUIDs end so, and that are not dead."""
        return self._rows(kind, "WHERE substr(uuid, -length(?1)) = ?1 AND status != 'D'", digits)

    def in_state(self, kind: type[FleetRow], *states: FleetState) -> list[FleetRow]:
        """Return the rows in some states; modules in the order in which they came."""
        marks = ", ".join("?" * len(states))
        order = ' ORDER BY "index"' if kind is ModuleRow else " ORDER BY name, uuid"
        return self._rows(
            kind, f"WHERE status IN ({marks}){order}", *(state.value for state in states)
        )

    def modules_of(self, runtime: str | None, *states: FleetState) -> list[ModuleRow]:
        """Return the modules of a runtime, or of none, in the order in which they came."""
        marks = ", ".join("?" * len(states))
        return self._rows(
            ModuleRow,
            f'WHERE parent IS ? AND status IN ({marks}) ORDER BY "index"',
            runtime,
            *(state.value for state in states),
        )

    def loads(self) -> dict[str, int]:
        """Return how many modules each runtime has now, without those that wait for a place."""
        with self._lock, self._told():
            found = self._database.execute(
                "SELECT parent, count(*) FROM modules WHERE status IN ('A', 'E') GROUP BY parent"
            ).fetchall()
        return {parent: count for parent, count in found if parent is not None}

    def count(self, kind: type[FleetRow]) -> int:
        """Return how many rows there are that are not dead."""
        with self._lock, self._told():
            (found,) = self._database.execute(
                f"SELECT count(*) FROM {_TABLE[kind]} WHERE status != 'D'"
            ).fetchone()
        return int(found)

    def names(self, kind: type[FleetRow], most: int) -> list[str]:
        """Return the names of rows that are not dead, at most so many."""
        with self._lock, self._told():
            found = self._database.execute(
                f"SELECT DISTINCT name FROM {_TABLE[kind]} WHERE status != 'D' "
                "ORDER BY name LIMIT ?",
                (most,),
            ).fetchall()
        return [name for (name,) in found]

    def taken(self, uuid: str) -> bool:
        """Return whether a module that is not over has the UUID."""
        row = self.get(ModuleRow, uuid)
        return row is not None and row.status in OPEN

    def forget(self, uuid: str) -> None:
        """Remove a module that is over: another one has its UUID now."""
        with self._lock, self._told():
            run = self._database.execute
            run("DELETE FROM owners WHERE program IN (SELECT program FROM modules WHERE uuid = ?)",
                (uuid,))  # fmt: skip
            run("DELETE FROM modules WHERE uuid = ?", (uuid,))

    def _rows(self, kind: type[FleetRow], where: str, *values: Any) -> list[FleetRow]:
        names = list(kind.__dataclass_fields__)
        columns = ", ".join(f'"{name}"' for name in names)
        with self._lock, self._told():
            found = self._database.execute(
                f"SELECT {columns} FROM {_TABLE[kind]} {where}", values
            ).fetchall()
        return [
            kind(**{name: _read(name, value) for name, value in zip(names, row, strict=True)})
            for row in found
        ]

    # -- owners ------------------------------------------------------------------------------------

    def leased(self, program: str) -> ModuleRow | None:
        """Return the module with a program, by its id."""
        return next(iter(self._rows(ModuleRow, "WHERE program = ?", program)), None)

    def owner(self, program: str) -> bytes | None:
        """Return the record of a program's owner, as bytes."""
        with self._lock, self._told():
            found = self._database.execute(
                "SELECT record FROM owners WHERE program = ?", (program,)
            ).fetchone()
        return None if found is None else bytes(found[0])

    def own(self, program: str, record: bytes) -> None:
        """Make the record of a program's owner, or replace it."""
        with self._lock, self._told():
            self._database.execute("REPLACE INTO owners VALUES (?, ?)", (program, record))

    # -- messages ----------------------------------------------------------------------------------

    def send(self, topic: str, payload: bytes) -> None:
        """Add a message to those that are to be published."""
        with self._lock, self._told():
            self._database.execute(
                "INSERT INTO outgoing (topic, payload) VALUES (?, ?)", (topic, payload)
            )

    def outgoing(self, after: int = 0, most: int = -1) -> list[Outgoing]:
        """Return the messages that the broker does not have, from one on: so many, or all."""
        with self._lock, self._told():
            found = self._database.execute(
                "SELECT number, topic, payload FROM outgoing WHERE number > ? ORDER BY number "
                "LIMIT ?",
                (after, most),
            ).fetchall()
        return [Outgoing(*row) for row in found]

    def sent(self, *numbers: int) -> None:
        """Remove messages that the broker has."""
        with self.changing():
            self._database.executemany(
                "DELETE FROM outgoing WHERE number = ?", [(number,) for number in numbers]
            )

    def heard(self, digest: bytes) -> bool:
        """Return whether a request with a digest was taken."""
        with self._lock, self._told():
            found = self._database.execute("SELECT 1 FROM heard WHERE digest = ?", (digest,))
            return found.fetchone() is not None

    def hear(self, digest: bytes) -> None:
        """Note a request by its digest; the oldest are forgotten."""
        with self._lock, self._told():
            run = self._database.execute
            run("INSERT OR REPLACE INTO heard (digest) VALUES (?)", (digest,))
            run(
                "DELETE FROM heard WHERE number <= (SELECT max(number) FROM heard) - ?",
                (HEARD_KEPT,),
            )


def _stored(name: str, value: Any) -> Any:
    if name in _JSON:
        return None if value is None else json.dumps(value)
    return value.value if isinstance(value, FleetState) else value


def _read(name: str, value: Any) -> Any:
    if name in _JSON and value is not None:
        value = json.loads(value)
        return tuple(value) if name in _TUPLES else value
    return FleetState(value) if name == "status" else value
