"""`wasmsr orchestrator`: says what runs where in a fleet of devices."""

from __future__ import annotations

import json
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.cli.fleet.fleet_options import fleet_options
from wasmsr.cli.options.tool_options import WIDE
from wasmsr.errors import printable

if TYPE_CHECKING:
    from wasmsr.fleet.settings import FleetSettings

HELP = """Runs the orchestrator of a fleet: devices ask it what to run, and people what runs where.

\b
  mosquitto -p 1883                          a broker of MQTT
  wasmsr orchestrator                        in another terminal
  curl http://127.0.0.1:8000/api/runtimes/   what runs where
  wasmsr orchestrator --mqtt ssl:broker.lan --http 0.0.0.0:8000

It speaks with the tools of Silverline: their devices, and their command line. What it knows is in
one file (--db), so it can be ended and started again at any time.

SIGTERM and Ctrl-C end it. The devices go on with what they run."""

FIRST_SECONDS = 10.0
"""How long it waits for the broker before it says that it keeps trying."""


class FleetLog:
    """Events on standard error: `[time] [mq:LEVEL] text`, or JSON. Any thread may call it."""

    def __init__(self, as_json: bool) -> None:
        self._json = as_json
        self._lock = threading.Lock()

    def note(self, event: str, level: str = "INF", **values: Any) -> None:
        """Write one event."""
        values = {name: str(value) for name, value in values.items()}
        if self._json:
            line = json.dumps({"time": time.time(), "level": level, "event": event, **values})
        else:
            shown = " ".join([event, *(f"{name}={value}" for name, value in values.items())])
            line = f"[{time.strftime('%H:%M:%S')}] [mq:{level}] {shown}"
        with self._lock, suppress(OSError, ValueError):
            sys.stderr.write(f"{printable(line, None)}\n")
            sys.stderr.flush()


@click.command(help=HELP, context_settings=WIDE)
@fleet_options
@click.option(
    "--db",
    metavar="FILE",
    type=click.Path(dir_okay=False, path_type=Path),
    help="The list of the fleet. Default: fleet.db in the folder of this user's state.",
)
@click.option(
    "--lease",
    metavar="SECONDS",
    type=float,
    default=10.0,
    show_default=True,
    help="The lease of modules that go on elsewhere when their device is lost; 0 for none.",
)
@click.option("--json", "as_json", is_flag=True, help="Write events as JSON, one a line.")
def orchestrator(fleet: FleetSettings, db: Path | None, lease: float, as_json: bool) -> int:
    """Carry out the command; HELP is its help text."""
    from wasmsr.cli.moving.addresses import state_folder
    from wasmsr.cli.running.terminal import END_CODES, Events
    from wasmsr.fleet.orchestrator.fleet_list import FleetList
    from wasmsr.fleet.orchestrator.orchestrating import FleetOrchestrator
    from wasmsr.http.fleet_api import serve_fleet
    from wasmsr.mqtt.orchestrator_service import OrchestratorService
    from wasmsr.node.leases.lease_terms import LONGEST, SHORTEST

    if lease != 0 and not SHORTEST <= lease <= LONGEST:
        raise click.UsageError(f"a lease lasts {SHORTEST:g} s to {LONGEST:g} s; 0 is none.")
    log = FleetLog(as_json)
    with Events() as events, FleetList(db or state_folder(None) / "fleet.db") as kept:

        def note(event: str, **values: Any) -> None:
            level = {"lost": "WRN", "failed": "CRI"}.get(event, "INF")
            log.note(event, level, broker=fleet.broker.address, **values)
            if event == "failed":
                events.wake()

        decides = FleetOrchestrator(kept, fleet.realm, lease=lease)
        service = OrchestratorService(decides, fleet.broker, note)
        server = serve_fleet(kept, fleet.http)
        service.start()
        try:
            log.note("serving", http=fleet.http, list=kept.path)
            service.link.wait(FIRST_SECONDS)
            while True:
                arrived, _ = events.wait()
                if service.failure is not None:
                    raise service.failure
                for number, code in END_CODES.items():
                    if number in arrived:
                        log.note("ended", signal=number)
                        return code
        finally:
            service.stop()
            server.stop()
