"""Modules under a lease, as an orchestrator sees them: the register, heirs, and what follows."""

from __future__ import annotations

import json
import secrets
import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.fleet.test_orchestrator import REALM, Desk
from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.rows import ModuleRow, device_uuids
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.ownership.owner_record import OwnerRecord, Standing
from wasmsr.ownership.record_bytes import decode_record, encode_record

NODES = {name: name.encode() * 16 for name in "abc"}
RESTORE = {"fault_crash": "restore"}


class LeaseDesk(Desk):
    """An orchestrator with devices of ours; a test is their nodes."""

    def device(self, name: str, most: int = 0, **metadata: Any) -> str:
        """Register a device that leases modules; return its UUID."""
        manager, runtime = device_uuids(NODES[name])
        about = {"type": "manager", "uuid": manager, "name": name}
        self.tell(f"realm/proc/reg/{manager}", FleetMessage("create", about))
        self.runtime(
            name, most, uuid=runtime, runtime_type="wasmsr", parent=manager,
            metadata={"leases": True, **metadata},
        )  # fmt: skip
        return runtime

    def leave(self, name: str) -> list[Any]:
        """A device's last will."""
        manager, _ = device_uuids(NODES[name])
        gone = FleetMessage("delete", {"type": "manager", "uuid": manager})
        return self.tell(f"realm/proc/reg/{manager}", gone)

    def alive(self, name: str, *modules: str) -> list[Any]:
        """A device's keep-alive."""
        _, runtime = device_uuids(NODES[name])
        data = {"type": "runtime", "uuid": runtime, "children": [{"uuid": one} for one in modules]}
        return self.tell(f"realm/proc/keepalive/{runtime}", FleetMessage("update", data))

    def ask(self, action: str, **data: Any) -> dict[str, Any]:
        """Ask the register; return the data of its answer."""
        asked = FleetMessage(action, {"runtime": "somebody", **data})
        found = self.orchestrator.answer(asked.encode())
        assert found is not None
        topic, payload = found
        message = decode(payload)
        assert message.kind("register") == "verdict" and message.object_id == asked.object_id
        assert topic == "realm/proc/register/somebody"
        return dict(message.data)

    def swap(self, old: OwnerRecord | None, new: OwnerRecord) -> dict[str, Any]:
        before = None if old is None else encode_record(old).decode()
        return self.ask(
            "swap", program=new.program.hex(), old=before, new=encode_record(new).decode()
        )

    def begin(self, name: str, at: str) -> OwnerRecord:
        """Create a module, which a device begins; return its record."""
        said = self.create(name, args=RESTORE)
        ((topic, action, data),) = said
        assert (topic, action) == (f"realm/proc/control/{device_uuids(NODES[at])[1]}", "create")
        record = first(data["lease"]["program"], at)
        assert self.swap(None, record) == {"result": "ok", "done": True}
        return record

    def row(self, name: str) -> ModuleRow:
        found = self.fleet.get(ModuleRow, f"m-{name}")
        assert found is not None
        return found

    def renew(self, record: OwnerRecord) -> OwnerRecord:
        after = record.next(deadline=record.deadline + 1)
        assert self.swap(record, after)["done"]
        return after

    def take(self, record: OwnerRecord, name: str) -> OwnerRecord:
        after = record.next(
            owner=NODES[name], epoch=record.epoch + 1, attempt=secrets.token_bytes(16)
        )
        assert self.swap(record, after)["done"]
        return after


def first(program: str, at: str) -> OwnerRecord:
    return OwnerRecord(
        bytes.fromhex(program), NODES[at], 1, secrets.token_bytes(16), 1, 10_000, 1,
        failover=(bytes(16),),
    )  # fmt: skip


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[LeaseDesk]:
    found = LeaseDesk(tmp_path / "fleet.db")
    yield found
    found.fleet.close()


def at(name: str) -> str:
    return f"realm/proc/control/{device_uuids(NODES[name])[1]}"


# ---- the register --------------------------------------------------------------------------------


def test_the_register_answers(desk: LeaseDesk) -> None:
    desk.device("a")
    record = desk.begin("one", "a")
    program = record.program.hex()
    assert desk.ask("read", program=program)["record"] == encode_record(record).decode()
    assert desk.ask("read", program="0" * 32) == {"result": "ok", "record": None}
    assert desk.swap(None, record) == {"result": "ok", "done": False}
    after = desk.renew(record)
    assert desk.swap(record, record.next())["done"] is False  # it is an older one
    found = desk.fleet.owner(program)
    assert found is not None and decode_record(found, record.program) == after


@pytest.mark.parametrize("kind", ["unknown", "damaged", "step", "stranger", "elsewhere", "dead"])
def test_records_that_the_register_refuses(desk: LeaseDesk, kind: str) -> None:
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    program = record.program.hex()
    if kind == "unknown":
        found = desk.swap(None, first("0" * 32, "a"))
    elif kind == "damaged":
        old = encode_record(record).decode()
        found = desk.ask("swap", program=program, old=old, new="{}")
    elif kind == "step":
        found = desk.swap(record, record.next(epoch=3, attempt=bytes(16)))
    elif kind == "stranger":
        found = desk.swap(record, record.next(owner=bytes(16), epoch=2, attempt=bytes(16)))
    elif kind == "elsewhere":
        desk.create("two", args=RESTORE)
        other = desk.row("two")
        wrong = "a" if other.parent == device_uuids(NODES["b"])[1] else "b"
        found = desk.swap(None, first(str(other.program), wrong))
    else:
        desk.exited("one", device_uuids(NODES["a"])[1])
        ended = desk.fleet.owner(program)
        assert ended is not None
        assert decode_record(ended, record.program).standing is Standing.ENDED
        found = desk.swap(record, record.next())
        assert found == {"result": "ok", "done": False}
        return
    assert found["result"] == "refused" and found["message"]
    assert desk.ask("read", program=program)["record"] == encode_record(record).decode()


@pytest.mark.parametrize(
    "payload",
    [b"", b"{", b"[]", b'{"data":{}}',
     json.dumps({"object_id": "1", "action": "read", "type": "req",
                 "data": {"runtime": "x", "program": "00"}}).encode(),
     json.dumps({"object_id": "1", "action": "read", "type": "req",
                 "data": {"runtime": "a/#", "program": "0" * 32}}).encode(),
     json.dumps({"object_id": "1", "action": "swap", "type": "req",
                 "data": {"runtime": "x", "program": "0" * 32, "old": 1, "new": "x"}}).encode()],
)  # fmt: skip
def test_what_is_no_question(desk: LeaseDesk, payload: bytes) -> None:
    assert desk.orchestrator.answer(payload) is None
    ((topic, action, _),) = desk.said()
    assert (topic, action) == ("realm/proc/log/orchestrator", "error")


def test_a_question_whose_answer_would_be_too_large(desk: LeaseDesk) -> None:
    """An id can grow when it is written again. It must not end the orchestrator."""
    desk.device("a")
    program = desk.begin("one", "a").program.hex()
    asked = {
        "object_id": "\u20ac" * 300_000, "action": "read", "type": "req",
        "data": {"runtime": "x", "program": program},
    }  # fmt: skip
    assert desk.orchestrator.answer(json.dumps(asked, ensure_ascii=False).encode()) is None
    ((topic, action, data),) = desk.said()
    assert (topic, action) == ("realm/proc/log/orchestrator", "error")
    assert data["desc"] == "message too large"


def test_an_answer_is_no_question(desk: LeaseDesk) -> None:
    answer = FleetMessage(None, {"result": "ok"}, "resp")
    assert desk.orchestrator.answer(answer.encode()) is None
    assert not desk.said()


# ---- who has a lease -----------------------------------------------------------------------------


def test_which_modules_have_a_lease(desk: LeaseDesk) -> None:
    desk.device("a")
    for name, args, leased in (
        ("restore", RESTORE, True),
        ("restart", {"fault_crash": "restart"}, False),
        ("plain", {}, False),
        ("dirs", RESTORE | {"dirs": ["data"]}, False),
        ("measured", RESTORE | {"repeat": 2}, False),
    ):
        ((_, _, data),) = desk.create(name, args=args)
        assert ("lease" in data) is leased, name
    assert data["epoch"] == 1
    ((_, _, data),) = desk.create("mine", args=RESTORE, lease={"program": "0" * 32, "seconds": 1})
    assert data["lease"] == {"program": desk.row("mine").program, "seconds": 10.0}


def test_others_have_no_lease(desk: LeaseDesk) -> None:
    desk.runtime("peer", metadata={"leases": True})
    ((_, _, data),) = desk.create("one", args=RESTORE)
    assert "lease" not in data and "epoch" not in data
    desk.device("b", leases=False)
    parent = device_uuids(NODES["b"])[1]
    ((_, _, data),) = desk.create("two", args=RESTORE, parent=parent)
    assert "lease" not in data and data["epoch"] == 1


# ---- a lost device -------------------------------------------------------------------------------


def test_another_device_takes_a_module_over(desk: LeaseDesk) -> None:
    desk.device("a")
    record = desk.begin("one", "a")
    desk.device("b"), desk.device("c")
    ((topic, action, data),) = desk.leave("a")
    assert (topic, action, desk.status("one")) == (at("b"), "create", "K")
    assert data["lease"]["program"] == record.program.hex() and data["epoch"] == 2
    after = desk.take(record, "b")
    assert not desk.said()
    row = desk.row("one")
    assert (row.parent, row.status.value, row.heir) == (device_uuids(NODES["b"])[1], "A", None)
    assert row.epoch == after.epoch == 2
    # What the first one says of it counts no more.
    ((topic, _, _),) = desk.exited("one", device_uuids(NODES["a"])[1])
    assert topic == "realm/proc/log/orchestrator" and desk.status("one") == "A"
    desk.exited("one", device_uuids(NODES["b"])[1])
    assert desk.status("one") == "D"


def test_a_device_that_was_only_cut_off_keeps_its_module(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.leave("a")
    assert not desk.alive("a", "m-one")  # its lease may have ended
    assert desk.status("one") == "A" and desk.row("one").heir is not None
    desk.renew(record)
    assert [(topic, action) for topic, action, _ in desk.said()] == [(at("b"), "delete")]
    assert desk.status("one") == "A" and desk.row("one").heir is None


def test_a_renewal_is_a_sign_of_life(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.leave("a")
    desk.renew(record)
    assert [(topic, action) for topic, action, _ in desk.said()] == [(at("b"), "delete")]
    assert desk.status("one") == "A"


def test_a_device_that_starts_again_is_asked_too(desk: LeaseDesk) -> None:
    """The register says which of the two goes on with the module."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.leave("a")
    _, runtime = device_uuids(NODES["a"])
    said = desk.tell(
        f"realm/proc/reg/{runtime}",
        FleetMessage("create", {
            "type": "runtime", "uuid": runtime, "name": "a", "runtime_type": "wasmsr",
            "max_nmodules": 0, "apis": ["wasm", "wasi"], "metadata": {"leases": True},
        }),
    )  # fmt: skip
    created = [data for topic, action, data in said if (topic, action) == (at("a"), "create")]
    assert created and created[0]["lease"]["program"] == record.program.hex()
    assert desk.row("one").heir == device_uuids(NODES["b"])[1]
    desk.take(record, "a")
    assert [(topic, action) for topic, action, _ in desk.said()] == [(at("b"), "delete")]
    assert desk.row("one").parent == runtime


def test_a_silent_owner(desk: LeaseDesk) -> None:
    """A frozen device keeps its connection: the end of the lease says that it is lost."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.listen(10)
    assert desk.status("one") == "A" and not desk.said()
    record = desk.renew(record)
    desk.listen(10)
    assert desk.status("one") == "A"
    desk.listen(5)
    ((topic, action, _),) = desk.said()
    assert (topic, action, desk.status("one")) == (at("b"), "create", "K")
    desk.renew(record)  # it was frozen, and nobody has taken the module over yet
    assert desk.status("one") == "A"
    assert [(topic, action) for topic, action, _ in desk.said()] == [(at("b"), "delete")]


def test_silence_that_nobody_has_listened_to(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    desk.begin("one", "a")
    desk.now += 1000
    desk.orchestrator.tick()
    assert desk.status("one") == "A" and not desk.said()


def test_an_heir_that_is_lost_or_cannot(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    desk.begin("one", "a")
    desk.leave("a")
    heir = device_uuids(NODES["b"])[1]
    assert desk.row("one").heir == heir
    assert not desk.exited("one", heir, reason="error")
    assert desk.status("one") == "K" and desk.row("one").heir is None
    desk.listen(5)  # it is asked again, for want of others
    ((topic, _, data),) = desk.said()
    assert topic == at("b") and data["epoch"] == 2
    desk.device("c")
    assert desk.row("one").heir == heir
    ((topic, action, _),) = [one for one in desk.leave("b") if one[1] == "create"]
    assert (topic, action) == (at("c"), "create")


def test_nobody_can_take_it_over_yet(desk: LeaseDesk) -> None:
    desk.device("a")
    desk.begin("one", "a")
    assert not desk.leave("a")
    desk.runtime("peer")
    assert not [one for one in desk.said() if one[1] == "create"]
    desk.device("b", most=1)
    assert desk.row("one").heir == device_uuids(NODES["b"])[1]


def test_a_module_that_has_never_run(desk: LeaseDesk) -> None:
    """Its device was lost before it has made the record: it begins elsewhere, as another one."""
    desk.device("a")
    ((_, _, data),) = desk.create("one", args=RESTORE)
    old = data["lease"]["program"]
    desk.device("b")
    stops, (topic, action, data) = desk.leave("a")
    assert stops[:2] == (at("a"), "delete")  # it may come back, and has another program
    assert (topic, action, desk.status("one")) == (at("b"), "create", "A")
    assert data["lease"]["program"] != old
    assert not desk.exited("one", device_uuids(NODES["a"])[1], program=old)
    assert desk.status("one") == "A"
    late = desk.swap(None, first(old, "a"))
    assert late["result"] == "refused" and "no Module has this program" in late["message"]
    assert desk.swap(None, first(data["lease"]["program"], "b"))["done"]


# ---- the end -------------------------------------------------------------------------------------


@pytest.mark.parametrize("lost", [False, True])
def test_deleted_while_its_device_is_gone(desk: LeaseDesk, lost: bool) -> None:
    """The record ends, so the device cannot go on with it when it is back."""
    desk.device("a")
    record = desk.begin("one", "a")
    if not lost:
        desk.device("b")
    desk.leave("a")
    said = desk.tell(
        "realm/proc/control", FleetMessage("delete", {"type": "module", "uuid": "m-one"})
    )
    assert [(topic, action) for topic, action, _ in said] == ([] if lost else [(at("b"), "delete")])
    assert desk.status("one") == "D"
    assert desk.swap(record, record.next()) == {"result": "ok", "done": False}
    found = desk.fleet.owner(record.program.hex())
    assert found is not None and decode_record(found, record.program).standing is Standing.ENDED


def test_a_device_is_lost_while_it_ends_a_module(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.tell("realm/proc/control", FleetMessage("delete", {"type": "module", "uuid": "m-one"}))
    assert not desk.leave("a")
    assert desk.status("one") == "D"
    assert desk.swap(record, record.next()) == {"result": "ok", "done": False}


def test_one_that_is_to_end_is_taken_over(desk: LeaseDesk) -> None:
    """The request came between: the new owner is told."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.tell("realm/proc/control", FleetMessage("delete", {"type": "module", "uuid": "m-one"}))
    desk.take(record, "b")
    assert [(topic, action) for topic, action, _ in desk.said()] == [(at("b"), "delete")]
    assert desk.status("one") == "E" and desk.row("one").parent == device_uuids(NODES["b"])[1]


def test_it_has_ended_and_nobody_heard_how(desk: LeaseDesk) -> None:
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    assert desk.swap(record, record.next(standing=Standing.ENDED))["done"]
    assert not desk.leave("a")
    row = desk.row("one")
    assert row.status.value == "D" and row.ended is not None and row.ended["reason"] == "error"


def test_a_uuid_that_is_used_again(desk: LeaseDesk) -> None:
    desk.device("a")
    record = desk.begin("one", "a")
    desk.exited("one", device_uuids(NODES["a"])[1])
    again = desk.begin("one", "a")
    assert again.program != record.program and again.epoch == 1
    assert desk.fleet.owner(record.program.hex()) is None
    assert desk.swap(None, record)["result"] == "refused"


def test_a_record_that_cannot_be_read(desk: LeaseDesk) -> None:
    """Nobody may run the module, and the orchestrator goes on."""
    desk.device("a"), desk.device("b")
    record = desk.begin("one", "a")
    desk.fleet.own(record.program.hex(), b"nonsense")
    assert not [one for one in desk.leave("a") if one[1] == "create"]
    desk.listen(200)
    assert desk.status("one") == "K"
    assert desk.swap(record, record.next()) == {"result": "ok", "done": False}


def test_a_list_of_the_first_version(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    desk = LeaseDesk(path)
    desk.device("a")
    desk.create("one")
    desk.fleet.close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP INDEX modules_by_program")
        database.execute("DROP TABLE owners")
        database.execute("ALTER TABLE modules DROP COLUMN program")
        database.execute("ALTER TABLE modules DROP COLUMN heir")
        database.execute("PRAGMA user_version = 1")
        database.commit()
    with FleetList(path) as fleet:
        row = fleet.get(ModuleRow, "m-one")
        assert row is not None and row.program is None and row.heir is None
        assert fleet.owner("0" * 32) is None
    with FleetList(path) as fleet, fleet.changing():
        fleet.own("0" * 32, b"x")
        assert fleet.owner("0" * 32) == b"x"


def test_topics_of_the_register() -> None:
    assert REALM.find("realm/proc/register") is not None
    found = REALM.find("realm/proc/register/x")
    assert found is not None and found.ids == ("x",)
    assert REALM.find("realm/proc/register/x/y") is None
