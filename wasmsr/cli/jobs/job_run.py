"""`wasmsr job run` and `rerun`: jobs are taken, and waited for."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.jobs.job_options import (
    described,
    job_argument,
    job_file,
    job_packages,
    on_terminal,
    open_jobs,
    say_event,
    say_problems,
    state_option,
)
from wasmsr.cli.options.tool_options import WIDE, as_object, option, print_object
from wasmsr.cli.words.messages import say

if TYPE_CHECKING:
    from wasmsr.jobs.engines.engine_plan import EnginePlan
    from wasmsr.jobs.service.client import JobClient
    from wasmsr.jobs.service.rows import JobRow

RUN = """Runs the job of a job file; - is standard input. Prints the job's id.

The job runs on when the command ends. With --wait the command waits, and its exit code is that of
the program: 134 after a trap, 121 out of time, 130 for a job that was stopped. With --follow it
also prints the program's output. If Ctrl-C ends the command, the job runs on.

\b
  wasmsr job run job.yaml --allow-path data          take files of the folder `data`
  wasmsr job run job.yaml --follow                   ... and see what it prints
  wasmsr job run job.yaml --set Count=3              ... with another value
  wasmsr job run job.yaml --server one:7443 --server two:7443     on these nodes
  wasmsr job run job.yaml --ray HOST:6379            on the nodes of a Ray cluster

Files and folders of this machine go into a job only if they are at or below a path of --allow-path;
PATH:rw allows to write there.

Servers are nodes (`wasmsr node`). They reach the folder of --shared by the same path, and their
--policy-mounts allows it. Without --shared that is the folder of the jobs."""

RERUN = """Runs a job again, as it was submitted. Prints the id of the new job.

\b
  wasmsr job rerun j-1a2b3c4d --wait"""

wait_option = click.option("--wait", is_flag=True, help="Wait for the end of the job.")
follow_option = click.option(
    "--follow", "-f", is_flag=True, help="Print the output of the program, and wait."
)
id_option = click.option("--id-only", is_flag=True, help="Print only the id, on one line.")


@click.command(help=RUN, short_help="run the job of a job file", context_settings=WIDE)
@click.argument("file", metavar="FILE", type=click.Path(allow_dash=True))
@wait_option
@follow_option
@id_option
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a value first.")
@option(
    "--allow-path",
    "allowed",
    metavar="PATH[:rw]",
    multiple=True,
    help="Let the job use this file or folder of this machine.",
)
@option("--label", "labels", metavar="KEY=VALUE", multiple=True, help="A label of this machine.")
@option(
    "--output",
    type=click.Choice(["live", "commit"]),
    help="Show output at once, or when a checkpoint has it (the key wasmsr/output).",
)
@option(
    "--server",
    "servers",
    metavar="ADDRESS[,cpu=N][,KEY=VALUE...]",
    multiple=True,
    help="Run it on this node, which has so many CPUs and these labels. Several may be named.",
)
@option("--ray", metavar="HOST:PORT", help="Run it where this Ray cluster says.")
@option("--shared", metavar="FOLDER", help="A folder that all servers reach by the same path.")
@option(
    "--lease",
    metavar="SECONDS",
    type=click.FloatRange(0.5, 86400),
    help="Give each execution a lease, so that another server takes over a lost one.",
)
@option("--token-file", metavar="FILE", help="The token of the nodes.")
@option("--tls-authority", metavar="FILE", help="Ask the nodes with TLS; who signs their names.")
@option("--tls-certificate", metavar="FILE", help="Our own certificate.")
@option("--tls-key", metavar="FILE", help="Its private key.")
@click.option(
    "--compat", type=click.Choice(["bacalhau"]), help="Behave as this system, where we differ."
)
@state_option
@as_object
def run(
    file: str,
    changes: tuple[str, ...],
    state_dir: str | None,
    compat: str | None,
    output: str | None,
    **values: Any,
) -> int:
    """Carry out the command; RUN is its help text."""
    from wasmsr.jobs.failures import JobError

    with job_packages():
        import wasmsr.jobs.description.job_file  # noqa: F401  before anything is opened
    from wasmsr.jobs.service.client import Submission

    shown = "standard input" if file == "-" else file
    given = Submission(
        job_file(file),
        shown,
        Path.cwd() if file == "-" else Path(file).absolute().parent,
        (*changes, f"Meta.wasmsr/output={output}") if output else changes,
        values["allowed"],
        values["labels"],
        compat is not None,
        engine=engine_plan(values, compat is not None),
    )
    with open_jobs(state_dir) as client:
        try:
            job = client.submit(given)
        except JobError as error:
            if len(error.details.get("problems", [])) < 2:
                raise
            say_problems(shown, error)
            return error.exit_code
        return _after(client, job, values)


def engine_plan(values: dict[str, Any], compat: bool) -> EnginePlan:
    """Return what runs a job, by the options of a command.

    Raises:
        click.UsageError: An option is wrong.
    """
    from wasmsr.jobs.engines.engine_plan import PROOFS, EnginePlan, PlannedServer

    servers = []
    for text in values["servers"]:
        try:
            servers.append(PlannedServer.parse(text))
        except ValueError as error:
            raise click.UsageError(f"--server: {error}") from None
    proof = {name: str(Path(values[name]).absolute()) for name in PROOFS if values[name]}
    return EnginePlan(
        compat,
        tuple(servers),
        values["ray"] or "",
        str(Path(values["shared"]).absolute()) if values["shared"] else "",
        values["lease"],
        tuple(sorted(proof.items())),
    )


@click.command(help=RERUN, short_help="run a job again", context_settings=WIDE)
@job_argument
@wait_option
@follow_option
@id_option
@state_option
@as_object
def rerun(job: str, state_dir: str | None, **values: Any) -> int:
    """Carry out the command; RERUN is its help text."""
    with job_packages():
        import wasmsr.jobs.description.job_file  # noqa: F401  before anything is opened
    with open_jobs(state_dir) as client:
        return _after(client, client.rerun(job), values)


def _after(client: JobClient, job: JobRow, values: dict[str, Any]) -> int:
    """Print what was submitted, and wait for it if that is wanted; return the exit code."""
    from wasmsr.jobs.service.client import job_exit_code

    follow, as_json = values["follow"], values["as_json"]
    waits = values["wait"] or follow
    if values["id_only"] or not (as_json or follow):
        click.echo(job.id)
        sys.stdout.flush()
    if not waits:
        if as_json:
            print_object(described(job, client.jobs.runs(job.id)))
        elif on_terminal() and not values["id_only"]:
            say(f"wasmsr job logs -f {job.id[:10]} follows it; wasmsr job describe shows more")
        return 0
    if follow and not as_json:
        if on_terminal():
            say(f"the job is {job.id}")
        _follow(client, job)
    ended = client.wait(job.id, each=say_event if on_terminal() and not follow else None)
    assert ended is not None
    runs = client.jobs.runs(job.id)
    if as_json:
        print_object(described(ended, runs))
    elif ended.state != "Completed":
        say(f"the job {ended.id[:10]} is {ended.state}: {ended.message}", "error")
    return job_exit_code(ended, runs)


def _follow(client: JobClient, job: JobRow) -> None:
    """Print the output of all executions, one after the other."""
    from wasmsr.cli.jobs.job_logs import items, show

    seen: set[str] = set()
    for _ in client.changes():
        for one in client.jobs.runs(job.id):
            if one.id not in seen:
                seen.add(one.id)
                for item in items(client, one.id, follow=True):
                    show(item)
        if not client.jobs.job(job.id).open:
            return
