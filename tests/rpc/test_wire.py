"""gRPC over loopback: the whole protocol; peers that are absent, hostile or of another version."""

from __future__ import annotations

import hashlib
import random
import socket
import threading
import time
from array import array
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import DIGEST, Counter, CounterHost, World
from wasmsr.errors import MigrationError
from wasmsr.interp.modules.ahead import AT_ONCE, CalledFunctions
from wasmsr.migrate.ends.endpoint import Endpoint
from wasmsr.migrate.events import Event
from wasmsr.migrate.files.modules import Modules
from wasmsr.migrate.handover import destination
from wasmsr.migrate.handover.arrivals import ArrivalState
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.peers import Peers
from wasmsr.migrate.protocol import (
    EARLY,
    FILES,
    INPUT,
    LEASE,
    PIECE,
    PROTOCOL,
    Description,
    Ending,
    ModuleName,
    MountName,
    Move,
    Offer,
    OwnershipState,
    PackedFiles,
    PeerLost,
    PeerRefused,
    ProgramLimits,
    Reason,
    Receipt,
    Refusal,
    Report,
    RoundHead,
)
from wasmsr.rpc import client, convert, messages
from wasmsr.rpc import server as rpc_server
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.convert import Malformed
from wasmsr.rpc.server import Server
from wasmsr.rpc.session import METADATA
from wasmsr.runspec.address import Address
from wasmsr.snapshot.encoding.container import Header

import grpc  # isort: skip

MOVE = Move(b"p" * 16, 2, b"a" * 16)
KEY = b"the key of these tests"


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        port: int = one.getsockname()[1]
        return port


class Served:
    """A node that is served, and a peer that talks to it."""

    def __init__(self, folder: Path) -> None:
        self.address = Address("127.0.0.1", free_port())
        self.world = World()
        self.host = CounterHost(self.world, "served")
        self.events: list[Event] = []
        self.peer = RemotePeer(self.address, b"n" * 16, KEY)
        self.node = Endpoint(
            Journal(folder / "journal"),
            Modules(folder / "modules"),
            self.host,
            Peers(self.peer),
            self.events.append,
            every=1.0,
        )
        self.server = Server(self.node.answers, self.address, "1.2.3", KEY)

    def offer(self, counter: Counter) -> Offer:
        return Offer(b"n" * 16, MOVE, counter.describe())

    def send(self, counter: Counter) -> client._Sending:
        """Everything up to the transfer's beginning."""
        answer = self.peer.prepare(self.offer(counter))
        for digest in answer.missing:
            self.peer.upload(counter.module(digest), digest)
        sending = self.peer.transfer(MOVE)
        sending.begin(RoundHead(1, (1,), last=True))
        return sending

    def call(self, name: str, request: bytes | list[bytes], service: str = messages.SERVICE) -> Any:
        """Calls a method with raw bytes, as one who has the key."""
        path = f"/{service}/{name}"
        call = self.peer._meet().call(path)
        proof = [(METADATA, call.metadata)]
        with grpc.insecure_channel(str(self.address)) as channel:
            if isinstance(request, bytes):
                sealed = call.seal(request)
                return call.open(channel.unary_unary(path)(sealed, timeout=30, metadata=proof))
            sent = (call.seal(one) for one in request)
            if name == "Transfer":
                replies = channel.stream_stream(path)(sent, timeout=30, metadata=proof)
                return [call.open(reply) for reply in replies]
            return call.open(channel.stream_unary(path)(sent, timeout=30, metadata=proof))

    def close(self) -> None:
        self.server.stop()
        self.peer.close()
        self.node.journal.close()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def test_a_move_over_the_wire(served: Served) -> None:
    counter = Counter(World(), "here", number=5, program=MOVE.program, size=20 * PIECE)
    sending = served.send(counter)
    pieces = [bytes(piece) for piece in counter.pieces()]
    data = b"".join(pieces)
    for start in range(0, len(data), PIECE):
        sending.send(data[start : start + PIECE])
    assert served.peer.status(MOVE).standing is OwnershipState.RECEIVING
    receipt = Receipt(len(data), hashlib.sha256(data).digest())
    sending.finish(receipt)
    assert sending.ready() == receipt
    assert served.peer.status(MOVE) == Report(OwnershipState.READY, 2, MOVE.attempt)
    assert not served.world.running
    assert served.peer.commit(MOVE, 0.1).standing is OwnershipState.OWNED
    assert served.world.running == {MOVE.program: "served"}
    assert served.peer.commit(MOVE, 0.1).standing is OwnershipState.OWNED
    assert served.peer.abort(MOVE) is OwnershipState.OWNED
    assert served.node.destination.uploads.modules.get(counter.describe().modules[0].digest)


@pytest.mark.parametrize("joins", [True, False])
def test_small_parts_go_in_one_message(
    served: Served, joins: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """To an end that does not take them so, each goes by itself."""
    counter = Counter(World(), "here", number=5, program=MOVE.program, size=3000)
    seen: list[Any] = []
    parts = rpc_server._parts

    def noted(message: Any) -> Any:
        seen.append(message)
        return parts(message)

    monkeypatch.setattr(rpc_server, "_parts", noted)
    if not joins:
        monkeypatch.setattr(destination, "ABILITIES", (INPUT, LEASE, EARLY))
    sending = served.send(counter)
    data = b"".join(bytes(piece) for piece in counter.pieces())
    for start in range(0, len(data), 1000):
        sending.send(data[start : start + 1000])
    receipt = Receipt(len(data), hashlib.sha256(data).digest())
    sending.finish(receipt)
    assert sending.ready() == receipt
    assert len(seen) == (1 if joins else 2 + -(-len(data) // 1000))


def test_called_functions_over_the_wire(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[CalledFunctions] = []
    monkeypatch.setattr(Reception, "called", lambda self, called: seen.append(called))
    counter = Counter(World(), "here", program=MOVE.program)
    said = [
        CalledFunctions(DIGEST, True, False, False, array("I", range(5, 1000))),
        CalledFunctions(DIGEST, False, True, True, array("I", (0, 0xFFFFFFFF))),
    ]
    digests = served.peer.prepare(served.offer(counter)).missing
    for digest in digests:
        served.peer.upload(counter.module(digest), digest)
    sending = served.peer.transfer(MOVE)
    for one in said:
        sending.called(one)
    sending.begin(RoundHead(1, (1,)))
    sending.end(1)
    assert seen == said
    sending.cancel()
    many = messages.Called(module=DIGEST, functions=range(AT_ONCE + 1))
    for bad in (many, messages.Called(module=b"x", functions=[1])):
        with pytest.raises(convert.Malformed):
            convert.called_in(bad)


def test_joined_parts_that_cannot_be(served: Served) -> None:
    counter = Counter(World(), "here", program=MOVE.program)
    part = messages.TransferRequest(round_end=1)
    begin = messages.TransferRequest(begin=messages.TransferBegin(move=convert.move_out(MOVE)))
    for bad in (
        messages.TransferRequest(round_end=1, joined=[part]),
        messages.TransferRequest(joined=[messages.TransferRequest(joined=[part])]),
        messages.TransferRequest(joined=[messages.TransferRequest()]),
        messages.TransferRequest(joined=[begin]),
    ):
        for digest in served.peer.prepare(served.offer(counter)).missing:
            served.peer.upload(counter.module(digest), digest)
        with pytest.raises(grpc.RpcError) as caught:
            served.call("Transfer", [begin.SerializeToString(), bad.SerializeToString()])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_messages_of_an_end_that_has_nothing_to_do_with_the_program(served: Served) -> None:
    """Whoever has the key can say something; but about a program only its own ends are heard."""
    counter = Counter(World(), "here", program=MOVE.program, number=5)
    sending = served.send(counter)
    data = b"".join(bytes(piece) for piece in counter.pieces())
    other = RemotePeer(served.address, b"m" * 16, KEY)
    asks: list[Callable[[], object]] = [
        lambda: other.commit(MOVE, 0.0),
        lambda: other.abort(MOVE),
        lambda: other.status(MOVE),
        lambda: other.ended(MOVE.program, 9, Ending("exited", 0)),
        lambda: other.input(MOVE, 0, 1),
        lambda: other.output(MOVE, "stdout", 0, b"x"),
    ]

    def refused() -> None:
        for ask in asks:
            with pytest.raises(PeerRefused, match="no business") as caught:
                ask()
            assert caught.value.reason is Reason.OWNERSHIP

    refused()  # while it comes
    sending.send(data)
    sending.finish(Receipt(len(data), hashlib.sha256(data).digest()))
    assert sending.ready().size == len(data)
    refused()  # while it is READY
    assert served.peer.commit(MOVE, 0.1).standing is OwnershipState.OWNED
    refused()  # when it is owned
    assert served.world.running == {MOVE.program: "served"}
    assert served.node.news.told is None
    assert other.status(Move(b"z" * 16, 2, b"t" * 16)).standing is OwnershipState.UNKNOWN
    other.close()


def test_an_aborted_move_over_the_wire(served: Served) -> None:
    counter = Counter(World(), "here", program=MOVE.program)
    sending = served.send(counter)
    sending.send(next(iter(counter.pieces())))
    sending.cancel()
    deadline = time.monotonic() + 60

    def left() -> list[object]:
        files = list(served.node.journal.folder.glob("*.received"))
        return [*files, *served.node.destination.arrivals.all_in(ArrivalState.RECEIVING)]

    while left() and time.monotonic() < deadline:
        time.sleep(0.01)
    assert not left()
    assert served.peer.abort(MOVE) is OwnershipState.UNKNOWN


def test_a_refusal_during_the_transfer(served: Served) -> None:
    sending = served.send(Counter(World(), "here", program=MOVE.program))
    with pytest.raises(PeerRefused, match="not a snapshot") as caught:
        for _ in range(100):
            sending.send(b"x" * client.SMALL)
            time.sleep(0.05)
    assert caught.value.reason is Reason.STATE


def test_the_end_is_told(served: Served) -> None:
    served.peer.ended(b"q" * 16, 3, Ending("trapped", 134, "trap: unreachable"))


def test_a_sender_is_kept_a_bounded_number_of_bytes_ahead(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wasmsr.migrate.handover.reception import Reception

    go = threading.Event()
    write = Reception.write

    def slow(self: Reception, piece: Any) -> None:
        go.wait(20)
        write(self, piece)

    monkeypatch.setattr(Reception, "write", slow)
    monkeypatch.setattr(client, "STALL_SECONDS", 1.0)
    sending = served.send(Counter(World(), "here", program=MOVE.program))
    first = Header(0, 0, 0, bytes(32)).encode()
    with pytest.raises(PeerLost, match="stopped reading"):
        for _ in range(1000):
            sending.send(first.ljust(PIECE, b"\0"))
    assert sending._sent == client.WINDOW
    sending.cancel()
    go.set()


def test_interrupt_breaks_a_call_off(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    go = threading.Event()

    def slow(move: Move) -> Report:
        go.wait(20)
        return Report(OwnershipState.UNKNOWN)

    monkeypatch.setattr(served.node.answers, "status", slow)
    threading.Timer(0.2, served.peer.interrupt).start()
    began = time.monotonic()
    with pytest.raises(PeerLost, match="interrupted"):
        served.peer.status(MOVE)
    assert time.monotonic() - began < 2
    with pytest.raises(PeerLost):
        served.peer.status(MOVE)
    assert time.monotonic() - began < 4
    go.set()
    with pytest.raises(PeerLost):
        served.peer.transfer(MOVE)


def test_nobody_there() -> None:
    peer = RemotePeer(Address("127.0.0.1", free_port()), b"n" * 16, KEY)
    began = time.monotonic()
    with pytest.raises(PeerLost, match="cannot be reached"):
        peer.status(MOVE)
    assert time.monotonic() - began < 5
    peer.close()


def test_somebody_else_there() -> None:
    """A server that speaks something else is as good as none."""
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()

        def answer() -> None:
            connection, _ = other.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.0 400 Bad Request\r\n\r\n")

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        peer = RemotePeer(Address("127.0.0.1", other.getsockname()[1]), b"n" * 16, KEY)
        with pytest.raises(PeerLost):
            peer.status(MOVE)
        peer.close()
        thread.join(5)


def test_a_port_in_use(served: Served) -> None:
    with pytest.raises(MigrationError, match="another process listens there") as caught:
        Server(served.node.answers, served.address, "", KEY)
    assert caught.value.exit_code == 124
    assert "--port" in str(caught.value.hint)


def test_an_address_that_is_not_ours(served: Served) -> None:
    with pytest.raises(MigrationError, match=r"cannot listen on 203\.0\.113\.1:"):
        Server(served.node.answers, Address("203.0.113.1", free_port()), "", KEY)


# Other versions.


def test_a_sender_of_another_version(served: Served) -> None:
    offer = Offer(b"n" * 16, MOVE, Description(()), PROTOCOL + 1, "9.9")
    with pytest.raises(PeerRefused, match=f"not {PROTOCOL + 1}") as caught:
        served.peer.prepare(offer)
    assert caught.value.reason is Reason.VERSION
    assert "wasmsr 9.9" in served.events[-1].text


@pytest.mark.parametrize("name", ["Commit", "Status", "Abort", "Output", "Input", "Ended"])
def test_other_questions_of_another_version(served: Served, name: str) -> None:
    request, reply, _, _ = messages.methods()[name]
    data = served.call(name, request(protocol=PROTOCOL + 1).SerializeToString())
    assert reply.FromString(data).refusal.reason == Reason.VERSION


def test_a_sender_of_another_service_version(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.call("Prepare", b"", service="wasmsr.v1.Migration")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED
    assert "version 1" in served.events[-1].text
    with pytest.raises(grpc.RpcError):
        served.call("Prepare", b"", service="somebody.Else")


class Other(grpc.GenericRpcHandler):
    """A receiver of another version: it knows Hello, or not even that."""

    def __init__(self, hello: bool) -> None:
        self.hello = hello

    def service(self, details: Any) -> Any:
        if not self.hello:
            return None
        reply = messages.HelloReply(protocol=PROTOCOL + 7, software="9.9\x1b[2J")
        return grpc.unary_unary_rpc_method_handler(lambda request, wire: reply.SerializeToString())


@pytest.mark.parametrize(
    ("hello", "said"),
    [(True, f"speaks version {PROTOCOL + 7}"), (False, f"does not speak version {PROTOCOL}")],
)
def test_a_receiver_of_another_version(hello: bool, said: str) -> None:
    from concurrent.futures import ThreadPoolExecutor

    address = Address("127.0.0.1", free_port())
    server = grpc.server(ThreadPoolExecutor(1), handlers=[Other(hello)])
    server.add_insecure_port(str(address))
    server.start()
    peer = RemotePeer(address, b"n" * 16, KEY)
    with pytest.raises(PeerRefused, match=said) as caught:
        peer.prepare(Offer(b"n" * 16, MOVE, Description(())))
    assert caught.value.reason is Reason.VERSION
    assert "\x1b" not in str(caught.value)
    peer.close()
    server.stop(0)


# Hostile messages.


def valid(name: str) -> bytes:
    """A message that the method accepts."""
    move = convert.move_out(MOVE)
    request = messages.methods()[name][0]
    fields = {"protocol": PROTOCOL, "node": b"n" * 16}
    if name == "Prepare":
        offer = Offer(b"n" * 16, MOVE, Counter(World(), "x").describe())
        return bytes(convert.offer_out(offer).SerializeToString())
    if name == "Ended":
        return bytes(request(**fields, program=b"p" * 16, epoch=1).SerializeToString())
    if name == "Input":
        return bytes(request(**fields, move=move, most=1).SerializeToString())
    return bytes(request(**fields, move=move).SerializeToString())


UNARY = ["Prepare", "Commit", "Status", "Abort", "Output", "Input", "Ended"]


@pytest.mark.parametrize("name", UNARY)
def test_bytes_that_are_no_message(served: Served, name: str) -> None:
    numbers = random.Random(name)
    good = valid(name)
    served.call(name, good)
    for _ in range(60):
        data = bytearray(good)
        if numbers.random() < 0.3:
            data = bytearray(numbers.randbytes(numbers.randrange(100)))
        for _ in range(numbers.randrange(1, 4)):
            if data:
                data[numbers.randrange(len(data))] = numbers.randrange(256)
        try:
            served.call(name, bytes(data))
        except grpc.RpcError as error:
            assert error.code() is grpc.StatusCode.INVALID_ARGUMENT, (error.details(), data.hex())
    assert served.peer.status(Move(b"z" * 16, 1, b"z" * 16)).standing is OwnershipState.UNKNOWN
    assert not served.world.running


@pytest.mark.parametrize(
    "changes",
    [
        {"node": b"short"},
        {"move": messages.Move(program=b"p" * 15, epoch=2, attempt=b"a" * 16)},
        {"move": messages.Move(program=b"p" * 16, epoch=2, attempt=b"")},
        {"move": messages.Move(program=b"p" * 16, epoch=0, attempt=b"a" * 16)},
        {"move": messages.Move(program=b"p" * 16, epoch=1 << 63, attempt=b"a" * 16)},
        {"modules": [messages.ModuleName(digest=b"d" * 31)]},
        {"modules": [messages.ModuleName(digest=b"d" * 32)] * (convert.MODULES + 1)},
        {"features": ["f"] * (convert.FEATURES + 1)},
        {"mounts": [messages.MountName(guest=b"g")] * (convert.MOUNTS + 1)},
        {"mounts": [messages.MountName(guest=b"g" * (convert.PATH + 1))]},
    ],
)
def test_offers_that_cannot_be(served: Served, changes: dict[str, Any]) -> None:
    fields: dict[str, Any] = {
        "protocol": PROTOCOL,
        "node": b"n" * 16,
        "move": convert.move_out(MOVE),
    }
    request = messages.PrepareRequest(**{**fields, **changes})
    with pytest.raises(grpc.RpcError) as caught:
        served.call("Prepare", request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize("most, position", [(0, 0), (65537, 0), (1 << 31, 0), (1, 1 << 62)])
def test_questions_for_input_that_cannot_be(served: Served, most: int, position: int) -> None:
    request = messages.InputRequest(
        protocol=PROTOCOL, move=convert.move_out(MOVE), most=most, position=position
    )
    with pytest.raises(grpc.RpcError) as caught:
        served.call("Input", request.SerializeToString())
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


@pytest.mark.parametrize(
    "wrong",
    [
        {"digests": b""},
        {"digests": b"d" * 31},
        {"digests": b"d" * 64},
        {"lengths": []},
        {"lengths": [0]},
        {"lengths": [65537]},
        {"digests": b"d" * 32 * 17, "lengths": [65536] * 17},
        {"data": bytes((1 << 20) + 1)},
    ],
)
def test_pieces_of_files_that_cannot_be(served: Served, wrong: dict[str, Any]) -> None:
    right = {"digests": b"d" * 32, "lengths": [1], "data": b"x"}
    begin = messages.TransferRequest(begin=messages.TransferBegin(move=convert.move_out(MOVE)))
    bad = messages.TransferRequest(files=messages.Files(**{**right, **wrong}))
    counter = Counter(World(), "here", program=MOVE.program)
    for digest in served.peer.prepare(served.offer(counter)).missing:
        served.peer.upload(counter.module(digest), digest)
    with pytest.raises(grpc.RpcError) as caught:
        served.call("Transfer", [begin.SerializeToString(), bad.SerializeToString()])
    assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT


def test_pieces_of_files_there_and_back(served: Served) -> None:
    files = PackedFiles((b"d" * 32, b"e" * 32), (1, 65536), b"packed", packed=True)
    data = convert.files_out(files).SerializeToString()
    assert convert.chunks_in(messages.Files.FromString(data)) == files
    answer = served.peer.prepare(served.offer(Counter(World(), "here", program=MOVE.program)))
    assert FILES in answer.abilities and answer.files == 10_000
    with pytest.raises(Malformed, match="more bytes of files"):
        convert.files_in(1 << 62)


def test_answers_that_cannot_be() -> None:
    assert convert.input_in(messages.InputReply(data=b"ab", end=True), 2) == (b"ab", True)
    with pytest.raises(Malformed, match="more input"):
        convert.input_in(messages.InputReply(data=b"abc"), 2)
    with pytest.raises(Malformed, match="abilities"):
        convert.abilities_in(["x"] * (convert.FEATURES + 1))
    assert convert.abilities_in(["input", "\x1b[2J"]) == ("input", "\\x1b[2J")


def test_input_over_the_wire(served: Served, monkeypatch: pytest.MonkeyPatch) -> None:
    given = [(b"typed", False), (b"", True)]
    asked = []

    def answer(move: Move, position: int, most: int) -> tuple[bytes, bool]:
        asked.append((move, position, most))
        return given[len(asked) - 1]

    monkeypatch.setattr(served.node.answers, "input", answer)
    assert [served.peer.input(MOVE, 5 * turn, 10 + turn) for turn in range(2)] == given
    assert asked == [(MOVE, 0, 10), (MOVE, 5, 11)]


def test_a_module_that_is_too_large(served: Served) -> None:
    huge = Description((ModuleName(b"d" * 32, 1 << 40),), mounts=())
    with pytest.raises(PeerRefused, match="more than it takes"):
        served.peer.prepare(Offer(b"n" * 16, MOVE, huge))


def test_a_message_that_is_too_large(served: Served) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        served.call("Prepare", b"x" * (3 * PIECE))
    assert caught.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


@pytest.mark.parametrize("name", ["Upload", "Transfer"])
def test_streams_that_cannot_be(served: Served, name: str) -> None:
    counter = Counter(World(), "here", program=MOVE.program)
    kind = messages.methods()[name][0]
    if name == "Upload":
        begin = kind(module=convert.module_out(counter.describe().modules[0]))
    else:
        begin = kind(begin=messages.TransferBegin(move=convert.move_out(MOVE)))
    cases: list[list[Any]] = [
        [],
        [kind()],
        [kind(piece=b"x")],
        [begin, begin],
        [begin, kind()],
        [begin, kind(piece=b"")],
        [begin, kind(piece=b"x" * (PIECE + 1))],
    ]
    if name == "Transfer":
        cases.append([begin])
        cases.append([begin, kind(end=messages.TransferEnd(size=0, digest=b"d"))])
    for case in cases:
        served.peer.prepare(served.offer(counter))
        with pytest.raises(grpc.RpcError) as caught:
            served.call(name, [message.SerializeToString() for message in case])
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT, case
    for case in ([b"\xff\xff"], [begin.SerializeToString(), b"\xff"]):
        served.peer.prepare(served.offer(counter))
        with pytest.raises(grpc.RpcError) as caught:
            served.call(name, case)
        assert caught.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert not served.node.destination.arrivals.all_in(ArrivalState.RECEIVING)
    assert not list(served.node.journal.folder.glob("*.received"))


def test_a_state_cut_off_everywhere(served: Served) -> None:
    counter = Counter(World(), "here", program=MOVE.program, size=100)
    data = b"".join(bytes(piece) for piece in counter.pieces())
    for length in (1, 63, 64, 200, len(data) - 1):
        sending = served.send(counter)
        sending.send(data[:length])
        sending.finish(Receipt(length, hashlib.sha256(data[:length]).digest()))
        with pytest.raises(PeerRefused) as caught:
            sending.ready()
        assert caught.value.reason is Reason.STATE
    sending = served.send(counter)
    sending.send(data)
    sending.finish(Receipt(len(data), bytes(32)))
    with pytest.raises(PeerRefused, match="did not arrive as it was sent"):
        sending.ready()
    assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN
    assert sorted(path.name for path in served.node.journal.folder.iterdir()) == ["lock", "node"]


# Values and messages.


def test_an_offer_there_and_back() -> None:
    offer = Offer(
        b"n" * 16,
        MOVE,
        Description(
            modules=(ModuleName(b"d" * 32, 5, "name"),),
            snapshot_format=3,
            features=("bulk-memory",),
            mounts=(MountName("/a"), MountName("/\udcff", "host")),
            limits=ProgramLimits(1, 2, 3, 4, True),
        ),
        software="1.0",
    )
    data = convert.offer_out(offer).SerializeToString()
    assert convert.offer_in(messages.PrepareRequest.FromString(data)) == offer


def test_a_refusal_there_and_back() -> None:
    error = PeerRefused(Refusal(Reason.MOUNT, "a sentence", "a hint"))
    assert convert.refusal_in(convert.refusal_out(error)) == Refusal(
        Reason.MOUNT, "a sentence", "a hint"
    )
    strange = messages.Refusal(reason=99, sentence="\x1b[31mred\n" + "x" * 5000)
    made = convert.refusal_in(strange)
    assert made.reason is Reason.UNSPECIFIED
    assert made.sentence.isprintable()
    assert len(made.sentence) <= convert.TEXT


def test_a_report_there_and_back() -> None:
    report = Report(OwnershipState.ENDED, 7, b"a" * 16, Ending("exited", 3, "so"))
    assert convert.report_in(convert.report_out(report, b"n" * 16)) == report
    with pytest.raises(Malformed):
        convert.report_in(messages.StatusReply(standing=55))
    with pytest.raises(Malformed):
        convert.report_in(messages.StatusReply(attempt=b"x"))


@pytest.mark.parametrize(
    ("text", "host", "port"),
    [
        ("50051", "127.0.0.1", 50051),
        ("host:1", "host", 1),
        ("10.0.0.2:65535", "10.0.0.2", 65535),
        ("[::1]:7000", "::1", 7000),
        ("my-host.example:80", "my-host.example", 80),
    ],
)
def test_addresses(text: str, host: str, port: int) -> None:
    assert Address.parse(text) == Address(host, port)


@pytest.mark.parametrize(
    "text", ["", "0", "65536", "host", "host:", ":1", "::1:5", "a b:1", "1:2:3"]
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(ValueError):
        Address.parse(text)


def test_loopback() -> None:
    for host in ("127.0.0.1", "127.9.9.9", "::1", "localhost"):
        assert Address(host, 1).is_loopback
    for host in ("0.0.0.0", "::", "10.0.0.1", "localhost.example", "example"):
        assert not Address(host, 1).is_loopback
    assert str(Address("::1", 5)) == "[::1]:5"


def test_nothing_heavy_below_the_server() -> None:
    import subprocess
    import sys

    code = (
        "import sys, wasmsr.migrate.ends.endpoint, wasmsr.runspec.address\n"
        "import wasmsr.cli.commands.remote\n"
        "assert 'grpc' not in sys.modules and 'google.protobuf' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_who_tells_the_end_is_answered_though_the_told_end_stops_at_once(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The news wakes the node's loop, which takes the end apart while the answer is still to be
    written; it was broken off then, and who told the end asked for five seconds more."""
    stopping: list[threading.Thread] = []

    def ended(program: bytes, epoch: int, ending: Ending) -> None:
        stopping.append(threading.Thread(target=served.server.stop))
        stopping[0].start()
        time.sleep(0.3)  # what a loaded machine does to this thread

    monkeypatch.setattr(served.node.answers, "ended", ended)
    served.peer.ended(MOVE.program, 2, Ending("exited", 0))
    stopping[0].join()
    with pytest.raises(PeerLost):
        served.peer.ended(MOVE.program, 2, Ending("exited", 0))


def test_stopping_waits_for_no_stream_for_long(served: Served) -> None:
    sending = served.send(Counter(World(), "here", program=MOVE.program, size=20 * PIECE))
    began = time.monotonic()
    served.server.stop()
    assert time.monotonic() - began < 3
    with pytest.raises(PeerLost):
        sending.ready()
