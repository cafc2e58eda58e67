"""`wasmsr node`: a service that runs programs of many people, each in a process of its own."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from wasmsr.cli.options.tool_options import WIDE
from wasmsr.errors import EXIT_USAGE
from wasmsr.node.settings.table import ROWS
from wasmsr.runspec.kinds import Flag

HELP = """Runs a node: a service that takes programs, and keeps them running for a long time.

\b
  wasmsr node                                   in one terminal
  wasmsr submit app.wasm --name app             in another one
  wasmsr ps
  wasmsr logs -f 1a2b3c4d

Each program runs in a process of its own, with limits, and sees only files that the policy allows.
The node's folder (--state-dir) has what it notes of each program, the output, and the checkpoints.
If the node is killed, the programs wait for it: start it again, and it says of each whether it
runs, can be resumed, or is lost.

Callers on this machine need the key of this user, which `wasmsr submit` and the others find by
themselves. Callers from other machines need TLS: `wasmsr keys` makes certificates.

With --mqtt the node is a device of a fleet too: see `wasmsr orchestrator`.

SIGTERM and Ctrl-C end the node. By --on-stop the programs are saved first, or killed.

Each option is also a variable, WASMSR_LISTEN for --listen, and a line in the file of --config:
`listen` in the table [node], `certificate` in [tls] for --tls-certificate. A flag is stronger than
a variable, which is stronger than the file."""


def _settings(command: Any) -> Any:
    """Give a click command an option for each setting."""
    for row in reversed(ROWS):
        attributes: dict[str, Any] = {"help": row.help}
        if isinstance(row.kind, Flag):
            attributes |= {"is_flag": True}
        else:
            attributes |= {"metavar": row.metavar, "multiple": row.kind.repeated}
        command = click.option(row.flag, row.field, **attributes)(command)
    return command


@click.command(help=HELP, context_settings=WIDE)
@click.option(
    "--config",
    metavar="FILE",
    type=click.Path(dir_okay=False),
    envvar="WASMSR_CONFIG",
    help="Read settings from this file (TOML), or broker and realm of a fleet from config.json.",
)
@click.option("--check-config", is_flag=True, help="Show the settings in force, and end.")
@click.option("--resume", is_flag=True, help="Resume all programs that can be resumed.")
@_settings
@click.option("--json", "as_json", is_flag=True, help="The same as --log-format json.")
def node(config: str | None, check_config: bool, resume: bool, as_json: bool, **flags: Any) -> int:
    """Carry out the command; HELP is its help text."""
    from wasmsr.node.settings.reading import SettingsError, read_settings

    if as_json:
        flags["log_format"] = "json"
    fleet = None
    if config is not None and config.endswith(".json"):
        fleet, config = Path(config), None
    names = {row.name: flags[row.field] for row in ROWS}
    path = None if config is None else Path(config)
    try:
        settings = read_settings(path, os.environ, names)
    except SettingsError as error:
        if not check_config:
            raise
        for problem in error.problems:
            click.echo(f"wasmsr: {problem}", err=True)
        return EXIT_USAGE
    if check_config:
        _show(settings.shown(), as_json)
        return 0
    from wasmsr.cli.running.node_service import NodeService
    from wasmsr.cli.running.terminal import Events

    with Events() as events:
        return NodeService(settings, resume=resume, fleet=fleet).run(events)


def _show(rows: list[dict[str, Any]], as_json: bool) -> None:
    if as_json:
        import json

        for row in rows:
            click.echo(json.dumps(row))
        return
    from wasmsr.cli.options.tool_options import print_blocks

    shown = [(row["name"], _text(row["value"]), row["from"]) for row in rows]
    print_blocks([("Settings in force", ("setting", "value", "from"), shown)])


def _text(value: Any) -> str:
    if value in (None, []):
        return "-"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
