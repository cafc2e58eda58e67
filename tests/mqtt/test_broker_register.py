"""The register of a fleet at a real broker: questions, answers, and those that do not come."""

from __future__ import annotations

import secrets
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.mqtt.broker import SECONDS, Peer, TestBroker, needs_broker
from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.orchestrating import FleetOrchestrator
from wasmsr.fleet.orchestrator.rows import ModuleRow, device_uuids
from wasmsr.fleet.settings import BrokerSettings
from wasmsr.fleet.wire.messages import FleetMessage
from wasmsr.fleet.wire.topics import FleetRealm
from wasmsr.mqtt.broker import BrokerEvents
from wasmsr.mqtt.broker_register import BrokerRegister
from wasmsr.mqtt.device_service import DeviceLink
from wasmsr.mqtt.orchestrator_service import OrchestratorService
from wasmsr.ownership.failures import RegisterAway, SwapInDoubt, SwapRefused
from wasmsr.ownership.owner_record import EVERY_NODE, OwnerRecord
from wasmsr.ownership.register import Register
from wasmsr.runspec.address import Address

pytestmark = needs_broker
NODE = b"a" * 16
REALM = FleetRealm()


class Fleet:
    """A broker, an orchestrator in this process, and the connections of devices."""

    def __init__(self, folder: Path, at: TestBroker) -> None:
        self.broker = at
        self.settings = BrokerSettings(Address("127.0.0.1", at.port))
        self.fleet = FleetList(folder / "fleet.db")
        self.orchestrator = FleetOrchestrator(self.fleet, REALM)
        self._links: list[DeviceLink] = []
        self.start()

    def start(self) -> None:
        self.service = OrchestratorService(self.orchestrator, self.settings, lambda *_, **__: None)
        self.service.start()
        assert self.service.link.wait(SECONDS)

    def stop(self) -> None:
        for one in self._links:
            one.stop()
        self.service.stop()
        self.fleet.close()

    def register(self, runtime: str, patience: float = SECONDS) -> Register:
        """Return a register as a device asks it; its questions wait for so long."""
        backend = BrokerRegister(lambda: [b"two", b"one"], patience)
        topic = REALM.topic("register", runtime)
        found = threading.Event()
        events = BrokerEvents(lambda *_: None, found.set, lambda reason: None, lambda number: None)

        def heard(where: str, payload: bytes, sender: Any) -> None:
            if where == topic:
                backend.hear(payload)

        link = DeviceLink(self.settings, f"device-{runtime}", events, heard)
        self._links.append(link)
        link.subscribe(topic)
        link.start()
        assert found.wait(SECONDS)
        backend.attach(link.tell, REALM, runtime)
        return Register(backend, patience=patience)

    def module(self, name: str) -> OwnerRecord:
        """Give a module to a device; return the first record that the device would make."""
        _, runtime = device_uuids(NODE)
        data: dict[str, Any] = {
            "type": "runtime", "uuid": runtime, "name": "a", "runtime_type": "wasmsr",
            "max_nmodules": 0, "apis": ["wasm", "wasi"], "metadata": {"leases": True},
        }  # fmt: skip
        self.orchestrator.receive(
            f"realm/proc/reg/{runtime}", FleetMessage("create", data).encode()
        )
        data = {"type": "module", "uuid": name, "name": name, "file": "m.wasm"}
        data["args"] = {"fault_crash": "restore"}
        self.orchestrator.receive("realm/proc/control", FleetMessage("create", data).encode())
        row = self.fleet.get(ModuleRow, name)
        assert row is not None and row.program is not None
        return OwnerRecord(
            bytes.fromhex(row.program), NODE, 1, secrets.token_bytes(16), 1, 10_000, 1,
            failover=(EVERY_NODE,),
        )  # fmt: skip


@pytest.fixture
def fleet(tmp_path: Path, broker: TestBroker) -> Iterator[Fleet]:
    made = Fleet(tmp_path, broker)
    yield made
    made.stop()


def until(condition: Callable[[], object]) -> None:
    end = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_register_over_the_broker(fleet: Fleet) -> None:
    first = fleet.module("one")
    register = fleet.register("runtime")
    assert register.read(first.program) is None
    register.swap(None, first)
    assert register.read(first.program) == first
    with pytest.raises(SwapRefused) as refused:
        register.swap(None, _other(first))
    assert refused.value.record == first
    after = first.next(deadline=2)
    register.swap(first, after)
    other = fleet.register("other")
    assert other.read(first.program) == after
    taken = after.next(epoch=2, attempt=secrets.token_bytes(16))
    other.swap(after, taken)
    with pytest.raises(SwapRefused):
        register.swap(after, after.next())
    assert register.programs() == [b"one", b"two"]


def _other(record: OwnerRecord) -> OwnerRecord:
    """Another first record of the same program."""
    return OwnerRecord(record.program, NODE, 1, secrets.token_bytes(16), 1, 10_000, 1)


def test_a_question_that_is_refused(fleet: Fleet) -> None:
    register = fleet.register("runtime")
    unknown = OwnerRecord(b"x" * 16, NODE, 1, b"t" * 16, 1, 10_000, 1)
    with pytest.raises(RegisterAway, match="no Module has this program"):
        register.swap(None, unknown)


def test_an_orchestrator_that_is_away(fleet: Fleet) -> None:
    """Its broker keeps no question for it, so nothing is swapped late."""
    first = fleet.module("one")
    register = fleet.register("runtime", 0.2)
    until(lambda: _answers(register, first.program))
    fleet.service.stop()
    with pytest.raises(RegisterAway):
        register.read(first.program)
    with pytest.raises(SwapInDoubt):
        register.swap(None, first)
    fleet.start()
    until(lambda: _answers(register, first.program))
    assert fleet.fleet.owner(first.program.hex()) is None


def _answers(register: Register, program: bytes) -> bool:
    try:
        register.read(program)
    except RegisterAway:
        return False
    return True


@pytest.mark.full
def test_a_broker_that_is_away(fleet: Fleet) -> None:
    first = fleet.module("one")
    register = fleet.register("runtime")
    register.swap(None, first)
    fleet.broker.stop()
    link = fleet._links[0]
    until(lambda: not link.connected)
    with pytest.raises(RegisterAway, match="no connection"):
        register.swap(first, first.next())
    fleet.broker.start()
    until(lambda: link.connected and _answers(register, first.program))
    register.swap(first, first.next())


def test_answers_that_are_none(fleet: Fleet) -> None:
    """Anybody at the broker can write there; only an answer to a question counts."""
    first = fleet.module("one")
    register = fleet.register("runtime")
    register.swap(None, first)
    peer = Peer(fleet.broker.port)
    for payload in (
        b"", b"{", b"[]", FleetMessage(None, {"result": "ok", "record": "x"}, "resp").encode(),
        FleetMessage(None, {"result": "ok"}, "resp", None).encode(),
        FleetMessage("read", {"runtime": "r", "program": "0" * 32}).encode(),
    ):  # fmt: skip
        peer.say_raw("realm/proc/register/runtime", payload)
    peer.stop()
    assert register.read(first.program) == first
    backend: Any = register.backend
    assert not backend._answers


def test_of_many_that_take_a_program_one_gets_it(fleet: Fleet) -> None:
    record = fleet.module("one")
    fleet.register("first").swap(None, record)
    got: list[int] = []

    def compete(mine: Register) -> None:
        for _ in range(5):
            while True:
                found = mine.read(record.program)
                assert found is not None
                try:
                    mine.swap(
                        found, found.next(epoch=found.epoch + 1, attempt=secrets.token_bytes(16))
                    )
                except SwapRefused:
                    continue
                got.append(found.epoch + 1)
                break

    registers = [fleet.register(f"runtime{number}") for number in range(3)]
    threads = [threading.Thread(target=compete, args=(one,)) for one in registers]
    for one in threads:
        one.start()
    for one in threads:
        one.join(SECONDS)
    assert sorted(got) == list(range(2, 17))
    row = fleet.fleet.get(ModuleRow, "one")
    assert row is not None and row.epoch == 16 and row.status.value == "A"


def test_questions_end_with_the_register(fleet: Fleet) -> None:
    fleet.service.stop()
    register = fleet.register("runtime")
    failures: list[BaseException] = []

    def ask() -> None:
        try:
            register.read(bytes(16))
        except RegisterAway as error:
            failures.append(error)

    thread = threading.Thread(target=ask)
    thread.start()
    backend: Any = register.backend
    until(lambda: bool(backend._answers))
    register.close()
    thread.join(SECONDS / 2)
    assert failures and not thread.is_alive()
    with pytest.raises(RegisterAway):
        register.read(bytes(16))
    fleet.start()
