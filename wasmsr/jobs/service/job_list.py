"""The list of jobs: a file of SQLite that any number of commands and one service use at once.

Every change is one transaction that begins with the right to write, so no process can act on what
another has changed meanwhile. A change and its line of history are one transaction.
"""

from __future__ import annotations

import json
import sqlite3
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from wasmsr.jobs.failures import JobError
from wasmsr.jobs.service.rows import (
    OPEN_JOBS,
    OPEN_RUNS,
    EventRow,
    JobRow,
    JobState,
    RequestRow,
    RunRow,
    RunState,
)
from wasmsr.ownership import sqlite_files

APPLICATION = 0x57534A4C
"""The application id in the file's header: WSJL."""

SCHEMA = 2
"""The version of the tables (`user_version` of the file)."""

BUSY_SECONDS = 20.0
"""How long a call waits for other processes that write."""

SHOWN = 8
"""Ids that an error about an ambiguous one shows."""

_TABLES = """
CREATE TABLE jobs (
    id TEXT PRIMARY KEY, name TEXT NOT NULL, namespace TEXT NOT NULL, type TEXT NOT NULL,
    priority INTEGER NOT NULL, count INTEGER NOT NULL, state TEXT NOT NULL, message TEXT NOT NULL,
    created REAL NOT NULL, changed REAL NOT NULL, source BLOB NOT NULL, changes TEXT NOT NULL,
    base TEXT NOT NULL, allowed TEXT NOT NULL, labels TEXT NOT NULL,
    compat INTEGER NOT NULL, stopping INTEGER NOT NULL, origin TEXT NOT NULL,
    engine TEXT NOT NULL DEFAULT '{}'
) WITHOUT ROWID;
CREATE INDEX jobs_by_state ON jobs (state);
CREATE TABLE runs (
    id TEXT PRIMARY KEY, job TEXT NOT NULL, number INTEGER NOT NULL, epoch INTEGER NOT NULL,
    state TEXT NOT NULL, message TEXT NOT NULL, created REAL NOT NULL, started REAL, ended REAL,
    folder TEXT NOT NULL, result TEXT, published TEXT, exit_code INTEGER,
    server TEXT NOT NULL DEFAULT ''
) WITHOUT ROWID;
CREATE INDEX runs_by_job ON runs (job);
CREATE INDEX runs_by_state ON runs (state);
CREATE TABLE events (
    seq INTEGER PRIMARY KEY, time REAL NOT NULL, job TEXT NOT NULL, execution TEXT NOT NULL,
    topic TEXT NOT NULL, state TEXT NOT NULL, message TEXT NOT NULL
);
CREATE INDEX events_by_job ON events (job);
CREATE TABLE requests (
    number INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, execution TEXT NOT NULL,
    argument TEXT NOT NULL, answer TEXT
);
CREATE TABLE drained (server TEXT PRIMARY KEY) WITHOUT ROWID;
"""

_SINCE = {
    2: """
ALTER TABLE jobs ADD COLUMN engine TEXT NOT NULL DEFAULT '{}';
ALTER TABLE runs ADD COLUMN server TEXT NOT NULL DEFAULT '';
CREATE TABLE drained (server TEXT PRIMARY KEY) WITHOUT ROWID;
""",
}
"""What makes the tables of a version of those of the version before."""

_JSON = {"changes", "allowed", "labels", "result", "published", "engine"}
_JOB = tuple(JobRow.__dataclass_fields__)
_RUN = tuple(RunRow.__dataclass_fields__)
_EVENT = tuple(EventRow.__dataclass_fields__)


class JobList:
    """The list. Any thread may use it; use it as a context manager, or call `close`."""

    def __init__(self, path: Path, *, busy: float = BUSY_SECONDS, synced: bool = True) -> None:
        """Open the file, and make it if it is missing.

        Args:
            path: The file; only its user can read it.
            busy: Seconds that a call waits for other processes that write.
            synced: Whether each change is on the disk before its call returns. Otherwise the last
                changes can be lost with the power of the machine, but not with a process.

        Raises:
            JobError: It cannot be opened, or is no list of jobs.
        """
        self.path = path
        self._lock = threading.RLock()
        try:
            self._database = sqlite_files.connect(path, busy)
        except OSError as error:
            raise self._away(f"cannot be opened: {error.strerror}") from error
        try:
            with self._told():
                self._database.execute("PRAGMA journal_mode = WAL")
                level = "FULL" if synced else "NORMAL"
                self._database.execute(f"PRAGMA synchronous = {level}")
                with self.changing():
                    self._prepare()
        except BaseException:
            self._database.close()
            raise

    def __enter__(self) -> JobList:
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
            raise self._away("is a database, but no list of jobs") from None
        except sqlite_files.NewerDatabase as error:
            raise self._away(
                f"has version {error}; this wasmsr reads up to {SCHEMA}",
                "install the wasmsr that made it",
            ) from None
        if not version:
            for statement in _TABLES.split(";")[:-1]:
                run(statement)
            sqlite_files.mark(self._database, APPLICATION, SCHEMA)
        elif version < SCHEMA:
            for number in range(version + 1, SCHEMA + 1):
                for statement in _SINCE[number].split(";")[:-1]:
                    run(statement)
            run(f"PRAGMA user_version = {SCHEMA}")

    def _away(self, sentence: str, hint: str | None = None) -> JobError:
        message = f"the list of jobs {self.path} {sentence}"
        return JobError("FilesystemError", message, hint=hint, retryable=True)

    @contextmanager
    def _told(self) -> Iterator[None]:
        """Turn an error of SQLite into one of jobs."""
        try:
            yield
        except sqlite3.OperationalError as error:
            raise self._away(f"does not work: {error}") from error
        except (sqlite3.Error, ValueError, TypeError) as error:
            hint = "move it away, and the jobs in it are forgotten"
            raise self._away(f"is damaged: {error}", hint) from error

    @contextmanager
    def changing(self) -> Iterator[None]:
        """Make all calls within one transaction; nobody else changes anything meanwhile."""
        with self._lock, self._told():
            if self._database.in_transaction:
                yield
                return
            self._database.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._database.execute("COMMIT")
            except BaseException:
                with suppress(sqlite3.Error):  # SQLite may have rolled back already
                    self._database.execute("ROLLBACK")
                raise

    def _rows(self, query: str, values: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
        with self._lock, self._told():
            return self._database.execute(query, values).fetchall()

    def version(self) -> int:
        """Return a number that changes when another process changes the list."""
        ((found,),) = self._rows("PRAGMA data_version")
        return int(found)

    # Jobs

    def add_job(self, job: JobRow, runs: int) -> None:
        """Add a job with its executions, and note that it was submitted."""
        with self.changing():
            self._insert("jobs", _JOB, job)
            self.note(job.id, "", "Submission", "Queued", "Job submitted")
            for number in range(runs):
                self.add_run(job.id, number)

    def add_run(self, job: str, number: int, message: str = "", server: str = "") -> RunRow:
        """Add an execution of a job; `server` is the one that has to run it, or ""."""
        row = RunRow(
            f"e-{uuid.uuid4()}", job, number, 1, "New", message, time.time(), server=server
        )
        with self.changing():
            self._insert("runs", _RUN, row)
            self.note(job, row.id, "Scheduling", "New", message or "Execution made")
        return row

    def _insert(self, table: str, names: tuple[str, ...], row: Any) -> None:
        values = tuple(_stored(name, getattr(row, name)) for name in names)
        marks = ", ".join("?" * len(names))
        self._database.execute(f"INSERT INTO {table} ({', '.join(names)}) VALUES ({marks})", values)

    def jobs(self, *, only_open: bool = False, files: bool = True) -> list[JobRow]:
        """Return the jobs, the newest first; without `files` their files are left empty."""
        where = f"WHERE state IN {OPEN_JOBS}" if only_open else ""
        names = ", ".join(_JOB) if files else ", ".join(_JOB).replace("source", "x'' AS source")
        found = self._rows(f"SELECT {names} FROM jobs {where} ORDER BY created DESC, id")
        return [JobRow(*_read(_JOB, row)) for row in found]

    def job(self, name: str) -> JobRow:
        """Return the job with an id, or with the beginning of one.

        Raises:
            JobError: ExecutionNotFound; there is none, or more than one.
        """
        with self._told():
            (row,) = self._rows(
                f"SELECT {', '.join(_JOB)} FROM jobs WHERE id = ?", (self._whole("jobs", name),)
            )
            return JobRow(*_read(_JOB, row))

    def _whole(self, table: str, name: str) -> str:
        """Return the one id that begins so, with its letter or without."""
        what = {"jobs": "job", "runs": "execution"}[table]
        letter = {"jobs": "j-", "runs": "e-"}[table]
        start = name.lower()
        start = start if start.startswith(letter) else letter + start
        found = self._rows(
            f"SELECT id FROM {table} WHERE id >= ? AND id < ? ORDER BY id LIMIT ?",
            (start, start + "\x7f", SHOWN + 1),
        )
        if (start,) in found or len(found) == 1:
            return start if (start,) in found else str(found[0][0])
        if not found or len(start) == len(letter):
            raise JobError(
                "ExecutionNotFound",
                f"there is no {what} {name!r}",
                hint="wasmsr job list shows all jobs",
            )
        ids = ", ".join(str(one[0]) for one in found[:SHOWN]) + (", ..." * (len(found) > SHOWN))
        raise JobError(
            "ExecutionNotFound",
            f"more than one {what} begins with {name!r}: {ids}",
            hint="give more of the id",
        )

    def set_job(self, job: str, state: JobState, message: str = "") -> None:
        """Change the state of a job that has not ended; otherwise nothing happens."""
        with self.changing():
            changed = self._database.execute(
                f"UPDATE jobs SET state = ?, message = ?, changed = ? WHERE id = ? AND "
                f"state != ? AND state IN {OPEN_JOBS}",
                (state, message, time.time(), job, state),
            )
            if changed.rowcount:
                self.note(job, "", "State Update", state, message or state)

    def stop(self, job: str, message: str) -> bool:
        """Ask to stop a job; return whether it had not ended."""
        with self.changing():
            changed = self._database.execute(
                f"UPDATE jobs SET stopping = 1 WHERE id = ? AND stopping = 0 AND state IN "
                f"{OPEN_JOBS}",
                (job,),
            )
            if changed.rowcount:
                self.note(job, "", "Stop", "", message)
            return self.job(job).open

    def counts(self) -> dict[str, dict[str, int]]:
        """Return how many jobs ("jobs") and executions ("runs") there are, by state."""
        found = {}
        for table in ("jobs", "runs"):
            rows = self._rows(f"SELECT state, count(*) FROM {table} GROUP BY state")
            found[table] = {str(state): int(number) for state, number in rows}
        return found

    # Executions

    def runs(self, job: str | None = None, *, only_open: bool = False) -> list[RunRow]:
        """Return the executions of a job, or of all, in the order in which they were made."""
        tests = ["job = ?"] if job is not None else []
        tests += [f"state IN {OPEN_RUNS}"] if only_open else []
        where = f"WHERE {' AND '.join(tests)}" if tests else ""
        found = self._rows(
            f"SELECT {', '.join(_RUN)} FROM runs {where} ORDER BY created, number, id",
            () if job is None else (job,),
        )
        with self._told():
            return [RunRow(*_read(_RUN, row)) for row in found]

    def run(self, name: str) -> RunRow:
        """Return the execution with an id, or with the beginning of one; see `job`."""
        with self._told():
            (row,) = self._rows(
                f"SELECT {', '.join(_RUN)} FROM runs WHERE id = ?", (self._whole("runs", name),)
            )
            return RunRow(*_read(_RUN, row))

    def set_run(
        self,
        run: RunRow,
        state: RunState,
        message: str = "",
        topic: str = "Execution",
        **values: Any,
    ) -> RunRow:
        """Change an execution that has not ended; return it as it is then.

        Args:
            run: The execution. Nothing happens if the list has another epoch of it.
            state: Its new state.
            message: What history says.
            topic: What it concerns.
            values: Further attributes.
        """
        names = ["state", "message", *values]
        stored = [state, message, *(_stored(name, value) for name, value in values.items())]
        with self.changing():
            changed = self._database.execute(
                f"UPDATE runs SET {', '.join(f'{name} = ?' for name in names)} WHERE id = ? AND "
                f"epoch = ? AND state IN {OPEN_RUNS}",
                (*stored, run.id, run.epoch),
            )
            if changed.rowcount:
                self.note(run.job, run.id, topic, state, message or state)
            return self.run(run.id)

    def forget_run(self, run: str) -> None:
        """Remove an execution from the list; its history stays."""
        with self.changing():
            self._database.execute("DELETE FROM runs WHERE id = ?", (run,))

    # History

    def note(self, job: str, execution: str, topic: str, state: str, message: str) -> None:
        """Add a line to the history of a job."""
        with self.changing():
            self._insert(
                "events", _EVENT, EventRow(time.time(), job, execution, topic, state, message)
            )

    def history(self, job: str) -> list[EventRow]:
        """Return what happened to a job, the oldest first."""
        found = self._rows(
            f"SELECT {', '.join(_EVENT)} FROM events WHERE job = ? ORDER BY seq", (job,)
        )
        return [EventRow(*row) for row in found]

    # Servers

    def drain(self, server: str, *, undo: bool = False) -> None:
        """Note that a server gets no more executions, or that it may have some again."""
        with self.changing():
            self._database.execute(
                "DELETE FROM drained WHERE server = ?"
                if undo
                else "INSERT OR IGNORE INTO drained VALUES (?)",
                (server,),
            )

    def drained(self) -> frozenset[str]:
        """Return the addresses of servers that get no more executions."""
        return frozenset(str(one) for (one,) in self._rows("SELECT server FROM drained"))

    # Requests

    def ask(self, kind: str, execution: str, argument: str = "") -> int:
        """Ask something of the service; return the number of the request."""
        with self.changing():
            made = self._database.execute(
                "INSERT INTO requests (kind, execution, argument) VALUES (?, ?, ?)",
                (kind, execution, argument),
            )
            return int(made.lastrowid or 0)

    def open_requests(self) -> list[RequestRow]:
        """Return the requests without an answer."""
        found = self._rows("SELECT * FROM requests WHERE answer IS NULL ORDER BY number")
        return [RequestRow(*row) for row in found]

    def answer(self, number: int, answer: str) -> None:
        """Answer a request; "" is success."""
        with self.changing():
            self._database.execute(
                "UPDATE requests SET answer = ? WHERE number = ?", (answer, number)
            )

    def answered(self, number: int) -> str | None:
        """Return the answer, which is removed then; None if there is none yet."""
        with self.changing():
            found = self._rows("SELECT answer FROM requests WHERE number = ?", (number,))
            if found and found[0][0] is not None:
                self._database.execute("DELETE FROM requests WHERE number = ?", (number,))
                return str(found[0][0])
            return None


def _stored(name: str, value: Any) -> Any:
    if name in _JSON and value is not None:
        return json.dumps(dict(value) if isinstance(value, Mapping) else list(value))
    return int(value) if isinstance(value, bool) else value


def _read(names: tuple[str, ...], row: tuple[Any, ...]) -> Iterator[Any]:
    for name, value in zip(names, row, strict=True):
        if name in _JSON and value is not None:
            read = json.loads(value)
            yield tuple(read) if isinstance(read, list) else read
        elif name in ("compat", "stopping"):
            yield bool(value)
        else:
            yield value


__all__ = ["JobList"]
