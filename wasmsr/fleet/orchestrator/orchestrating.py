"""What an orchestrator does with each message: the list changes, and messages follow from it.

A message that cannot be used is answered on `log/orchestrator`, and changes nothing.
"""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.rows import (
    APIS,
    KEEPALIVE_SECONDS,
    FleetState,
    ManagerRow,
    ModuleRow,
    RuntimeRow,
)
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.fleet.wire.topics import FleetRealm

MISSED = 3
"""Keep-alives that a runtime may miss before it counts as gone, if it has ever sent one."""
A, E, K, D, Q = (
    FleetState.ALIVE,
    FleetState.ENDING,
    FleetState.KILLED,
    FleetState.DEAD,
    FleetState.QUEUED,
)


class FleetOrchestrator:
    """Decides what runs where. One thread at a time gives it messages.

    Args:
        fleet: The list.
        realm: The topics.
        clock: Seconds since 1970.
    """

    def __init__(
        self, fleet: FleetList, realm: FleetRealm, clock: Callable[[], float] = time.time
    ) -> None:
        self.fleet = fleet
        self.realm = realm
        self._clock = clock
        self.usage: dict[str, Mapping[str, Any]] = {}
        """What runtimes last said of each module: CPU and memory."""

    def subscriptions(self) -> list[str]:
        """Return the filters of the topics that an orchestrator listens to."""
        below = f"{self.realm.name}/proc"
        return [f"{below}/reg/+", f"{below}/control", f"{below}/control/+", f"{below}/keepalive/+"]

    def receive(self, topic: str, payload: bytes) -> None:
        """Take a message. What follows from it is in the list: rows, and messages to publish."""
        place = self.realm.find(topic)
        if place is None or place.kind not in ("reg", "control", "keepalive"):
            return
        try:
            message = decode(payload)
            if message.type == "resp":
                return  # our own answers, and acknowledgements of runtimes
            if place.kind == "control" and place.ids and message.action != "exited":
                return  # our own requests
            kind = message.kind(place.kind)
            with self.fleet.changing():
                getattr(self, f"_take_{kind}")(message, place.ids[0] if place.ids else None)
        except WireError as error:
            self.refuse(error)

    def refuse(self, error: WireError) -> None:
        """Say that a message could not be used."""
        data = {"desc": error.reason, "data": error.value}
        self._send("log", "orchestrator", message=FleetMessage("error", data, "resp"))

    def tick(self) -> None:
        """Take runtimes that have been silent for too long as gone."""
        latest = self._clock() - MISSED * KEEPALIVE_SECONDS
        with self.fleet.changing():
            for runtime in self.fleet.in_state(RuntimeRow, A):
                if runtime.seen is not None and runtime.seen < latest:
                    self._lose(runtime)

    # -- registration ------------------------------------------------------------------------------

    def _take_manager(self, message: FleetMessage, at: str | None) -> None:
        data = message.data
        self._same(data["uuid"], at)
        row = self.fleet.put(ManagerRow(data["uuid"], data["name"]))
        self._acknowledge(message, row)

    def _take_runtime(self, message: FleetMessage, at: str | None) -> None:
        data = message.data
        self._same(data["uuid"], at)
        parent = data.get("parent")
        if parent is not None and self.fleet.get(ManagerRow, parent) is None:
            parent = None  # it may register later; the runtime says its manager again then
        old = self.fleet.get(RuntimeRow, data["uuid"])
        row = self.fleet.put(
            RuntimeRow(
                data["uuid"], data["name"], data["runtime_type"], data["max_nmodules"],
                tuple(data["apis"]), data.get("platform"), data.get("metadata"), parent,
                seen=None if old is None or old.seen is None else self._clock(),
            )
        )  # fmt: skip
        self._acknowledge(message, row)
        if old is not None and old.status is D:
            for module in self.fleet.modules_of(row.uuid, K):
                self._start(module, row.uuid)
        self._fill()

    def _take_departure(self, message: FleetMessage, at: str | None) -> None:
        name = message.data["uuid"]
        self._same(name, at)
        if message.data["type"] == "runtime":
            self._lose(self._find(RuntimeRow, name))
            return
        manager = self._find(ManagerRow, name)
        self.fleet.put(replace(manager, status=D))
        for runtime in self.fleet.in_state(RuntimeRow, A):
            if runtime.parent == manager.uuid:
                self._lose(runtime)

    def _lose(self, runtime: RuntimeRow) -> None:
        """Note that a runtime is gone: what ran on it is killed and can return with it."""
        self.fleet.put(replace(runtime, status=D))
        for module in self.fleet.modules_of(runtime.uuid, A, E, Q):
            status = K if module.status is A else D
            ended = {"reason": "killed", "message": "its runtime is gone"}
            self.fleet.put(replace(module, status=status, ended=ended))

    def _take_keepalive(self, message: FleetMessage, at: str | None) -> None:
        runtime = self._find(RuntimeRow, message.data["uuid"])
        self._same(runtime.uuid, at)
        self.fleet.put(replace(runtime, seen=self._clock()))
        for child in message.data["children"]:
            module = self.fleet.get(ModuleRow, child["uuid"])
            if module is not None and module.parent == runtime.uuid:
                self.usage[module.uuid] = dict(child)

    # -- modules -----------------------------------------------------------------------------------

    def _take_module(self, message: FleetMessage, at: str | None) -> None:
        self._create([message.data], message.data.get("parent"))

    def _take_batch(self, message: FleetMessage, at: str | None) -> None:
        self._create(list(message.data["modules"]), message.data.get("parent"))

    def _create(self, requests: list[Mapping[str, Any]], parent: str | None) -> None:
        """Take modules: all of them, or an error and none."""
        seen: set[str] = set()
        for request in requests:
            wanted = request.get("uuid", str(uuid.uuid4()))
            name = request.get("parent", parent)
            runtime = None if name is None else self._find(RuntimeRow, name, alive=True)
            if not wanted:
                raise WireError("invalid Module Name/UUID", wanted)
            if wanted in seen or self.fleet.taken(wanted):
                raise WireError("duplicate Module UUID; request ignored", wanted)
            seen.add(wanted)
            self.fleet.forget(wanted)
            module = self.fleet.put(
                ModuleRow(
                    0, wanted, request.get("name", "module"), request["file"],
                    None if runtime is None else runtime.uuid,
                    tuple(request.get("apis", APIS)), request.get("args"),
                    tuple(request.get("channels", ())), Q,
                )
            )  # fmt: skip
            if runtime is None and not any(self._fits(module)):
                apis = " ".join(module.apis)
                raise WireError("no Runtime has these APIs", apis)
        self._fill()

    def _fits(self, module: ModuleRow) -> list[RuntimeRow]:
        """Return the runtimes on which a module may run."""
        return [
            runtime
            for runtime in self.fleet.in_state(RuntimeRow, A)
            if set(module.apis) <= set(runtime.apis) and module.parent in (None, runtime.uuid)
        ]

    def _fill(self) -> None:
        """Give modules that wait to runtimes that have room: first in, first out."""
        loads = self.fleet.loads()
        runtimes = self.fleet.in_state(RuntimeRow, A)
        for module in self.fleet.in_state(ModuleRow, Q):
            rooms = [
                runtime
                for runtime in runtimes
                if (not runtime.max_nmodules or loads.get(runtime.uuid, 0) < runtime.max_nmodules)
                and (
                    module.parent == runtime.uuid
                    or (module.parent is None and set(module.apis) <= set(runtime.apis))
                )
            ]
            if rooms:
                chosen = min(rooms, key=lambda one: (loads.get(one.uuid, 0), one.name, one.uuid))
                loads[chosen.uuid] = loads.get(chosen.uuid, 0) + 1
                self._start(module, chosen.uuid)

    def _start(self, module: ModuleRow, runtime: str) -> None:
        row = self.fleet.put(
            replace(module, parent=runtime, status=A, epoch=module.epoch + 1, ended=None)
        )
        self._send("control", runtime, message=FleetMessage("create", row.wire()))

    def _take_deletion(self, message: FleetMessage, at: str | None) -> None:
        module = self._find(ModuleRow, message.data["uuid"])
        if module.status in (A, E):
            self.fleet.put(replace(module, status=E))
            data = {"type": "module", "uuid": module.uuid}
            assert module.parent is not None
            self._send("control", module.parent, message=FleetMessage("delete", data))
        elif module.status in (K, Q):
            ended = {"reason": "killed", "message": "deleted before it ran again"}
            self.fleet.put(replace(module, status=D, ended=ended))

    def _take_exit(self, message: FleetMessage, at: str | None) -> None:
        module = self._find(ModuleRow, message.data["uuid"])
        if at is not None and module.parent != at:
            raise WireError("invalid Module Name/UUID", module.uuid)  # it runs elsewhere
        if module.status not in (A, E, K):
            return
        ended = {name: value for name, value in message.data.items() if name not in _NAMES}
        self.fleet.put(replace(module, status=D, ended=ended))
        self.usage.pop(module.uuid, None)
        self._fill()

    # -- helpers -----------------------------------------------------------------------------------

    def _find(self, kind: Any, name: str, *, alive: bool = False) -> Any:
        """Return the one row with a UUID or a name."""
        what = kind.__name__.removesuffix("Row")
        row = self.fleet.get(kind, name)
        if row is None:
            rows = self.fleet.named(kind, name)
            if len(rows) > 1:
                raise WireError(f"ambiguous {what} Name/UUID", name)
            row = rows[0] if rows else None
        if row is None or (alive and row.status is not A):
            raise WireError(f"invalid {what} Name/UUID", name)
        return row

    @staticmethod
    def _same(name: str, at: str | None) -> None:
        if name != at:
            raise WireError("invalid uuid", name, hint="it is not that of the topic")

    def _acknowledge(self, message: FleetMessage, row: ManagerRow | RuntimeRow) -> None:
        data = {"result": "ok", "details": row.wire()}
        self._send("reg", row.uuid, message=FleetMessage(None, data, "resp", message.object_id))

    def _send(self, *place: str, message: FleetMessage) -> None:
        self.fleet.send(self.realm.topic(*place), message.encode())


_NAMES = {"type", "uuid"}
