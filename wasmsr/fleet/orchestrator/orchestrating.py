"""What an orchestrator does with each message: the list changes, and messages follow from it.

A message that cannot be used is answered on `log/orchestrator`, and changes nothing.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from wasmsr.fleet.failures import FleetError
from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.owners import new_program
from wasmsr.fleet.orchestrator.rows import (
    APIS,
    KEEPALIVE_SECONDS,
    OURS,
    FleetState,
    ManagerRow,
    ModuleRow,
    RuntimeRow,
)
from wasmsr.fleet.orchestrator.succession import Succession
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.messages import LARGEST, SHOWN, FleetMessage, decode
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.ownership.lease import LEASE_SECONDS

MISSED = 3
"""Keep-alives that a runtime may miss before it counts as gone, if it has ever sent one."""
LONGEST_TICK = 30.0
"""Seconds between two ticks of an orchestrator that listens. After a longer time it was frozen,
away or without a broker, and has missed keep-alives that were sent."""
MOST_MODULES = 16_384
MOST_NODES = 4096
"""Managers, and runtimes, that are not dead."""
ROOM = 4096
"""Bytes of a request to a runtime that come to those of the client: the runtime's UUID, numbers."""
LONGEST_UUID = 256
LONGEST_ANSWER = 32 << 10
"""Characters of a wrong value that an answer repeats whole."""
LONGEST_REFUSAL = 4096
"""Characters of the sentence by which the register refuses a question."""
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
        lease: Seconds of the leases of modules that go on elsewhere; 0 for none.
    """

    def __init__(
        self,
        fleet: FleetList,
        realm: FleetRealm,
        clock: Callable[[], float] = time.time,
        lease: float = LEASE_SECONDS,
    ) -> None:
        self.fleet = fleet
        self.realm = realm
        self._clock = clock
        self._since = self._ticked = clock()
        self._succession = Succession(fleet, clock, lease, self)

    def subscriptions(self) -> dict[str, int]:
        """Return the filters of the topics that an orchestrator listens to, with their QoS.

        A broker keeps few messages for somebody who is away. Old keep-alives, which say nothing
        any more, would take the places of requests.
        """
        below = f"{self.realm.name}/proc"
        kept = dict.fromkeys((f"{below}/reg/+", f"{below}/control", f"{below}/control/+"), 1)
        # Nor does a question to the register wait: whoever asks it asks again.
        return kept | {f"{below}/keepalive/+": 0, f"{below}/register": 0}

    def receive(self, topic: str, payload: bytes, again: bool = False) -> None:
        """Take a message. What follows from it is in the list: rows, and messages to publish.

        Args:
            topic: Its topic.
            payload: Its bytes.
            again: Whether the broker says that it may have sent it before. A request that was taken
                then is not taken again: the module may have run to its end meanwhile.

        Raises:
            FleetError: The list cannot be used.
        """
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
                if place.kind == "control":
                    digest = hashlib.sha256(f"{topic}\0".encode() + payload).digest()
                    if again and self.fleet.heard(digest):
                        return
                    self.fleet.hear(digest)
                getattr(self, f"_take_{kind}")(message, place.ids[0] if place.ids else None)
        except WireError as error:
            self.refuse(error)
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001  no message may end the service, or come for ever
            self.refuse(WireError("internal error", type(error).__name__))

    def answer(self, payload: bytes) -> tuple[str, bytes] | None:
        """Return the answer of the register to a question, as a topic and a message.

        Returns:
            None if it is no question, or has no answer; that is said where all errors are.

        Raises:
            FleetError: The list cannot be used.
        """
        try:
            message = decode(payload)
            kind = message.kind("register")
            if message.type == "resp":
                return None
            topic = self.realm.topic("register", message.data["runtime"])
        except WireError as error:
            self.refuse(error)
            return None
        said: dict[str, Any]
        try:
            with self.fleet.changing():
                said = getattr(self._succession.owners, f"take_{kind}")(message.data)
        except WireError as error:
            said = {"result": "refused", "message": str(error)[:LONGEST_REFUSAL]}
        except FleetError:
            raise
        except Exception as error:  # noqa: BLE001  no question may end the service
            said = {"result": "refused", "message": f"internal error: {type(error).__name__}"}
        try:
            return topic, FleetMessage(None, said, "resp", message.object_id).encode()
        except WireError as error:  # its id makes the answer too large
            self.refuse(error)
            return None

    def refuse(self, error: WireError) -> None:
        """Say that a message could not be used."""
        value = error.value
        if len(json.dumps(value)) > LONGEST_ANSWER:
            value = str(value)[:SHOWN]
        data = {"desc": error.reason, "data": value}
        self._send("log", "orchestrator", message=FleetMessage("error", data, "resp"))

    def listen(self) -> None:
        """Hear that what is said comes here from now on. Silence before that says nothing."""
        self._since = self._clock()

    def tick(self) -> None:
        """Take runtimes that have been silent for too long as gone, and modules whose leases have
        ended as lost. Call it every few seconds.

        Silence counts only while this process has listened all the time.
        """
        now = self._clock()
        if not 0 <= now - self._ticked <= LONGEST_TICK:
            self._since = now
        self._ticked = now
        latest = now - MISSED * KEEPALIVE_SECONDS
        with self.fleet.changing():
            for runtime in self.fleet.in_state(RuntimeRow, A) if self._since <= latest else ():
                if runtime.seen is not None and runtime.seen < latest:
                    self._lose(runtime)
            self._succession.find_overdue(self._since)
            self._succession.seek_heirs()

    # -- registration ------------------------------------------------------------------------------

    def _take_manager(self, message: FleetMessage, at: str | None) -> None:
        data = message.data
        self._same(data["uuid"], at)
        if self.fleet.get(ManagerRow, data["uuid"]) is None:
            self._check_room(ManagerRow, MOST_NODES)
        row = self.fleet.put(ManagerRow(data["uuid"], data["name"]))
        self._acknowledge(message, row)

    def _take_runtime(self, message: FleetMessage, at: str | None) -> None:
        data = message.data
        self._same(data["uuid"], at)
        parent = data.get("parent")
        if parent is not None and self.fleet.get(ManagerRow, parent) is None:
            parent = None  # it may register later; the runtime says its manager again then
        old = self.fleet.get(RuntimeRow, data["uuid"])
        if old is None:
            self._check_room(RuntimeRow, MOST_NODES)
        row = self.fleet.put(
            RuntimeRow(
                data["uuid"], data["name"], data["runtime_type"], data["max_nmodules"],
                tuple(data["apis"]), data.get("platform"), data.get("metadata"), parent,
                seen=None if old is None or old.seen is None else self._clock(),
            )
        )  # fmt: skip
        self._acknowledge(message, row)
        if old is None or old.status is D:
            for module in self.fleet.modules_of(row.uuid, K):
                self.start(module, row.uuid)
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
        """Note that a runtime is gone: what ran on it is killed and can return with it.

        What waits for it waits on.
        """
        self.fleet.put(replace(runtime, status=D))
        for module in self.fleet.modules_of(runtime.uuid, A, E):
            status = K if module.status is A else D
            ended = {"reason": "killed", "message": "its runtime is gone"}
            row = self._succession.end(module) if status is D else module
            self.fleet.put(replace(row, status=status, ended=ended))
        self._succession.lose_heir(runtime.uuid)
        self._succession.seek_heirs()

    def _take_keepalive(self, message: FleetMessage, at: str | None) -> None:
        runtime = self._find(RuntimeRow, message.data["uuid"])
        self._same(runtime.uuid, at)
        self.fleet.put(replace(runtime, status=A, seen=self._clock()))
        back = runtime.status is D  # it was only cut off
        running = {child["uuid"] for child in message.data["children"]}
        for module in self.fleet.modules_of(runtime.uuid, K):
            if module.uuid in running:
                # It keeps its heir until the owner renews the lease: the heir may be just about to
                # take the module over, and must not be told then to stop it.
                self.fleet.put(replace(module, status=A, ended=None))
            elif not back:  # if it had ended meanwhile, that was said by now
                self.start(module, runtime.uuid)
        self._succession.remind(runtime.uuid, running)
        if back:
            for name in running:
                found = self.fleet.get(ModuleRow, name)
                if found is not None and found.parent == runtime.uuid and found.status is D:
                    self.stop(found, runtime.uuid)  # it was deleted while nobody could say so
            self._fill()

    # -- modules -----------------------------------------------------------------------------------

    def _take_module(self, message: FleetMessage, at: str | None) -> None:
        self._create([message.data], message.data.get("parent"))

    def _take_batch(self, message: FleetMessage, at: str | None) -> None:
        self._create(list(message.data["modules"]), message.data.get("parent"))

    def _create(self, requests: list[Mapping[str, Any]], parent: str | None) -> None:
        """Take modules: all of them, or an error and none."""
        self._check_room(ModuleRow, MOST_MODULES, len(requests))
        runtimes = self.fleet.in_state(RuntimeRow, A)
        seen: set[str] = set()
        for request in requests:
            wanted = request.get("uuid", str(uuid.uuid4()))
            name = request.get("parent", parent)
            runtime = None if name is None else self._find(RuntimeRow, name, alive=True)
            # It is a part of topics, and has the length that other messages may have.
            if not 0 < len(wanted) <= LONGEST_UUID or any(char in wanted for char in "/+#\0"):
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
            # One that waits and could not be sent would stop all that follows, for ever.
            size = len(FleetMessage("create", module.wire()).encode()) + ROOM
            if size > LARGEST:
                raise WireError("message too large", size)
            needs = set(module.apis)
            if runtime is None and not any(needs <= set(one.apis) for one in runtimes):
                apis = " ".join(module.apis)
                raise WireError("no Runtime has these APIs", f"{wanted}: {apis}")
        self._fill()

    def _fill(self) -> None:
        """Give modules that wait to runtimes that have room: first in, first out."""
        loads = self.fleet.loads()

        def has_room(one: RuntimeRow) -> bool:
            return not one.max_nmodules or loads.get(one.uuid, 0) < one.max_nmodules

        runtimes = [one for one in self.fleet.in_state(RuntimeRow, A) if has_room(one)]
        for module in self.fleet.in_state(ModuleRow, Q) if runtimes else ():
            rooms = [
                runtime
                for runtime in runtimes
                if has_room(runtime)
                and (
                    module.parent == runtime.uuid
                    or (module.parent is None and set(module.apis) <= set(runtime.apis))
                )
            ]
            if rooms:
                chosen = min(rooms, key=lambda one: (loads.get(one.uuid, 0), one.name, one.uuid))
                loads[chosen.uuid] = loads.get(chosen.uuid, 0) + 1
                self.start(module, chosen.uuid)
        self._succession.seek_heirs()

    def start(self, module: ModuleRow, runtime: str) -> None:
        """Have a runtime begin a module; see `ModuleDesk`."""
        at = self.fleet.get(RuntimeRow, runtime)
        leased = at is not None and self._succession.can_lease(module, at)
        live = self._succession.owners.is_live(module.program)
        if live and not leased:
            return  # its state is where this runtime cannot find it: another one takes it over
        row = replace(module, parent=runtime, status=A, ended=None)
        after = replace(row, epoch=module.epoch + 1)
        if not live:  # otherwise the epoch is that of the record, and the register counts
            after = replace(after, program=new_program() if leased else None)
        self.fleet.put(row if live else after)
        self.give(after, runtime)

    def give(self, module: ModuleRow, runtime: str) -> None:
        """Ask a runtime to run a module, or to take it over; see `ModuleDesk`."""
        data = module.wire() | {"parent": runtime, "status": A.value}
        at = self.fleet.get(RuntimeRow, runtime)
        if at is not None and at.runtime_type == OURS:
            data["epoch"] = module.epoch
            if module.program is not None:
                data["lease"] = {"program": module.program, "seconds": self._succession.lease}
        self._send("control", runtime, message=FleetMessage("create", data))

    def stop(self, module: ModuleRow, runtime: str) -> None:
        """Ask a runtime to have a module no more; see `ModuleDesk`."""
        data = {"type": "module", "uuid": module.uuid}
        self._send("control", runtime, message=FleetMessage("delete", data))

    def _take_deletion(self, message: FleetMessage, at: str | None) -> None:
        module = self._find(ModuleRow, message.data["uuid"])
        if module.status in (A, E):
            self.fleet.put(replace(module, status=E))
            assert module.parent is not None
            self.stop(module, module.parent)
        elif module.status in (K, Q):
            ended = {"reason": "killed", "message": "deleted before it ran again"}
            self.fleet.put(replace(self._succession.end(module), status=D, ended=ended))

    def _take_exit(self, message: FleetMessage, at: str | None) -> None:
        module = self._find(ModuleRow, message.data["uuid"])
        if message.data.get("program") not in (None, module.program):
            return  # it was given to a runtime again since then, as another program
        if at is not None and module.heir == at:  # it cannot take the module over
            self.fleet.put(replace(module, heir=None))
            return
        if at is not None and module.parent != at:
            raise WireError("invalid Module Name/UUID", module.uuid)  # it runs elsewhere
        if module.status not in (A, E, K):
            return
        ended = {name: value for name, value in message.data.items() if name not in _NAMES}
        failed = module.status is not E and ended.get("reason") == "error"
        if failed and self._succession.owners.can_go_on(module.program):
            self.fleet.put(replace(module, status=K, ended=ended))  # its runtime cannot run it
            self._fill()
            return
        self.fleet.put(replace(self._succession.end(module), status=D, ended=ended))
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

    def _check_room(self, kind: Any, most: int, more: int = 1) -> None:
        """Refuse rows that would be too many with those that are not dead."""
        count = self.fleet.count(kind)
        if count + more > most:
            raise WireError(f"too many {kind.__name__.removesuffix('Row')}s", count)

    @staticmethod
    def _same(name: str, at: str | None) -> None:
        if name != at:
            raise WireError("invalid uuid", name, hint="it is not that of the topic")

    def _acknowledge(self, message: FleetMessage, row: ManagerRow | RuntimeRow) -> None:
        data = {"result": "ok", "details": row.wire()}
        self._send("reg", row.uuid, message=FleetMessage(None, data, "resp", message.object_id))

    def _send(self, *place: str, message: FleetMessage) -> None:
        self.fleet.send(self.realm.topic(*place), message.encode())


_NAMES = {"type", "uuid", "program"}
