"""`wasmsr fleet`: what people ask of a fleet, and what they have it do."""

from __future__ import annotations

import json
import queue
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.fleet import cluster, measured
from wasmsr.cli.fleet.asking import fleet_client, fleet_speaker, text_of
from wasmsr.cli.fleet.fleet_options import fleet_options, json_option
from wasmsr.cli.options.tool_options import WIDE, print_blocks
from wasmsr.cli.words.messages import say
from wasmsr.errors import HostError

if TYPE_CHECKING:
    from wasmsr.fleet.settings import FleetSettings
    from wasmsr.http.fleet_client import FleetClient

HELP = """Asks a fleet of devices what runs where, and has it run and stop modules.

The orchestrator is ours (`wasmsr orchestrator`) or that of the Silverline tools. Modules and
devices are named by their UUID, their name, or the last digits of their UUID.

\b
  wasmsr fleet nodes
  wasmsr fleet submit wasm/hello.wasm
  wasmsr fleet ps"""

NODES = """Lists the devices that are there, and how many modules each has.

\b
  wasmsr fleet nodes
  wasmsr fleet nodes --watch 2"""

PS = """Lists the modules that run, and those that wait for a place.

\b
  wasmsr fleet ps
  wasmsr fleet ps --json"""

SUBMIT = """Has a device run FILE, a module that the device has. Prints the module's UUID.

What follows FILE are the arguments of the module. Without --node, a device that fits is chosen.

\b
  wasmsr fleet submit wasm/hello.wasm
  wasmsr fleet submit --node kitchen --env MODE=quick wasm/hello.wasm --verbose"""

RUNALL = """Has every device run FILE, a module that the devices have. Prints their UUIDs.

\b
  wasmsr fleet runall wasm/hello.wasm
  wasmsr fleet runall --copies 3 wasm/hello.wasm"""

STOP = """Stops modules, and waits until their devices say that they have ended.

\b
  wasmsr fleet stop hello
  wasmsr fleet stop 3b48c03a 8a6f"""

KILL = """Ends modules at once: the same as `wasmsr fleet stop`.

WASI has no signals that a module could answer, so there is one way to end it, and it takes effect
in the middle of whatever the module does.

\b
  wasmsr fleet kill hello
  wasmsr fleet kill 3b48c03a 8a6f"""

VERSION = """Prints the version that each device runs; `-` is a device that does not say.

\b
  wasmsr fleet version
  wasmsr fleet version --json"""

LOGS = """Prints what a module writes from now on, until it has ended.

\b
  wasmsr fleet logs hello
  wasmsr fleet logs 8a6f"""

WAIT_SECONDS = 10.0
"""How long a command waits until the orchestrator has done what it was asked."""
LOOK_SECONDS = 0.1
"""Between two looks at the orchestrator's list."""
DAY = 86_400.0
OWN_ARGUMENTS = WIDE | {"allow_interspersed_args": False}
"""What follows the file belongs to the module."""
DIGITS = 8
"""Of a UUID, in a table: the last ones, by which it can be named."""


@click.group(help=HELP, context_settings=WIDE)
def fleet() -> None:
    """Carry out the command; HELP is its help text."""


for one in (*cluster.COMMANDS, *measured.COMMANDS):
    fleet.add_command(one)

watch_option = click.option(
    "--watch", metavar="SECONDS", type=click.FloatRange(0.1), help="Print it again and again."
)


@fleet.command(help=NODES)
@fleet_options
@watch_option
@json_option
def nodes(fleet: FleetSettings, watch: float | None, as_json: bool) -> int:
    """Carry out the command; NODES is its help text."""

    def show() -> None:
        rows = fleet_client(fleet).rows("runtimes")
        if as_json:
            _print_objects(rows)
            return
        cells = [
            (_id(row), text_of(row, "name"), text_of(row, "runtime_type"),
             str(len(_list(row, "children"))), str(len(_list(row, "queued"))))
            for row in rows
        ]  # fmt: skip
        print_blocks([("Devices", ("id", "name", "kind", "modules", "queued"), cells)])

    return _again(show, watch)


@fleet.command(help=VERSION)
@fleet_options
@json_option
def version(fleet: FleetSettings, as_json: bool) -> int:
    """Carry out the command; VERSION is its help text."""
    client, found = fleet_client(fleet), []
    for one in client.rows("runtimes"):
        row = client.row("runtimes", text_of(one, "uuid"))  # a list has not all of it
        metadata, kind = row.get("metadata"), text_of(row, "runtime_type")
        said = text_of(metadata, "version") if isinstance(metadata, dict) else "-"
        device = {"uuid": row.get("uuid"), "name": text_of(row, "name"), "runtime_type": kind}
        found.append(device | {"version": said})
    if as_json:
        _print_objects(found)
        return 0
    names = ("name", "runtime_type", "version")
    cells = [(_id(one), *(text_of(one, name) for name in names)) for one in found]
    print_blocks([("Versions", ("id", "name", "kind", "version"), cells)])
    return 0


@fleet.command(help=PS)
@fleet_options
@watch_option
@json_option
def ps(fleet: FleetSettings, watch: float | None, as_json: bool) -> int:
    """Carry out the command; PS is its help text."""

    def show() -> None:
        client = fleet_client(fleet)
        names = {one.get("uuid"): text_of(one, "name") for one in client.rows("runtimes")}
        rows = [("running", row) for row in client.rows("modules")]
        rows += [("queued", row) for row in client.rows("queued")]
        if as_json:
            _print_objects([row | {"state": state} for state, row in rows])
            return
        cells = [
            (_id(row), text_of(row, "name"), state, names.get(row.get("parent"), "-"),
             text_of(row, "file"))
            for state, row in rows
        ]  # fmt: skip
        print_blocks([("Modules", ("id", "name", "state", "device", "file"), cells)])

    return _again(show, watch)


def _running(command: Any) -> Any:
    """Give a command the options of what runs a module."""
    for one in (
        click.argument("argv", nargs=-1, type=click.UNPROCESSED),
        click.argument("file"),
        click.option("--limit", metavar="SECONDS", type=float, help="End it after so long."),
        click.option("--on-crash", type=click.Choice(("ignore", "restart", "restore")),
                     help="What follows if it crashes. restore: it goes on from its last snapshot. "
                     "Default: ignore."),
        click.option("--snapshot-every", metavar="SECONDS", type=click.FloatRange(0.1),
                     help="Save it so often. Default: 10 s with --on-crash restore."),
        click.option("--dir", "dirs", multiple=True, metavar="FOLDER",
                     help="A folder of the device that it sees."),
        click.option("--env", multiple=True, metavar="NAME=VALUE", help="A variable for it."),
        click.option("--name", metavar="NAME", help="Its name. Default: that of the file."),
    ):  # fmt: skip
        command = one(command)
    return command


@fleet.command(help=SUBMIT, context_settings=OWN_ARGUMENTS)
@fleet_options
@click.option("--node", metavar="DEVICE", help="The device that runs it.")
@_running
@json_option
def submit(fleet: FleetSettings, node: str | None, as_json: bool, **asked: Any) -> int:
    """Carry out the command; SUBMIT is its help text."""
    client = fleet_client(fleet)
    parent = None if node is None else text_of(client.row("runtimes", node), "uuid")
    return _create(fleet, client, [(parent, _module(**asked))], as_json)


@fleet.command(help=RUNALL, context_settings=OWN_ARGUMENTS)
@fleet_options
@click.option("--copies", metavar="N", type=click.IntRange(1, 4096), default=1,
              help="So many on each device.")  # fmt: skip
@_running
@json_option
def runall(fleet: FleetSettings, copies: int, as_json: bool, **asked: Any) -> int:
    """Carry out the command; RUNALL is its help text."""
    client = fleet_client(fleet)
    devices = [text_of(one, "uuid") for one in client.rows("runtimes")]
    if not devices:
        raise HostError("no device is there", hint="`wasmsr fleet nodes` lists them")
    wanted: list[tuple[str | None, dict[str, Any]]] = [
        (device, _module(**asked)) for device in devices for _ in range(copies)
    ]
    return _create(fleet, client, wanted, as_json)


@fleet.command(help=STOP)
@fleet_options
@click.argument("modules", nargs=-1, required=True)
def stop(fleet: FleetSettings, modules: tuple[str, ...]) -> int:
    """Carry out the command; STOP is its help text."""
    return _end(fleet, modules)


@fleet.command(help=KILL)
@fleet_options
@click.argument("modules", nargs=-1, required=True)
def kill(fleet: FleetSettings, modules: tuple[str, ...]) -> int:
    """Carry out the command; KILL is its help text."""
    return _end(fleet, modules)


def _end(fleet: FleetSettings, modules: tuple[str, ...]) -> int:
    """Ask for the end of modules, and wait for it."""
    client = fleet_client(fleet)
    found = [text_of(client.row("modules", one), "uuid") for one in modules]
    with fleet_speaker(fleet) as speaker:
        for one in found:
            speaker.ask("delete", {"type": "module", "uuid": one})
        left = list(found)
        for _ in _looks():
            left = [one for one in left if not _is_over(client, one)]
            if not left:
                return 0
    raise HostError(
        f"{', '.join(left)} has not ended in {WAIT_SECONDS:g} s",
        hint="`wasmsr fleet ps` shows it as running until its device says that it has ended",
    )


@fleet.command(help=LOGS)
@fleet_options
@click.argument("module")
def logs(fleet: FleetSettings, module: str) -> int:
    """Carry out the command; LOGS is its help text."""
    client = fleet_client(fleet)
    row = client.row("modules", module)
    one = text_of(row, "uuid")
    with fleet_speaker(fleet, fleet.realm.topic("stdio", one)) as speaker:
        over = False
        while True:
            try:
                _, data = speaker.heard.get(timeout=0 if over else 1.0)
            except queue.Empty:
                if over:
                    return 0
                over = _is_over(client, one)
                continue
            sys.stdout.buffer.write(data)
            sys.stdout.buffer.flush()


# ---- what several do -----------------------------------------------------------------------------


def _module(
    file: str,
    argv: tuple[str, ...],
    name: str | None,
    env: tuple[str, ...],
    dirs: tuple[str, ...],
    limit: float | None,
    on_crash: str | None,
    snapshot_every: float | None,
) -> dict[str, Any]:
    args: dict[str, Any] = {"argv": list(argv), "env": list(env)}
    if dirs:
        args["dirs"] = list(dirs)
    if limit is not None:
        args["limit"] = limit
    if on_crash is not None:
        args["fault_crash"] = on_crash
    if snapshot_every is not None:
        args["snapshot_every"] = snapshot_every
    wrong = [one for one in env if not one.partition("=")[0] or "=" not in one]
    if wrong:
        raise click.UsageError(f"--env {wrong[0]!r} is not of the form NAME=VALUE")
    short = name or file.rsplit("/", 1)[-1].removesuffix(".wasm") or "module"
    found = {"type": "module", "uuid": str(uuid.uuid4()), "name": short, "file": file}
    return found | {"args": args}


def _create(
    fleet: FleetSettings,
    client: FleetClient,
    wanted: list[tuple[str | None, dict[str, Any]]],
    as_json: bool,
) -> int:
    """Ask for modules, one batch for each device, and say which there are."""
    from wasmsr.fleet.failures import FleetError

    by_device: dict[str | None, list[dict[str, Any]]] = {}
    for parent, module in wanted:
        by_device.setdefault(parent, []).append(module)
    words = [module["uuid"] for _, module in wanted]
    words += [parent for parent in by_device if parent is not None]
    with fleet_speaker(fleet) as speaker:
        for parent, modules in by_device.items():
            place = {} if parent is None else {"parent": parent}
            if len(modules) == 1:
                speaker.ask("create", modules[0] | place)
            else:
                speaker.ask("create_batch", {"modules": modules} | place)
        left = [module["uuid"] for _, module in wanted]
        refused: str | None = None
        for _ in _looks():
            refused = refused or speaker.refusal(words)
            left = [one for one in left if not _is_there(client, one, as_json)]
            if not left:
                return 0
            if refused is not None:
                raise FleetError(f"the orchestrator refuses: {refused}")
    raise HostError(
        f"the orchestrator has not taken it in {WAIT_SECONDS:g} s",
        hint="is it at the same broker and realm? `wasmsr fleet nodes` asks it",
    )


def _is_over(client: FleetClient, module: str) -> bool:
    """Whether a module that was there has ended; a peer's orchestrator does not know it then."""
    from wasmsr.fleet.failures import NotInFleet

    try:
        return client.row("modules", module).get("status") == "D"
    except NotInFleet:
        return True


def _is_there(client: FleetClient, module: str, as_json: bool) -> bool:
    from wasmsr.fleet.failures import NotInFleet

    try:
        row = client.row("modules", module)
    except NotInFleet:
        return False
    click.echo(json.dumps(row) if as_json else module)
    if row.get("status") == "Q" and not as_json:
        say(f"{module} waits for a place")
    return True


def _looks() -> Iterator[None]:
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        yield
        time.sleep(LOOK_SECONDS)


def _again(show: Callable[[], None], seconds: float | None) -> int:
    if seconds is not None and not seconds <= DAY:  # it may be no number
        raise click.UsageError("--watch takes at most a day")
    while True:
        if seconds is not None and sys.stdout.isatty():
            click.clear()
        show()
        if seconds is None:
            return 0
        time.sleep(seconds)


def _print_objects(rows: list[dict[str, Any]]) -> None:
    for row in rows:
        click.echo(json.dumps(row))


def _id(row: dict[str, Any]) -> str:
    return text_of(row, "uuid")[-DIGITS:]


def _list(row: dict[str, Any], name: str) -> list[Any]:
    value = row.get(name)
    return value if isinstance(value, list) else []
