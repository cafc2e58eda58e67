"""What the list of a fleet holds, as values; and how they look on the wire."""

from __future__ import annotations

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final

APIS: Final = ("wasm", "wasi")
"""What a module needs that does not say it."""
OURS: Final = "wasmsr"
"""The type of our runtimes: they are told how often a module was given to one, too."""
KEEPALIVE_SECONDS: Final = 60
"""How often a runtime says that it is there."""


def device_uuids(node: bytes) -> tuple[str, str]:
    """Return the UUIDs of a device of ours, as manager and as runtime, by the id of its node."""
    manager = uuid.UUID(bytes=node[:16].ljust(16, b"\0"))
    return str(manager), str(uuid.uuid5(manager, "runtime"))


class FleetState(str, Enum):
    """The state of a manager, a runtime or a module, as the wire has it."""

    ALIVE = "A"
    ENDING = "E"
    KILLED = "K"
    DEAD = "D"
    QUEUED = "Q"


OPEN = (FleetState.ALIVE, FleetState.ENDING, FleetState.KILLED, FleetState.QUEUED)
"""States of modules whose UUIDs are taken. One that was killed can return."""


@dataclass(frozen=True)
class ManagerRow:
    """A manager: the process of a node that starts runtimes.

    Attributes:
        uuid: Its UUID.
        name: Its name.
        status: Alive or dead.
    """

    uuid: str
    name: str
    status: FleetState = FleetState.ALIVE

    def wire(self) -> dict[str, Any]:
        """Return it as an answer to its registration."""
        return {"uuid": self.uuid, "name": self.name, "status": self.status.value}


@dataclass(frozen=True)
class RuntimeRow:
    """A runtime: what runs modules on a node.

    Attributes:
        uuid: Its UUID.
        name: Its name.
        runtime_type: What it is, such as `linux/min/wamr`.
        max_nmodules: How many modules it runs at once; 0 is as many as come.
        apis: What it offers to modules.
        platform: Its CPU and memory, as it says, or None.
        metadata: Anything else that it says, or None.
        parent: The UUID of its manager, or None.
        status: Alive or dead.
        seen: When it last said that it is there, in seconds since 1970; None if it never did.
    """

    uuid: str
    name: str
    runtime_type: str
    max_nmodules: int
    apis: tuple[str, ...] = APIS
    platform: Mapping[str, Any] | None = None
    metadata: Mapping[str, Any] | None = None
    parent: str | None = None
    status: FleetState = FleetState.ALIVE
    seen: float | None = None

    def wire(self) -> dict[str, Any]:
        """Return it as an answer to its registration."""
        return {
            "uuid": self.uuid, "name": self.name, "runtime_type": self.runtime_type,
            "max_nmodules": self.max_nmodules, "apis": list(self.apis), "platform": self.platform,
            "metadata": self.metadata, "ka_interval_sec": KEEPALIVE_SECONDS,
            "status": self.status.value, "parent": self.parent,
        }  # fmt: skip


@dataclass(frozen=True)
class ModuleRow:
    """A module: a program that runs, ran or is to run.

    Attributes:
        index: The order in which modules came; 0 before it has one.
        uuid: Its UUID.
        name: Its name.
        file: The file that the runtime loads.
        parent: The UUID of its runtime; None while it waits for any that fits.
        apis: What it needs.
        args: Arguments and options, as the request has them.
        channels: Channels that begin with other topics, as the request has them.
        status: Its state.
        epoch: How often it was given to a runtime.
        ended: What its runtime said of its end, or nothing.
        program: The id of its record in the register of owners, in hexadecimal digits; None if it
            runs without a lease.
        heir: The UUID of the runtime that is to take it over, or None.
    """

    index: int
    uuid: str
    name: str
    file: str
    parent: str | None
    apis: tuple[str, ...] = APIS
    args: Mapping[str, Any] | None = None
    channels: tuple[Mapping[str, Any], ...] = ()
    status: FleetState = FleetState.ALIVE
    epoch: int = 0
    ended: Mapping[str, Any] | None = None
    program: str | None = None
    heir: str | None = None

    def wire(self) -> dict[str, Any]:
        """Return it as a request to its runtime."""
        return {
            "type": "module", "index": self.index, "uuid": self.uuid, "name": self.name,
            "parent": self.parent, "file": self.file, "apis": list(self.apis),
            "args": dict(self.args or {}), "channels": [dict(one) for one in self.channels],
            "status": self.status.value,
        }  # fmt: skip


@dataclass(frozen=True)
class Outgoing:
    """A message that the orchestrator publishes.

    Attributes:
        number: Its number in the list; messages are published in this order.
        topic: Where to.
        payload: Its bytes.
    """

    number: int
    topic: str
    payload: bytes
