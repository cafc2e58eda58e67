"""`wasmsr job`: job files."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from wasmsr.cli.options.tool_options import WIDE, as_object, print_object
from wasmsr.errors import EXIT_USAGE, MissingPackageError, printable

HELP = """Checks job files: what to run, what goes in, what comes out, and what it may use.

\b
  wasmsr job validate job.yaml            ... or says in which line it is wrong
  wasmsr job schema                       the schema, for an editor that completes and checks

docs/jobs.md describes the file. Job files of Bacalhau with the engine wasm are such files."""

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

    with _packages():
        from wasmsr.jobs.description.job_file import read_job
    wrong = False
    for name in files:
        shown = "standard input" if name == "-" else name
        found: dict[str, Any] = {"file": name, "valid": True, "problems": []}
        try:
            made = read_job(_content(name), shown, changes)
        except JobError as error:
            wrong = True
            found.update(valid=False, error=error.as_dict())
            found["problems"] = error.details.get("problems", [])
            _say(shown, error, as_json)
        else:
            found.update(name=made.name, type=made.type)
            if not as_json:
                click.echo(f"{printable(shown)}: a {made.type} job")
        if as_json:
            print_object(found)
    if wrong:
        sys.exit(EXIT_USAGE)


@contextmanager
def _packages() -> Iterator[None]:
    """Say which package is missing where an import fails."""
    try:
        yield
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in ("yaml", "jsonschema"):
            raise
        extra = "pip install 'wasmsr[jobs]'"
        raise MissingPackageError(name, "a job file", instead=extra) from None


def _content(name: str) -> bytes:
    """Return the bytes of a job file, and one more than it may have at most."""
    from wasmsr.jobs.description.yaml_tree import FILE_LIMIT

    if name == "-":
        return sys.stdin.buffer.read(FILE_LIMIT + 1)
    try:
        with Path(name).open("rb") as file:
            return file.read(FILE_LIMIT + 1)
    except OSError as error:
        raise click.UsageError(f"{printable(name)}: {error.strerror}") from None


def _say(name: str, error: Any, as_json: bool) -> None:
    """Print every problem of a file, each with its line."""
    if as_json:
        return
    found = error.details.get("problems", [])
    if not found:
        click.echo(f"wasmsr: {error.message}", err=True)
    for one in found:
        where = f":{one['line']}:{one['column']}" if one["line"] else ""
        hint = f"; {one['hint']}" if one["hint"] else ""
        click.echo(f"wasmsr: {printable(name)}{where}: {one['message']}{hint}", err=True)


@job.command(help=SCHEMA, short_help="print the schema of job files", context_settings=WIDE)
def schema() -> None:
    """Carry out the command; SCHEMA is its help text."""
    with _packages():
        from wasmsr.jobs.description.schema import schema as whole
    print_object(dict(whole()))
