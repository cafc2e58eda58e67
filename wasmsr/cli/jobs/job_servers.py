"""`wasmsr job migrate` and `drain`: executions go from one server to another while they run."""

from __future__ import annotations

import sys

import click

from wasmsr.cli.jobs.job_options import job_argument, open_jobs, print_runs, state_option
from wasmsr.cli.options.tool_options import WIDE, as_object, print_object
from wasmsr.cli.words.messages import say
from wasmsr.errors import EXIT_MIGRATION

MIGRATE = """Moves the executions of a job to another node while they run.

ID is that of an execution, or of a job. Its log goes on: no line is there twice, and none is
missing. Without SERVER one with room is found. An execution that cannot be moved runs on where it
was. The job must have been started with --server or --ray.

\b
  wasmsr job migrate j-1a2b3c4d two:7443"""

DRAIN = """Moves all executions away from a server, and lets none begin there from now on.

The command waits until none is left there, and ends then with exit code 0. SERVER is its address,
as `wasmsr job executions` shows it. --undo lets the server have executions again. Executions under
a Ray cluster go also if the raylet itself is drained (`ray drain-node`).

\b
  wasmsr job drain one:7443
  wasmsr job drain one:7443 --undo"""

MOVE_SECONDS = 600.0
"""Longest time in which an execution must have moved."""


@click.command(help=MIGRATE, short_help="move a job to another server", context_settings=WIDE)
@job_argument
@click.argument("server", metavar="[SERVER]", default="")
@state_option
@as_object
def migrate(job: str, server: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; MIGRATE is its help text."""
    from wasmsr.jobs.failures import JobError

    with open_jobs(state_dir) as client:
        client.refresh()
        going = [run for run in client.executions(job) if run.state == "Running"]
        if not going:
            raise JobError("ExecutionNotFound", f"the job {job} has no execution that runs")
        for run in going:
            if not server or run.server != server:
                client.ask("migrate", run.id, server, MOVE_SECONDS)
        runs = [client.jobs.run(run.id) for run in going]
    if as_json:
        print_object({"executions": [one.as_dict() for one in runs]})
    else:
        print_runs(runs)


@click.command(help=DRAIN, short_help="move all jobs away from a server", context_settings=WIDE)
@click.argument("server", metavar="SERVER")
@click.option("--undo", is_flag=True, help="Let the server have executions again.")
@click.option(
    "--deadline",
    type=click.FloatRange(0),
    metavar="SECONDS",
    default=MOVE_SECONDS,
    help="How long to wait. What has not moved by then still goes on trying.",
)
@state_option
@as_object
def drain(server: str, undo: bool, deadline: float, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; DRAIN is its help text."""
    with open_jobs(state_dir) as client:
        moved, left = client.drain(server, deadline, undo=undo)
    if as_json:
        print_object({"server": server, "moved": moved, "left": left})
    elif undo:
        click.echo(f"{server} can have executions again")
    else:
        click.echo(f"{len(moved)} executions have left {server}")
        for run, why in left.items():
            say(f"{run[:10]} is still there: {why}", "error")
    if left:
        sys.exit(EXIT_MIGRATION)
