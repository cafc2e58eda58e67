"""`wasmsr node --mqtt`: a node as a device of a fleet, under our orchestrator and a real broker."""

from __future__ import annotations

import contextlib
import os
import queue
import signal
import subprocess
import sys
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import wasmtime

from tests.channels.host import ECHO
from tests.mqtt.broker import SECONDS, Peer, TestBroker, free_port, needs_broker
from tests.mqtt.served import Orchestrator, until

pytestmark = needs_broker

WASI = """
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (memory (export "memory") 1)"""
MODULES = {
    "exit5": f'(module {WASI} (func (export "_start") (call $exit (i32.const 5))))',
    "hello": f"""(module {WASI} (data (i32.const 16) "hello\\n")
      (func (export "_start") (i32.store (i32.const 0) (i32.const 16))
        (i32.store (i32.const 4) (i32.const 6))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))))""",
    "trap": f'(module {WASI} (func (export "_start") unreachable))',
    "loop": f'(module {WASI} (func (export "_start") (loop $again (br $again))))',
    "cat": f"""(module {WASI} (func (export "_start")
      (i32.store (i32.const 0) (i32.const 64)) (loop $again
        (i32.store (i32.const 4) (i32.const 100))
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (i32.store (i32.const 4) (i32.load (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (br_if $again (i32.ne (i32.load8_u (i32.const 64)) (i32.const 113))))))""",
    "echo": ECHO,
}


class Device:
    """The command."""

    def __init__(self, folder: Path, port: int, *options: str) -> None:
        self.folder, self.port, self.options = folder, port, options
        for name, source in MODULES.items():
            (folder / f"{name}.wasm").write_bytes(bytes(wasmtime.wat2wasm(source)))
        self.log = folder / "node.log"
        self.start()

    def start(self) -> None:
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "wasmsr", "node", "--mqtt", f"127.0.0.1:{self.port}",
                 "--listen", f"127.0.0.1:{free_port()}", "--name", "kitchen",
                 "--state-dir", str(self.folder / "state"), "--stop-seconds", "5", *self.options],
                stderr=log, cwd=self.folder,
            )  # fmt: skip

    def workers(self) -> list[int]:
        """Return the processes of its modules."""
        found = []
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                fields = (entry / "stat").read_text().rpartition(")")[2].split()
                if fields[0] != "Z" and int(fields[1]) == self.process.pid:
                    words = (entry / "cmdline").read_text()
                    if "warm_parent" in words:
                        found.append(int(entry.name))
        return found

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(SECONDS)

    @staticmethod
    def runs(process: int) -> bool:
        """Whether a process runs. One that has ended may stay in the table of processes: it lost
        its parent, and process 1 of a container need not wait for others."""
        try:
            return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except OSError:
            return False

    def stop(self) -> int:
        self.process.terminate()
        return self.process.wait(SECONDS)


@pytest.fixture
def device(tmp_path: Path, broker: TestBroker, orchestrator: Orchestrator) -> Iterator[Device]:
    folder = tmp_path / "device"
    folder.mkdir()
    made = Device(folder, broker.port)
    until(lambda: orchestrator.ask("runtimes/")["count"] == 1)
    yield made
    if made.process.poll() is None:
        made.stop()
    print(made.log.read_text())  # shown if the test fails


@pytest.fixture
def peer(broker: TestBroker) -> Iterator[Peer]:
    made = Peer(broker.port, "realm/proc/control/+")
    yield made
    made.stop()


class Listener:
    """Hears raw messages of a topic."""

    def __init__(self, port: int, *topics: str) -> None:
        self.heard: queue.Queue[tuple[str, bytes]] = queue.Queue()
        self._peer = Peer(port, *topics)
        self._peer._take = lambda client, data, message: self.heard.put(  # type: ignore[method-assign]
            (message.topic, message.payload)
        )
        self._peer._client.on_message = self._peer._take

    def until(self, wanted: bytes) -> bytes:
        """Return all that came, up to what is wanted."""
        found = b""
        while wanted not in found:
            found += self.heard.get(timeout=SECONDS)[1]
        return found

    def stop(self) -> None:
        self._peer.stop()


@pytest.fixture
def listener(broker: TestBroker) -> Iterator[Listener]:
    made = Listener(broker.port, "realm/proc/stdio/+", "out", "realm/proc/profile/#")
    yield made
    made.stop()


def create(peer: Peer, file: str, **more: Any) -> str:
    """Ask for a module; return its UUID."""
    name = str(uuid.uuid4())
    data = {"type": "module", "uuid": name, "name": file, "file": f"{file}.wasm", **more}
    peer.say("realm/proc/control", "create", data)
    return name


def exited(peer: Peer, name: str) -> dict[str, Any]:
    """Wait for the end of a module, and return what is said of it."""
    _, message = peer.hear("exited", lambda one: one["data"]["uuid"] == name)
    data: dict[str, Any] = message["data"]
    return data


def test_modules_run_and_say_how_they_end(device: Device, peer: Peer, listener: Listener) -> None:
    found = {name: create(peer, name) for name in ("hello", "exit5", "trap", "missing")}
    ends = {}
    for _ in found:
        _, message = peer.hear("exited")
        ends[message["data"]["uuid"]] = message["data"]
    expected = {"hello": (0, "exit"), "exit5": (5, "exit"), "trap": (134, "trap")}
    for name, (code, reason) in expected.items():
        end = ends[found[name]]
        assert (end["status"], end["exit_code"], end["reason"]) == ("exited", code, reason)
    assert ends[found["missing"]]["reason"] == "error"
    assert "missing.wasm: No such file" in ends[found["missing"]]["message"]
    assert "unreachable" in ends[found["trap"]]["message"]
    assert listener.until(b"hello\n") == b"hello\n"


@pytest.mark.full
def test_what_is_no_module_gets_the_engines_sentence(device: Device, peer: Peer) -> None:
    (device.folder / "text.wasm").write_text("hello")
    end = exited(peer, create(peer, "text"))
    assert end["reason"] == "error"
    assert "text.wasm is neither" in end["message"]
    (device.folder / "folder.wasm").mkdir()
    assert "is a folder" in exited(peer, create(peer, "folder"))["message"]
    # A program that uses a folder that the policy does not allow.
    end = exited(peer, create(peer, "hello", args={"dirs": ["."]}))
    assert end["reason"] == "error"
    assert "may not have the folder" in end["message"]


def test_standard_input_reaches_the_program(
    device: Device, peer: Peer, listener: Listener, orchestrator: Orchestrator
) -> None:
    name = create(peer, "cat")
    # Nobody says when the device hears its input: until then it is said again.
    said, heard = 0, 0
    while heard <= said:  # what we have said ourselves comes, too
        peer.say_raw(f"realm/proc/stdio/{name}", b"one")
        said += 1
        assert said < SECONDS
        with contextlib.suppress(queue.Empty):
            while heard <= said:
                heard += listener.heard.get(timeout=1)[1].count(b"one")
    peer.say_raw(f"realm/proc/stdio/{name}", b"q")
    assert exited(peer, name)["exit_code"] == 0


@pytest.mark.full
def test_stop_ends_a_loop_at_once(device: Device, peer: Peer, orchestrator: Orchestrator) -> None:
    name = create(peer, "loop")
    until(lambda: len(device.workers()) >= 1)
    until(lambda: "standing=running" in device.log.read_text())
    peer.say("realm/proc/control", "delete", {"type": "module", "uuid": name})
    end = exited(peer, name)
    assert (end["reason"], end["message"]) == ("killed", "stopped by request")
    until(lambda: orchestrator.ask("modules/")["count"] == 0)


@pytest.mark.full
def test_a_killed_device_takes_its_workers_along_and_comes_back(
    device: Device, peer: Peer, orchestrator: Orchestrator
) -> None:
    name = create(peer, "loop")
    until(lambda: "standing=running" in device.log.read_text())
    workers = device.workers()
    device.kill()
    until(lambda: not any(map(device.runs, workers)))
    until(lambda: orchestrator.ask("runtimes/")["count"] == 0)  # by its last will
    device.start()
    until(lambda: orchestrator.ask("runtimes/")["count"] == 1)
    until(lambda: device.log.read_text().count(f"fleet-module uuid={name}") == 2)
    until(lambda: orchestrator.ask(f"modules/{name}/")["status"] == "A")


@pytest.mark.full
def test_a_broker_that_comes_back(
    device: Device, peer: Peer, broker: TestBroker, orchestrator: Orchestrator
) -> None:
    name = create(peer, "loop")
    until(lambda: "standing=running" in device.log.read_text())
    broker.stop()
    until(lambda: "fleet-lost" in device.log.read_text())
    broker.start()
    until(lambda: device.log.read_text().count("fleet-registered") == 2)
    until(lambda: orchestrator.ask(f"modules/{name}/")["status"] == "A")
    assert device.log.read_text().count(f"fleet-module uuid={name}") == 1  # it ran on
    peer.say("realm/proc/control", "delete", {"type": "module", "uuid": name})
    until(lambda: orchestrator.ask("modules/")["count"] == 0)


def test_channels_of_two_modules(device: Device, peer: Peer, listener: Listener) -> None:
    """A message goes from the broker to one module, and from it to another one and the broker."""
    channels = [{"path": "in", "mode": "r", "topic": "mid"}, {"path": "out", "mode": "w",
                 "topic": "out"}]  # fmt: skip
    second = create(peer, "echo", channels=channels)
    channels = [{"path": "in", "mode": "r", "topic": "first"}, {"path": "out", "mode": "w",
                 "topic": "mid"}]  # fmt: skip
    create(peer, "echo", channels=channels)
    found = b""
    while b"hello" not in found:  # until both have opened their channels
        peer.say_raw("first", b"hello")
        with contextlib.suppress(queue.Empty):
            found += listener.heard.get(timeout=0.2)[1]
    peer.say_raw("first", b"end")
    assert b"end" in listener.until(b"end")
    refused = create(
        peer, "echo", channels=[{"path": "x", "mode": "r", "topic": "x"}]
    )  # its channels are refused: it polls in vain and goes on
    for name in (second, refused):
        peer.say("realm/proc/control", "delete", {"type": "module", "uuid": name})
        assert exited(peer, name)["reason"] == "killed"


@pytest.mark.full
def test_a_measurement(device: Device, peer: Peer, listener: Listener) -> None:
    name = create(peer, "hello", args={"repeat": 3, "limit": 60.0, "engine": "wasmsr"})
    assert exited(peer, name)["exit_code"] == 0
    found = b""
    while len(found) < 3 * (6 + 12):
        found += listener.heard.get(timeout=SECONDS)[1]


@pytest.mark.full
def test_limits_and_bad_messages(device: Device, peer: Peer, broker: TestBroker) -> None:
    end = exited(peer, create(peer, "loop", args={"limit": 0.5}))
    assert end["reason"] == "killed"
    assert "limit" in end["message"]
    runtime = next(
        one.partition("runtime=")[2].split()[0]
        for one in device.log.read_text().splitlines()
        if "wasmsr: device" in one
    )
    other = Peer(broker.port)
    for payload in (b"", b"{", b"[]", b'{"action": "create"}', b"\xff" * 100):
        other.say_raw(f"realm/proc/control/{runtime}", payload)
    other.stop()
    until(lambda: device.log.read_text().count("fleet-not-taken") == 5)
    again = Peer(broker.port, "realm/proc/control/+")
    assert exited(again, create(again, "exit5"))["exit_code"] == 5
    again.stop()


@pytest.mark.full
def test_a_stopped_device_is_off_the_list(
    device: Device, peer: Peer, orchestrator: Orchestrator
) -> None:
    name = create(peer, "loop")
    until(lambda: "standing=running" in device.log.read_text())
    workers = device.workers()
    assert device.stop() == 0
    assert not any(map(device.runs, workers))
    assert orchestrator.ask("runtimes/")["count"] == 0
    until(lambda: orchestrator.ask(f"modules/{name}/")["status"] == "K")


@pytest.mark.full
def test_a_frozen_device_is_there_afterwards(device: Device, peer: Peer) -> None:
    device.process.send_signal(signal.SIGSTOP)
    time.sleep(0.5)
    device.process.send_signal(signal.SIGCONT)
    assert exited(peer, create(peer, "exit5"))["exit_code"] == 5


COUNTER = """(module
  (import "env" "ch_open" (func $open (param i32 i32 i32) (result i32)))
  (import "env" "ch_write_msg" (func $write (param i32 i32 i32) (result i32)))
  (import "env" "ch_poll" (func $poll (param i32 i32 i32) (result i32)))
  (memory (export "memory") 1) (data (i32.const 16) "out\\00")
  (func (export "_start") (local $fd i32) (local $count i32)
    (local.set $fd (call $open (i32.const 16) (i32.const 1) (i32.const 0)))
    (loop $again
      (local.set $count (i32.add (local.get $count) (i32.const 1)))
      (i32.store (i32.const 64) (local.get $count))
      (drop (call $write (local.get $fd) (i32.const 64) (i32.const 4)))
      (drop (call $poll (i32.const 0) (i32.const 0) (i32.const 10)))
      (br $again))))"""
"""Publishes numbers, about a hundred a second."""


def number(listener: Listener) -> int:
    while True:
        topic, data = listener.heard.get(timeout=SECONDS)
        if topic == "out":
            return int.from_bytes(data, "little")


@pytest.mark.full
@pytest.mark.parametrize("what", ["worker", "device"])
def test_a_module_goes_on_from_its_snapshot(
    device: Device, peer: Peer, listener: Listener, what: str
) -> None:
    (device.folder / "counter.wasm").write_bytes(bytes(wasmtime.wat2wasm(COUNTER)))
    name = create(peer, "counter", args={"fault_crash": "restore", "snapshot_every": 0.3})
    while number(listener) < 150:
        pass
    workers = device.workers()
    if what == "device":
        device.kill()
        until(lambda: not any(map(device.runs, workers)))
    else:
        record = next((device.folder / "state" / "node" / "programs").glob("*/*"))
        assert record
        for one in workers:
            if "warm" not in Path(f"/proc/{one}/comm").read_text():
                with contextlib.suppress(ProcessLookupError):
                    os.kill(one, signal.SIGKILL)
    if what == "device":
        device.start()
    last = 0
    while True:  # the numbers fall once at most, and not to the beginning
        found = number(listener)
        if found < last:
            assert found > 20
        if what == "device" and device.log.read_text().count("resumed") and found > last > 0:
            break
        if what == "worker" and "resumed" in device.log.read_text() and found > 200:
            break
        last = found
    peer.say("realm/proc/control", "delete", {"type": "module", "uuid": name})


@pytest.mark.full
def test_a_module_that_traps_starts_again_and_can_be_stopped(device: Device, peer: Peer) -> None:
    name = create(peer, "trap", args={"fault_crash": "restart"})
    until(lambda: device.log.read_text().count("ending=trapped") >= 3)
    peer.say("realm/proc/control", "delete", {"type": "module", "uuid": name})
    assert exited(peer, name)["reason"] in ("trap", "killed")
