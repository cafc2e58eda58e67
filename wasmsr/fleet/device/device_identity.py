"""Who a device is: the names and the machine that it registers with."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from wasmsr.fleet.orchestrator.rows import device_uuids

SLOTS: Final = 128


@dataclass(frozen=True)
class DeviceIdentity:
    """Who a device is.

    Attributes:
        manager, runtime: UUIDs.
        name: Its name.
        slots: How many modules it runs at once.
        platform: Its CPU and memory, as it says.
    """

    manager: str
    runtime: str
    name: str
    slots: int = SLOTS
    platform: Mapping[str, Any] | None = None

    @classmethod
    def of(cls, node: bytes, name: str, slots: int = SLOTS) -> DeviceIdentity:
        """Return the identity of a node: its UUIDs are the same after each start."""
        return cls(*device_uuids(node), name, slots, _platform())


def _platform() -> dict[str, Any]:
    uname = os.uname()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return {"cpu": uname.machine, "mem": memory, "cores": os.cpu_count() or 1}


__all__ = ["DeviceIdentity"]
