"""What the commands do: each call reads or changes the list, and sees that the jobs are run."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from wasmsr.errors import EXIT_FUEL, EXIT_HOST, EXIT_INTERRUPTED
from wasmsr.jobs.engines.engine_plan import EnginePlan
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.publishers.publication import Published
from wasmsr.jobs.publishers.publishing import retrieve
from wasmsr.jobs.service.home import JobHome
from wasmsr.jobs.service.job_list import JobList
from wasmsr.jobs.service.rows import AVOID, EventRow, JobRow, RunRow

LOOK_SECONDS = 0.02
"""How often a waiting command looks whether the list has changed."""

ALIVE_SECONDS = 2.0
"""How often it looks whether a process runs the jobs."""

STOP_SECONDS = 30.0
"""Longest time until a job has stopped, and until a request is answered."""


@dataclass(frozen=True)
class Submission:
    """A job file and how it is run.

    Attributes:
        source: The bytes of the file.
        name: What messages call the file.
        base: The folder to which relative paths in it belong.
        changes: The changes of `--set`.
        allowed: What `--allow-path` allows.
        labels: The labels of this machine, each `KEY=VALUE`.
        compat: Whether it runs as on Bacalhau.
        origin: The job that it repeats, or "".
        engine: What runs it.
    """

    source: bytes
    name: str = "the job file"
    base: Path = Path()
    changes: tuple[str, ...] = ()
    allowed: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    compat: bool = False
    origin: str = ""
    engine: EnginePlan = field(default_factory=EnginePlan)


class JobClient:
    """The jobs of one folder. Use it as a context manager, or call `close`."""

    def __init__(self, home: JobHome) -> None:
        """Open the list. Raises JobError."""
        self.home = home
        self.jobs = JobList(home.list_file)

    def __enter__(self) -> JobClient:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the list. Jobs run on."""
        self.jobs.close()

    # Jobs

    def submit(self, given: Submission) -> JobRow:
        """Add a job to the list, and see that it is run.

        Raises:
            JobError: The file is wrong, this machine cannot run it, or a path is not allowed.
        """
        # Only here: to read a job file takes longer than all other commands.
        from wasmsr.jobs.description.job_file import read_job
        from wasmsr.jobs.service.scheduling import (
            EVERYWHERE,
            check_fit,
            executions_of,
            machine_labels,
        )
        from wasmsr.jobs.service.submission import check_paths, check_servers

        task = read_job(given.source, given.name, given.changes, peer=given.compat)
        try:
            labels = machine_labels(given.labels)
        except ValueError as error:
            raise JobError("SpecError", f"--label: {error}") from None
        given.engine.check()
        if given.engine.is_elsewhere:
            check_servers(task, given.engine)
        else:
            check_fit(task, labels)
        if not given.compat:
            check_paths(task, given.base, given.allowed)
        now = time.time()
        count = executions_of(task)
        if given.engine.is_elsewhere and task.type in EVERYWHERE:
            count = 0  # the service makes one for each server
        row = JobRow(
            f"j-{uuid.uuid4()}", task.name, task.namespace, task.type, task.priority, count,
            "Queued", "", now, now, given.source, tuple(given.changes),
            os.path.abspath(given.base), _absolute(given.allowed), tuple(given.labels),
            given.compat, origin=given.origin, engine=given.engine.as_dict(),
        )  # fmt: skip
        self.jobs.add_job(row, count)
        self.home.serve()
        return row

    def rerun(self, name: str) -> JobRow:
        """Add a job again, as it was. Raises JobError."""
        old = self.job(name)
        again = Submission(
            old.source,
            old.name or old.id,
            Path(old.base),
            old.changes,
            old.allowed,
            old.labels,
            old.compat,
            old.id,
            EnginePlan.read(old.engine, compat=old.compat),
        )
        return self.submit(again)

    def job(self, name: str) -> JobRow:
        """Return the job with an id, or with the beginning of one; see `JobList.job`."""
        return self.jobs.job(name)

    def refresh(self) -> None:
        """See that a process runs the jobs that have not ended, so that what is said is true."""
        if self.jobs.jobs(only_open=True) and not self.home.is_served():
            self.home.serve()

    def stop(self, name: str, message: str = "Stopped at user request") -> JobRow:
        """Stop a job, and wait until it has stopped.

        Raises:
            JobError: There is no such job, it has ended, or it does not stop.
        """
        job = self.job(name)
        if not self.jobs.stop(job.id, message):
            raise JobError(
                "ExecutionAlreadyComplete", f"the job {job.id} has ended already: {job.state}"
            )
        self.home.serve()
        found = self.wait(job.id, STOP_SECONDS)
        if found is None:
            raise JobError("FilesystemError", f"the job {job.id} did not stop", retryable=True)
        return found

    def wait(
        self,
        job: str,
        seconds: float | None = None,
        each: Callable[[EventRow], None] | None = None,
    ) -> JobRow | None:
        """Wait for the end of a job.

        Args:
            job: Its whole id.
            seconds: How long; None for as long as it takes.
            each: Is called for each line of history, also of what has happened before.

        Returns:
            The job; None if it has not ended in time.
        """
        deadline = None if seconds is None else time.monotonic() + seconds
        seen = 0
        for _ in self.changes():
            row = self.jobs.job(job)
            if each is not None:
                events = self.jobs.history(job)
                for event in events[seen:]:
                    each(event)
                seen = len(events)
            if not row.open:
                return row
            if deadline is not None and time.monotonic() >= deadline:
                return None
        raise AssertionError("changes never end")

    def changes(self) -> Iterator[None]:
        """Yield at once, and then whenever the list may have changed; at least every 2 s.

        Raises:
            JobError: No process runs the jobs, and none starts.
        """
        version, alive = -1, 0.0
        while True:
            now = time.monotonic()
            if now - alive >= ALIVE_SECONDS:
                self.refresh()
                alive, version = now, -1
            found = self.jobs.version()
            if found != version:
                version = found
                yield
            else:
                time.sleep(LOOK_SECONDS)

    # Executions

    def executions(self, name: str) -> list[RunRow]:
        """Return the executions that an id names: that of an execution, or all of a job.

        Raises:
            JobError: There is no such job or execution, or more than one.
        """
        if name.lower().startswith("e-"):
            return [self.jobs.run(name)]
        return self.jobs.runs(self.job(name).id)

    def execution(self, name: str) -> RunRow:
        """Return one execution: that with this id, or the last one of the job with this id.

        An execution that has not ended is preferred. Raises JobError, also if several run.
        """
        found = self.executions(name)
        going = [one for one in found if one.open]
        if len(going) > 1:
            ids = ", ".join(one.id for one in going[:8])
            raise JobError(
                "ExecutionNotFound",
                f"the job {name} has {len(going)} executions: {ids}",
                hint="name one of them by its id",
            )
        if not found:
            raise JobError("ExecutionNotFound", f"the job {name} has no execution")
        return going[0] if going else found[-1]

    def ask(
        self, kind: str, execution: str, argument: str = "", seconds: float | None = STOP_SECONDS
    ) -> None:
        """Have the process that runs the jobs do something with an execution.

        Args:
            kind: What; see `answering.ARGUMENTS`.
            execution: The execution's id.
            argument: Where it is saved, or moved.
            seconds: How long the answer may take; None for as long as it takes.

        Raises:
            JobError: It cannot, or does not answer.
        """
        number = self.jobs.ask(kind, execution, argument)
        self.home.serve()
        deadline = float("inf") if seconds is None else time.monotonic() + seconds
        for _ in self.changes():
            answer = self.jobs.answered(number)
            if answer is not None:
                if answer:
                    raise JobError("FilesystemError", f"cannot {kind} {execution}: {answer}")
                return
            if time.monotonic() >= deadline:
                break
        self.jobs.answer(number, "nobody waits for it any more")
        raise JobError("FilesystemError", f"cannot {kind} {execution}: no answer", retryable=True)

    def drain(
        self, server: str, seconds: float, *, undo: bool = False
    ) -> tuple[list[str], dict[str, str]]:
        """Let a server have no executions any more, and wait until it has none.

        Args:
            server: Its address.
            seconds: How long to wait.
            undo: Let it have executions again instead.

        Returns:
            The executions that have left it or have ended, and those that are still there, each
            with the reason.

        Raises:
            JobError: No process runs the jobs, and none starts.
        """
        there = {run.id: run for run in self._at(server)}
        self.jobs.drain(server, undo=undo)
        self.home.wake()
        if undo or not self.jobs.runs(only_open=True):
            return [], {}
        self.ask(AVOID, "", server)  # then what is just being sent there is in the list
        there.update({run.id: run for run in self._at(server)})
        if not there:
            return [], {}
        end = time.monotonic() + seconds
        left: dict[str, str] = {}
        for _ in self.changes():
            still = self._at(server)
            left = {run.id: self._why(run) for run in still}
            there.update({run.id: run for run in still})
            if not left or time.monotonic() >= end:
                break
        return [id for id in there if id not in left], left

    def _at(self, server: str) -> list[RunRow]:
        return [
            one
            for one in self.jobs.runs(only_open=True)
            if one.server == server and one.folder and one.state in ("New", "Running")
        ]

    def _why(self, run: RunRow) -> str:
        """Return why an execution has not left its server yet."""
        said = [
            one.message
            for one in self.jobs.history(run.job)
            if one.execution == run.id and one.topic == "Drain"
        ]
        return said[-1] if said else "it is moving"

    def log(self, run: RunRow) -> Path:
        """Return the folder of an execution's log."""
        return self._folder(run) / "log"

    def _folder(self, run: RunRow) -> Path:
        """Return the folder of an execution; one that did not start has an empty attribute."""
        return Path(run.folder) if run.folder else self.home.execution(run.id, run.epoch)

    def get(self, run: RunRow, target: Path) -> None:
        """Copy the results of an execution to a path that is free.

        Raises:
            JobError: It has not ended, or its results are gone or cannot be written.
        """
        what = f"the execution {run.id}"
        if run.open:
            raise JobError("OutputConfigError", f"{what} has not ended: it is {run.state}")
        if run.published is not None:
            data: dict[str, Any] = dict(run.published)
            published = Published(data["kind"], data["where"], data["params"])
        else:
            folder = self._folder(run) / "results"
            if not folder.is_dir():
                raise JobError("OutputConfigError", f"{what} has no results: {run.message}")
            published = Published("local", str(folder))
        retrieve(published, target, what)


def job_exit_code(job: JobRow, runs: Sequence[RunRow]) -> int:
    """Return the exit code of a command that waited for a job."""
    if job.state == "Stopped":
        return EXIT_INTERRUPTED
    codes = [run.exit_code for run in runs if run.exit_code]
    if job.state == "Completed":
        return codes[0] if codes else 0
    if "timed out" in job.message:
        return EXIT_FUEL
    return codes[0] if codes else EXIT_HOST


def _absolute(allowed: Sequence[str]) -> tuple[str, ...]:
    """Return the allowed paths as any process can read them."""
    from wasmsr.jobs.sources.order import AllowedPath

    parsed = [AllowedPath.parse(text) for text in allowed]
    return tuple(f"{one.path}:{'rw' if one.writable else 'ro'}" for one in parsed)


__all__ = ["JobClient", "Submission", "job_exit_code"]
