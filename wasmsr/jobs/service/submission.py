"""What can be known of a job's inputs before it is taken."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from wasmsr.jobs.description.job import Job
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


__all__ = ["check_paths"]
