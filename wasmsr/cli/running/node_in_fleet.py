"""A node that is a device of a fleet: what `wasmsr node --mqtt` adds to a node."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wasmsr.node.settings.reading import Settings
from wasmsr.node.supervision.node_rules import kept_streams
from wasmsr.ownership.register import Register

if TYPE_CHECKING:
    from wasmsr.fleet.device.device import ModuleDevice
    from wasmsr.fleet.settings import FleetSettings
    from wasmsr.mqtt.broker_register import BrokerRegister
    from wasmsr.mqtt.device_service import DeviceService
    from wasmsr.node.supervision.node_supervisor import NodeSupervisor

WAIT_SECONDS = 0.05
"""How long workers wait for a supervisor that is started again: they end with it."""

QUIET = frozenset(("connected", "registered", "module", "exited", "left"))
"""Events of a device that are no warning."""


class NodeInFleet:
    """The part of a node's process that is a device of a fleet."""

    def __init__(self, fleet: FleetSettings, settings: Settings, note: Callable[..., None]) -> None:
        self._fleet, self._settings, self._note = fleet, settings, note
        self._device: ModuleDevice | None = None
        self._service: DeviceService | None = None
        self._register: BrokerRegister | None = None
        if settings["ownership.register"] is None and settings["checkpoints.store"] is not None:
            from wasmsr.mqtt.broker_register import BrokerRegister

            self._register = BrokerRegister(self._wanted)

    @classmethod
    def of(
        cls, settings: Settings, config: Path | None, note: Callable[..., None]
    ) -> NodeInFleet | None:
        """Return the part that settings ask for, or None if they ask for none.

        Raises:
            FleetError, WireError: A value cannot be used.
            MissingPackageError: A package is missing.
        """
        broker = settings["fleet.mqtt"]
        if broker is None and config is None:
            return None
        from wasmsr.cli.fleet.fleet_options import settings_of
        from wasmsr.mqtt import device_service

        assert device_service
        return cls(settings_of(broker, config, settings["fleet.realm"], None), settings, note)

    def rules(self) -> dict[str, Any]:
        """Return what changes of the node's rules."""

        def streams(program: str) -> tuple[int, ...]:
            device = self._device
            return kept_streams(program) if device is None else device.streams(program)

        changed: dict[str, Any] = {"adopt": WAIT_SECONDS, "streams": streams}
        if self._register is not None:
            register = Register(self._register)
            changed |= {
                "register": lambda: register,
                "takes": lambda program: program in self._wanted(),
                "settle": self._settle,
            }
        return changed

    def _settle(self, program: str) -> None:
        if self._device is not None:
            self._device.settle(program)

    def _wanted(self) -> list[bytes]:
        """Return the programs of modules with a lease that are, or are to be, here."""
        return [] if self._device is None else self._device.wanted()

    def start(self, supervisor: NodeSupervisor) -> None:
        """Register the node, in the background."""
        from wasmsr.fleet.device.device import ModuleDevice
        from wasmsr.fleet.device.device_identity import DeviceIdentity
        from wasmsr.fleet.device.module_leases import NodeModuleLeases
        from wasmsr.mqtt.device_service import DeviceService

        settings = self._settings
        name = settings["fleet.name"] or socket.gethostname()
        who = DeviceIdentity.of(supervisor.node, name, settings["fleet.slots"])
        name_there = f"wasmsr-node-{who.manager}"
        service = DeviceService(self._fleet.broker, name_there, self._event, self._register)
        folder = Path(settings["fleet.files"] or ".").absolute()
        leases = None if self._register is None else NodeModuleLeases(supervisor)
        device = ModuleDevice(
            supervisor, who, self._fleet.realm, folder, service.link, self._event, leases=leases
        )
        self._device, self._service = device, service
        again = device.forget_old()
        self._note("device", runtime=who.runtime, name=name, broker=str(self._fleet.broker.address))
        service.start(device, again=again)

    def stop(self) -> None:
        """End its modules, and say that the device is gone."""
        if self._device is not None and self._service is not None:
            self._device.close()
            self._service.stop()

    def _event(self, event: str, **values: Any) -> None:
        shown = {name: str(value) for name, value in values.items()}
        self._note(f"fleet-{event}", **shown)


__all__ = ["NodeInFleet"]
