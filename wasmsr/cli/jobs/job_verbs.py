"""`wasmsr job list`, `describe`, `executions`, `history`, `stop`, `metrics`, `service`."""

from __future__ import annotations

import time
from contextlib import ExitStack, suppress
from typing import Any

import click

from wasmsr.cli.jobs.job_options import (
    connect,
    described,
    job_argument,
    job_home,
    open_jobs,
    print_jobs,
    print_runs,
    shown_time,
    state_option,
)
from wasmsr.cli.options.tool_options import WIDE, as_object, option, print_blocks, print_object
from wasmsr.cli.words.messages import say
from wasmsr.errors import printable

LIST = """Lists the jobs, the newest first.

A job is Queued, Running, Completed, Failed or Stopped. If the process that ran the jobs was killed,
this command starts it again.

\b
  wasmsr job list
  wasmsr job list --open --json"""

DESCRIBE = """Shows a job and its executions. The first characters of an id suffice.

\b
  wasmsr job describe j-1a2b3c4d"""

EXECUTIONS = """Lists the executions of a job.

An execution is New, Running, Publishing, Completed, Failed or Cancelled. Its code is the exit code
of its program.

\b
  wasmsr job executions j-1a2b3c4d"""

HISTORY = """Shows what has happened to a job and to its executions.

\b
  wasmsr job history j-1a2b3c4d"""

STOP = """Stops a job: its executions are cancelled. What they have printed stays.

\b
  wasmsr job stop j-1a2b3c4d"""

SERVICE = """Runs the jobs of a folder. The other commands start this one when it is needed.

It ends when no job is left; with --stay it waits for more. SIGTERM and Ctrl-C end it: executions
that run are saved, and go on when the next command starts it again. If it is killed, they go on
from a checkpoint, are begun again, or fail, as the job says (wasmsr/onLoss).

The variable WASMSR_SPANS does what --spans does, also for a service that another command starts."""

METRICS = """Prints what is counted of the jobs, in the text format of Prometheus.

`wasmsr job service --metrics PORT` serves the same. The gauge `wasm_active_executions` has the
number of executions whose program runs.

\b
  wasmsr job metrics"""


@click.command("list", help=LIST, short_help="list the jobs", context_settings=WIDE)
@click.option("--open", "only_open", is_flag=True, help="Only those that have not ended.")
@state_option
@as_object
def list_jobs(only_open: bool, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; LIST is its help text."""
    with open_jobs(state_dir) as client:
        client.refresh()
        found = client.jobs.jobs(only_open=only_open)
    if as_json:
        print_object({"jobs": [one.as_dict() for one in found]})
    else:
        print_jobs(found)


@click.command(help=DESCRIBE, short_help="show a job", context_settings=WIDE)
@job_argument
@state_option
@as_object
def describe(job: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; DESCRIBE is its help text."""
    with open_jobs(state_dir) as client:
        client.refresh()
        row = client.job(job)
        runs = client.jobs.runs(row.id)
    if as_json:
        print_object(described(row, runs))
        return
    about = [
        ("id", row.id),
        ("name", row.name),
        ("type", row.type),
        ("state", row.state),
        ("why", row.message),
        ("submitted", shown_time(row.created)),
        ("priority", str(row.priority)),
        ("count", str(row.count)),
        ("repeats", row.origin),
    ]
    print_blocks([("Job", (), [one for one in about if one[1]])])
    print_runs(runs)
    results = [
        (one.id[:10], str(one.published["where"])) for one in runs if one.published is not None
    ]
    print_blocks([("Results", ("execution", "where"), [one for one in results if one[1]])])


@click.command(help=EXECUTIONS, short_help="list the executions of a job", context_settings=WIDE)
@job_argument
@state_option
@as_object
def executions(job: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; EXECUTIONS is its help text."""
    with open_jobs(state_dir) as client:
        client.refresh()
        found = client.executions(job)
    if as_json:
        print_object({"executions": [one.as_dict() for one in found]})
    else:
        print_runs(found)


@click.command(help=HISTORY, short_help="show what happened to a job", context_settings=WIDE)
@job_argument
@state_option
@as_object
def history(job: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; HISTORY is its help text."""
    with open_jobs(state_dir) as client:
        client.refresh()
        found = client.jobs.history(client.job(job).id)
    if as_json:
        print_object({"history": [one.as_dict() for one in found]})
        return
    heads = ("time", "execution", "topic", "state", "what")
    rows = [
        (shown_time(one.time), one.execution[:10], one.topic, one.state, one.message)
        for one in found
    ]
    print_blocks([("History", heads, rows)])


@click.command(help=STOP, short_help="stop a job", context_settings=WIDE)
@job_argument
@state_option
@as_object
def stop(job: str, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; STOP is its help text."""
    with open_jobs(state_dir) as client:
        row = client.stop(job)
        runs = client.jobs.runs(row.id)
    if as_json:
        print_object(described(row, runs))
    else:
        click.echo(f"{row.id} is {row.state}")


@click.command("metrics", help=METRICS, short_help="print metrics", context_settings=WIDE)
@state_option
@as_object
def job_metrics(state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; METRICS is its help text."""
    from wasmsr.jobs.service.list_metrics import JOB_ROWS, JobListMetrics

    with open_jobs(state_dir) as client:
        found = JobListMetrics(client.jobs, time.time)
        if as_json:
            values: dict[str, Any] = {}
            for row in JOB_ROWS:
                numbers = found.numbers(row.name)
                values[row.name] = numbers.get((), {one[0]: n for one, n in numbers.items() if one})
            print_object(values)
        else:
            click.echo("\n".join(found.lines()))


@click.command(help=SERVICE, short_help="run the jobs of a folder", context_settings=WIDE)
@click.option("--stay", is_flag=True, help="Do not end when no job is left.")
@click.option("--metrics", metavar="[HOST:]PORT", help="Serve metrics for Prometheus there.")
@option("--spans", metavar="URL", help="Send a span of each execution to this OTLP collector.")
@click.option("--ready", type=int, hidden=True)
@state_option
def service(stay: bool, metrics: str | None, state_dir: str | None, **values: Any) -> int:
    """Carry out the command; SERVICE is its help text."""
    from wasmsr.executor.server_process import become_server
    from wasmsr.jobs.service.job_service import IDLE_SECONDS
    from wasmsr.jobs.service.serving import serve

    become_server()  # it can run for months, and each execution has threads of its own
    home = job_home(state_dir)
    with suppress(KeyboardInterrupt), ExitStack() as open_things:
        if metrics is not None:
            from wasmsr.http.metrics_server import serve_metrics
            from wasmsr.jobs.service.list_metrics import JOB_ROWS, JobListMetrics
            from wasmsr.runspec.address import Address

            try:
                address = Address.parse(metrics)
            except ValueError as error:
                raise click.UsageError(f"--metrics {printable(metrics)}: {error}") from None
            client = open_things.enter_context(open_jobs(state_dir))
            served = serve_metrics(JobListMetrics(client.jobs, time.time), address, JOB_ROWS)
            open_things.callback(served.stop)
        given: dict[str, Any] = {"idle": float("inf") if stay else IDLE_SECONDS}
        given["connect"] = connect
        if values["spans"] is not None:
            from wasmsr import __version__
            from wasmsr.http.job_spans import JobSpans
            from wasmsr.http.tracing import collector

            spans = JobSpans(collector(values["spans"]), __version__)
            open_things.callback(spans.close)
            given["note"] = spans.take
        if not serve(home, values["ready"], **given):
            say(f"another process runs the jobs of {home.path}", "error")
            return 1
    return 0
