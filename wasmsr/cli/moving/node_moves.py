"""`wasmsr migrate`, `drain`, `adopt`: programs that go from a node to another."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.options.click_types import ClickType
from wasmsr.cli.options.node_options import node_options, open_node, taken
from wasmsr.cli.options.tool_options import WIDE, option
from wasmsr.cli.words.messages import say
from wasmsr.errors import EXIT_MIGRATION
from wasmsr.runspec.kinds import Seconds

if TYPE_CHECKING:
    from wasmsr.rpc.control.client_values import MoveEvent

MIGRATE = """Moves a program to the node at HOST:PORT. It runs while its memory is sent.

The program keeps its id and its output. It is never on both nodes: if something fails, it runs on
here, and the command says why. The move goes on if this command is ended.

\b
  wasmsr migrate 1a2b3c4d other:7443
  wasmsr migrate 1a2b3c4d other:7443 --max-downtime 20 --json"""

DRAIN = """Moves all programs of a node to other nodes, in turn, a few at a time.

Says at the end how many went, and which stay and why. The exit code is 124 if one stays.

\b
  wasmsr drain other:7443
  wasmsr drain --at-once 8 --deadline 60 one:7443 two:7443"""

ADOPT = """Resumes a program here whose owner cannot be asked any more.

It is a program whose move is not decided, or one that went to a node that is gone for good. It goes
on from its last state here: the state at its move, or its last checkpoint. If the other node has it
after all, it runs twice. So the command needs --force, and an operator who knows.

\b
  wasmsr adopt 1a2b3c4d --force
  wasmsr adopt --node host:7443 1a2b3c4d --force"""

PARTS = ("pause", "scan", "pages", "encode", "wire", "restore", "syncs", "commit")
"""The parts of a downtime, in their order."""

downtime = option("--max-downtime", type=click.FloatRange(0, min_open=True), metavar="MS",
                  help="Stop a program for its move when it would then stand for this many "
                  "milliseconds and two round trips at most. Default: 50.")  # fmt: skip
as_lines = option("--json", "as_json", is_flag=True, help="Print one object a line.")
program_argument = click.argument("program", metavar="ID|NAME")


@click.command(help=MIGRATE, context_settings=WIDE)
@program_argument
@click.argument("to", metavar="HOST:PORT")
@downtime
@click.option("--max-rounds", type=click.IntRange(1, 1000), metavar="N",
              help="Stop the program after this many rounds in any case. Default: 30.")  # fmt: skip
@click.option("--stop-and-copy", is_flag=True,
              help="Stop the program before anything of it is sent.")  # fmt: skip
@click.option("--auto-converge", is_flag=True,
              help="Hold back a program that writes to its memory faster than the line sends."
              )  # fmt: skip
@node_options
@as_lines
def migrate(program: str, to: str, as_json: bool, max_downtime: float | None, **values: Any) -> int:
    """Carry out the command; MIGRATE is its help text."""
    lines = _Lines(as_json)
    connection = taken(values)
    try:
        with open_node(connection) as node:
            found = node.migrate(
                program, to, max_downtime=_seconds(max_downtime), tell=lines, **values
            )
    finally:
        lines.close()
    if as_json:
        click.echo(json.dumps(found.as_dict()))
    else:
        click.echo(f"{found.program[:8]} {found.standing}: {found.reason}".rstrip(": "))
        for line in _report(lines.moved):
            click.echo(line)
    return 0


@click.command(help=DRAIN, context_settings=WIDE)
@click.argument("to", nargs=-1, required=True, metavar="HOST:PORT...")
@click.option("--at-once", type=click.IntRange(1, 64), metavar="N",
              help="Move so many programs at the same time. Default: 4.")  # fmt: skip
@click.option("--deadline", type=ClickType(Seconds()), metavar="SECONDS",
              help="Begin no move after so many seconds.")  # fmt: skip
@downtime
@node_options
@as_lines
def drain(
    to: tuple[str, ...], at_once: int | None, deadline: float | None, as_json: bool,
    max_downtime: float | None, **values: Any,
) -> int:  # fmt: skip
    """Carry out the command; DRAIN is its help text."""
    lines = _Lines(as_json)
    try:
        with open_node(taken(values)) as node:
            done = node.drain(
                *to, at_once=at_once, deadline=deadline, max_downtime=_seconds(max_downtime),
                tell=lines,
            )  # fmt: skip
    finally:
        lines.close()
    if as_json:
        left = [{"program": program, "reason": why} for program, why in done.left]
        click.echo(json.dumps({"event": "drained", "moved": done.moved, "left": left}))
    else:
        click.echo(f"{done.moved} moved, {len(done.left)} left")
        for program, why in done.left:
            click.echo(f"{program[:8]} stays: {why}")
    return EXIT_MIGRATION if done.left else 0


@click.command(help=ADOPT, context_settings=WIDE)
@program_argument
@click.option("--force", is_flag=True, help="I know that the program runs nowhere else.")
@node_options
@as_lines
def adopt(program: str, force: bool, as_json: bool, **values: Any) -> int:
    """Carry out the command; ADOPT is its help text."""
    if not force:
        raise click.UsageError(
            "Nobody can ask the other node whether it has the program. If it has it, the program "
            "then runs twice. Only if you know that it does not: --force."
        )
    with open_node(taken(values)) as node:
        found = node.adopt(program)
    say(
        f"program {found.program[:8]} is this node's by force, in epoch {found.epoch}: if another "
        "node has it, end it there",
        "warning",
    )
    click.echo(
        json.dumps(found.as_dict())
        if as_json
        else f"{found.program[:8]} {found.standing} in epoch {found.epoch}"
    )
    return 0


def _seconds(milliseconds: float | None) -> float | None:
    return None if milliseconds is None else milliseconds / 1000


class _Lines:
    """Shows the events of moves. With JSON each is an object on standard output.

    Attributes:
        moved: The values of the last "moved".
    """

    def __init__(self, as_json: bool) -> None:
        from wasmsr.cli.moving.event_lines import EventLines

        self._lines = EventLines(json=as_json)
        self.moved: dict[str, Any] = {}

    def __call__(self, event: MoveEvent) -> None:
        from wasmsr.migrate.events import Event

        if event.kind == "moved":
            self.moved = dict(event.values)
        if event.kind != "not-moved" or self._lines.json:  # the command says it at its end
            self._lines(Event(event.kind, event.text, dict(event.values)))

    def close(self) -> None:
        """Remove the progress line."""
        self._lines.close()


def _report(moved: dict[str, Any]) -> list[str]:
    """Return the downtime by part, for people."""
    if not moved:
        return []
    parts = [
        f"{name} {moved[f'downtime_{name}'] * 1000:.1f}"
        for name in PARTS
        if f"downtime_{name}" in moved
    ]
    return [f"downtime {moved['downtime'] * 1000:.1f} ms: {', '.join(parts)}"]


__all__ = ["adopt", "drain", "migrate"]
