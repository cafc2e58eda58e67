"""`wasmsr job`: job files, and jobs."""

from __future__ import annotations

import sys
from typing import Any

import click

from wasmsr.cli.jobs import job_output, job_run, job_servers, job_steer, job_verbs
from wasmsr.cli.jobs.job_options import job_file, job_packages, say_problems
from wasmsr.cli.options.tool_options import WIDE, as_object, print_object
from wasmsr.errors import EXIT_USAGE, printable

HELP = """Runs jobs. A job file says what to run, what goes in, what comes out, and what it may use.

\b
  wasmsr job run job.yaml --follow        run a job, and see what it prints
  wasmsr job list                         all jobs
  wasmsr job get ID --output-dir FOLDER   the results of a job
  wasmsr job validate job.yaml            check a job file; mistakes have their lines

docs/jobs.md is the guide. Job files of Bacalhau with the engine wasm are such files."""

VALIDATE = """Checks each FILE, YAML or JSON; - is standard input. The exit code is 0 if all are
right.

--set changes a value before the file is checked: KEY.KEY...=VALUE. VALUE is YAML, and elements of
lists have numbers from 0: --set Tasks.0.Env.LEVEL='"2"'"""

SCHEMA = """Prints the JSON Schema of job files, by which `validate` checks them."""


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def job(ctx: click.Context) -> None:
    """Hold the commands; HELP is its help text, which is printed if no command is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


@job.command(help=VALIDATE, short_help="check job files", context_settings=WIDE)
@click.argument("files", metavar="FILE...", nargs=-1, required=True, type=click.Path())
@click.option("--set", "changes", metavar="KEY=VALUE", multiple=True, help="Change a value first.")
@as_object
def validate(files: tuple[str, ...], changes: tuple[str, ...], as_json: bool) -> None:
    """Carry out the command; VALIDATE is its help text."""
    from wasmsr.jobs.failures import JobError

    with job_packages():
        from wasmsr.jobs.description.job_file import read_job
    wrong = False
    for name in files:
        shown = "standard input" if name == "-" else name
        found: dict[str, Any] = {"file": name, "valid": True, "problems": []}
        try:
            made = read_job(job_file(name), shown, changes)
        except JobError as error:
            wrong = True
            found.update(valid=False, error=error.as_dict())
            found["problems"] = error.details.get("problems", [])
            if not as_json:
                say_problems(shown, error)
        else:
            found.update(name=made.name, type=made.type)
            if not as_json:
                click.echo(f"{printable(shown)}: a {made.type} job")
        if as_json:
            print_object(found)
    if wrong:
        sys.exit(EXIT_USAGE)


@job.command(help=SCHEMA, short_help="print the schema of job files", context_settings=WIDE)
def schema() -> None:
    """Carry out the command; SCHEMA is its help text."""
    with job_packages():
        from wasmsr.jobs.description.schema import schema as whole
    print_object(dict(whole()))


for _command in (
    job_run.run,
    job_run.rerun,
    job_verbs.list_jobs,
    job_verbs.describe,
    job_verbs.executions,
    job_verbs.history,
    job_verbs.stop,
    job_steer.pause,
    job_steer.resume,
    job_servers.migrate,
    job_servers.drain,
    job_verbs.job_metrics,
    job_verbs.service,
    job_output.logs,
    job_output.get,
    job_output.snapshot,
):
    job.add_command(_command)
