"""`wasmsr fleet`, with an orchestrator of ours and devices as the Silverline tools have them."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("jsonschema")

from tests.mqtt.broker import Peer, TestBroker, free_port, needs_broker
from tests.mqtt.served import Orchestrator, until

pytestmark = needs_broker


class Device:
    """A device that runs what it is told: a file that has `loop` in its name does not end."""

    def __init__(self, name: str, port: int, most: int = 4, **more: Any) -> None:
        self.uuid = str(uuid.uuid4())
        self.created: list[dict[str, Any]] = []
        self._control = f"realm/proc/control/{self.uuid}"
        register = f"realm/proc/reg/{self.uuid}"
        self._peer = Peer(port, register, self._control)
        data = {"type": "runtime", "uuid": self.uuid, "name": name, "runtime_type": "linux"}
        self._peer.say(
            register, "create", data | more | {"max_nmodules": most, "apis": ["wasm", "wasi"]}
        )
        self._peer.hear(None)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._ended.is_set():
            found = self._peer.next(0.1)
            if found is None:
                continue
            _, message = found
            if message.get("action") == "create":
                self.created.append(message["data"])
                if "repeat" in message["data"]["args"]:
                    self.measured(message["data"])
                if "loop" not in message["data"]["file"]:
                    self.end(message["data"]["uuid"])
            elif message.get("action") == "delete":
                self.end(message["data"]["uuid"])

    def measured(self, data: dict[str, Any]) -> None:
        """Publish records: each run took as many microseconds as its number."""
        runs = range(1, data["args"]["repeat"] + 1)
        payload = b"".join(struct.pack("<3I", one, one * 2, 0) for one in runs)
        self._peer.say_raw(f"realm/proc/profile/benchmarking/{self.uuid}/{data['uuid']}", payload)

    def print(self, module: str, text: bytes) -> None:
        self._peer.say_raw(f"realm/proc/stdio/{module}", text)

    def publish(self, topic: str, payload: bytes) -> None:
        self._peer.say_raw(topic, payload)

    def end(self, module: str) -> None:
        data = {"type": "module", "uuid": module, "status": "exited"}
        self._peer.say(self._control, "exited", data)

    def stop(self) -> None:
        self._ended.set()
        self._thread.join()
        self._peer.stop()


class Fleet:
    """The commands."""

    def __init__(self, folder: Path, broker: TestBroker, orchestrator: Orchestrator) -> None:
        self._folder = folder
        self._options = ["--mqtt", f"127.0.0.1:{broker.port}", "--http", str(orchestrator.http)]

    def begin(self, command: str, *words: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "wasmsr", "fleet", command, *self._options, *words],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=self._folder,
        )

    def __call__(self, command: str, *words: str, code: int = 0) -> str:
        process = self.begin(command, *words)
        out, err = process.communicate(timeout=60)
        assert process.returncode == code, err
        assert "Traceback" not in err
        return out if code == 0 else err

    def json(self, command: str, *words: str) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self(command, "--json", *words).splitlines()]


@pytest.fixture
def fleet(tmp_path: Path, broker: TestBroker, orchestrator: Orchestrator) -> Fleet:
    return Fleet(tmp_path, broker, orchestrator)


@pytest.fixture
def devices(broker: TestBroker, orchestrator: Orchestrator) -> Iterator[list[Device]]:
    found = [Device("kitchen", broker.port, 2), Device("attic", broker.port)]
    yield found
    for one in found:
        one.stop()


def test_a_day_with_a_fleet(fleet: Fleet, devices: list[Device], orchestrator: Any) -> None:
    assert [one["name"] for one in fleet.json("nodes")] == ["attic", "kitchen"]
    first = fleet(
        "submit", "--node", "kitchen", "--env", "A=1", "--dir", ".", "wasm/loop.wasm", "--far", "x"
    ).strip()
    until(lambda: devices[0].created)
    (created,) = devices[0].created
    assert created["uuid"] == first and created["name"] == "loop"
    assert created["args"] == {"argv": ["--far", "x"], "env": ["A=1"], "dirs": ["."]}
    many = fleet("runall", "--copies", "2", "--name", "all", "wasm/loop.wasm").split()
    assert len(many) == 4
    rows = fleet.json("ps")
    assert sorted(one["state"] for one in rows) == ["queued"] + ["running"] * 4
    assert "kitchen" in fleet("ps") and "attic" in fleet("nodes")
    fleet("stop", first[-6:])
    until(lambda: len(fleet.json("ps")) == 4)
    assert {one["state"] for one in fleet.json("ps")} == {"running"}
    fleet("kill", *many)
    until(lambda: not fleet.json("ps"))


def test_logs_are_what_the_module_writes(
    fleet: Fleet, devices: list[Device], orchestrator: Orchestrator
) -> None:
    one = fleet("submit", "--node", "attic", "wasm/loop.wasm").strip()
    follower = fleet.begin("logs", one)
    assert follower.stdout is not None
    ended = threading.Event()

    def write() -> None:
        while not ended.wait(0.1):
            devices[1].print(one, b"\x1b[1mbytes\n")

    writer = threading.Thread(target=write)
    writer.start()
    try:
        assert follower.stdout.readline() == "\x1b[1mbytes\n"
    finally:
        ended.set()
        writer.join()
    devices[1].end(one)
    follower.communicate(timeout=60)
    assert follower.returncode == 0


def test_what_cannot_be_done(fleet: Fleet, devices: list[Device], tmp_path: Path) -> None:
    for words, code, sentence in (
        (["submit", "--node", "kitchn", "x.wasm"], 2, "there are kitchen, attic"),
        (["stop", "nothing"], 2, "there is no module 'nothing'"),
        (["submit", "--env", "A", "x.wasm"], 2, "not of the form NAME=VALUE"),
        (["submit"], 2, "Missing argument 'FILE'"),
        (["submit", "--limit", "nan", "x.wasm"], 1, "invalid JSON"),
        (["submit", "--limit", "-1", "x.wasm"], 1, "invalid args.limit"),
        (["submit", "--name", "x" * 300, "x.wasm"], 1, "invalid name"),
        (["nodes", "--watch", "nan"], 2, "at most a day"),
        (["nodes", "--config", "none.json"], 1, "No such file"),
        (["nodes", "--http", str(free_port())], 1, "no orchestrator answers"),
    ):
        command, *rest = words
        assert sentence in fleet(command, *rest, code=code), words


@pytest.mark.full
def test_a_broker_that_is_away(fleet: Fleet) -> None:
    """A command waits ten seconds for it."""
    said = fleet("submit", "--mqtt", f"127.0.0.1:{free_port()}", "x.wasm", code=1)
    assert "no broker at" in said


def test_no_device(fleet: Fleet) -> None:
    assert fleet.json("nodes") == []
    assert "no device is there" in fleet("runall", "x.wasm", code=1)
    said = fleet("submit", "x.wasm", code=1)
    assert "the orchestrator refuses: no Runtime has these APIs: " in said
    assert said.rstrip().endswith(": wasm wasi")


def test_versions(fleet: Fleet, devices: list[Device], broker: TestBroker) -> None:
    others = [
        Device("tidy", broker.port, metadata={"version": "wasmsr 0.1.0"}),
        Device("strange", broker.port, metadata={"version": ["1"], "host": "h"}),
    ]
    try:
        said = {one["name"]: one["version"] for one in fleet.json("version")}
        assert said == {"kitchen": "-", "attic": "-", "tidy": "wasmsr 0.1.0", "strange": "-"}
        assert "wasmsr 0.1.0" in fleet("version")
    finally:
        for one in others:
            one.stop()


def test_measurements(fleet: Fleet, devices: list[Device], tmp_path: Path) -> None:
    words = ["--engine", "one", "--engine", "two", "--repeat", "3", "--argv", "a 'b c'"]
    words += ["--shuffle", "--seed", "1", "--collect", "data"]
    pyarrow = pytest.importorskip("pyarrow.parquet", reason="needs pyarrow")
    fleet("bench", *words, "--table", "all.parquet", "x/fib.wasm", "x/gcd.wasm")
    files = sorted((tmp_path / "data").iterdir())
    found = [json.loads(path.read_text()) for path in files]
    assert len(found) == 2 * 2 * 2
    assert {(one["name"], one["device"]) for one in found} == {
        (f"{name}.{engine}", device)
        for name in ("fib", "gcd")
        for engine in ("one", "two")
        for device in ("kitchen", "attic")
    }
    assert all(one["records"] == {"wall": [1, 2, 3], "user": [2, 4, 6], "system": [0] * 3}
               for one in found)  # fmt: skip
    assert found[0]["args"]["argv"] == ["a", "b c"]
    table = pyarrow.read_table(tmp_path / "all.parquet").to_pydict()
    assert len(table["wall"]) == 24 and set(table["engine"]) == {"one", "two"}


def test_records_that_are_none(fleet: Fleet, devices: list[Device], tmp_path: Path) -> None:
    collector = fleet.begin("collect", "data")
    assert collector.stderr is not None
    assert collector.stderr.readline() == "wasmsr: collecting\n"
    one = devices[0]
    one.publish("realm/proc/profile/benchmarking/x/../../y", b"123456789012")
    one.publish(f"realm/proc/profile/benchmarking/{one.uuid}/..", b"123456789012")
    one.publish(f"realm/proc/profile/benchmarking/{one.uuid}/short", b"1")
    one.publish(f"realm/proc/profile/strange/{one.uuid}/m", b"1234")
    until(lambda: bool(list((tmp_path / "data").glob("*.json"))))
    (kept,) = (tmp_path / "data").glob("*")
    assert kept.name == "...benchmarking.json"
    collector.send_signal(2)
    _, said = collector.communicate(timeout=60)
    assert collector.returncode == 130
    assert not list(tmp_path.glob("*.json"))
    assert "Traceback" not in said


def test_words_of_bench(fleet: Fleet, devices: list[Device], tmp_path: Path) -> None:
    (tmp_path / "args.json").write_text("[1]")
    (tmp_path / "wasm" / "common").mkdir(parents=True)
    (tmp_path / "wasm" / "a.wasm").touch()
    (tmp_path / "wasm" / "common" / "b.wasm").touch()
    done = subprocess.run([sys.executable, "-m", "wasmsr", "fleet", "index", "wasm"],
                          capture_output=True, text=True, cwd=tmp_path)  # fmt: skip
    assert done.stdout == "wasm/a.wasm\n"
    for words, code, sentence in (
        (["--engine", "x", "--argfile", "args.json", "f"], 1, "no list of lists of text"),
        (["--engine", "x", "--argfile", "args.json", "--argv", "a", "f"], 2, "exclude each other"),
        (["--engine", "x", "--table", "t", "f"], 2, "--table needs --collect"),
        (["f"], 2, "Missing option '--engine'"),
        (["--engine", "x", "--node", "none", "f"], 2, "there is no runtime 'none'"),
    ):
        assert sentence in fleet("bench", *words, code=code)
