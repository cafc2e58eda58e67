"""What the list of jobs holds: jobs, executions, what happened to them, and requests."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

JobState = Literal["Queued", "Running", "Completed", "Failed", "Stopped"]
RunState = Literal["New", "Running", "Publishing", "Completed", "Failed", "Cancelled"]

OPEN_JOBS: Final = ("Queued", "Running")
"""States of jobs that have not ended. The words are those of Bacalhau."""

OPEN_RUNS: Final = ("New", "Running", "Publishing")
"""States of executions that have not ended."""

AVOID = "avoid"
"""The request to leave the servers that are to be shut down. When it is answered, each execution
that goes to one of them is in the list with it."""


@dataclass(frozen=True)
class JobRow:
    """A job of the list.

    Attributes:
        id: Its id.
        name: Its name, or "".
        namespace: Its group.
        type: "batch", "ops", "daemon" or "service".
        priority: Jobs with a higher one are started first.
        count: How many executions it has at a time.
        state: What it does.
        message: Why it is in this state, or "".
        created: When it came, in seconds since 1970, as all times here.
        changed: When it came into this state.
        source: Its job file.
        changes: The changes of `--set`.
        base: The folder to which relative paths belong.
        allowed: What `--allow-path` allows.
        labels: What `--label` gives this machine.
        compat: Whether it runs as on Bacalhau.
        stopping: Whether somebody asked to stop it.
        origin: The job that it repeats, or "".
        engine: What runs it, as plain data; see `EnginePlan`.
    """

    id: str
    name: str
    namespace: str
    type: str
    priority: int
    count: int
    state: JobState
    message: str
    created: float
    changed: float
    source: bytes = field(repr=False)
    changes: tuple[str, ...] = ()
    base: str = ""
    allowed: tuple[str, ...] = ()
    labels: tuple[str, ...] = ()
    compat: bool = False
    stopping: bool = False
    origin: str = ""
    engine: Mapping[str, Any] = field(default_factory=dict)

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN_JOBS

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for people and scripts; the job file is left out."""
        data = asdict(self)
        del data["source"]
        return data


@dataclass(frozen=True)
class RunRow:
    """An execution of the list.

    Attributes:
        id: Its id.
        job: Its job.
        number: Its number among those of its job, from 0.
        epoch: How often it was begun; results of an older epoch do not count.
        state: What it does.
        message: Why it is in this state, or "".
        created: When it was made.
        started: When its program was started last, or None.
        ended: When it ended, or None.
        folder: Its folder on this machine.
        result: How its program ended, as plain data, or None.
        published: Where its results are, as plain data, or None.
        exit_code: The exit code of the command line for it, or None.
        server: The address of the node that has it, or has to run it; "" for this machine.
    """

    id: str
    job: str
    number: int
    epoch: int
    state: RunState
    message: str
    created: float
    started: float | None = None
    ended: float | None = None
    folder: str = ""
    result: Mapping[str, Any] | None = None
    published: Mapping[str, Any] | None = None
    exit_code: int | None = None
    server: str = ""

    @property
    def open(self) -> bool:
        """Whether it has not ended."""
        return self.state in OPEN_RUNS

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for people and scripts."""
        return asdict(self)


@dataclass(frozen=True)
class EventRow:
    """Something that happened.

    Attributes:
        time: When.
        job: The job.
        execution: The execution, or "" for the job itself.
        topic: What it concerns.
        state: The new state, or "".
        message: What happened.
    """

    time: float
    job: str
    execution: str
    topic: str
    state: str
    message: str

    def as_dict(self) -> dict[str, Any]:
        """Return plain data for people and scripts."""
        return asdict(self)


@dataclass(frozen=True)
class RequestRow:
    """Something that a command asks of the process that runs the jobs.

    Attributes:
        number: Its number.
        kind: "snapshot", "pause", "resume" or "migrate".
        execution: The execution.
        argument: What the kind needs, such as a file.
        answer: The answer, or None as long as there is none; "" is success.
    """

    number: int
    kind: str
    execution: str
    argument: str
    answer: str | None = None


__all__ = [
    "AVOID",
    "OPEN_JOBS",
    "OPEN_RUNS",
    "EventRow",
    "JobRow",
    "JobState",
    "RequestRow",
    "RunRow",
    "RunState",
]
