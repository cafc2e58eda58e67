"""Which executions are started next, and which jobs have waited or run too long. Pure functions."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from wasmsr.jobs.description.job import Constraint, Job
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.service.rows import JobRow, RunRow

CPU = 0.5
"""CPUs that a task takes that names none, as on Bacalhau."""

BACKOFF_FIRST, BACKOFF_MOST = 1.0, 60.0
"""Seconds before a daemon is started again, and at most; each time twice as many."""

BACKOFF_FORGOTTEN = 60.0
"""Seconds that a daemon must run so that it is started again after `BACKOFF_FIRST`."""

KEPT_RUNS = 10
"""Ended executions of a daemon or service that the list keeps, for each of its places."""

STAYING = ("daemon", "service")
"""Types of jobs whose executions are started again when they end."""


EVERYWHERE = ("ops", "daemon")
"""Types of jobs that have one execution on every server that matches."""


def machine_labels(given: Iterable[str] = ()) -> dict[str, str]:
    """Return the labels of this machine: its own, and those of `KEY=VALUE` texts.

    Raises:
        ValueError: A text has no `=`, or no key.
    """
    labels = {
        "Operating-System": platform.system().lower(),
        "Architecture": {"x86_64": "amd64", "aarch64": "arm64"}.get(
            platform.machine(), platform.machine()
        ),
        "Hostname": platform.node(),
    }
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or not key:
            raise ValueError(f"{text!r} is no label; a label is KEY=VALUE")
        labels[key] = value
    return labels


def processors() -> int:
    """Return how many CPUs this process may use."""
    try:
        return len(os.sched_getaffinity(0))
    except AttributeError:
        return os.cpu_count() or 1


def check_fit(job: Job, labels: Mapping[str, str], cpus: float | None = None) -> None:
    """See that this machine can run a job at all.

    Raises:
        JobError: It cannot.
    """
    for number, one in enumerate(job.constraints):
        if not one.holds(labels):
            raise JobError(
                "ExecutorSpecValidationErr",
                f"no server matches: Constraints[{number}] asks for {_words(one)}, and this "
                f"machine has {one.key}={labels[one.key]}" if one.key in labels else
                f"no server matches: Constraints[{number}] asks for {_words(one)}, and this "
                "machine has no such label",
                hint=f"--label {one.key}=VALUE gives this machine a label",
            )  # fmt: skip
    most = processors() if cpus is None else cpus
    if (job.task.resources.cpu or 0) > most:
        raise JobError(
            "ExecutorSpecValidationErr",
            f"the job asks for {job.task.resources.cpu:g} CPUs; this machine has {most:g}",
            hint="Resources.CPU can be less: it decides how many executions run at once",
        )


def _words(one: Constraint) -> str:
    return " ".join([one.key, one.operator, ", ".join(one.values)]).strip()


def executions_of(job: Job) -> int:
    """Return how many executions a job has at a time on one machine."""
    return 1 if job.type in EVERYWHERE else job.count


@dataclass(frozen=True)
class Waiting:
    """An execution that waits for its start.

    Attributes:
        run: The execution.
        job: Its job.
        cpu: CPUs that it takes.
    """

    run: RunRow
    job: JobRow
    cpu: float


def startable(waiting: Sequence[Waiting], used: float, capacity: float) -> list[Waiting]:
    """Return what is started now: by priority, then the oldest job first.

    An execution never overtakes one of a higher priority that does not fit yet, so a large one is
    not kept waiting for ever. At least one runs, whatever it takes.
    """
    found: list[Waiting] = []
    order = sorted(waiting, key=lambda one: (-one.job.priority, one.job.created, one.run.number))
    for one in order:
        if used > 0 and used + one.cpu > capacity + 1e-9:
            break
        used += one.cpu
        found.append(one)
    return found


def backoff(failures: int) -> float:
    """Return the seconds before a daemon is started for the time after `failures` short ones."""
    return min(BACKOFF_MOST, BACKOFF_FIRST * float(1 << min(failures, 20)))


def overdue(job: JobRow, timeouts: tuple[int, int], begun: bool, now: float) -> str | None:
    """Return the sentence for a job that has waited or run too long, or None.

    Args:
        job: The job.
        timeouts: Seconds in the queue and in all; 0 for no limit.
        begun: Whether an execution of it was ever started.
        now: The time.
    """
    queue, total = timeouts
    if total and now - job.created >= total:
        return f"Job timed out after {total}s (TotalTimeout)"
    if queue and not begun and now - job.created >= queue:
        return f"Job timed out after {queue}s in the queue (QueueTimeout)"
    return None


__all__ = [
    "BACKOFF_FORGOTTEN",
    "CPU",
    "EVERYWHERE",
    "KEPT_RUNS",
    "STAYING",
    "Waiting",
    "backoff",
    "check_fit",
    "executions_of",
    "machine_labels",
    "overdue",
    "processors",
    "startable",
]
