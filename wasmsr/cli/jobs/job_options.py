"""Options that several commands of jobs have, and how jobs are printed."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.tool_options import option, print_blocks
from wasmsr.cli.words.messages import say, wanted
from wasmsr.errors import MissingPackageError, printable

if TYPE_CHECKING:
    from wasmsr.jobs.service.client import JobClient
    from wasmsr.jobs.service.home import JobHome
    from wasmsr.jobs.service.rows import EventRow, JobRow, RunRow
    from wasmsr.rpc.control.control_client import Node

state_option = option(
    "--state-dir",
    "state_dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="The folder of the jobs. Default: a folder of the user's own.",
)

job_argument = click.argument("job", metavar="ID")


def job_home(state_dir: str | None) -> JobHome:
    """Return the folder of the jobs."""
    from wasmsr.jobs.service.home import JobHome

    if state_dir is None:
        from platformdirs import user_state_path

        return JobHome(user_state_path("wasmsr", appauthor=False) / "jobs")
    return JobHome(Path(state_dir))


@contextmanager
def open_jobs(state_dir: str | None) -> Iterator[JobClient]:
    """Open the list of jobs."""
    from wasmsr.jobs.service.client import JobClient

    with JobClient(job_home(state_dir)) as client:
        yield client


def connect(address: str, proof: Mapping[str, str]) -> Node:
    """Open the node at an address.

    Raises:
        WasmsrError: A file that proves who asks cannot be used.
    """
    from wasmsr.cli.options.node_options import NAMES, open_node
    from wasmsr.jobs.failures import JobError

    values: dict[str, Any] = {**dict.fromkeys(NAMES), **proof, "node": address}
    values["state_dir"] = os.environ.get("WASMSR_STATE_DIR")
    try:
        return open_node(values)
    except click.ClickException as error:
        said = f"the server {printable(address)} cannot be asked: {error.format_message()}"
        raise JobError("SpecError", said) from None


@contextmanager
def job_packages() -> Iterator[None]:
    """Say which package is missing where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("yaml", "jsonschema"):
            raise
        raise MissingPackageError(name, "a job file", extra="jobs") from None


def job_file(name: str) -> bytes:
    """Return the bytes of a job file, and one more than it may have at most."""
    from wasmsr.jobs.description.yaml_tree import FILE_LIMIT

    if name == "-":
        return sys.stdin.buffer.read(FILE_LIMIT + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise click.UsageError(f"{printable(name)}: {error.strerror}") from None


def say_problems(name: str, error: Any) -> None:
    """Print every problem of a job file, each with its line."""
    found = error.details.get("problems", [])
    if not found:
        hint = f"; {error.hint}" if error.hint else ""
        click.echo(f"wasmsr: {error.message}{hint}", err=True)
    for one in found:
        where = f":{one['line']}:{one['column']}" if one["line"] else ""
        hint = f"; {one['hint']}" if one["hint"] else ""
        click.echo(f"wasmsr: {printable(name)}{where}: {one['message']}{hint}", err=True)


def on_terminal() -> bool:
    """Return whether somebody reads what is said about progress."""
    return sys.stderr.isatty() and wanted("notice")


def say_event(event: EventRow) -> None:
    """Say one line of history."""
    about = f"{event.execution[:10]}: " if event.execution else ""
    say(f"{about}{event.message}")


def shown_time(seconds: float | None) -> str:
    """Return a time for people, "" for None."""
    return "" if seconds is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))


def described(job: JobRow, runs: list[RunRow]) -> dict[str, Any]:
    """Return a job with its executions as plain data."""
    return {**job.as_dict(), "executions": [one.as_dict() for one in runs]}


def print_jobs(jobs: list[JobRow]) -> None:
    """Print a table of jobs."""
    heads = ("id", "type", "state", "submitted", "name", "why")
    rows = [
        (one.id[:10], one.type, one.state, shown_time(one.created), one.name, one.message)
        for one in jobs
    ]
    print_blocks([("Jobs", heads, rows)])


def print_runs(runs: list[RunRow], title: str = "Executions") -> None:
    """Print a table of executions."""
    heads = ("id", "state", "code", "started", "ended", "server", "why")
    rows = [
        (
            one.id[:10],
            one.state,
            str((one.result or {}).get("exit_code", "")),
            shown_time(one.started),
            shown_time(one.ended),
            one.server or "here",
            one.message,
        )
        for one in runs
    ]
    print_blocks([(title, heads, rows)])


def write_stream(stream: int, data: bytes) -> None:
    """Write a piece of output to standard output (1) or standard error (2)."""
    view = memoryview(data)
    while view:
        view = view[os.write(stream, view) :]


__all__ = [
    "connect",
    "described",
    "job_argument",
    "job_file",
    "job_home",
    "job_packages",
    "on_terminal",
    "open_jobs",
    "print_jobs",
    "print_runs",
    "say_event",
    "say_problems",
    "shown_time",
    "state_option",
    "write_stream",
]
