"""`wasmsr snapshot`: tools for snapshot files and folders of checkpoints."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import click

from wasmsr.cli.options.run_options import variable
from wasmsr.errors import EXIT_USAGE

if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import Any

    from wasmsr.snapshot.inspect.text_tables import Block
    from wasmsr.snapshot.tools.verify import Verdict

HELP = """Tools for snapshots. None of them runs a program.

\b
  wasmsr snapshot verify snapshot.bin
  wasmsr snapshot verify checkpoints

A snapshot is a file, of version 1 or 2 of the format, or a folder of checkpoints, which stands for
its last complete one. The base of an incremental file is looked for in the file's folder. A
damaged or incomplete snapshot ends the command with exit code 123."""

VERIFY = """Reads a snapshot, checks all of it, and says its version, form, depth and digests.

Of a folder, all checkpoints are read. Depth is the number of snapshots below one: 0 for a full one.
The exit code is 0 if everything is complete, otherwise 123."""

WIDE = {"max_content_width": 100}


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def snapshot(ctx: click.Context) -> None:
    """Hold the tools; HELP is its help text, which is printed if no tool is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


as_object = click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar=variable("--json"),
    help="Print all of it as one object.",
)


@snapshot.command(help=VERIFY, short_help="say whether all is there", context_settings=WIDE)
@click.argument("source", metavar="FILE|FOLDER", type=click.Path())
@as_object
def verify(source: str, as_json: bool) -> None:
    """Carry out the command; VERIFY is its help text."""
    import os

    from wasmsr.errors import SnapshotError, printable
    from wasmsr.snapshot.tools.verify import verify_file, verify_folder

    if not os.path.isdir(source):
        verdict = verify_file(source)
        if as_json:
            _print_object(verdict.as_data())
        if verdict.error is not None:
            raise verdict.error
        if not as_json:
            _print_blocks([("Snapshot", (), _facts(verdict))])
        return
    verdicts = verify_folder(source)
    whole = [verdict.number for verdict in verdicts if verdict.complete]
    last = whole[-1] if whole else None
    if as_json:
        _print_object(
            {
                "folder": source,
                "complete": len(whole) == len(verdicts),
                "last_complete": last,
                "checkpoints": [verdict.as_data() for verdict in verdicts],
            }
        )
    else:
        _print_blocks([("Checkpoints", _COLUMNS, [_row(verdict) for verdict in verdicts])])
    if len(whole) < len(verdicts):
        raise SnapshotError(
            f"{len(verdicts) - len(whole)} of {len(verdicts)} checkpoints in {printable(source)} "
            f"are not complete; the last complete one is {'none' if last is None else last}",
        )


_COLUMNS = ("", "form", "depth", "size", "content digest", "")


def _facts(verdict: Verdict) -> list[tuple[str, str]]:
    from wasmsr.snapshot.inspect.text_tables import size

    assert verdict.size is not None and verdict.root is not None and verdict.content is not None
    rows = [
        ("complete", "yes"),
        ("format version", str(verdict.version)),
        ("form", str(verdict.form)),
        ("depth", str(verdict.depth)),
        ("size", size(verdict.size)),
        ("root digest", verdict.root.hex()),
        ("content digest", verdict.content.hex()),
    ]
    if verdict.handed:
        rows.append(("owner", "another host: this program was handed over"))
    return rows


def _row(verdict: Verdict) -> tuple[str, ...]:
    from wasmsr.snapshot.inspect.text_tables import size

    number = str(verdict.number)
    if verdict.error is not None:
        return (number, "-", "-", "-", "-", verdict.error.message)
    assert verdict.size is not None and verdict.content is not None
    said = "complete, handed over" if verdict.handed else "complete"
    form, depth = str(verdict.form), str(verdict.depth)
    return (number, form, depth, size(verdict.size), verdict.content.hex(), said)


def _print_object(data: dict[str, Any]) -> None:
    import json

    sys.stdout.write(json.dumps(data, indent=2) + "\n")
    sys.stdout.flush()


def _print_blocks(blocks: Iterable[Block]) -> None:
    from wasmsr.snapshot.inspect.text_tables import lines

    sys.stdout.write("".join(f"{line}\n" for line in lines(blocks)))
    sys.stdout.flush()
