"""`wasmsr dag run`, `resume`, `logs`, `stop`, `runs`: graphs that run on this machine."""

from __future__ import annotations

import json
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.words.messages import say
from wasmsr.errors import EXIT_HOST, listed, printable

if TYPE_CHECKING:
    from wasmsr.elements.engine.run_folder import RunFolder
    from wasmsr.elements.folder.element import ElementGraph

RUN = """Runs the graph of GRAPH, a folder or a file of JSON, and prints its result as JSON.

The result is that of the element for which nobody waits. An element that fails ends the run,
unless it has `retries`. A run that was ended, or whose machine went down, goes on with
`wasmsr dag resume`.

\b
  wasmsr dag run steps
  wasmsr dag run --input '{"rows": 100}' steps
  wasmsr dag run --snapshot-every 10 steps"""

RESUME = """Goes on with RUN, a run that was ended: what has ended well is not run again.

What was saved while it ran (--snapshot-every) goes on from there, the rest from its beginning.

\b
  wasmsr dag resume r-5d1c0a37
  wasmsr dag resume r-5d"""

LOGS = """Prints what the elements of RUN have written; with ELEMENT only that one, or NAME@INDEX.

\b
  wasmsr dag logs r-5d1c0a37
  wasmsr dag logs r-5d1c0a37 second@0"""

STOP = """Ends RUN, which another process runs. `wasmsr dag resume` goes on with it.

\b
  wasmsr dag stop r-5d1c0a37
  wasmsr dag stop r-5d"""

RUNS = """Lists the runs of this user, and what each has done.

\b
  wasmsr dag runs
  wasmsr dag runs --json"""

STOP_SECONDS = 30.0
"""How long `stop` waits."""

cpus_option = click.option(
    "--cpus",
    metavar="N",
    type=click.FloatRange(0, min_open=True),
    help="CPUs that elements may use together. Default: this machine's.",
)
every_option = click.option(
    "--snapshot-every",
    "every",
    metavar="SECONDS",
    type=click.FloatRange(0.05),
    help="Save what runs so often, with its memories: elements in WebAssembly, if no element in "
    "Python shares a memory with them. It goes on from there if it fails or is ended.",
)


def runs_folder() -> Path:
    """Return the folder of the runs of this user."""
    from wasmsr.cli.moving.addresses import state_folder

    return state_folder(None) / "runs"


@click.command(help=RUN)
@click.option(
    "--input",
    "text",
    metavar="JSON",
    default="{}",
    help="Parameters of the elements that have no parents.",
)
@cpus_option
@every_option
@click.argument("graph", type=click.Path(exists=True, path_type=Path))
def run(text: str, cpus: float | None, every: float | None, graph: Path) -> int:
    """Carry out the command; RUN is its help text."""
    from wasmsr.elements.engine.run_folder import RunFolder
    from wasmsr.elements.failures import GraphError
    from wasmsr.elements.folder.action_json import read_graph
    from wasmsr.elements.folder.checks import faults_of

    try:
        params = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise click.BadParameter(f"it is no JSON: {error}.", param_hint="--input") from None
    found, faults = read_graph(graph)
    faults += faults_of(found)
    if faults:
        raise GraphError(str(graph), faults)
    return _go(RunFolder.create(runs_folder(), found, params), cpus, every)


@click.command(help=RESUME)
@cpus_option
@every_option
@click.argument("ident", metavar="RUN")
def resume(cpus: float | None, every: float | None, ident: str) -> int:
    """Carry out the command; RESUME is its help text."""
    from wasmsr.elements.engine.run_folder import RunFolder

    found = RunFolder.find(runs_folder(), ident)
    found.take()
    return _go(found, cpus, every)


def _go(run: RunFolder, cpus: float | None, every: float | None) -> int:
    """Run until the end, and print the result; return the exit code."""
    from wasmsr.cli.running.terminal import END_CODES
    from wasmsr.elements.engine.scheduling import ElementRun, RunStopped
    from wasmsr.elements.failures import ElementFailed

    stopped: list[str] = []

    def note(event: str, element: str, index: int) -> None:
        if event == "stop":
            stopped.append(f"{element}@{index}")
        say(f"{run.ident}: {event} {printable(element)}@{index}",
            "warning" if event == "retry" else "info")  # fmt: skip

    say(f"run {run.ident}")

    def warn(sentence: str) -> None:
        say(f"{run.ident}: {sentence}", "warning")

    going = ElementRun(run, cpus=cpus, every=every, note=note, warn=warn)
    code = 0

    def end(number: int, frame: Any) -> None:
        nonlocal code
        code = END_CODES[number]
        going.stop()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        result = going.go()
    except RunStopped:
        say(f"run {run.ident} was ended; `wasmsr dag resume {run.ident}` goes on with it")
        return code
    except ElementFailed as failed:
        if stopped:
            say(f"stopped with it: {listed(stopped)}", "warning")
        failed.hint = f"`wasmsr dag logs {run.ident} {failed.element}@{failed.index}` has all of it"
        raise
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    click.echo(json.dumps(result))
    return 0


@click.command(help=LOGS)
@click.argument("ident", metavar="RUN")
@click.argument("element", required=False)
def logs(ident: str, element: str | None) -> int:
    """Carry out the command; LOGS is its help text."""
    from wasmsr.elements.engine.run_folder import RunFolder
    from wasmsr.elements.failures import ElementError

    found = RunFolder.find(runs_folder(), ident)
    graph = found.graph()
    name, at, number = (element or "").partition("@")
    if name and name not in graph.elements:
        raise ElementError(f"run {found.ident} has no element {printable(name)}",
                           hint=f"it has {listed(graph.elements)}")  # fmt: skip
    for one in graph.computes:
        for index in range(one.copies):
            if (name and one.name != name) or (at and number != str(index)):
                continue
            try:
                text = found.log(one.name, index).read_bytes()
            except FileNotFoundError:
                continue
            if not name and text:
                click.echo(f"--- {printable(one.name)}@{index}")
            sys.stdout.flush()
            sys.stdout.buffer.write(text)
            sys.stdout.buffer.flush()
    return 0


@click.command(help=STOP)
@click.argument("ident", metavar="RUN")
def stop(ident: str) -> int:
    """Carry out the command; STOP is its help text."""
    from wasmsr.elements.engine.run_folder import RunFolder

    found = RunFolder.find(runs_folder(), ident)
    if found.runner() is None:
        say(f"run {found.ident} does not run")
        return 0
    if found.stop(STOP_SECONDS):
        return 0
    say(f"run {found.ident} still runs", "error")
    return EXIT_HOST


@click.command(help=RUNS)
@click.option("--json", "as_json", is_flag=True, help="Print one object a line.")
def runs(as_json: bool) -> int:
    """Carry out the command; RUNS is its help text."""
    from wasmsr.elements.engine.run_folder import RUN_ID, RunFolder
    from wasmsr.elements.failures import ElementError

    folder = runs_folder()
    names = [path.name for path in folder.iterdir()] if folder.is_dir() else []
    for name in sorted(name for name in names if RUN_ID.fullmatch(name)):
        found = RunFolder(folder / name)
        try:
            graph, states = found.graph(), states_of(found)
        except ElementError as error:  # the others can be listed even so
            say(f"{name}: {error}", "warning")
            continue
        ended = sum(states[one.name] == "ended" for one in graph.computes)
        row = {"run": name, "graph": graph.name, "ended": ended, "elements": len(graph.computes),
               "running": found.runner() is not None}  # fmt: skip
        if as_json:
            click.echo(json.dumps(row))
        else:
            state = "runs" if row["running"] else "ended" if ended == len(graph.computes) else (
                "stopped"
            )  # fmt: skip
            click.echo(f"{name}  {state:<8} {ended}/{row['elements']}  {printable(graph.name)}")
    return 0


COMMANDS = (run, resume, logs, stop, runs)


def states_of(run: RunFolder) -> dict[str, str]:
    """Return the state of each element of a run, as its journal has it."""
    graph = run.graph()
    ended: dict[str, set[int]] = {}
    for entry in run.results():
        ended.setdefault(entry["element"], set()).add(entry["index"])
    live = run.runner() is not None
    states = {}
    for one in graph.computes:
        if len(ended.get(one.name, ())) == one.copies:
            states[one.name] = "ended"
        elif any(run.log(one.name, index).exists() for index in range(one.copies)):
            states[one.name] = "runs" if live else "stopped"
        else:
            states[one.name] = "waits"
    for memory in graph.memories:
        users = {states[one.name] for one in graph.users_of(memory)}
        states[memory.name] = "ended" if users == {"ended"} else (
            "runs" if live and users - {"waits"} else "waits"
        )  # fmt: skip
    return states


def draw_graph(graph: ElementGraph, states: dict[str, str] | None, svg_file: str | None) -> None:
    """Print a graph, or write its picture."""
    from wasmsr.elements.failures import ElementError
    from wasmsr.elements.folder.drawing import drawn, svg

    if svg_file is None:
        for line in drawn(graph, states):
            click.echo(line)
    elif svg_file == "-":
        click.echo(svg(graph, states), nl=False)
    else:
        try:
            Path(svg_file).write_text(svg(graph, states), encoding="utf-8")
        except OSError as error:
            raise ElementError(f"{printable(svg_file)}: {error.strerror or error}") from error
