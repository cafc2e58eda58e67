"""`wasmsr submit`, `ps`, `logs`, `pause`, `resume`, `kill`, `checkpoint`: programs on a node."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli import programs
from wasmsr.cli.commands.run import SplitCommand, complete_program
from wasmsr.cli.moving.lease_words import lease_cell, lease_sentence
from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.node_options import node_options, open_node, taken
from wasmsr.cli.options.run_options import ROWS, variable
from wasmsr.cli.options.tool_options import WIDE, option, print_blocks
from wasmsr.cli.words.messages import say
from wasmsr.runspec.kinds import Flag, ReadableFile, Seconds, WritableFile

if TYPE_CHECKING:
    from wasmsr.rpc.control.client_values import LogPiece
    from wasmsr.rpc.control.program_info import ProgramInfo

SUBMIT = """Has a node run PROGRAM: a .wasm or .wat file, or a packaged program. Prints its id.

The module is sent to the node. Folders of --dir are those of the node's host, as far as its policy
gives them. Everything after PROGRAM and our options belongs to the program, as with `wasmsr run`.

\b
  wasmsr submit app.wasm --name app -- its arguments
  wasmsr submit fib --invoke fib 30
  wasmsr submit app.wasm --every 10 --node host:7443 --token-file token
  wasmsr submit app.wasm --from-snapshot warm.bin
  wasmsr submit app.wasm --lease 10 --failover 5f7d354bab0cfe0e3fb967003b67f4f5

With --lease the program survives the loss of its node: a node of --failover goes on from its last
checkpoint. The nodes need one register and one store (docs/ownership.md)."""

PS = """Lists the programs of a node: what each does now, and why.

A program is running, paused, ended (it came to its end), killed (by request), resumable (no worker
has it, and it can be resumed from a save point), or lost.

\b
  wasmsr ps
  wasmsr ps --node host:7443 --json"""

LOGS = """Prints the output that a node keeps of a program: its last bytes of each stream.

With -f the command waits for more until the program has ended. If the program was resumed from a
save point, a line on standard error says `rewound to OFFSET`, and what follows is written again. A
node that is started again is asked again. If the program moves, -f goes on with the other node.
Of a leased program a line on standard error says who owns it, and again after each takeover; with
--json it is an object with the one key `lease`.

\b
  wasmsr logs 1a2b3c4d
  wasmsr logs -f 1a2b3c4d --stream stdout"""

PAUSE = """Pauses a program. It stays paused if the node is started again.

\b
  wasmsr pause 1a2b3c4d
  wasmsr pause --node host:7443 1a2b3c4d"""

RESUME = """Lets a paused program run on, or continues one that is resumable from its save point.

\b
  wasmsr resume 1a2b3c4d
  wasmsr resume --node host:7443 1a2b3c4d"""

KILL = """Ends a program for good. Its output stays.

\b
  wasmsr kill 1a2b3c4d
  wasmsr kill --node host:7443 1a2b3c4d"""

CHECKPOINT = """Saves a program, which runs on. From then on it can be resumed after a loss.

With --to its state is written to a file here instead. `wasmsr submit` lets it go on from there, on
this node or another one (--goes-on), or makes forks of it.

\b
  wasmsr checkpoint 1a2b3c4d
  wasmsr checkpoint 1a2b3c4d --to saved.bin
  wasmsr checkpoint --node host:7443 1a2b3c4d"""

HEALTH = """Says whether a node works. Containers and other supervisors ask it now and then.

The exit code is 0 if the node takes programs; 1 if it is being stopped, or does not answer in time.
With --alive a node that is being stopped works too.

\b
  wasmsr health
  wasmsr health --node host:7443 --tls-authority authority.pem"""

OPTIONS = ("--invoke", "--preload", "--arg", "--dir", "--carry-limit", "--env", "--tcp-listen",
    "--max-memory", "--fuel", "--features", "--core", "--deterministic",
    "--on-changed")  # fmt: skip
"""Options of `run` that a program on a node has too."""

LEASE = ("--lease", "--failover", "--policy", "--output", "--unfenced")
"""Options of `run` for a program with a lease that a program on a node has too."""

RUN_HELP = {
    "--preload": "Instantiate this module first; later ones, and the program, import from it by "
    "NAME. The file is sent along. Repeatable.",
}
"""Help of options that is another one here than for `run`."""

LEASE_HELP = {
    "--lease": "Run it under a lease of so many seconds. Default with --failover: 10.",
    "--failover": "With a lease: a node that may take it over. A node says its id when "
    "it starts. Repeatable.",
}
"""The same of options for a program with a lease."""

as_lines = option("--json", "as_json", is_flag=True, help="Print one object a line.")
program_argument = click.argument("program", metavar="ID|NAME")


def _run_options(command: Any) -> Any:
    """Give a click command the options of `OPTIONS`."""
    return _options(command, OPTIONS, RUN_HELP)


def _lease_options(command: Any) -> Any:
    """Give a click command the options of `LEASE`."""
    return _options(command, LEASE, LEASE_HELP)


def _options(command: Any, names: tuple[str, ...], helps: Mapping[str, str]) -> Any:
    for row in reversed([row for row in ROWS if row.name in names]):
        text = helps.get(row.name, row.help)
        attributes: dict[str, Any] = {"envvar": variable(row.name), "help": text}
        if isinstance(row.type, Flag):
            attributes |= {"is_flag": True}
        else:
            kind = ClickType(row.type)
            attributes |= {"type": kind, "metavar": row.metavar, "multiple": row.type.repeated}
        command = click.option(row.name, row.field, **attributes)(command)
    return command


def _print(found: ProgramInfo, as_json: bool, text: str) -> None:
    click.echo(json.dumps(found.as_dict()) if as_json else text)


def _lease(values: dict[str, Any]) -> dict[str, Any] | None:
    """Take the terms of a lease out of the values of a command. Raises UsageError."""
    names = [name.removeprefix("--") for name in LEASE]
    seconds, *more = (values.pop(name) for name in names)
    if seconds is None and not more[0]:
        for name, value in zip(names[1:], more, strict=True):
            if value:
                raise click.UsageError(f"--{name} is for programs with a lease: add --lease.")
        return None
    terms = dict(zip(names[1:], more, strict=True))
    return {"seconds": seconds or 10.0, **{name: one for name, one in terms.items() if one}}


@click.command(cls=SplitCommand, help=SUBMIT, context_settings=WIDE)
@click.argument("program", shell_complete=complete_program)
@click.argument("args", nargs=-1, type=click.UNPROCESSED)
@click.option("--name", metavar="TEXT", help="What to call it. Default: its file's name.")
@click.option("--every", type=ClickType(Seconds()), metavar="SECONDS",
              help="Save it so often. Default: what the node does by itself.")  # fmt: skip
@click.option("--from-snapshot", type=ClickType(ReadableFile()), metavar="FILE",
              help="Begin in the state of this snapshot, as a fork of it.")  # fmt: skip
@click.option("--goes-on", is_flag=True,
              help="Go on there as it was, with its random numbers; it is no fork.")  # fmt: skip
@_run_options
@_lease_options
@node_options
@as_lines
def submit(program: str, args: tuple[str, ...], as_json: bool, **values: Any) -> int:
    """Carry out the command; SUBMIT is its help text."""
    from wasmsr.runspec.run_spec import RunSpec

    connection = taken(values)
    name, every, goes_on = values.pop("name"), values.pop("every"), values.pop("goes_on")
    if goes_on and values["from_snapshot"] is None:
        raise click.UsageError("--goes-on is about a snapshot: add --from-snapshot FILE.")
    begins, lease = values.pop("from_snapshot"), _lease(values)
    module = programs.load(program, values["features"], core=values.pop("core"))
    fields = {row.field: row.name.removeprefix("--") for row in ROWS}
    given = {fields[field]: value for field, value in values.items()}
    spec = {**RunSpec.from_options(given).as_dict(), "args": list(args)}
    with open_node(connection) as node:
        found = node.submit(
            module, spec, name=name or os.path.basename(program), every=every, from_snapshot=begins,
            lease=lease, goes_on=goes_on,
        )  # fmt: skip
    _print(found, as_json, found.program)
    return 0


@click.command(help=HEALTH, context_settings=WIDE)
@click.option("--alive", is_flag=True, help="A node that is being stopped works too.")
@click.option("--seconds", type=ClickType(Seconds()), metavar="SECONDS", default=5.0,
              help="How long the answer may take. Default: 5.")  # fmt: skip
@node_options
@as_lines
def health(alive: bool, seconds: float, as_json: bool, **values: Any) -> int:
    """Carry out the command; HEALTH is its help text."""
    from wasmsr.node.failures import NodeError

    try:
        with open_node(taken(values)) as node:
            found = node.health(seconds)
    except NodeError as error:
        found = "away"
        if not as_json:
            say(error.message, "error")
    if as_json:
        click.echo(json.dumps({"health": found}))
    elif found != "away":
        click.echo(found)
    return 0 if found == "serving" or (alive and found == "stopping") else 1


@click.command(help=PS, context_settings=WIDE)
@node_options
@as_lines
def ps(as_json: bool, **values: Any) -> int:
    """Carry out the command; PS is its help text."""
    with open_node(taken(values)) as node:
        found = node.ps()
    if as_json:
        for one in found:
            click.echo(json.dumps(one.as_dict()))
        return 0
    heads = ("id", "name", "standing", "memory", "saved", "lease", "submitted", "why")
    print_blocks([("Programs", heads, [_row(one) for one in found])])
    return 0


def _row(one: ProgramInfo) -> tuple[str, ...]:
    standing = f"ended ({one.code})" if one.standing == "ended" else one.standing
    return (
        one.program[:8],
        one.name,
        standing,
        "-" if one.memory is None else f"{one.memory / (1 << 20):.1f} MiB",
        "-" if one.saved is None else _time(one.saved["time"]),
        lease_cell(one.lease),
        _time(one.submitted),
        one.reason or "-",
    )


def _time(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"


@click.command(help=LOGS, context_settings=WIDE)
@program_argument
@click.option("-f", "--follow", is_flag=True, help="Wait for more until the program has ended.")
@click.option("--stream", "streams", multiple=True, type=click.Choice(["stdout", "stderr"]),
              help="Only this stream.")  # fmt: skip
@node_options
@as_lines
def logs(program: str, follow: bool, streams: tuple[str, ...], as_json: bool, **values: Any) -> int:
    """Carry out the command; LOGS is its help text."""
    from wasmsr.cli.moving.followed_logs import FollowedLogs

    def tell_lease(lease: Mapping[str, Any]) -> None:
        if as_json:
            click.echo(json.dumps({"lease": dict(lease)}))
        else:
            say(lease_sentence(lease))

    for piece in FollowedLogs(taken(values), program, streams, follow, tell_lease).pieces():
        if as_json:
            click.echo(json.dumps(_as_data(piece)))
        else:
            _show(piece)
    return 0


def _show(piece: LogPiece) -> None:
    if piece.dropped:
        say(f"{piece.dropped} bytes of {piece.stream} are kept no more", "warning")
    if piece.rewound:
        say(f"{piece.stream} rewound to {piece.offset}", "warning")
    view = memoryview(piece.data)
    while view:
        view = view[os.write(1 if piece.stream == "stdout" else 2, view) :]


def _as_data(piece: LogPiece) -> dict[str, Any]:
    """Return a piece as plain data; bytes that are no UTF-8 are surrogates (as Python has them)."""
    return {
        "stream": piece.stream,
        "offset": piece.offset,
        "text": piece.data.decode("utf-8", "surrogateescape"),
        "life": piece.life,
        "rewound": piece.rewound,
        "dropped": piece.dropped,
    }


def _verb(name: str, words: str, shown: Callable[[ProgramInfo], str]) -> click.Command:
    """Return the command that does one thing to one program.

    Args:
        name: The command, which is the client's method too.
        words: Its help text.
        shown: Returns what it prints of the program.
    """

    @click.command(name, help=words, context_settings=WIDE)
    @program_argument
    @node_options
    @as_lines
    def command(program: str, as_json: bool, **values: Any) -> int:
        with open_node(taken(values)) as node:
            found: ProgramInfo = getattr(node, name)(program)
        _print(found, as_json, shown(found))
        return 0

    return command


def _standing(found: ProgramInfo) -> str:
    return f"{found.program[:8]} {found.standing}"


def _saved(found: ProgramInfo) -> str:
    saved = found.saved or {}
    return f"{found.program[:8]} checkpoint {saved.get('number')}, {saved.get('size')} bytes"


pause = _verb("pause", PAUSE, _standing)
resume = _verb("resume", RESUME, _standing)
kill = _verb("kill", KILL, _standing)


@click.command(help=CHECKPOINT, context_settings=WIDE)
@program_argument
@click.option("--to", type=ClickType(WritableFile()), metavar="FILE",
              help="Write its state to this file.")  # fmt: skip
@node_options
@as_lines
def checkpoint(program: str, to: str | None, as_json: bool, **values: Any) -> int:
    """Carry out the command; CHECKPOINT is its help text."""
    with open_node(taken(values)) as node:
        if to is None:
            found = node.checkpoint(program)
            _print(found, as_json, _saved(found))
        else:
            saved = node.snapshot(program, to)
            text = f"{to}: {saved.size} bytes"
            click.echo(json.dumps({"file": to, **asdict(saved)}) if as_json else text)
    return 0
