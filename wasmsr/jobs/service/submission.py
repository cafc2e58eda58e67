"""What can be known of a job's inputs before it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasmsr.jobs.description.job import Job
from wasmsr.jobs.engines.engine_plan import EnginePlan, matching
from wasmsr.jobs.failures import JobError
from wasmsr.jobs.sources import local_directory
from wasmsr.jobs.sources.order import AllowedPath, Order


def check_paths(job: Job, base: Path, allowed: Sequence[str]) -> None:
    """See that the files and folders of this machine that a job names are there and allowed.

    Raises:
        JobError: InputConfigError; one is not.
    """
    parsed = tuple(AllowedPath.parse(text) for text in allowed)
    for one in job.task.inputs:
        if one.kind in ("local", "localDirectory") and "CreateAs" not in one.params:
            order = Order(f"the input at {one.target}", base, base, parsed)
            local_directory.fetch(one.params, order)


def check_servers(job: Job, plan: EnginePlan) -> None:
    """See that a server that a command names can run a job at all; Ray says so itself.

    Raises:
        JobError: ExecutorSpecValidationErr; none can.
    """
    if plan.ray:
        return
    found = matching(plan.servers, job.constraints)
    if not found:
        raise JobError(
            "ExecutorSpecValidationErr",
            "no server matches: none has labels that meet all Constraints",
            hint="--server ADDRESS,KEY=VALUE gives a server a label",
        )
    asked = job.task.resources.cpu or 0
    if all(one.cpu is not None and one.cpu < asked for one in found):
        raise JobError(
            "ExecutorSpecValidationErr",
            f"the job asks for {asked:g} CPUs, and no server that matches has so many",
            hint="Resources.CPU can be less: it decides how many executions run at once",
        )


__all__ = ["check_paths", "check_servers"]
