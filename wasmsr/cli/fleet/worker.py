"""`wasmsr worker`: runs modules for the manager of a device of the Silverline tools."""

from __future__ import annotations

import tempfile
import threading
from pathlib import Path
from typing import Any

import click

from wasmsr.cli.options.tool_options import WIDE

HELP = """Runs modules for a manager of the Silverline tools, in the place of one of their workers.

\b
  wasmsr worker --silverline 0                    the worker with the number 0 of its manager
  wasmsr worker --silverline 1 --mount data:ro    its modules may read this folder

The manager listens on a Unix socket, and must be there first. Each module runs in a process of its
own. The worker ends with its manager, and its modules end with it."""

SOCKETS = "/tmp/sl"


@click.command(help=HELP, context_settings=WIDE)
@click.option(
    "--silverline", "index", metavar="INDEX", type=click.IntRange(0, 255), required=True,
    help="The worker's number at its manager.",
)  # fmt: skip
@click.option(
    "--sockets", metavar="FOLDER", type=click.Path(path_type=Path), default=SOCKETS,
    help=f"Where managers have their sockets. Default: {SOCKETS}.",
)  # fmt: skip
@click.option(
    "--mount", "mounts", metavar="FOLDER[:ro]", multiple=True,
    help="Let modules use this folder, or what is in it. Repeatable.",
)  # fmt: skip
@click.option("--json", "as_json", is_flag=True, help="Write events as JSON, one a line.")
def worker(index: int, sockets: Path, mounts: tuple[str, ...], as_json: bool) -> int:
    """Carry out the command; HELP is its help text."""
    from wasmsr.cli.fleet.orchestrator import FleetLog
    from wasmsr.cli.running.node_service import policy_check
    from wasmsr.cli.running.terminal import END_CODES, Events
    from wasmsr.fleet.device.silverline import SilverlineWorker
    from wasmsr.node.supervision.node_rules import NodeRules, kept_streams
    from wasmsr.node.supervision.node_supervisor import NodeSupervisor

    log = FleetLog(as_json)
    found: list[SilverlineWorker] = []

    def streams(program: str) -> tuple[int, ...]:
        return found[0].streams(program) if found else kept_streams(program)

    def note(event: str, **values: Any) -> None:
        log.note(event, "WRN" if event == "lost" else "INF", **values)

    rules = NodeRules(adopt=0.05, check=policy_check(mounts), streams=streams)
    with tempfile.TemporaryDirectory(prefix="wasmsr-worker-") as folder, Events() as events:
        supervisor = NodeSupervisor(Path(folder) / "node", rules)
        try:
            made = SilverlineWorker(index, supervisor, Path.cwd(), sockets, note)
            found.append(made)
            over = threading.Event()  # the thread may still live when it has woken this one
            serving = threading.Thread(target=_serve, args=(made, events, over), daemon=True)
            serving.start()
            note("serving", socket=sockets / f"{index:02x}.s")
            code = 0
            while not over.is_set():
                arrived, _ = events.wait()
                for number, ending in END_CODES.items():
                    if number in arrived:
                        code = ending
                        made.stop()
                        over.wait()
            serving.join()
            return code
        finally:
            supervisor.stop(save=False, seconds=5)


def _serve(made: Any, events: Any, over: threading.Event) -> None:
    try:
        made.serve()
    finally:
        over.set()
        events.wake()
