"""`wasmsr job logs`, `get`, `snapshot`: what executions leave."""

from __future__ import annotations

import json
from pathlib import Path

import click

from wasmsr.cli.jobs.job_options import job_argument, open_jobs, state_option
from wasmsr.cli.options.tool_options import WIDE, as_object, option, print_object

LOGS = """Prints what an execution has written: standard output to standard output, and standard
error to standard error.

ID is that of an execution, or of a job with one execution. With -f the command goes on until the
execution has ended. If the execution is begun again, a line on standard error says `rewound to 0`.

\b
  wasmsr job logs j-1a2b3c4d
  wasmsr job logs -f --tail 10 e-5e6f7a8b"""

GET = """Copies the results of a job into a folder: stdout, stderr, exitCode and the folders of
ResultPaths.

ID is that of a job or of an execution. If the job has several executions, each gets a folder of its
own there. Nothing is overwritten.

\b
  wasmsr job get j-1a2b3c4d --output-dir results"""

SNAPSHOT = """Saves an execution to FILE: its program, its outputs and its log. It runs on.

ID is that of an execution, or of a job with one execution. FILE is a tar archive. In Python,
`wasmsr.jobs.Executor.restore(FILE, ID)` continues it.

\b
  wasmsr job snapshot j-1a2b3c4d saved.bin"""


@click.command(help=LOGS, short_help="print the output of a job", context_settings=WIDE)
@job_argument
@click.option("--follow", "-f", is_flag=True, help="Go on until the execution has ended.")
@click.option(
    "--tail", type=click.IntRange(0, 1 << 31), metavar="N", help="Begin with the last N lines."
)
@state_option
@option("--json", "as_json", is_flag=True, help="Print one object a line.")
def logs(job: str, follow: bool, tail: int | None, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; LOGS is its help text."""
    from wasmsr.cli.jobs.job_logs import as_data, items, show

    with open_jobs(state_dir) as client:
        client.refresh()
        run = client.execution(job)
        for item in items(client, run.id, follow=follow, tail=tail):
            if as_json:
                click.echo(json.dumps(as_data(item)))
            else:
                show(item)


@click.command(help=GET, short_help="copy the results of a job", context_settings=WIDE)
@job_argument
@click.option(
    "--output-dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="The folder. Default: a new one that is named as the job.",
)
@state_option
@as_object
def get(job: str, output_dir: str | None, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; GET is its help text."""
    from wasmsr.jobs.failures import JobError

    with open_jobs(state_dir) as client:
        client.refresh()
        runs = client.executions(job)
        if not runs:
            raise JobError("ExecutionNotFound", f"the job {job} has no execution")
        target = Path(output_dir or f"job-{runs[0].job[:10]}")
        latest = {run.number: run for run in runs}
        places = {run.id: target / run.id for run in latest.values()}
        if len(latest) == 1:
            places = dict.fromkeys(places, target)
            if target.is_dir() and not any(target.iterdir()):
                target.rmdir()  # an empty folder counts as none
        for run in latest.values():
            client.get(run, places[run.id])
    if as_json:
        print_object({"results": {run: str(place) for run, place in places.items()}})
        return
    for place in places.values():
        click.echo(place)


@click.command(help=SNAPSHOT, short_help="save an execution of a job", context_settings=WIDE)
@job_argument
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@state_option
@as_object
def snapshot(job: str, file: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; SNAPSHOT is its help text."""
    with open_jobs(state_dir) as client:
        run = client.execution(job)
        # However large it is: the file comes, also if nobody waits for it.
        client.ask("snapshot", run.id, str(Path(file).absolute()), None)
    if as_json:
        print_object({"execution": run.id, "file": file})
    else:
        click.echo(file)
