"""A device of a fleet: what a node does with the messages of an orchestrator.

It knows no transport. `DeviceLine` is what it needs of one.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Final, Protocol

from wasmsr import __version__
from wasmsr.errors import WasmsrError
from wasmsr.executor.port import ID_BYTES, RING
from wasmsr.fleet.device.device_identity import DeviceIdentity
from wasmsr.fleet.device.device_module import (
    DeviceModule,
    ModuleEnd,
    child_row,
    cpu_seconds,
    deployed_records,
)
from wasmsr.fleet.device.hub import (
    FULL_SECONDS,
    ChannelHub,
    HubEvents,
    MessageSender,
    WrittenMessage,
)
from wasmsr.fleet.device.leased_module import LeasedModule
from wasmsr.fleet.device.module_leases import ModuleLeases
from wasmsr.fleet.device.module_run import ModuleRun, module_run
from wasmsr.fleet.orchestrator.rows import OURS
from wasmsr.fleet.wire.failures import WireError
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.fleet.wire.topics import FleetRealm, is_register
from wasmsr.node.supervision.node_program import NodeProgram
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.node.supervision.program_record import ProgramStanding

APIS: Final = ("wasm", "wasi", "channels")
CALLER: Final = "fleet:"
"""Begins the name of whoever submits a program for a fleet; the module's UUID follows."""
REMEMBERED: Final = 1024
"""Modules that have ended here, of which a late request of the same epoch is not taken again."""
END_SECONDS: Final = 10.0
GIVING_BACK: Final = 8
"""Modules that are given back at the same time."""


class DeviceLine(Protocol):
    """The way of a device to its broker; any thread may call it."""

    def publish(
        self,
        topic: str,
        payload: bytes,
        sender: MessageSender | None = None,
        leased: str | None = None,
    ) -> Any:
        """Send a message; it waits while the broker is away, and until `recall` of `leased`."""

    def recall(self, name: str) -> list[WrittenMessage]:
        """Take back what a module under a lease has written and the broker does not have."""

    def settle(self, name: str) -> bool:
        """Wait until the broker has all that was not taken back; return whether it has."""

    def subscribe(self, text: str) -> None:
        """Have the broker send what fits a filter, but not what this device sends."""

    def unsubscribe(self, text: str) -> None:
        """Have it send that no more."""

    def full(self) -> bool:
        """Return whether so much waits for the broker that whoever sends more should wait."""


Note = Callable[..., None]


class ModuleDevice:
    """Runs modules in a node.

    Args:
        supervisor: The node.
        identity: Who the device is.
        realm: The topics.
        folder: Where relative names of files begin.
        line: The way to the broker.
        note: Takes events, for the log.
        leases: The leases of modules by the register of the fleet, or None.
    """

    def __init__(
        self,
        supervisor: NodeSupervisor,
        identity: DeviceIdentity,
        realm: FleetRealm,
        folder: Path,
        line: DeviceLine,
        note: Note,
        *,
        leases: ModuleLeases | None = None,
    ) -> None:
        self.identity, self.realm, self.leases = identity, realm, leases
        self._supervisor, self._folder, self._line, self._note = supervisor, folder, line, note
        self._lock = threading.RLock()
        self._modules: dict[str, DeviceModule] = {}
        self._ended: dict[str, tuple[int, int]] = {}
        """Of modules that have ended here, `ModuleRun.given`; the latest one is the last."""
        self._next: dict[str, Mapping[str, Any]] = {}
        """Requests that wait until the module of that name has left."""
        self._closing = False
        self._cpu: dict[int, tuple[float, float]] = {}
        self._streams: dict[str, tuple[int, ...]] = {}
        """Descriptors for programs that begin, by the program's id."""
        self.hub = ChannelHub(
            HubEvents(
                self._write, line.subscribe, line.unsubscribe, self._lost_messages, line.full,
                line.recall, line.settle,
            )
        )  # fmt: skip

    # -- what it says of itself --------------------------------------------------------------------

    def registrations(self) -> list[tuple[str, FleetMessage]]:
        """Return the messages by which it registers: as manager, and as runtime."""
        who = self.identity
        manager = {"type": "manager", "uuid": who.manager, "name": who.name}
        about: dict[str, Any] = {"version": f"wasmsr {__version__}"}
        if self.leases is not None:
            about["leases"] = True
        runtime = {
            "type": "runtime", "uuid": who.runtime, "name": who.name,
            "runtime_type": OURS, "max_nmodules": who.slots, "apis": list(APIS),
            "platform": who.platform, "metadata": about,
            "parent": who.manager,
        }  # fmt: skip
        return [
            (self.realm.topic("reg", who.manager), FleetMessage("create", manager)),
            (self.realm.topic("reg", who.runtime), FleetMessage("create", runtime)),
        ]

    def departure(self) -> tuple[str, FleetMessage]:
        """Return the message that says that it is gone: its last will."""
        data = {"type": "manager", "uuid": self.identity.manager}
        topic = self.realm.topic("reg", self.identity.manager)
        return topic, FleetMessage("delete", data)

    def keepalive(self) -> tuple[str, FleetMessage]:
        """Return the message that says that it is there, and what runs."""
        with self._lock:
            modules = list(self._modules.values())
        usage = self._usage(modules)
        who = self.identity
        data = {
            "type": "runtime", "uuid": who.runtime, "name": who.name, "apis": list(APIS),
            "children": [child_row(one, usage) for one in modules],
        }  # fmt: skip
        return self.realm.topic("keepalive", who.runtime), FleetMessage("update", data)

    def _usage(self, modules: list[DeviceModule]) -> dict[int, float]:
        """Return the percents of one CPU that workers used since the last call."""
        found, seen = {}, {}
        for one in modules:
            process = 0 if one.program is None else one.program.pid
            spent = cpu_seconds(process) if process else None
            if spent is None:
                continue
            now = time.monotonic()
            before, at = self._cpu.get(process, (0.0, now))
            seen[process] = spent, now
            found[process] = 0.0 if now <= at else 100 * max(0.0, spent - before) / (now - at)
        self._cpu = seen
        return found

    @property
    def modules(self) -> list[DeviceModule]:
        """The modules that run."""
        with self._lock:
            return list(self._modules.values())

    # -- what it hears -----------------------------------------------------------------------------

    def subscriptions(self) -> list[str]:
        """Return what it listens to beside what its modules read."""
        who = self.identity
        return [
            self.realm.topic("control", who.runtime),
            self.realm.topic("reg", who.manager),
            self.realm.topic("reg", who.runtime),
            *(() if self.leases is None else [self.realm.topic("register", who.runtime)]),
        ]

    def control(self, payload: bytes) -> None:
        """Take a message of `control/{runtime}`. It is answered by what follows, or not at all."""
        try:
            message = decode(payload)
            if message.type == "resp" or message.action == "exited":
                return
            kind = message.kind("control")
        except WireError as error:
            self._note("not-taken", error=str(error))
            return
        if kind == "module":
            self._create(message.data)
        elif kind == "batch":
            for one in message.data["modules"]:
                self._create(one)
        elif kind == "deletion":
            self.delete(message.data["uuid"])

    def hear(self, topic: str, payload: bytes, sender: MessageSender | None) -> None:
        """Take a message of any other topic: standard input, or one for channels."""
        found = self.realm.find(topic)
        if found is not None and found.kind == "stdio":
            with self._lock:
                module = self._modules.get(found.ids[0])
            if module is not None:
                module.read_input(payload)
        if not is_register(topic):
            self.hub.take(topic, payload, sender)

    def delete(self, name: str) -> None:
        """End a module, if it runs here."""
        with self._lock:
            self._next.pop(name, None)
            module = self._modules.get(name)
        if module is not None:
            module.kill("stopped by request")

    def _create(self, data: Mapping[str, Any]) -> None:
        name = data.get("uuid", "")
        try:
            self._stdio(name)
        except WireError as error:
            self._note("not-taken", error=str(error))
            return
        run = module_run(data, self._folder)
        with self._lock:
            if self._closing:
                return
            had = self._modules.get(name)
            if had is not None:
                if isinstance(had, LeasedModule) and had.makes_way(run):
                    self._next[name] = data
                return  # otherwise it runs: the orchestrator was not sure
            if run.epoch and self._ended.get(name, (0, 0)) >= run.given:
                return  # it has ended in this epoch, which is being said
            refusal = ""
            module: DeviceModule | None = None
            if len(self._modules) >= self.identity.slots:
                refusal = f"{self.identity.name} runs {self.identity.slots} modules, its most"
            else:
                try:
                    index = len(self._modules)
                    leases = self.leases if run.program else None
                    if leases is not None:
                        module = LeasedModule(run, self, leases, self.left, index)
                    else:
                        module = DeviceModule(run, self, index)
                    self._modules[name] = module
                except OSError as error:
                    refusal = f"{self.identity.name} has no room for it: {error.strerror}"
        if module is None:
            self._exited(run, ModuleEnd(1, "error", refusal))
            return
        self._note("module", uuid=name, name=run.name, file=run.file)
        self._line.subscribe(self._stdio(name))
        module.start()

    def _stdio(self, name: str) -> str:
        return self.realm.topic("stdio", name)

    # -- what modules need -------------------------------------------------------------------------

    def streams(self, program: str) -> tuple[int, ...]:
        """Return the descriptors of a program that begins or goes on; see `NodeRules`."""
        with self._lock:
            found = self._streams.get(program)
            module = next(
                (
                    one for one in self._modules.values()
                    if one.run.program == program
                    or (one.program is not None and one.program.record.program == program)
                ),
                None,
            )  # fmt: skip
        if found is None and module is not None:  # it goes on from a snapshot
            found = self._conduit(module)
        return (-1, RING, RING) if found is None else found

    def _conduit(self, module: DeviceModule) -> tuple[int, ...]:
        """Return new streams for a module; the node duplicates them, and closes none."""
        run = module.run
        grant = {
            "module": run.uuid, "runtime": self.identity.runtime, "realm": self.realm.name,
            "rules": run.rules, "period": run.period,
        }  # fmt: skip
        if isinstance(module, LeasedModule):
            epoch, ends = module.lease()
            end = self.hub.add(run.uuid, grant, epoch, ends)
        else:
            end = self.hub.add(run.uuid, grant, run.epoch)
        descriptor, conduit = module.new_streams(end)
        return (descriptor, RING, RING, conduit)

    def saved(self, module: DeviceModule) -> NodeProgram | None:
        """Return a program that goes on from a save point; see `ModuleHost`.

        Others that are left of the module end.
        """
        found = None
        for one in self._left(module.run.uuid):
            resumable = one.standing is ProgramStanding.RESUMABLE
            if found is None and resumable and module.run.on_crash == "restore":
                found = one
            else:
                self._end(one)
        return found

    def _left(self, name: str | None) -> list[NodeProgram]:
        """Return programs of a module, or of all modules, that have not ended."""
        return [
            one
            for one in self._supervisor.programs()
            if not one.standing.is_final
            and (
                one.record.submitter == f"{CALLER}{name}"
                if name is not None
                else one.record.submitter.startswith(CALLER)
            )
        ]

    def _end(self, program: NodeProgram) -> None:
        try:
            program.kill("its device was started again")
        except WasmsrError as error:
            self._note("not-ended", program=program.record.program[:8], error=str(error))

    def launch(self, module: DeviceModule, code: bytes) -> NodeProgram:
        """Begin a program; see `ModuleHost`."""
        run = module.run
        if isinstance(module, LeasedModule):
            return module.submit(code, f"{CALLER}{run.uuid}")
        program = os.urandom(ID_BYTES).hex()
        with self._lock:
            self._streams[program] = self._conduit(module)
        try:
            self._supervisor.submit(
                iter([code]), run.spec, name=run.name, caller=f"{CALLER}{run.uuid}",
                every=run.every, program=program,
            )  # fmt: skip
            return self._supervisor.find(program)
        finally:
            with self._lock:
                del self._streams[program]

    def wanted(self) -> list[bytes]:
        """Return the programs of the modules with a lease that are, or are to be, here."""
        with self._lock:
            modules = [] if self._closing else list(self._modules.values())
        return [bytes.fromhex(one.run.program) for one in modules if isinstance(one, LeasedModule)]

    def settle(self, program: str) -> None:
        """Wait until the broker has what a module has written before a checkpoint.

        So whoever restores the checkpoint need not send it again; see `NodeRules`.

        Raises:
            NodeError: It does not take it.
        """
        with self._lock:
            found = [one.run.uuid for one in self._modules.values() if one.run.program == program]
        for name in found:
            self.hub.settle(name)

    def left(self, module: DeviceModule) -> None:
        """Hear that a module with a lease goes on elsewhere, or need not be here."""
        name = module.run.uuid
        self._note("left", uuid=name)
        self.hub.remove(name)
        with self._lock:
            if self._modules.get(name) is module:
                del self._modules[name]
        self._line.unsubscribe(self._stdio(name))
        self._take_next(name)

    def _take_next(self, name: str) -> None:
        """Take the request that has waited for the end of a module."""
        with self._lock:  # somebody who ends the module now finds the request, or the module
            data = self._next.pop(name, None)
            if data is not None:
                self._create(data)

    def _write(self, topic: str, data: bytes, sender: MessageSender, leased: str | None) -> None:
        """Publish what a module has written to a channel."""
        if not is_register(topic):
            self._line.publish(topic, data, sender, leased)

    def output(self, module: DeviceModule, data: bytes) -> None:
        """Publish output; see `ModuleHost`. It waits where the broker takes none."""
        while self._line.full() and not self._closing:
            time.sleep(FULL_SECONDS)
        self._line.publish(self._stdio(module.run.uuid), data)

    def profile(self, module: DeviceModule, kind: str, records: bytes) -> None:
        """Publish records; see `ModuleHost`."""
        topic = self.realm.topic("profile", kind, self.identity.runtime, module.run.uuid)
        self._line.publish(topic, records)

    def ended(self, module: DeviceModule, end: ModuleEnd) -> None:
        """Say that a module has ended; see `ModuleHost`."""
        name = module.run.uuid
        reports = self.hub.remove(name, ended=end.reason != "error")
        if reports:
            self.profile(module, "deployed", deployed_records(reports))
        with self._lock:
            if self._modules.get(name) is module:
                del self._modules[name]
            self._ended.pop(name, None)
            if not module.run.program or end.reason != "error":  # otherwise it may be asked again
                self._ended[name] = module.run.given
            while len(self._ended) > REMEMBERED:
                del self._ended[next(iter(self._ended))]
        self._line.unsubscribe(self._stdio(name))
        self._exited(module.run, end)
        self._take_next(name)

    def _exited(self, run: ModuleRun, end: ModuleEnd) -> None:
        """Say that a module has ended, or has not begun."""
        name = run.uuid
        self._note("exited", uuid=name, code=end.code, reason=end.reason, message=end.message)
        if not self._closing:
            data = {"type": "module", "uuid": name, **end.wire()}
            if run.program:
                data["program"] = run.program
            topic = self.realm.topic("control", self.identity.runtime)
            self._line.publish(topic, FleetMessage("exited", data).encode())

    def _lost_messages(self, name: str, count: int) -> None:
        if count & (count - 1) == 0:  # 1, 2, 4, ...
            self._note("messages-lost", uuid=name, count=count)

    # -- its end -----------------------------------------------------------------------------------

    def close(self) -> None:
        """End all modules. What the orchestrator hears is the departure of the device.

        Those with a lease are saved and given back, so that another device goes on with them.
        """
        with self._lock:
            self._closing = True
            modules = list(self._modules.values())
        leased = [one for one in modules if isinstance(one, LeasedModule)]
        for one in modules:
            if one not in leased:
                one.kill("its device is stopped")
        with ThreadPoolExecutor(GIVING_BACK, thread_name_prefix="wasmsr-give-back") as pool:
            list(pool.map(LeasedModule.leave, leased))
        until = time.monotonic() + END_SECONDS
        for one in modules:
            one.wait(max(0.0, until - time.monotonic()))
        self.hub.close()

    def forget_old(self) -> bool:
        """End programs of an earlier process of this device, unless they can be restored.

        Returns:
            Whether there was one: the orchestrator starts its modules again.
        """
        had = any(one.record.submitter.startswith(CALLER) for one in self._supervisor.programs())
        for one in self._left(None):
            if one.record.lease is not None:
                continue  # the register says who goes on with it
            if one.standing is not ProgramStanding.RESUMABLE or one.record.every is None:
                self._end(one)
        return had


__all__ = ["DeviceIdentity", "DeviceLine", "ModuleDevice"]
