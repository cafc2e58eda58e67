"""Settings of a fleet: the keys of `config.json`, which the Silverline tools have too."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.runspec.address import LOOPBACK, Address
from wasmsr.small_files import read

PORT: Final = 1883
"""The port of MQTT that the protocol registers; 8883 is the one with TLS."""
TLS_PORT: Final = 8883
LOCAL_BROKER: Final = Address(LOOPBACK, PORT)
LOCAL_API: Final = Address(LOOPBACK, 8000)
LARGEST: Final = 1 << 16
"""Bytes of a file with settings or a password."""
TLS_PREFIX = "ssl:"
"""Before the host of a broker, as the Silverline tools write that it has TLS."""


@dataclass(frozen=True)
class BrokerSettings:
    """How a broker is reached.

    Attributes:
        address: Where it listens.
        user: The name of the user, or None for nobody.
        password: The password, or None.
        tls: Whether the connection is one with TLS; the broker's certificate is checked.
        authority: The file of the authorities that vouch for it; None takes those of the system.
    """

    address: Address = LOCAL_BROKER
    user: str | None = None
    password: str | None = None
    tls: bool = False
    authority: Path | None = None

    def __repr__(self) -> str:
        return f"BrokerSettings({self.address}, user={self.user!r}, tls={self.tls})"


@dataclass(frozen=True)
class ClusterSettings:
    """How the devices themselves are reached.

    Attributes:
        manifest: The file with the table of the devices, or None; its name may be relative to the
            folder of the settings.
        domain: What follows the names of the devices.
        username: The user on the devices, or None.
    """

    manifest: str | None = None
    domain: str = ""
    username: str | None = None


@dataclass(frozen=True)
class FleetSettings:
    """Everything that `config.json` says to a part of a fleet.

    Attributes:
        broker: The broker.
        realm: The realm of its topics.
        http: Where the orchestrator answers, as clients see it.
        cluster: How the devices themselves are reached.
    """

    broker: BrokerSettings = field(default_factory=BrokerSettings)
    realm: FleetRealm = field(default_factory=FleetRealm)
    http: Address = LOCAL_API
    cluster: ClusterSettings = field(default_factory=ClusterSettings)


def broker_at(text: str, before: BrokerSettings) -> BrokerSettings:
    """Return the settings of a broker with another address: `[ssl:]HOST[:PORT]`.

    Raises:
        FleetError: It is no address.
    """
    tls = text.startswith(TLS_PREFIX) or before.tls
    place = text.removeprefix(TLS_PREFIX)
    bare = place.startswith("[") and place.endswith("]")
    if place and (bare or ":" not in place):
        place = f"{place}:{TLS_PORT if tls else PORT}"
    try:
        return replace(before, address=Address.parse(place), tls=tls)
    except ValueError as error:
        raise FleetError(f"--mqtt: {error}", hint="as --mqtt 192.0.2.7:1883") from None


def read_settings(path: Path | None) -> FleetSettings:
    """Return the settings of a file; None gives the defaults. Keys that are unknown are ignored.

    Raises:
        FleetError: The file or the password's file cannot be read, or a value is of another type.
    """
    if path is None:
        return FleetSettings()
    try:
        found = json.loads(_text(path))
    except (ValueError, RecursionError) as error:
        raise FleetError(f"{path} is no JSON: {error}") from None
    if not isinstance(found, dict):
        raise FleetError(f"{path} is no JSON object")

    def value(name: str, kind: type, default: Any) -> Any:
        given = found.get(name)
        if given is not None and type(given) is not kind:
            raise FleetError(f"{path}: {name} must be {_WORDS[kind]}")
        return default if given is None else given

    def port(name: str, default: int) -> int:
        number: int = value(name, int, default)
        if not 1 <= number <= 65535:
            raise FleetError(f"{path}: {name} must be a port, from 1 to 65535")
        return number

    tls = value("use_ssl", bool, False)
    broker = BrokerSettings(
        Address(value("mqtt", str, LOOPBACK), port("mqtt_port", TLS_PORT if tls else PORT)),
        value("mqtt_username", str, None),
        _password(path, value("pwd", str, None)),
        tls,
    )
    try:
        realm = FleetRealm(value("realm", str, "realm"))
    except WireError as error:
        raise FleetError(f"{path}: {error.message}") from None
    cluster = ClusterSettings(
        value("manifest", str, None), value("domain", str, ""), value("username", str, None)
    )
    api = Address(value("http", str, LOOPBACK), port("http_port", 8000))
    return FleetSettings(broker, realm, api, cluster)


_WORDS = {str: "text", int: "a whole number", bool: "true or false"}


def _password(config: Path, name: str | None) -> str | None:
    """Return the first line of a password's file; its name is relative to the settings' folder."""
    if not name:
        return None
    text = _text(config.parent / Path(name).expanduser())
    return text.splitlines()[0] if text else ""


def _text(path: Path) -> str:
    try:
        data, _ = read(path, LARGEST)
        if len(data) > LARGEST:
            raise FleetError(f"{path} has more than {LARGEST} bytes")
        return data.decode()
    except OSError as error:
        raise FleetError(f"{path}: {error.strerror or error}") from error
    except ValueError as error:
        raise FleetError(f"{path}: {error}") from None
