"""Callers that send garbage, hold connections, say nothing or read nothing: others are served."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import grpc  # type: ignore[import-untyped]
import psutil
import pytest

from tests.node.programs import FLOOD, counting
from wasmsr import Node
from wasmsr.errors import MalformedError
from wasmsr.interp.modules.module import assemble
from wasmsr.node.failures import NodeAway, NodeError, SubmissionRefused
from wasmsr.node.supervision.node_rules import NodeRules
from wasmsr.node.supervision.node_supervisor import NodeSupervisor
from wasmsr.rpc import channel
from wasmsr.rpc.control import control_messages as messages
from wasmsr.rpc.control.control_server import FOLLOWERS, ControlServer
from wasmsr.rpc.gate import Gate

GROWTH = 64 << 20
"""Bytes of memory by which hostile callers may make a node larger."""


@pytest.fixture
def port() -> int:
    with socket.socket() as trial:
        trial.bind(("127.0.0.1", 0))
        found: int = trial.getsockname()[1]
    return found


@pytest.fixture
def node(tmp_path: Path, port: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    monkeypatch.setattr(channel, "STALL_SECONDS", 1.0)
    supervisor = NodeSupervisor(tmp_path / "state", NodeRules(ring=1 << 20))
    admit = lambda peer, certificate, token: "somebody"  # noqa: E731
    server = ControlServer(supervisor, f"127.0.0.1:{port}", "0", admit)
    with Node(f"127.0.0.1:{port}", seconds=20) as client:
        client.info()
        yield client
    server.stop(0)
    supervisor.stop(save=False, seconds=5)


def raw(address: str, name: str, requests: Iterator[bytes]) -> Any:
    """Call a method with bytes as they are."""
    return grpc.insecure_channel(address).stream_stream(f"/{messages.CONTROL}/{name}")(requests)


def test_garbage_and_other_protocols(node: Node, port: int) -> None:
    for data in (
        os.urandom(4096),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\n",
        b"",
    ):
        with socket.create_connection(("127.0.0.1", port), 5) as end:
            end.sendall(data)
            end.shutdown(socket.SHUT_WR)
    for name in messages.methods(messages.CONTROL):
        for data in (b"\xff" * 100, b"\x0a\xff\xff\xff\xff\x0f", b""):
            call = raw(node.address, name, iter([data]))
            try:
                list(call)
            except grpc.RpcError as error:
                known = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND)
                assert error.code() in known, (name, error)
        with pytest.raises(grpc.RpcError):
            list(raw(node.address, name, iter([])))
    assert node.ps() == []


def test_bombs_in_a_submission(node: Node) -> None:
    begin = messages.SubmitBegin

    def submit(*parts: Any) -> None:
        list(node._stream("Submit", parts, 20))

    request = messages.SubmitRequest
    for wrong in ("[1]", "nothing", "[" * 100_000, '{"args": ' + "[" * 50_000, '{"env": 5}'):
        with pytest.raises(NodeError):
            submit(request(begin=begin(spec=wrong)), request(piece=counting(1)))
    with pytest.raises(SubmissionRefused, match="more than"):
        submit(request(begin=begin(spec=" " * 300_000)))
    with pytest.raises(SubmissionRefused, match="no module"):
        submit(request(begin=begin(digest="../../etc/passwd")))
    with pytest.raises(SubmissionRefused, match="apart"):
        submit(request(begin=begin(every=float("nan"))))
    # A module that says it has 4 billion functions, in a few bytes.
    with pytest.raises(MalformedError):
        submit(
            request(begin=begin()),
            request(piece=b"\0asm\1\0\0\0\x01\x05\xff\xff\xff\xff\x0f"),
        )


def test_a_submission_that_never_ends(node: Node) -> None:
    held = threading.Event()

    def slowly() -> Iterator[bytes]:
        yield messages.SubmitRequest(begin=messages.SubmitBegin()).SerializeToString()
        held.wait(20)

    call = raw(node.address, "Submit", slowly())
    with pytest.raises(grpc.RpcError):
        list(call)  # the node ends it, after `channel.STALL_SECONDS`
    held.set()
    assert node.ps() == []


@pytest.fixture
def process(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A node in a process of its own, on a socket in the folder."""
    words = [sys.executable, "-m", "tests.node.campaign_node", str(tmp_path), "5", "0"]
    with open(tmp_path / "log", "wb") as log:
        made = subprocess.Popen(words, stderr=log, cwd=Path(__file__).parents[2])
    yield made
    made.terminate()
    assert made.wait(30) == 0


def test_callers_that_hold_what_they_get(process: subprocess.Popen[bytes], tmp_path: Path) -> None:
    """Silent connections, and readers that do not read."""
    node = Node(f"unix:{tmp_path}/control", seconds=20)
    for _ in range(200):
        try:
            node.info()
            break
        except NodeAway:
            time.sleep(0.1)
    flood = node.submit(assemble(FLOOD.encode()))
    before = psutil.Process(process.pid).memory_info().rss
    idle = [socket.socket(socket.AF_UNIX) for _ in range(1000)]
    for end in idle:
        end.settimeout(5)
        end.connect(str(tmp_path / "control"))
    readers = [node.logs(flood.program, follow=True) for _ in range(FOLLOWERS - 2)]
    for reader in readers:
        next(reader)  # one piece of very many
    began = time.monotonic()
    for _ in range(20):
        assert node.ps()[0].program == flood.program
    assert time.monotonic() - began < 60
    more = [node.logs(flood.program, follow=True) for _ in range(4)]
    with pytest.raises(NodeError, match="too many calls"):
        for reader in more:
            next(reader)
    assert node.info()["programs"] == {"running": 1}, "questions have places of their own"
    assert psutil.Process(process.pid).memory_info().rss - before < GROWTH
    for reader in (*readers, *more):
        reader.close()
    for end in idle:
        end.close()
    assert node.kill(flood.program).standing == "killed"


def limited(**options: int) -> list[tuple[str, int]]:
    """The options of a server with others for some."""
    names = {f"grpc.{name}": value for name, value in options.items()}
    return [(name, names.get(name, value)) for name, value in channel.SERVER]


@pytest.fixture
def address(tmp_path: Path, port: int) -> Iterator[str]:
    supervisor = NodeSupervisor(tmp_path / "state", NodeRules())
    admit = lambda peer, certificate, token: "somebody"  # noqa: E731
    server = ControlServer(supervisor, f"127.0.0.1:{port}", "0", admit)
    yield f"127.0.0.1:{port}"
    server.stop(0)
    supervisor.stop(save=False, seconds=5)


class Limited:
    """The server's options, in place before the fixture `address` starts it."""

    @pytest.fixture(autouse=True)
    def _options(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(channel, "SERVER", limited(**self.options))

    options: dict[str, int]


class TestSilentConnections(Limited):
    """A connection on which nothing comes ends."""

    options = {"server_handshake_timeout_ms": 500}  # noqa: RUF012

    def test_it_is_closed(self, address: str, port: int) -> None:
        with socket.create_connection(("127.0.0.1", port), 20) as end:
            while end.recv(1000):  # the server's own settings come first
                pass
        with Node(address, seconds=20) as node:
            assert node.ps() == []


@pytest.mark.skipif(
    tuple(map(int, grpc.__version__.split(".")[:2])) < (1, 65), reason="grpcio has no such limit"
)
class TestManyConnections(Limited):
    """An address has so many connections, and no more."""

    options = {"max_allowed_incoming_connections": 3}  # noqa: RUF012

    def test_one_more_is_closed(self, address: str, port: int) -> None:
        ends = [socket.create_connection(("127.0.0.1", port), 20) for _ in range(3)]
        time.sleep(0.2)
        with socket.create_connection(("127.0.0.1", port), 20) as more:
            assert more.recv(1000) == b""
        for end in ends:
            end.close()
        assert asked_again(address) == []


def asked_again(address: str) -> list[Any]:
    """What `ps` says as soon as the node has noticed that others have closed their connections."""
    deadline = time.monotonic() + 20
    while True:
        try:
            with Node(address, seconds=20) as node:
                return node.ps()
        except NodeAway:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def test_health(node: Node, port: int) -> None:
    assert node.health() == "serving"
    with Node("127.0.0.1:1", seconds=5) as nobody, pytest.raises(NodeAway):
        nobody.health(2.0)


def test_a_node_that_is_gone(node: Node) -> None:
    with Node("127.0.0.1:1", seconds=5) as nobody, pytest.raises(NodeAway):
        nobody.ps()


def test_a_refusal_that_quotes_a_caller_is_short(node: Node) -> None:
    with pytest.raises(NodeError) as caught:
        list(node._stream("Migrate", [messages.MigrateRequest(program="", to="[" * 9000)], 20))
    assert len(caught.value.message) <= 1000
    program = node.submit(counting(3, 1000))
    with pytest.raises(NodeError, match=r"\[\[\[") as caught:
        request = messages.MigrateRequest(program=program.program, to="[" * 9000)
        list(node._stream("Migrate", [request], 20))
    assert len(caught.value.message) <= 1000


def test_a_caller_that_takes_nothing_of_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is ended, and with it the file that is kept for it."""
    monkeypatch.setattr(channel, "STALL_SECONDS", 0.1)
    gate, cancelled, closed = Gate({}), threading.Event(), []

    def file() -> Iterator[bytes]:
        try:
            yield b"first"
            yield b"second"
        finally:
            closed.append("the file")

    replies = gate.send(file(), SimpleNamespace(cancel=cancelled.set))
    assert next(replies) == b"first"
    assert cancelled.wait(30)
    replies.close()
    assert closed == ["the file"]
    monkeypatch.setattr(channel, "STALL_SECONDS", 60)
    late = threading.Event()
    quick = gate.send(file(), SimpleNamespace(cancel=late.set))
    assert list(quick) == [b"first", b"second"]
    assert not late.is_set() and not gate._waiting, "nobody waits for it any more"
    gate.close()
