"""Broker and orchestrator are restarted at each point of a day of a fleet: its list is the same.

    python -m tests.mqtt.test_restarts

restarts each of them at all 20 points; the test takes every fourth.
"""

from __future__ import annotations

import json
import signal
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.mqtt.broker import Peer, TestBroker, needs_broker
from tests.mqtt.served import Orchestrator, until

pytestmark = [needs_broker, pytest.mark.full]
ONE, TWO = "11111111-1111-1111-1111-111111111111", "22222222-2222-2222-2222-222222222222"
KINDS = ("orchestrator", "broker", "both")


def runtime(name: str, most: int) -> tuple[str, str, Any]:
    data = {
        "type": "runtime", "uuid": name, "name": name[:4], "runtime_type": "linux",
        "max_nmodules": most, "apis": ["wasm", "wasi"],
    }  # fmt: skip
    return f"realm/proc/reg/{name}", "create", data


def module(name: str, parent: str | None = None) -> dict[str, Any]:
    data = {"type": "module", "uuid": name, "name": name, "file": "x.wasm"}
    return data if parent is None else data | {"parent": parent}


def create(name: str, parent: str | None = None) -> tuple[str, str, Any]:
    return "realm/proc/control", "create", module(name, parent)


def delete(name: str) -> tuple[str, str, Any]:
    return "realm/proc/control", "delete", {"type": "module", "uuid": name}


def ended(name: str, at: str) -> tuple[str, str, Any]:
    data = {"type": "module", "uuid": name, "status": "exited", "exit_code": 0, "reason": "exit"}
    return f"realm/proc/control/{at}", "exited", data


STEPS = (
    runtime(ONE, 2), runtime(TWO, 1), create("a", ONE), create("b", ONE), create("c", ONE),
    create("d"), ("realm/proc/control", "create_batch", {"modules": [module("e"), module("f")]}),
    ended("a", ONE), delete("b"), ended("b", ONE), delete("f"), create("c", ONE),
    (f"realm/proc/reg/{TWO}", "delete", {"type": "runtime", "uuid": TWO}), create("g", ONE),
    runtime(TWO, 1), ended("d", TWO), delete("c"), create("h", TWO), delete("nobody"),
    ended("c", ONE),
)  # fmt: skip
"""What is said in the day: 20 messages."""
NAMES = "abcdefgh"


def day(folder: Path, kind: str = "", every: int = 1) -> Any:
    """Have a day, and return the list at its end.

    Args:
        folder: An empty folder.
        kind: What is restarted, one of `KINDS`; "" for nothing.
        every: At how many points: at each, or at every n-th.
    """
    (folder / "broker").mkdir()
    broker = TestBroker(folder / "broker")
    orchestrator = Orchestrator(folder, broker.port)
    try:
        orchestrator.until("connected")
        for number, (topic, action, data) in enumerate(STEPS):
            peer = Peer(broker.port)
            peer.say(topic, action, data)
            peer.stop()
            if kind and number % every == 0:
                _restart(kind, broker, orchestrator)
        peer = Peer(broker.port)
        peer.say(*create("last", ONE))
        peer.stop()
        until(lambda: "last" in orchestrator.uuids("queued/") + orchestrator.uuids("modules/"))
        found = [orchestrator.ask(f"modules/{name}/") for name in NAMES]
        return found, [orchestrator.ask(path) for path in ("runtimes/", "modules/", "queued/")]
    finally:
        if orchestrator.process.poll() is None:
            orchestrator.stop(signal.SIGKILL)
        broker.stop()


def _restart(kind: str, broker: TestBroker, orchestrator: Orchestrator) -> None:
    if kind != "broker":
        orchestrator.stop(signal.SIGKILL)
    if kind != "orchestrator":
        broker.stop()
        broker.start()
    if kind != "broker":
        orchestrator.start()
    orchestrator.until("connected")


def test_the_list_is_the_same_after_restarts(tmp_path: Path) -> None:
    found = {}
    for kind in ("", *KINDS[:2]):
        place = tmp_path / (kind or "plain")
        place.mkdir()
        found[kind] = day(place, kind, 4)
    assert found[KINDS[0]] == found[""]
    assert found[KINDS[1]] == found[""]


def main() -> int:
    """Restart each of them at every point, and say what was found."""
    found: dict[str, Any] = {}
    for kind in ("", *KINDS):
        with tempfile.TemporaryDirectory() as folder:
            found[kind] = day(Path(folder), kind)
    wrong = [kind for kind in KINDS if found[kind] != found[""]]
    print(json.dumps({"points": len(STEPS), "restarted": KINDS, "differ": wrong}))
    return 1 if wrong else 0


if __name__ == "__main__":
    raise SystemExit(main())
