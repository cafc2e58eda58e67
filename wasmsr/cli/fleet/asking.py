"""How the commands of a fleet reach its orchestrator, and read what it answers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from wasmsr.errors import printable

if TYPE_CHECKING:
    from wasmsr.fleet.settings import FleetSettings
    from wasmsr.http.fleet_client import FleetClient
    from wasmsr.mqtt.fleet_speaker import FleetSpeaker


def fleet_client(fleet: FleetSettings) -> FleetClient:
    """Return what asks the orchestrator over REST."""
    from wasmsr.http.fleet_client import FleetClient

    return FleetClient(fleet.http)


def fleet_speaker(fleet: FleetSettings, *filters: str) -> FleetSpeaker:
    """Return what tells the orchestrator over MQTT, and hears messages of some topics."""
    from wasmsr.mqtt.fleet_speaker import FleetSpeaker

    return FleetSpeaker(fleet.broker, fleet.realm, filters)


def text_of(row: Mapping[str, Any], name: str) -> str:
    """Return a text of an answer as it can be shown; "-" where there is none."""
    value = row.get(name)
    return printable(value if isinstance(value, str) else "-", 200)
