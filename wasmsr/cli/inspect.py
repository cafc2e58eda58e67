"""`wasmsr inspect`: what is in a snapshot, for people and as JSON."""

from __future__ import annotations

import sys

import click

from wasmsr.cli import programs

HELP = """Shows what is in the snapshot FILE: where it comes from, the call stack with function
names, memories, tables, globals, descriptors, and how large each part is.

The names of functions are in the module. It is found if the snapshot embeds it or if it is that of
a packaged program; otherwise name it with --program."""


@click.command(help=HELP, context_settings={"max_content_width": 100})
@click.argument("file", type=click.Path())
@click.option(
    "--program",
    metavar="PROGRAM",
    envvar="WASMSR_PROGRAM",
    help="The program that was saved, for the names of its functions.",
)
@click.option(
    "--values",
    is_flag=True,
    envvar="WASMSR_VALUES",
    help="Show locals and operands of each frame; --json always does.",
)
@click.option(
    "--json", "as_json", is_flag=True, envvar="WASMSR_JSON", help="Print all of it as one object."
)
def inspect(file: str, program: str | None, values: bool, as_json: bool) -> int:
    """The command; HELP is its help."""
    from wasmsr.cli.snapshots import decode, read_bytes
    from wasmsr.errors import ModuleMismatch
    from wasmsr.interp.module import Module
    from wasmsr.snapshot.inspect import describe, render, show

    snapshot, decoder = decode(read_bytes(file), file)
    wanted = {reference.digest for reference in snapshot.modules}
    modules = []
    if program is not None:
        modules = [programs.load(program)]
        if modules[0].digest not in wanted:
            raise ModuleMismatch(f"{file} is a snapshot of another module than {program}")
    else:
        names = filter(None, map(programs.known_digest, wanted))
        modules = [Module.from_file(programs.PROGRAMS[name].path) for name in names]
    description = describe(snapshot, modules, decoder)
    if as_json:
        import json

        print(json.dumps(description, indent=2))
    elif sys.stdout.isatty():
        from rich.console import Console

        show(description, Console(), values=values)
    else:
        print(render(description, values=values), end="")
    sys.stdout.flush()
    return 0
