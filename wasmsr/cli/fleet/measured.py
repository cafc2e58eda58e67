"""`wasmsr fleet bench`, `collect`, `report`, `index`: measurements on the devices of a fleet."""

from __future__ import annotations

import json
import queue
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.fleet.asking import fleet_client, fleet_speaker, text_of
from wasmsr.cli.fleet.fleet_options import fleet_options, json_option
from wasmsr.cli.options.tool_options import print_blocks
from wasmsr.cli.words.messages import say
from wasmsr.errors import WasmsrError

if TYPE_CHECKING:
    from wasmsr.fleet.measuring import RecordKeeper
    from wasmsr.fleet.settings import FleetSettings
    from wasmsr.http.fleet_client import FleetClient

BENCH = """Measures FILES on devices: every file with every engine and every list of arguments.

The files are on the devices. Each device gets its modules at once and runs one after the other, as
many at the same time as it takes. An engine is a name that the devices know. With --collect, the
records are kept and the command ends when all modules have.

\b
  wasmsr fleet bench --engine wasmsr wasm/fib.wasm
  wasmsr fleet bench --node attic --engine wasmsr --engine wasmtime --collect data wasm/fib.wasm"""

COLLECT = """Keeps the records of all measurements in FOLDER, one JSON file for each module.

It ends with Ctrl-C, or after --seconds.

\b
  wasmsr fleet collect data
  wasmsr fleet collect data --seconds 60 --table data.parquet"""

REPORT = """Says what the records in FOLDER show: the time of a run, by device, program and engine.

Times are in seconds: the median, the quartiles, and the median of the CPU time. With -o it also
draws them as a picture, whose name ends in .png, .svg or .pdf (needs matplotlib).

\b
  wasmsr fleet report data
  wasmsr fleet report data -o times.svg"""

INDEX = """Lists the files below FOLDER, without those that have `common` in their names.

\b
  wasmsr fleet index wasm
  wasmsr fleet bench --engine wasmsr $(wasmsr fleet index wasm)"""

SILENT_SECONDS = 1.0
"""After so long without a record it is asked which modules have ended."""

table_option = click.option(
    "--table",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write all records as one table too (Parquet; needs pyarrow).",
)


@click.command(help=BENCH)
@fleet_options
@click.option(
    "--node",
    "nodes",
    multiple=True,
    metavar="DEVICE",
    help="Measure on this device. Default: on all.",
)
@click.option(
    "--engine",
    "engines",
    multiple=True,
    required=True,
    metavar="NAME",
    help="An engine that the devices know. May be given several times.",
)
@click.option(
    "--repeat",
    metavar="N",
    type=click.IntRange(1, 1_000_000),
    default=100,
    show_default=True,
    help="Run each so often.",
)
@click.option(
    "--limit",
    metavar="SECONDS",
    type=click.FloatRange(0),
    default=60.0,
    show_default=True,
    help="For all repetitions of one module.",
)
@click.option("--each-limit", metavar="SECONDS", type=click.FloatRange(0), help="For one of them.")
@click.option("--argv", metavar="WORDS", help="Arguments, as a shell would split them.")
@click.option(
    "--argfile",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Lists of arguments: JSON, a list of lists of text.",
)
@click.option("--shuffle", is_flag=True, help="In a random order, another one on each device.")
@click.option(
    "--interference",
    metavar="K",
    type=click.IntRange(0, 64),
    default=0,
    help="So many files at the same time in each module.",
)
@click.option("--seed", metavar="N", type=int, help="Of what is random.")
@click.option(
    "--collect",
    "folder",
    metavar="FOLDER",
    type=click.Path(file_okay=False, path_type=Path),
    help="Keep the records there, and wait until all modules have ended.",
)
@table_option
@click.argument("files", nargs=-1, required=True)
def bench(fleet: FleetSettings, nodes: tuple[str, ...], argv: str | None, argfile: Path | None,
          folder: Path | None, table: Path | None, **plan: Any) -> int:  # fmt: skip
    """Carry out the command; BENCH is its help text."""
    import shlex

    from wasmsr.fleet.failures import FleetError
    from wasmsr.fleet.measuring import BenchPlan, RecordKeeper, read_argvs

    if argv is not None and argfile is not None:
        raise click.UsageError("--argv and --argfile exclude each other")
    if table is not None and folder is None:
        raise click.UsageError("--table needs --collect")
    argvs = [shlex.split(argv or "")] if argfile is None else read_argvs(argfile)
    client = fleet_client(fleet)
    if nodes:
        devices = [text_of(client.row("runtimes", one), "uuid") for one in nodes]
    else:
        devices = [text_of(one, "uuid") for one in client.rows("runtimes")]
    if not devices:
        raise FleetError("no device is there", hint="`wasmsr fleet nodes` lists them")
    batches = BenchPlan(argvs=argvs, **plan).modules(devices)
    keeper = None if folder is None else RecordKeeper(folder)
    left = {module["uuid"] for modules in batches.values() for module in modules}
    filters = () if keeper is None else (_records(fleet),)
    with fleet_speaker(fleet, *filters) as speaker:
        for device, modules in batches.items():
            speaker.ask("create_batch", {"modules": modules, "parent": device})
        say(f"{len(left)} modules on {len(devices)} devices")
        if keeper is None:
            return 0
        _keep_until_over(speaker, client, fleet, keeper, left)
    if table is not None:
        keeper.write_table(table)
    return 0


@click.command(help=COLLECT)
@fleet_options
@click.option("--seconds", metavar="SECONDS", type=click.FloatRange(0), help="End after so long.")
@table_option
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def collect(fleet: FleetSettings, seconds: float | None, table: Path | None, folder: Path) -> int:
    """Carry out the command; COLLECT is its help text."""
    from wasmsr.cli.running.terminal import END_CODES, Events
    from wasmsr.fleet.measuring import RecordKeeper

    keeper, client = RecordKeeper(folder), fleet_client(fleet)
    until = None if seconds is None else time.monotonic() + seconds
    code: int | None = None
    with Events() as events, fleet_speaker(fleet, _records(fleet)) as speaker:
        say("collecting")
        while code is None and (until is None or time.monotonic() < until):
            arrived, _ = events.wait(0.1)
            while not speaker.heard.empty():
                _keep(speaker.heard.get(), client, fleet, keeper)
            code = next((END_CODES[one] for one in arrived if one in END_CODES), None)
    if table is not None:
        keeper.write_table(table)
    return code or 0


@click.command(help=REPORT)
@click.option(
    "-o",
    "--output",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Draw the times there.",
)
@json_option
@click.argument("folder", type=click.Path(file_okay=False, path_type=Path))
def report(folder: Path, output: Path | None, as_json: bool) -> int:
    """Carry out the command; REPORT is its help text."""
    from wasmsr.fleet.reporting import draw_report, read_measured

    measured = read_measured(folder)
    rows = [one.summary() for one in measured]
    if as_json:
        for row in rows:
            click.echo(json.dumps(row))
    else:
        print_blocks([("Times of a run, in seconds", REPORT_HEAD, [_cells(row) for row in rows])])
    if output is not None:
        draw_report(measured, output)
    return 0


@click.command(help=INDEX)
@click.argument("folder", type=click.Path(path_type=Path))
def index(folder: Path) -> int:
    """Carry out the command; INDEX is its help text."""
    from wasmsr.fleet.measuring import index_files

    for one in index_files(folder):
        click.echo(one)
    return 0


REPORT_HEAD = ("device", "program", "engine", "runs", "median", "quartiles", "CPU")


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    quartiles = f"{row['lower_quartile']:.4g} to {row['upper_quartile']:.4g}"
    return (row["device"], row["program"], row["engine"] or "-", str(row["runs"]),
            f"{row['median']:.4g}", quartiles, f"{row['cpu_median']:.4g}")  # fmt: skip


# ---- what both do --------------------------------------------------------------------------------


def _records(fleet: FleetSettings) -> str:
    return f"{fleet.realm.name}/proc/profile/+/+/+"


def _keep_until_over(
    speaker: Any, client: FleetClient, fleet: FleetSettings, keeper: RecordKeeper, left: set[str]
) -> None:
    """Keep records until every module has ended and nothing has come for a while."""
    over = False
    while True:
        try:
            _keep(speaker.heard.get(timeout=SILENT_SECONDS), client, fleet, keeper)
            continue
        except queue.Empty:
            if over:
                return
        refused = speaker.refusal(sorted(left))
        if refused is not None:
            from wasmsr.fleet.failures import FleetError

            raise FleetError(f"the orchestrator refuses: {refused}")
        for one in sorted(left):
            if client.row("modules", one).get("status") not in ("D", "K"):
                break
            left.discard(one)
        over = not left  # records may still be under way


def _keep(
    heard: tuple[str, bytes], client: FleetClient, fleet: FleetSettings, keeper: RecordKeeper
) -> None:
    topic, payload = heard
    place = fleet.realm.find(topic)
    if place is None or place.kind != "profile":
        return
    kind, runtime, module = place.ids
    about: dict[str, Any] = {"module": module, "runtime": runtime}
    try:
        row, device = client.row("modules", module), client.row("runtimes", runtime)
        about |= {"name": text_of(row, "name"), "file": text_of(row, "file")}
        about |= {"device": text_of(device, "name"), "args": row.get("args")}
        args = row.get("args")
        if isinstance(args, dict) and isinstance(args.get("engine"), str):
            about["engine"] = args["engine"]
    except WasmsrError as error:
        say(f"of {module} is not known what it is: {error.message}", "warning")
    try:
        keeper.keep(kind, payload, about)
    except WasmsrError as error:
        say(f"records of {module} are left out: {error.message}", "warning")


COMMANDS = (bench, collect, report, index)
