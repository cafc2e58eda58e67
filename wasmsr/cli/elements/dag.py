"""`wasmsr dag`: folders of elements, and what is done with them."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import click

from wasmsr.cli.elements.dag_runs import COMMANDS, draw_graph, runs_folder, states_of
from wasmsr.cli.options.tool_options import WIDE
from wasmsr.cli.words.messages import say
from wasmsr.errors import EXIT_USAGE, printable

HELP = """Programs that are graphs of elements: steps that compute, and memory beside them.

\b
  wasmsr dag check steps
  wasmsr dag show steps
  wasmsr dag run steps"""

GEN = """Writes the graph of FOLDER as JSON, as Scad's `wskgen` does.

\b
  wasmsr dag gen steps
  wasmsr dag gen -o - steps"""

CHECK = """Says what is wrong with the graph of GRAPH, a folder or a file of JSON: every fault.

\b
  wasmsr dag check steps
  wasmsr dag check action.json"""

SHOW = """Draws the graph of GRAPH: a folder, a file of JSON, or a run with what it has done.

An element is indented below those for which it waits; `<-` names them, and `=` its memories.

\b
  wasmsr dag show steps
  wasmsr dag show --svg steps.svg steps"""

EXEC = """Runs the one element of FILE, with files between elements.

The results of its parents are in rundisagg.NAME.json, or rundisagg.NAME@INDEX.json for copies, in
the folder of -d; its own goes there. Each -m is a memory: NAME is how the element asks for it,
N@NAME are N of them at ports one after the other. A TRANSPORT that ends in _server serves it.

\b
  wasmsr dag exec steps/first.o.py -m numbers:2333
  wasmsr dag exec steps/second.o.py -m numbers:2333 -p"""

graph_argument = click.argument("graph", type=click.Path(exists=True, path_type=Path))


@click.group(help=HELP, context_settings=WIDE)
def dag() -> None:
    """Group the commands; HELP is its help text."""


@dag.command(help=GEN)
@click.option(
    "-o",
    "--output",
    "out",
    metavar="FILE",
    default="action.json",
    show_default=True,
    type=click.Path(allow_dash=True),
    help="Write this file; - is standard output.",
)
@click.argument("folder", type=click.Path(exists=True, file_okay=False, path_type=Path))
def gen(out: str, folder: Path) -> int:
    """Carry out the command; GEN is its help text."""
    from wasmsr import small_files
    from wasmsr.elements.failures import ElementError, GraphError
    from wasmsr.elements.folder.action_json import action_json
    from wasmsr.elements.folder.reading import read_folder

    graph, faults = read_folder(folder)
    if faults:
        raise GraphError(str(folder), faults)
    text = json.dumps(action_json(graph), indent=2) + "\n"
    if out == "-":
        click.echo(text, nl=False)
        return 0
    try:
        small_files.replace(Path(out), text.encode(), 0o644)
    except OSError as error:
        raise ElementError(f"{printable(out)}: {error.strerror or error}") from error
    say(f"{len(graph.elements)} elements of {printable(folder)} are in {printable(out)}")
    return 0


@dag.command(help=CHECK)
@click.option("--json", "as_json", is_flag=True, help="Print a list.")
@graph_argument
def check(as_json: bool, graph: Path) -> int:
    """Carry out the command; CHECK is its help text."""
    from wasmsr.elements.folder.action_json import read_graph
    from wasmsr.elements.folder.checks import faults_of

    found, faults = read_graph(graph)
    faults += faults_of(found)
    if as_json:
        click.echo(json.dumps(faults))
    else:
        for fault in faults:
            click.echo(printable(fault, None))
        if not faults:
            kinds = f"{len(found.computes)} compute, {len(found.memories)} are memory"
            click.echo(f"{len(found.elements)} elements: {kinds}; nothing is wrong")
    return EXIT_USAGE if faults else 0


@dag.command(help=SHOW)
@click.option(
    "--svg",
    "svg_file",
    metavar="FILE",
    type=click.Path(allow_dash=True),
    help="Write a picture (SVG); - is standard output.",
)
@click.argument("graph")
def show(svg_file: str | None, graph: str) -> int:
    """Carry out the command; SHOW is its help text."""
    from wasmsr.elements.failures import GraphError
    from wasmsr.elements.folder.action_json import read_graph
    from wasmsr.elements.folder.checks import faults_of

    if not Path(graph).exists() and graph.startswith("r-"):
        from wasmsr.elements.engine.run_folder import RunFolder

        run = RunFolder.find(runs_folder(), graph)
        draw_graph(run.graph(), states_of(run), svg_file)
        return 0
    found, faults = read_graph(Path(graph))
    cycles = [fault for fault in faults_of(found) if fault.startswith("a cycle")]
    if faults or cycles:
        raise GraphError(graph, faults or cycles)
    draw_graph(found, None, svg_file)
    return 0


@dag.command("exec", help=EXEC)
@click.option(
    "-m",
    "--memory",
    "memories",
    multiple=True,
    metavar="[N@]NAME:PORT[:TRANSPORT[:K,V]]",
    help="A memory. May be given several times.",
)
@click.option("-p", "--print", "--print_output", "prints", is_flag=True, help="Print the result.")
@click.option(
    "-i",
    "--index",
    "--par_index",
    metavar="INDEX",
    type=click.IntRange(0),
    help="Which copy this is; others read its result by that.",
)
@click.option(
    "-d",
    "--dir",
    "--output_dir",
    "folder",
    metavar="FOLDER",
    default="/tmp",
    show_default=True,
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Where the results are.",
)
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def exec_(memories: tuple[str, ...], prints: bool, index: int | None, folder: Path,
          file: Path) -> int:  # fmt: skip
    """Carry out the command; EXEC is its help text."""
    from wasmsr.elements.folder.reading import read_element
    from wasmsr.elements.hand import memories_of, run_by_hand

    element = read_element(file)
    durls = [durl for text in memories for durl in memories_of(text)]
    text = run_by_hand(element, durls, folder, index=index, where=str(file))
    if prints:
        click.echo(f"[result] {text}")
    return 0


for command in COMMANDS:
    dag.add_command(command)


def rundisagg() -> None:
    """Run the command `rundisagg`, by Scad's name; `-m` may have several memories after it."""
    from wasmsr.cli.entry import main
    from wasmsr.cli.running.terminal import end_now

    words: list[str] = []
    among = False
    for word in sys.argv[1:]:
        if word in ("-m", "--memory"):
            among = True
            continue
        among = among and not word.startswith("-") and ":" in word
        words += ["-m", word] if among else [word]
    end_now(main(["dag", "exec", *words]))


def wskgen() -> None:
    """Run the command `wskgen`, by Scad's name."""
    from wasmsr.cli.entry import main
    from wasmsr.cli.running.terminal import end_now

    end_now(main(["dag", "gen", *sys.argv[1:]]))
