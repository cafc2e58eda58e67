"""`wasmsr ownership`: shows who may run the programs under a lease, and what they wrote."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.tool_options import WIDE, as_object, option, print_blocks, print_object
from wasmsr.errors import EXIT_USAGE

if TYPE_CHECKING:
    from wasmsr.ownership.owner_record import OwnerRecord
    from wasmsr.ownership.register import Register

HELP = """Shows who may run the programs under a lease, by the records of a register.

\b
  wasmsr run app.wasm --lease 10 --checkpoint-dir D     a program under a lease
  wasmsr ownership ls                                   all programs
  wasmsr ownership node                                 this host's node id

`wasmsr ownership show ID` shows the record of one program, and `wasmsr ownership log ID --follow`
its output. `wasmsr run --take-over ID` continues it here.

The register is that of --register or WASMSR_REGISTER, or a file of the user's own. The first digits
of a program's id suffice."""

NODE = (
    """Prints the node id of this host, for --failover on another one. The first call makes it."""
)

LS = """Shows all programs of the register: who owns each, in which epoch, and until when by the
owner's clock. A record that cannot be read has its error."""

SHOW = """Shows the record of a program, and how the program ended, if it has."""

LOG = """Prints the output of a program that counts, from its first byte on.

With --follow the command waits for more until the program has ended. After a crash output can be
produced again: then a line on standard error says `rewound to OFFSET`, and the stream goes on from
that byte."""

FOLLOW_SECONDS = 0.2
"""Seconds between two looks for more output."""


@click.group(help=HELP, invoke_without_command=True, context_settings=WIDE)
@click.pass_context
def ownership(ctx: click.Context) -> None:
    """Hold the commands; HELP is its help text, which is printed if no command is named."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help(), err=True)
        ctx.exit(EXIT_USAGE)


register_option = option(
    "--register",
    "register",
    metavar="FILE|URL",
    help="The register: a FILE, or http://HOST:PORT for an etcd. Default: a file of the user's "
    "own.",
)

state_option = option(
    "--state-dir",
    "state_dir",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="Where this host keeps its node id and its own register.",
)

program_argument = click.argument("program", metavar="ID")


def _open(register: str | None, state_dir: str | None) -> Register:
    from wasmsr.cli.running.registers import open_register

    return open_register(register, state_dir)


@ownership.command(help=NODE, short_help="print this host's node id", context_settings=WIDE)
@state_option
def node(state_dir: str | None) -> None:
    """Carry out the command; NODE is its help text."""
    from wasmsr.cli.running.registers import ownership_folder
    from wasmsr.ownership.supervision.node_state import NodeState

    click.echo(NodeState(ownership_folder(state_dir)).node.hex())


@ownership.command(help=LS, short_help="show all programs", context_settings=WIDE)
@register_option
@state_option
@as_object
def ls(register: str | None, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; LS is its help text."""
    from wasmsr.ownership.failures import RecordDamaged, RecordTooNew

    opened = _open(register, state_dir)
    found: list[dict[str, Any]] = []
    try:
        for program in opened.programs():
            try:
                record = opened.read(program)
            except (RecordDamaged, RecordTooNew) as error:
                found.append({"program": program.hex(), "error": error.what})
                continue
            if record is not None:
                found.append(_as_data(record))
    finally:
        opened.close()
    if as_json:
        print_object({"programs": found})
        return
    heads = ("program", "standing", "owner", "epoch", "lease ends", "checkpoint")
    print_blocks([("Programs under a lease", heads, [_row(one) for one in found])])


@ownership.command(help=SHOW, short_help="show the record of a program", context_settings=WIDE)
@program_argument
@register_option
@state_option
@as_object
def show(program: str, register: str | None, state_dir: str | None, as_json: bool) -> None:
    """Carry out the command; SHOW is its help text."""
    from wasmsr.cli.running.registers import find_program
    from wasmsr.ownership.owner_record import Standing
    from wasmsr.ownership.supervision.leased_run import read_result
    from wasmsr.ownership.supervision.stored import is_stored

    opened = _open(register, state_dir)
    try:
        record = find_program(opened, program)
    finally:
        opened.close()
    data = _as_data(record)
    last = record.checkpoint
    if record.standing is Standing.ENDED and last is not None and not is_stored(last):
        data["result"] = read_result(Path(last.store), record)
    if as_json:
        print_object(data)
        return
    rows = []
    for name, value in data.items():
        shown = value
        if isinstance(value, dict):
            shown = ", ".join(f"{key} {one}" for key, one in value.items())
        elif isinstance(value, list):
            shown = ", ".join(value)
        elif name == "deadline":
            shown = _time(value)
        rows.append((name, "-" if shown in (None, "") else str(shown)))
    print_blocks([(f"Program {record.program.hex()[:8]}", (), rows)])


@ownership.command(help=LOG, short_help="print a program's output", context_settings=WIDE)
@program_argument
@click.option(
    "--stream", type=click.Choice(["stdout", "stderr"]), default="stdout", show_default=True,
    help="Which of its streams.",
)  # fmt: skip
@click.option("--follow", is_flag=True, help="Wait for more until the program has ended.")
@option(
    "--checkpoint-dir",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False),
    help="The --checkpoint-dir of the run, if it has another path here or no checkpoint yet.",
)
@register_option
@state_option
def log(
    program: str,
    stream: str,
    follow: bool,
    folder: str | None,
    register: str | None,
    state_dir: str | None,
) -> None:
    """Carry out the command; LOG is its help text."""
    from wasmsr.cli.options.usage import UsageError
    from wasmsr.cli.running.registers import find_program
    from wasmsr.ownership.supervision.stored import is_stored

    opened = _open(register, state_dir)
    try:
        record = find_program(opened, program)
        if folder is not None:
            place = Path(folder) / record.program.hex()
        elif record.checkpoint is not None and not is_stored(record.checkpoint):
            place = Path(record.checkpoint.store)
        else:
            raise UsageError("The register does not say where its output is: --checkpoint-dir.")
        _print(opened, record, place, stream, follow)
    finally:
        opened.close()


def _print(register: Register, record: OwnerRecord, place: Path, stream: str, follow: bool) -> None:
    """Print a stream until its end, or what is there of it now."""
    from wasmsr.cli.words.messages import say
    from wasmsr.ownership.epoch_log import LogFollower, complete, parts
    from wasmsr.ownership.failures import RegisterAway
    from wasmsr.ownership.owner_record import Standing

    first = next(iter(parts(place, stream)), None)
    start = first.start if first is not None else 0
    if start:
        say(f"the log begins at byte {start} here", "warning")
    follower = LogFollower(place, stream, start)
    while True:
        ended = record.standing is Standing.ENDED
        if ended:
            complete(place, stream, record.epoch, None)
        while (piece := follower.read()) is not None:
            if piece.rewound:
                say(f"rewound to {piece.offset}", "warning")
            view = memoryview(piece.data)
            while view:
                view = view[os.write(1, view) :]
        if ended or not follow:
            return
        time.sleep(FOLLOW_SECONDS)
        try:
            record = register.read(record.program) or record
        except RegisterAway:
            continue


def _as_data(record: OwnerRecord) -> dict[str, Any]:
    last = record.checkpoint
    return {
        "program": record.program.hex(),
        "standing": record.standing.value,
        "owner": record.owner.hex(),
        "epoch": record.epoch,
        "attempt": record.attempt.hex(),
        "serial": record.serial,
        "lease": record.lease / 1000,
        "deadline": record.deadline / 1000,
        "policy": record.policy.value,
        "failover": [one.hex() for one in record.failover],
        "checkpoint": last
        and {
            "root": last.root.hex(),
            "folder": last.store,
            "epoch": last.epoch,
            "stdout": last.output,
            "stderr": last.errors,
        },
    }


def _row(data: dict[str, Any]) -> tuple[str, ...]:
    name = data["program"][:8]
    if "error" in data:
        return (name, "unreadable", "-", "-", "-", data["error"])
    last = data["checkpoint"]
    owned = data["standing"] == "owned"
    return (
        name,
        data["standing"],
        data["owner"][:8] if owned else "-",
        str(data["epoch"]),
        _time(data["deadline"]) if owned else "-",
        "-" if last is None else f"{last['root'][:8]} of epoch {last['epoch']}",
    )


def _time(seconds: float) -> str:
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(seconds))
    except (OverflowError, ValueError, OSError):
        return "-"
