"""The orchestrator of a fleet, without a broker: what it answers, and what its list says then."""

from __future__ import annotations

import json
import sqlite3
import uuid
from collections.abc import Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.fleet.peer import MESSAGES, needs_peer
from wasmsr.fleet.failures import FleetError, NotInFleet
from wasmsr.fleet.orchestrator import views
from wasmsr.fleet.orchestrator.fleet_list import FleetList
from wasmsr.fleet.orchestrator.orchestrating import FleetOrchestrator
from wasmsr.fleet.orchestrator.rows import FleetState, ModuleRow, RuntimeRow
from wasmsr.fleet.wire.messages import FleetMessage, decode
from wasmsr.fleet.wire.topics import FleetRealm

REALM = FleetRealm("realm")


class Desk:
    """An orchestrator, and a clock that stands."""

    def __init__(self, path: Path) -> None:
        self.now = 1000.0
        self.fleet = FleetList(path)
        self.orchestrator = FleetOrchestrator(self.fleet, REALM, lambda: self.now)
        self._read = 0

    def tell(self, topic: str, message: FleetMessage | Mapping[str, Any] | bytes) -> list[Any]:
        """Give it a message, and return what follows: (topic, action, data) each."""
        if isinstance(message, FleetMessage):
            message = message.encode()
        payload = message if isinstance(message, bytes) else json.dumps(message).encode()
        self.orchestrator.receive(topic, payload)
        return self.said()

    def listen(self, seconds: int) -> None:
        """Let time pass."""
        for _ in range(seconds // 5):
            self.now += 5
            self.orchestrator.tick()

    def said(self) -> list[Any]:
        found = self.fleet.outgoing(self._read)
        if found:
            self._read = found[-1].number
        return [
            (one.topic, decode(one.payload).action, dict(decode(one.payload).data)) for one in found
        ]

    def runtime(self, name: str, most: int = 0, **more: Any) -> str:
        """Register a runtime; return its UUID."""
        data = {
            "type": "runtime", "uuid": f"uuid-of-{name}", "name": name, "runtime_type": "linux",
            "max_nmodules": most, "apis": ["wasm", "wasi"],
        } | more  # fmt: skip
        ((topic, action, answer),) = self.tell(
            f"realm/proc/reg/{data['uuid']}", FleetMessage("create", data)
        )[:1]
        assert action is None and answer["result"] == "ok" and topic.endswith(data["uuid"])
        return str(data["uuid"])

    def create(self, name: str, **more: Any) -> list[Any]:
        data = {"type": "module", "file": "x.wasm", "name": name, "uuid": f"m-{name}"} | more
        return self.tell("realm/proc/control", FleetMessage("create", data))

    def exited(self, name: str, runtime: str, **more: Any) -> list[Any]:
        data = {"type": "module", "uuid": f"m-{name}", "status": "exited"} | more
        return self.tell(f"realm/proc/control/{runtime}", FleetMessage("exited", data))

    def status(self, name: str) -> str:
        row = self.fleet.get(ModuleRow, f"m-{name}")
        return "" if row is None else row.status.value


@pytest.fixture
def desk(tmp_path: Path) -> Iterator[Desk]:
    found = Desk(tmp_path / "fleet.db")
    yield found
    found.fleet.close()


def told(answers: list[Any], reason: str, value: Any) -> bool:
    return answers == [("realm/proc/log/orchestrator", "error", {"desc": reason, "data": value})]


# ---- as a peer's orchestrator did ----------------------------------------------------------------

SCENARIOS = sorted({one["scenario"] for one in MESSAGES})


@needs_peer
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_answers_as_a_peer_did(desk: Desk, scenario: str) -> None:
    """Give it all that the recorded orchestrator heard; it says the same, but for its numbers."""
    if scenario.startswith("errors"):
        return
    recorded = [one for one in MESSAGES if one["scenario"] == scenario]
    known = {
        one["json"]["data"]["uuid"]
        for one in recorded
        if "/reg/" in one["topic"] and one["json"].get("action") == "create"
    }
    for one in recorded:
        data = one.get("json", {}).get("data", {})
        if data.get("parent") and data["parent"] not in known and "/control" in one["topic"]:
            most = 1 if scenario.startswith(("queue", "benchmark", "stop")) else 0
            desk.runtime("peer", most, uuid=data["parent"])
            known.add(data["parent"])
        elif scenario.startswith("last will") and data["uuid"] not in known:
            manager = {"type": "manager", "uuid": data["uuid"], "name": "node1"}
            desk.tell(f"realm/proc/reg/{data['uuid']}", FleetMessage("create", manager))
            known.add(data["uuid"])
    if scenario.startswith("stop"):
        uuid_of = recorded[0]["json"]["data"]["uuid"]
        desk.runtime("peer", 1, uuid=recorded[1]["topic"].split("/")[-1])
        desk.create("loop", uuid=uuid_of, parent=recorded[1]["topic"].split("/")[-1])
    if "exit" in scenario and not any(one["from"] == "orchestrator" for one in recorded):
        *_, end = recorded
        node = desk.runtime("peer", uuid=end["topic"].split("/")[-1])
        desk.create("chan", uuid=end["json"]["data"]["uuid"], parent=node)
    desk.said()
    expected, ours = [], []
    for one in recorded:
        if one["from"] == "orchestrator":
            expected.append((one["topic"], one["json"].get("action"), one["json"]["data"]))
        elif "json" in one:
            ours += desk.tell(one["topic"], one["json"])
    for _, _, data in [*expected, *ours]:
        data.pop("index", None)
    assert ours == expected


@needs_peer
def test_says_what_was_wrong_as_a_peer_did(desk: Desk) -> None:
    asked = [one for one in MESSAGES if one["scenario"].startswith("errors")]
    answers = [
        (one["topic"], "error", one["json"]["data"]) for one in asked if one["from"] != "client"
    ]
    desk.runtime("node")
    ours = [
        answer
        for one in asked
        if one["from"] == "client"
        for answer in desk.tell(one["topic"], one["json"])
    ]
    # The peer had no runtime of its default name; ours places the module that names none.
    assert [one for one in answers if one not in ours] == [
        answer for answer in answers if answer[2]["data"] == "pyruntime"
    ]
    assert [one[1] for one in ours if one not in answers] == ["create"]


def test_a_module_has_a_name_of_its_own(desk: Desk) -> None:
    node = desk.runtime("node")
    assert told(desk.create("a", parent=node, uuid=""), "invalid Module Name/UUID", "")


# ---- better, on purpose --------------------------------------------------------------------------


def test_modules_wait_for_a_place_first_in_first_out(desk: Desk) -> None:
    node = desk.runtime("node", 1)
    ((topic, action, data),) = desk.create("a", parent="node")
    assert (topic, action, data["uuid"]) == (f"realm/proc/control/{node}", "create", "m-a")
    assert desk.create("b", parent=node) == desk.create("c", parent=node) == []
    assert views.list_queued(desk.fleet)["count"] == 2
    ((_, _, data),) = desk.exited("a", node, exit_code=5, reason="exit")
    assert data["uuid"] == "m-b" and desk.status("a") == "D" and desk.status("c") == "Q"
    assert views.show_module(desk.fleet, "m-a")["ended"]["exit_code"] == 5
    assert desk.tell("realm/proc/control", delete("c")) == [] and desk.status("c") == "D"
    ((topic, action, data),) = desk.tell("realm/proc/control", delete("b"))
    assert action == "delete" and data == {"type": "module", "uuid": "m-b"}
    assert desk.status("b") == "E" and views.list_modules(desk.fleet)["count"] == 1
    assert desk.create("d", parent=node) == []  # one that is ending has its place still
    ((_, _, data),) = desk.exited("b", node)
    assert data["uuid"] == "m-d"


def delete(name: str) -> FleetMessage:
    return FleetMessage("delete", {"type": "module", "uuid": f"m-{name}"})


def test_a_module_without_a_parent_goes_where_there_is_room(desk: Desk) -> None:
    assert told(desk.create("a"), "no Runtime has these APIs", "m-a: wasm wasi")
    assert desk.status("a") == ""
    first, second = desk.runtime("one", 2), desk.runtime("two", 1, apis=["wasm", "wasi", "gpu"])
    places = [desk.create(name)[0][0].split("/")[-1] for name in "bcd"]
    assert places == [first, second, first]
    assert desk.create("e") == [] and desk.status("e") == "Q"
    assert told(desk.create("f", apis=["npu"]), "no Runtime has these APIs", "m-f: npu")
    assert desk.create("g", apis=["gpu"]) == []
    ((topic, _, data),) = desk.exited("c", second)
    assert topic.endswith(second) and data["uuid"] == "m-e"
    assert desk.exited("b", first) == []  # the one that waits needs what only the other has
    ((topic, _, data),) = desk.exited("e", second)
    assert data["uuid"] == "m-g" and topic.endswith(second)


def test_a_runtime_that_is_gone_and_comes_back(desk: Desk) -> None:
    manager = {"type": "manager", "uuid": "mgr", "name": "box"}
    desk.tell("realm/proc/reg/mgr", FleetMessage("create", manager))
    node = desk.runtime("node", 2, parent="mgr")
    for name in "abc":
        desk.create(name, parent=node)
    desk.tell("realm/proc/control", delete("b"))
    assert desk.tell("realm/proc/reg/mgr", FleetMessage("delete", manager)) == []
    assert [desk.status(name) for name in "abc"] == ["K", "D", "Q"]
    assert views.list_runtimes(desk.fleet)["count"] == 0
    assert told(desk.create("d", parent=node), "invalid Runtime Name/UUID", node)
    desk.tell("realm/proc/reg/mgr", FleetMessage("create", manager))
    desk.runtime("node", 2, parent="mgr")
    assert desk.status("a") == "A" and desk.fleet.get(ModuleRow, "m-a").epoch == 2  # type: ignore[union-attr]
    assert desk.status("c") == "A"  # it has waited


def test_what_would_stop_a_peer_is_answered(desk: Desk) -> None:
    node = desk.runtime("node")
    assert desk.tell("realm/proc/control", b"\xff\x00")[0][2]["desc"] == "invalid JSON"
    desk.create("a", parent=node)
    assert told(desk.create("a", parent=node), "duplicate Module UUID; request ignored", "m-a")
    twice = {"type": "module", "file": "x", "uuid": "same"}
    batch = FleetMessage("create_batch", {"modules": [twice, twice], "parent": node})
    assert told(
        desk.tell("realm/proc/control", batch), "duplicate Module UUID; request ignored", "same"
    )
    assert desk.fleet.get(ModuleRow, "same") is None  # nothing half made
    assert desk.exited("a", "elsewhere")[0][2]["desc"] == "invalid Module Name/UUID"
    assert desk.status("a") == "A"
    wrong = FleetMessage("delete", {"type": "runtime", "uuid": node})
    assert told(desk.tell("realm/proc/reg/other", wrong), "invalid uuid", node)
    for quiet in ("elsewhere", "realm/proc/stdio/x", f"realm/proc/control/{node}"):
        assert desk.tell(quiet, delete("a")) == []
    desk.runtime("twin", uuid="t1"), desk.runtime("twin", uuid="t2")
    assert told(desk.create("b", parent="twin"), "ambiguous Runtime Name/UUID", "twin")
    assert desk.create("c", parent="t2")[0][1] == "create"


def test_silence(desk: Desk) -> None:
    node, mute = desk.runtime("node"), desk.runtime("mute")
    desk.create("a", parent=node), desk.create("b", parent=mute), desk.create("c", parent=node)
    desk.create("d", parent=node)
    children = [
        {"uuid": one, "active": -1, "cpu_usage_percent": 0.5, "mem_usage": 10}
        for one in ("m-a", "m-d", "m-b", "m-strange")
    ]
    alive = FleetMessage("update", {"type": "runtime", "uuid": node, "children": children})
    assert desk.tell(f"realm/proc/keepalive/{node}", alive) == []
    desk.listen(170)
    assert desk.status("a") == "A"
    desk.now += 1000  # it was frozen, or had no broker: it cannot know who was silent
    desk.listen(170)
    assert desk.status("a") == "A"
    desk.listen(20)
    # One that has never said that it is there may be of a kind that does not.
    assert desk.status("a") == desk.status("c") == "K" and desk.status("b") == "A"
    assert desk.create("c", parent=mute)[0][2]["desc"].startswith("duplicate")  # it can return
    assert desk.tell("realm/proc/control", delete("d")) == [] and desk.status("d") == "D"
    # It was only cut off. What it does not run any more begins again, if it has not ended.
    ((topic, action, data),) = desk.tell(f"realm/proc/keepalive/{node}", alive)
    assert (topic, action) == (f"realm/proc/control/{node}", "delete") and data["uuid"] == "m-d"
    assert desk.status("a") == "A" and desk.status("c") == "K"
    ((topic, action, data),) = desk.tell(f"realm/proc/keepalive/{node}", alive)
    assert (topic, action) == (f"realm/proc/control/{node}", "create") and data["uuid"] == "m-c"
    assert desk.status("a") == desk.status("c") == "A"
    assert desk.fleet.get(ModuleRow, "m-a").epoch == 1  # type: ignore[union-attr]
    assert views.list_runtimes(desk.fleet)["count"] == 2
    unknown = FleetMessage("update", {"type": "runtime", "uuid": "x", "children": []})
    assert told(desk.tell("realm/proc/keepalive/x", unknown), "invalid Runtime Name/UUID", "x")


def nested(levels: int) -> bytes:
    whole = {"object_id": "1", "action": "create", "type": "req"}
    data = json.dumps(whole | {"data": {"type": "module", "file": "x", "args": {"more": "@"}}})
    return data.replace('"@"', "[" * levels + "]" * levels).encode()


@pytest.mark.parametrize(
    "payload",
    [
        json.dumps({"action": "x" * ((1 << 20) - 60), "type": "req", "data": {}}).encode(),
        json.dumps({"action": "x", "type": "\u20ac" * 170_000, "data": {}}).encode(),
        FleetMessage("delete", {"type": "module", "uuid": "x" * 300}).encode(),
        nested(60_000),
        nested(63),
    ],
)
def test_no_message_ends_the_service(desk: Desk, payload: bytes) -> None:
    ((topic, action, _),) = desk.tell("realm/proc/control", payload)
    assert (topic, action) == ("realm/proc/log/orchestrator", "error")


def test_levels_that_can_be_read_can_be_written(desk: Desk) -> None:
    """Near the limit of the stack the library reads what it cannot write a few calls later."""
    desk.runtime("node")
    for levels in range(850, 1000):
        ((_, action, _),) = desk.tell("realm/proc/control", nested(levels))
        assert action == "error"
    ((_, action, _),) = desk.tell("realm/proc/control", nested(60))
    assert action == "create"


def test_a_module_that_could_not_be_sent_does_not_wait(desk: Desk) -> None:
    """It would be the first that gets a place, and no change after that would be possible."""
    node = desk.runtime("node", 1)
    desk.create("a", parent=node)
    size = (1 << 20) - 400
    data = {"type": "module", "file": "x", "uuid": "m-b", "parent": node}
    raw = FleetMessage("create", data | {"args": {"more": "\u00e9"}}).encode()
    for text in (b"y" * size, "\u00e9".encode() * (size // 2)):
        payload = raw.replace(b"\\u00e9", text)
        ((_, _, answer),) = desk.tell("realm/proc/control", payload)
        assert answer["desc"] == "message too large"
    assert desk.exited("a", node) == [] and desk.status("a") == "D"


def test_uuids_are_parts_of_topics(desk: Desk) -> None:
    node = desk.runtime("node")
    for bad in ("a/b", "+", "a#", "x" * 257, "a\0"):
        assert told(desk.create("a", parent=node, uuid=bad), "invalid Module Name/UUID", bad)


def test_a_request_that_the_broker_repeats(desk: Desk) -> None:
    """The module has run to its end meanwhile: it does not run again."""
    node = desk.runtime("node")
    once = FleetMessage("create", {"type": "module", "file": "x", "uuid": "m-a", "parent": node})
    unnamed = FleetMessage("create", {"type": "module", "file": "x", "parent": node})
    for message in (once, unnamed):
        assert len(desk.tell("realm/proc/control", message)) == 1
    desk.exited("a", node)
    for message in (once, unnamed):
        desk.orchestrator.receive("realm/proc/control", message.encode(), True)
    assert desk.said() == [] and desk.status("a") == "D"
    assert views.list_modules(desk.fleet)["count"] == 1
    assert len(desk.tell("realm/proc/control", once)) == 1  # somebody asks again


def test_nothing_grows_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.fleet.orchestrator.fleet_list.DEAD_KEPT", 3)
    monkeypatch.setattr("wasmsr.fleet.orchestrator.fleet_list.HEARD_KEPT", 5)
    monkeypatch.setattr("wasmsr.fleet.orchestrator.orchestrating.MOST_MODULES", 2)
    monkeypatch.setattr("wasmsr.fleet.orchestrator.orchestrating.MOST_NODES", 2)
    node = desk.runtime("node")
    desk.create("old", parent=node)
    for name in "abcdef":
        desk.create(name, parent=node), desk.exited(name, node)
    desk.exited("old", node)
    left = [name for name in ("a", "b", "c", "d", "e", "f", "old") if desk.status(name)]
    assert left == ["e", "f", "old"]  # the last that ended, not the last that came
    for table, most in (("heard", 5), ("dead", 3)):
        (rows,) = desk.fleet._database.execute(f"SELECT count(*) FROM {table}").fetchone()
        assert rows == most
    desk.create("g", parent=node), desk.create("h", parent=node)
    assert told(desk.create("i", parent=node), "too many Modules", 2)
    desk.runtime("second")
    third = {"type": "runtime", "uuid": "third", "name": "x", "runtime_type": "x"}
    more = third | {"max_nmodules": 1, "apis": []}
    refused = desk.tell("realm/proc/reg/third", FleetMessage("create", more))
    assert told(refused, "too many Runtimes", 2)
    desk.runtime("second")  # one that is known may say so again


def test_a_list_of_the_first_version_gets_its_new_tables(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    FleetList(path).close()
    with closing(sqlite3.connect(path)) as database:
        database.execute("DROP TABLE heard")
        database.execute("DROP TABLE dead")
    with FleetList(path) as fleet:
        fleet.hear(b"x")
        assert fleet.heard(b"x")


def test_a_long_question_is_answered_soon(desk: Desk) -> None:
    with desk.fleet.changing():
        for number in range(300):
            desk.fleet.put(RuntimeRow(f"u{number}", "a" * 250 + str(number), "x", 0))
    with pytest.raises(NotInFleet, match="there is no runtime") as unknown:
        views.show_runtime(desk.fleet, "a" * 60_000)
    assert unknown.value.hint is None and len(unknown.value.message) < 5000


def test_a_restart_keeps_everything(tmp_path: Path) -> None:
    path = tmp_path / "fleet.db"
    desk = Desk(path)
    node = desk.runtime("node", 1)
    desk.create("a", parent=node), desk.create("b", parent=node)
    table = [views.list_runtimes(desk.fleet), views.list_queued(desk.fleet)]
    waiting = desk.fleet.outgoing()
    desk.fleet.sent(waiting[0].number)
    with pytest.raises(FleetError, match="in use"):
        FleetList(path)
    desk.fleet.close()
    again = Desk(path)
    assert [views.list_runtimes(again.fleet), views.list_queued(again.fleet)] == table
    assert again.fleet.outgoing() == waiting[1:]  # what the broker did not get
    again.exited("a", node)
    assert again.status("b") == "A"
    again.fleet.close()


def test_lists_that_cannot_be_used(tmp_path: Path) -> None:
    newer, other, garbage = tmp_path / "newer.db", tmp_path / "other.db", tmp_path / "garbage.db"
    FleetList(newer).close()
    with closing(sqlite3.connect(newer)) as database:
        database.execute("PRAGMA user_version = 9")
    with closing(sqlite3.connect(other)) as database:
        database.execute("CREATE TABLE things (name TEXT)")
    garbage.write_bytes(b"no database at all, but bytes" * 100)
    for path, words in (
        (newer, "has version 9; this wasmsr reads up to 2"),
        (other, "is a database, but no list of a fleet"),
        (garbage, "cannot be used"),
        (tmp_path, "cannot be opened"),
    ):
        with pytest.raises(FleetError, match=words):
            FleetList(path)


def test_look_up(desk: Desk) -> None:
    for name in ("alpha", "alpine", "beta"):
        desk.runtime(name, uuid=str(uuid.uuid5(uuid.NAMESPACE_DNS, name)))
    beta = str(uuid.uuid5(uuid.NAMESPACE_DNS, "beta"))
    assert views.show_runtime(desk.fleet, "beta")["uuid"] == beta
    assert views.show_runtime(desk.fleet, beta[-4:])["name"] == "beta"
    with pytest.raises(FleetError, match="no runtime 'alpho'") as unknown:
        views.show_runtime(desk.fleet, "alpho")
    assert unknown.value.hint == "there are alpha, alpine, beta"
    desk.runtime("beta", uuid="another")
    with pytest.raises(FleetError, match="more than one runtime"):
        views.show_runtime(desk.fleet, "beta")
    with pytest.raises(FleetError, match="no module ''"):
        views.show_module(desk.fleet, "")
    gone = FleetMessage("delete", {"type": "runtime", "uuid": beta})
    desk.tell(f"realm/proc/reg/{beta}", gone)
    assert views.show_runtime(desk.fleet, beta)["status"] == "D"
    assert views.look_up(desk.fleet, RuntimeRow, "beta").uuid == "another"


def test_a_thousand_modules(desk: Desk) -> None:
    node = desk.runtime("node", 600)
    modules = [{"type": "module", "file": "x.wasm", "name": f"n{one}"} for one in range(1000)]
    batch = FleetMessage("create_batch", {"modules": modules, "parent": node})
    assert len(desk.tell("realm/proc/control", batch)) == 600
    assert views.list_modules(desk.fleet)["count"] == 600
    (runtime,) = views.list_runtimes(desk.fleet)["results"]
    assert len(runtime["children"]) == 600 and len(runtime["queued"]) == 400
    states = {one.status for one in desk.fleet.modules_of(node, *FleetState)}
    assert states == {FleetState.ALIVE, FleetState.QUEUED}
