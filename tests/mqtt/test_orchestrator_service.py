"""`wasmsr orchestrator` at a real broker, with clients as the Silverline tools are."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.mqtt.broker import SECONDS, Peer, TestBroker, free_port, needs_broker
from tests.mqtt.served import Orchestrator, until
from wasmsr.mqtt.orchestrator_service import ANSWER_SECONDS, OrchestratorService

pytestmark = needs_broker
NODE = "11111111-2222-3333-4444-555555555555"
REG, CONTROL = f"realm/proc/reg/{NODE}", f"realm/proc/control/{NODE}"


def runtime(most: int = 1) -> dict[str, Any]:
    return {
        "type": "runtime", "uuid": NODE, "name": "node", "runtime_type": "linux",
        "max_nmodules": most, "apis": ["wasm", "wasi"],
    }  # fmt: skip


def module(name: str) -> dict[str, Any]:
    return {"type": "module", "uuid": name, "name": name, "file": "x.wasm", "parent": NODE}


def test_a_fleet_of_one(orchestrator: Orchestrator, broker: TestBroker) -> None:
    node = Peer(broker.port, REG, f"{CONTROL}/#", "realm/proc/log/#")
    asked = node.say(REG, "create", runtime())
    topic, answer = node.hear(None)
    assert (topic, answer["object_id"], answer["type"]) == (REG, asked, "resp")
    assert answer["data"]["details"]["ka_interval_sec"] == 60
    client = Peer(broker.port)
    client.say("realm/proc/control", "create", module("one"))
    client.say("realm/proc/control", "create", module("two"))
    topic, message = node.hear("create")
    assert (topic, message["data"]["uuid"]) == (CONTROL, "one")
    until(lambda: orchestrator.uuids("queued/") == ["two"])
    assert orchestrator.uuids("modules/") == ["one"]
    assert orchestrator.ask("runtimes/node/")["children"][0]["file"] == "x.wasm"
    node.say(CONTROL, "exited", {"type": "module", "uuid": "one", "status": "exited"})
    assert node.hear("create")[1]["data"]["uuid"] == "two"
    with pytest.raises(urllib.error.HTTPError) as absent:
        orchestrator.ask("modules/three/")
    assert absent.value.code == 404 and "three" in json.load(absent.value)["error"]
    client.say_raw("realm/proc/control", b"\xff{")
    assert node.hear("error")[1]["data"]["desc"] == "invalid JSON"
    client.say("realm/proc/control", "delete", {"type": "module", "uuid": "two"})
    assert node.hear("delete")[1]["data"] == {"type": "module", "uuid": "two"}
    assert node.nothing()
    assert orchestrator.stop() == 143
    client.stop(), node.stop()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_what_is_said_while_it_is_away(
    orchestrator: Orchestrator, broker: TestBroker, number: int
) -> None:
    node = Peer(broker.port, REG, f"{CONTROL}/#")
    node.say(REG, "create", runtime(2))
    node.hear(None)
    node.say("realm/proc/control", "create", module("one"))
    node.hear("create")
    orchestrator.stop(number)
    again = node.say(REG, "create", runtime(2))
    node.say("realm/proc/control", "create", module("two"))
    # What is said after a thousand keep-alives is kept too: they do not wait.
    alive = {"type": "runtime", "uuid": NODE, "children": []}
    silent = {"object_id": "1", "action": "update", "type": "req", "data": alive}
    node.say_often(f"realm/proc/keepalive/{NODE}", json.dumps(silent).encode(), 1200)
    node.say("realm/proc/control", "create", module("three"))
    orchestrator.start()
    if number == signal.SIGKILL:  # then a message can come twice
        assert node.hear(None, lambda one: one["object_id"] == again)
        _, message = node.hear("create", lambda one: one["data"]["uuid"] != "one")
        assert message["data"]["uuid"] == "two"
    else:
        assert node.hear(None)[1]["object_id"] == again
        assert node.hear("create")[1]["data"]["uuid"] == "two"
    until(lambda: orchestrator.uuids("queued/") == ["three"])
    until(lambda: orchestrator.uuids("modules/") == ["one", "two"])
    node.stop()


def test_a_broker_that_restarts(orchestrator: Orchestrator, broker: TestBroker) -> None:
    node = Peer(broker.port, REG)
    node.say(REG, "create", runtime())
    node.hear(None)
    node.stop()
    broker.stop()
    assert orchestrator.until("lost")["broker"] == f"127.0.0.1:{broker.port}"
    assert orchestrator.uuids("runtimes/") == [NODE]
    broker.start()
    orchestrator.until("connected")
    node = Peer(broker.port, CONTROL)
    node.say("realm/proc/control", "create", module("one"))
    assert node.hear("create")[1]["data"]["uuid"] == "one"
    node.stop()


@pytest.mark.full
def test_passwords(tmp_path: Path) -> None:
    folder = tmp_path / "broker"
    folder.mkdir()
    broker = TestBroker(folder, "me:secret\n")
    try:
        (tmp_path / "password").write_text("secret\n")
        settings = {"mqtt_username": "me", "pwd": "password", "strange": 1}
        (tmp_path / "config.json").write_text(json.dumps(settings))
        good = Orchestrator(tmp_path, broker.port, "--config", "config.json")
        good.until("connected")
        assert good.stop() == 143
        (tmp_path / "password").write_text("wrong\n")
        wrong = Orchestrator(tmp_path, broker.port, "--config", "config.json")
        _, said = wrong.process.communicate(timeout=SECONDS)
        assert wrong.process.returncode == 1
        assert f"the broker at 127.0.0.1:{broker.port} refuses us" in said
        assert "secret" not in said and "wrong" not in said
    finally:
        broker.stop()


def run(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "wasmsr", "orchestrator", *words],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=folder,
    )


def test_what_it_cannot_use(orchestrator: Orchestrator, tmp_path: Path) -> None:
    db, http = str(tmp_path / "fleet.db"), str(free_port())
    (tmp_path / "bad.json").write_text('{"mqtt_port": "1883"}')
    for words, sentence in (
        (["--db", db, "--http", http], "is in use"),
        (["--db", "other.db", "--http", str(orchestrator.http)], "cannot listen on"),
        (["--mqtt", "a:b:c"], "is not of the form"),
        (["--http", "many"], "is not of the form"),
        (["--realm", "a/#"], "invalid topic"),
        (["--config", "bad.json"], "mqtt_port must be a whole number"),
        (["--config", "none.json"], "No such file"),
    ):
        done = run(tmp_path, *words)
        assert done.returncode in (1, 2) and sentence in done.stderr, done.stderr
        assert "Traceback" not in done.stderr


def test_a_second_orchestrator_of_a_realm(
    tmp_path: Path, broker: TestBroker, orchestrator: Orchestrator
) -> None:
    """Two would both give modules to devices: the later one ends."""
    folder = tmp_path / "other"
    folder.mkdir()
    second = Orchestrator(folder, broker.port)
    assert second.process.wait(SECONDS) == 1
    assert second.process.stderr is not None
    assert "the realm realm has an orchestrator" in second.process.stderr.read()
    third = Orchestrator(folder, broker.port, "--realm", "other", "--db", str(folder / "b.db"))
    third.until("connected")
    assert orchestrator.process.poll() is None
    assert third.stop() == 143


def test_only_an_answer_in_time_says_that_there_is_another_orchestrator() -> None:
    """Anybody at the broker can write there; an orchestrator that runs must not end by that."""
    service = object.__new__(OrchestratorService)
    failures, told = list[BaseException](), list[bytes]()
    parts: dict[str, Any] = {
        "_who": "ours", "_place": "realm/proc/orchestrator", "_lost": "",
        "_note": lambda *_, **__: None, "_fail": failures.append,
        "_orchestrator": SimpleNamespace(
            realm=SimpleNamespace(name="realm"), listen=lambda: None
        ),
        "link": SimpleNamespace(
            settings=SimpleNamespace(address="broker"), tell=lambda _, word: told.append(word)
        ),
    }  # fmt: skip
    for name, value in parts.items():
        setattr(service, name, value)
    service._connected()
    for word in (b"here ours", b"hello other", b"", b"\xff"):
        service._meet(word)
    assert not failures and told == [b"hello ours", b"here ours"]
    service._asked -= ANSWER_SECONDS
    service._meet(b"here other")
    assert not failures
    service._connected()
    service._meet(b"here other")
    assert "has an orchestrator" in str(failures[0])
