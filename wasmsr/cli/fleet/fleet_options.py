"""Options that the commands of a fleet share, and what they mean together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from wasmsr.runspec.address import Address

if TYPE_CHECKING:
    from wasmsr.fleet.settings import FleetSettings


def fleet_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command `--mqtt --config --realm --http`; they come as its argument `fleet`."""
    from functools import wraps

    @wraps(command)
    def with_fleet(
        mqtt: str | None, config: Path | None, realm: str | None, http: str | None, **values: Any
    ) -> Any:
        return command(fleet=settings_of(mqtt, config, realm, http), **values)

    for one in reversed(_OPTIONS):
        with_fleet = one(with_fleet)
    return with_fleet


_OPTIONS = (
    click.option(
        "--mqtt", metavar="[ssl:]HOST[:PORT]", help="The broker. Default: 127.0.0.1:1883."
    ),
    click.option(
        "--config",
        metavar="FILE",
        type=click.Path(dir_okay=False, path_type=Path),
        help="Read broker, realm and address from this file (config.json).",
    ),
    click.option("--realm", metavar="NAME", help="The realm of the topics. Default: realm."),
    click.option(
        "--http",
        metavar="[HOST:]PORT",
        help="Where the orchestrator answers. Default: 127.0.0.1:8000.",
    ),
)


def settings_of(
    mqtt: str | None, config: Path | None, realm: str | None, http: str | None
) -> FleetSettings:
    """Return what a file and options say together.

    Raises:
        FleetError, WireError: A value cannot be used.
        click.UsageError: --http is no address.
    """
    from dataclasses import replace

    from wasmsr.fleet.settings import broker_at, read_settings
    from wasmsr.fleet.wire.topics import FleetRealm

    found = read_settings(config)
    if mqtt is not None:
        found = replace(found, broker=broker_at(mqtt, found.broker))
    if realm is not None:
        found = replace(found, realm=FleetRealm(realm))
    if http is not None:
        try:
            found = replace(found, http=Address.parse(http))
        except ValueError as error:
            raise click.UsageError(f"--http: {error}") from None
    return found


json_option = click.option("--json", "as_json", is_flag=True, help="Print one object a line.")
