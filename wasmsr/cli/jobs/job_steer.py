"""`wasmsr job pause` and `resume`: the executions of a job stand, and go on."""

from __future__ import annotations

import click

from wasmsr.cli.jobs.job_options import job_argument, open_jobs, print_runs, state_option
from wasmsr.cli.options.tool_options import WIDE, as_object, print_object

PAUSE = """Pauses the executions of a job.

ID is that of a job or of an execution. A paused execution keeps its memory and its place. Its time
does not count for ExecutionTimeout. If the process that runs the jobs is ended, it is paused
afterwards too; if that process is killed, the execution may run on.

\b
  wasmsr job pause j-1a2b3c4d"""

RESUME = """Lets the paused executions of a job run on.

ID is that of a job or of an execution.

\b
  wasmsr job resume j-1a2b3c4d"""


@click.command(help=PAUSE, short_help="pause a job", context_settings=WIDE)
@job_argument
@state_option
@as_object
def pause(job: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; PAUSE is its help text."""
    _steer("pause", job, state_dir, as_json)


@click.command(help=RESUME, short_help="let a paused job run on", context_settings=WIDE)
@job_argument
@state_option
@as_object
def resume(job: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; RESUME is its help text."""
    _steer("resume", job, state_dir, as_json)


def _steer(kind: str, job: str, state_dir: str | None, as_json: bool) -> None:
    from wasmsr.jobs.failures import JobError

    with open_jobs(state_dir) as client:
        client.refresh()
        going = [run for run in client.executions(job) if run.open]
        if not going:
            raise JobError("ExecutionAlreadyComplete", f"the job {job} has no execution that runs")
        for run in going:
            client.ask(kind, run.id)
        runs = [client.jobs.run(run.id) for run in going]
    if as_json:
        print_object({"executions": [one.as_dict() for one in runs]})
    else:
        print_runs(runs)
