"""`wasmsr inspect`: what is in a snapshot or in a module, for people and as JSON."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterable, Mapping
from itertools import chain
from typing import TYPE_CHECKING

import click

from wasmsr.cli import programs
from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.node_options import open_node, proof_options
from wasmsr.cli.options.run_options import variable
from wasmsr.cli.options.tool_options import decrypt_option, read_trust
from wasmsr.runspec.kinds import Features

if TYPE_CHECKING:
    from typing import Any

    from wasmsr.errors import WasmsrError
    from wasmsr.snapshot.format import Decoder
    from wasmsr.snapshot.state import SnapshotState
    from wasmsr.snapshot.trust.policy import ReadTrust

HELP = """Shows what is in FILE: a snapshot, a folder of checkpoints, or a module (a .wasm or .wat
file, or a packaged program).

Of a snapshot: where it comes from, the call stack with function names, memories, tables, globals,
descriptors, and how large each part is. The names of functions are in the module. It is found if
the snapshot embeds it or if it is that of a packaged program; otherwise name it with --program.

Of a folder of checkpoints, the last complete one is shown.

Of a module: whether it runs here, and if not why, its imports and exports with their types, its
memories, the features of WebAssembly that it needs, and its sections. With --code FUNCTION (a name
or an index): its instructions, what the interpreter makes of them, and their native code.

\b
  wasmsr inspect snapshot.bin
  wasmsr inspect snapshot.bin --values --program app.wasm
  wasmsr inspect app.wasm
  wasmsr inspect fib --json
  wasmsr inspect fib --code fib

With --html, a snapshot becomes a page: one file, which any browser opens without a network. It
shows the program, and runs it forwards and backwards.

\b
  wasmsr inspect --html snapshot.bin --module app.wasm -o page.html

With --node, FILE is the id of a program on that node: its state, its run and its call stack are
shown.

\b
  wasmsr inspect --node local 1a2b3c4d"""

SNAPSHOT = b"\x89WSR"
"""How snapshots begin. If the rest is damaged, the error is that of a snapshot."""

TEXT = (b"(", b";;")
"""How modules in the text format begin."""


@click.command(help=HELP, context_settings={"max_content_width": 100})
@click.argument("file", type=click.Path(allow_dash=True))
@click.option(
    "--program",
    "--module",
    "program",
    metavar="PROGRAM",
    envvar=variable("--program"),
    help="The program that was saved, for the names of its functions.",
)
@click.option("--html", is_flag=True, help="Write a page that shows the program and runs it.")
@click.option(
    "-o",
    "--output",
    "out",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="With --html: write this file, which must not be there; - is standard output.",
)
@click.option(
    "--against",
    metavar="FILE",
    type=click.Path(),
    help="With --html: show too what differs from this snapshot.",
)
@click.option(
    "--values",
    is_flag=True,
    envvar=variable("--values"),
    help="Show locals and operands of each frame; --json always does.",
)
@click.option(
    "--features",
    type=ClickType(Features()),
    metavar="-NAME,+NAME",
    envvar=variable("--features"),
    help="Judge a module by these features of WebAssembly.",
)
@click.option(
    "--code",
    metavar="FUNCTION",
    envvar=variable("--code"),
    help="Of a module: show the native code of this function.",
)
@click.option(
    "--json",
    "as_json",
    is_flag=True,
    envvar=variable("--json"),
    help="Print all of it as one object.",
)
@decrypt_option
@click.option(
    "--node",
    metavar="local|[HOST:]PORT",
    help="Show a program on this node; FILE is its id or name.",
)
@proof_options
def inspect(
    file: str,
    program: str | None,
    values: bool,
    features: str | None,
    code: str | None,
    as_json: bool,
    html: bool,
    out: str | None,
    against: str | None,
    decrypt: str | None,
    node: str | None,
    **proof: str | None,
) -> int:
    """Carry out the command; HELP is its help text."""
    if html:
        if node is not None or out is None:
            raise click.UsageError("--html is for a file, and needs -o FILE for the page.")
        return _write_page(file, program, out, against, read_trust(decrypt))
    if out is not None or against is not None:
        raise click.UsageError("-o and --against are for --html.")
    if node is not None:
        return _inspect_on_node(file, {"node": node, **proof}, as_json)
    from wasmsr.cli.running.snapshots import pieces
    from wasmsr.snapshot.runnable.doorway import as_snapshot

    trust = read_trust(decrypt)
    if os.path.isdir(file):
        return _inspect_checkpoint(file, program, values, as_json, trust)
    named = None if os.path.exists(file) else programs.find(file)
    stream = as_snapshot(pieces(file if named is None else named.location))
    data = next(stream, b"")
    if data.startswith(b"\0asm") or data.lstrip()[:2].startswith(TEXT):
        if code is not None:
            return _show_code(data + b"".join(stream), file, features, code, as_json)
        return _inspect_module(data + b"".join(stream), file, features, as_json)
    if not data.startswith(SNAPSHOT):
        raise _neither(data, file)
    if os.path.isfile(file) and _is_incremental(data):
        return _inspect_checkpoint(file, program, values, as_json, trust)
    return _inspect_snapshot(chain((data,), stream), file, program, values, as_json, trust)


def _write_page(
    file: str, program: str | None, out: str, against: str | None, trust: ReadTrust
) -> int:
    from wasmsr.cli.running.snapshots import named_modules
    from wasmsr.cli.words.messages import say
    from wasmsr.cli.words.units import human_size
    from wasmsr.debug.program_page import write_page
    from wasmsr.errors import printable
    from wasmsr.snapshot.tools.opened import open_snapshot

    def warn(text: str) -> None:
        say(text, "warning")

    opened = open_snapshot(file, warn=warn, trust=trust)
    other = None if against is None else open_snapshot(against, warn=warn, trust=trust)
    modules = named_modules(opened.state, program, file)
    size = write_page(opened, modules, out, against=other, warn=warn)
    if out != "-":
        say(f"{printable(out)}: {human_size(size)}")
    return 0


def _inspect_on_node(program: str, values: Mapping[str, str | None], as_json: bool) -> int:
    from wasmsr.cli.options.tool_options import print_blocks, print_object

    with open_node(values) as opened:
        found = opened.inspect(program)
    if as_json:
        print_object(found.as_dict())
        return 0
    data = found.as_dict()
    details = data.pop("details")
    frames = details.pop("frames", [])
    rows = [(name, _shown(value)) for name, value in (data | details).items()]
    stack = [(one["function"], hex(one["offset"])) for one in frames]
    print_blocks(
        [
            (f"Program {found.program[:8]}", (), rows),
            *([("Call stack", ("function", "at byte"), stack)] if stack else []),
        ]
    )
    return 0


def _shown(value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} {_shown(one)}" for name, one in value.items()) or "-"
    return "-" if value in (None, "") else str(value)


def _neither(data: bytes, name: str) -> WasmsrError:
    """Return the error for a file that is neither, with what the file is if that is clear."""
    from wasmsr.errors import FormatError, printable
    from wasmsr.interp.modules.foreign_files import what_text_is

    said, hint = what_text_is(data)
    found = said or f"it begins with {data[:8].hex(' ')}"
    return FormatError(f"{printable(name)} is neither a snapshot nor a module: {found}", hint=hint)


def _inspect_module(data: bytes, name: str, features: str | None, as_json: bool) -> int:
    from wasmsr.cli.commands.overview import blocks, describe, malformed
    from wasmsr.snapshot.inspect.text_tables import lines

    description = describe(data, name, features)
    error = malformed(description)
    if error is not None:
        raise error
    _print(description, "".join(f"{line}\n" for line in lines(blocks(description))), as_json)
    return 0


def _show_code(data: bytes, name: str, features: str | None, function: str, as_json: bool) -> int:
    from wasmsr.interp.modules.module import Module
    from wasmsr.interp.modules.native_listing import description, function_index, listing, text

    text_format = data.lstrip()[:2].startswith(TEXT)
    module = (
        Module.from_text(data.decode(), name=name, features=features)
        if text_format
        else Module(data, name=name, features=features)
    )
    listed = listing(module, function_index(module, function))
    _print(description(listed), text(listed), as_json)
    return 0


def _is_incremental(data: bytes) -> bool:
    """Return whether a snapshot begins as one that is read with its base."""
    from wasmsr.snapshot.encoding.container import HEADER, INCREMENTAL, Header

    return len(data) >= HEADER.size and Header.decode(data[: HEADER.size]).form == INCREMENTAL


def _inspect_checkpoint(
    path: str, program: str | None, values: bool, as_json: bool, trust: ReadTrust
) -> int:
    """Show an incremental snapshot, or the last complete checkpoint of a folder."""
    from wasmsr.cli.words.messages import say
    from wasmsr.snapshot.tools.opened import open_snapshot

    opened = open_snapshot(path, warn=lambda text: say(text, "warning"), trust=trust)
    _show_snapshot(opened.state, opened.decoder, path, program, values, as_json)
    return 0


def _inspect_snapshot(
    data: Iterable[bytes],
    name: str,
    program: str | None,
    values: bool,
    as_json: bool,
    trust: ReadTrust,
) -> int:
    from wasmsr.cli.running.snapshots import decode

    snapshot, decoder = decode(data, name, trust=trust)
    _show_snapshot(snapshot, decoder, name, program, values, as_json)
    return 0


def _show_snapshot(
    snapshot: SnapshotState,
    decoder: Decoder,
    name: str,
    program: str | None,
    values: bool,
    as_json: bool,
) -> None:
    from wasmsr.cli.running.snapshots import named_modules
    from wasmsr.snapshot.inspect.describe import describe, render, show

    modules = named_modules(snapshot, program, name)
    description = describe(snapshot, modules, decoder)
    if sys.stdout.isatty() and not as_json:
        from rich.console import Console

        show(description, Console(), values=values)
    else:
        _print(description, render(description, values=values), as_json)


def _print(description: dict[str, Any], text: str, as_json: bool) -> None:
    """Return the description, in one of its forms."""
    if as_json:
        import json

        text = json.dumps(description, indent=2) + "\n"
    sys.stdout.write(text)
    sys.stdout.flush()
