"""Who has not the key gets nothing: no answer, no thread, no word in what a program does."""

from __future__ import annotations

import os
import stat
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.migrate.counter import Counter, World
from tests.rpc.test_wire import KEY, MOVE, Served, free_port, valid
from wasmsr.errors import MigrationError
from wasmsr.migrate.handover.arrivals import ArrivalState
from wasmsr.migrate.protocol import OwnershipState, PeerLost, PeerRefused, PeerUnknown, Reason
from wasmsr.rpc import channel, client, keys, messages
from wasmsr.rpc.client import RemotePeer
from wasmsr.rpc.session import MAC, METADATA, NONCE, BadSeal, PeerSession, Sessions, hello
from wasmsr.runspec.address import Address

import grpc  # isort: skip

NODE = b"n" * 16


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    made = Served(tmp_path)
    yield made
    made.close()


def path(name: str) -> str:
    return f"/{messages.SERVICE}/{name}"


def refused(served: Served, name: str, proof: bytes | None, data: bytes = b"x" * 100) -> None:
    """A call that must be refused without the key."""
    metadata = None if proof is None else [(METADATA, proof)]
    with grpc.insecure_channel(str(served.address)) as wire, pytest.raises(grpc.RpcError) as caught:
        wire.unary_unary(path(name))(data, timeout=10, metadata=metadata)
    assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED, caught.value


@pytest.mark.parametrize("name", sorted(messages.methods()))
def test_no_method_answers_a_stranger(served: Served, name: str) -> None:
    good = served.peer._meet().call(path(name)).metadata
    refused(served, name, None)
    refused(served, name, b"")
    refused(served, name, bytes(len(good)))
    refused(served, name, hello(b"another key of 16 bytes", bytes(NONCE)))
    if name != "Hello":
        refused(served, name, hello(KEY, bytes(NONCE)))  # proves the key, but of no session
        other = served.peer._meet().call(path("Hello")).metadata
        refused(served, name, other)  # a proof for another method
        flipped = bytes([*good[:-1], good[-1] ^ 1])
        refused(served, name, flipped)
    assert not served.world.running
    (said,) = [event for event in served.events if event.kind == "refused"]
    assert "has not this end's key" in said.text


def test_no_call_is_taken_twice(served: Served) -> None:
    call = served.peer._meet().call(path("Status"))
    data = call.seal(valid("Status"))
    with grpc.insecure_channel(str(served.address)) as wire:
        wire.unary_unary(path("Status"))(data, timeout=10, metadata=[(METADATA, call.metadata)])
    refused(served, "Status", call.metadata, data)


def test_a_message_of_another_call_is_refused(served: Served) -> None:
    """Whoever passes calls on cannot put another message into one."""
    session = served.peer._meet()
    sealed = session.call(path("Ended")).seal(valid("Ended"))
    call = session.call(path("Ended"))
    refused(served, "Ended", call.metadata, sealed)
    call = session.call(path("Ended"))
    refused(served, "Ended", call.metadata, call.seal(valid("Ended")) + b"\x08\x01")
    assert served.node.news.told is None


def test_a_message_that_is_too_short_for_a_seal(served: Served) -> None:
    for size in (0, 1, MAC - 1, MAC):
        refused(served, "Status", served.peer._meet().call(path("Status")).metadata, b"s" * size)


def test_nothing_of_a_stranger_is_read(served: Served) -> None:
    """He is refused when his metadata is there, though he never sends a message."""
    go = threading.Event()

    def silent() -> Iterator[bytes]:
        go.wait(20)
        yield b""

    with grpc.insecure_channel(str(served.address)) as wire:
        began = time.monotonic()
        with pytest.raises(grpc.RpcError) as caught:
            list(wire.stream_stream(path("Transfer"))(silent(), timeout=15))
        assert caught.value.code() is grpc.StatusCode.UNAUTHENTICATED
        assert time.monotonic() - began < 10
        go.set()


def test_streams_of_strangers_hold_nothing(served: Served) -> None:
    go = threading.Event()

    def silent() -> Iterator[bytes]:
        go.wait(30)
        yield b""

    with grpc.insecure_channel(str(served.address)) as wire:
        calls = [wire.stream_stream(path("Transfer"))(silent(), timeout=20) for _ in range(40)]
        began = time.monotonic()
        assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN
        assert time.monotonic() - began < 5
        go.set()
        for call in calls:
            with pytest.raises(grpc.RpcError):
                list(call)


def idle(served: Served, name: str, first: bytes | None = None) -> Any:
    """A call of one who has the key and then stays silent."""
    call = served.peer._meet().call(path(name))
    go = threading.Event()

    def requests() -> Iterator[bytes]:
        if first is not None:
            yield call.seal(first)
        go.wait(30)

    wire = grpc.insecure_channel(str(served.address))
    proof = [(METADATA, call.metadata)]
    return wire, go, wire.stream_stream(path(name))(requests(), timeout=25, metadata=proof)


@pytest.mark.full
@pytest.mark.parametrize("name", ["Transfer", "Upload", "Prepare", "Status"])
def test_idle_streams_of_the_peer_do_not_hold_everything(
    served: Served, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setattr(channel, "STALL_SECONDS", 1.5)
    calls = [idle(served, name) for _ in range(10)]
    codes = []
    if name != "Status":
        assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN
    for wire, go, call in calls:
        with pytest.raises(grpc.RpcError) as caught:
            list(call)
        codes.append(caught.value.code())
        go.set()
        wire.close()
    assert codes.count(grpc.StatusCode.RESOURCE_EXHAUSTED) == 8
    assert codes.count(grpc.StatusCode.CANCELLED) == 2
    assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN


def test_a_transfer_that_stops_in_the_middle_is_broken_off(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channel, "STALL_SECONDS", 1.0)
    sending = served.send(Counter(World(), "here", program=MOVE.program, size=100))
    deadline = time.monotonic() + 20
    while (
        not served.node.destination.arrivals.all_in(ArrivalState.RECEIVING)
        and time.monotonic() < deadline
    ):
        time.sleep(0.01)
    while (
        served.node.destination.arrivals.all_in(ArrivalState.RECEIVING)
        and time.monotonic() < deadline
    ):
        time.sleep(0.05)
    assert not served.node.destination.arrivals.all_in(ArrivalState.RECEIVING)
    with pytest.raises(PeerLost):
        sending.ready()


# Both ways ---------------------------------------------------------------------------------------


class Squatter(grpc.GenericRpcHandler):
    """A stranger who listens where the peer should: he keeps what comes, and answers anything."""

    def __init__(self, answer: bytes) -> None:
        self.answer = answer
        self.seen: list[bytes] = []
        self.methods: list[str] = []
        self.proofs: list[bytes] = []

    def service(self, details: Any) -> Any:
        self.methods.append(details.method)
        self.proofs += [value for key, value in details.invocation_metadata if key == METADATA]

        def behave(requests: Iterator[bytes], wire: Any) -> Iterator[bytes]:
            self.seen.append(next(requests, b""))
            yield self.answer

        return grpc.stream_stream_rpc_method_handler(behave)


def squat(squatter: Squatter) -> tuple[Any, Address]:
    from concurrent.futures import ThreadPoolExecutor

    address = Address("127.0.0.1", free_port())
    server = grpc.server(ThreadPoolExecutor(4), handlers=[squatter])
    server.add_insecure_port(str(address))
    server.start()
    return server, address


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\xff\xff",
        messages.HelloReply(
            protocol=client.PROTOCOL, node=b"q" * 16, nonce=b"n" * NONCE, proof=b"p" * MAC
        ).SerializeToString(),
    ],
)
def test_who_listens_where_the_peer_should_learns_nothing(served: Served, answer: bytes) -> None:
    squatter = Squatter(answer)
    server, address = squat(squatter)
    peer = RemotePeer(address, NODE, KEY)
    with pytest.raises((PeerUnknown, PeerRefused)):
        peer.prepare(served.offer(Counter(World(), "here")))
    with pytest.raises(PeerLost):
        peer.output(MOVE, "stdout", 0, b"secret words")
    with pytest.raises(PeerLost):
        peer.input(MOVE, 0, 10)
    peer.close()
    server.stop(0)
    assert set(squatter.methods) == {path("Hello")}
    heard = b"".join([*squatter.seen, *squatter.proofs])
    assert KEY not in heard and b"secret" not in heard
    # What he heard opens nothing at an end that has the key.
    for proof in squatter.proofs:
        refused(served, "Ended", proof)


def test_who_takes_the_port_of_a_peer_that_died_is_found_out(tmp_path: Path) -> None:
    served = Served(tmp_path)
    assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN
    served.server.stop()
    from concurrent.futures import ThreadPoolExecutor

    squatter = Squatter(b"s" * MAC + messages.StatusReply(protocol=2).SerializeToString())
    server = grpc.server(ThreadPoolExecutor(4), handlers=[squatter])
    server.add_insecure_port(str(served.address))
    server.start()
    with pytest.raises(PeerLost):
        served.peer.status(MOVE)
    with pytest.raises(PeerLost):
        served.peer.status(MOVE)
    server.stop(0)
    served.peer.close()
    served.node.journal.close()


def test_our_own_words_come_back(served: Served) -> None:
    """A stranger who passes an end's calls back to that very end does not pass for the peer."""
    peer = RemotePeer(served.address, served.node.journal.node, KEY)
    with pytest.raises(PeerRefused, match="this very end") as caught:
        peer.status(MOVE)
    assert caught.value.reason is Reason.SELF
    peer.close()


def test_another_key(served: Served) -> None:
    peer = RemotePeer(served.address, NODE, b"quite another key")
    with pytest.raises(PeerUnknown, match="has not the same key") as caught:
        peer.status(MOVE)
    assert "--token-file" in str(caught.value.hint)
    peer.close()
    insecure = RemotePeer(served.address, NODE, b"")
    with pytest.raises(PeerUnknown):
        insecure.status(MOVE)
    insecure.close()


def test_a_session_that_the_server_has_forgotten_begins_again(served: Served) -> None:
    assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN
    first = served.peer._session
    for _ in range(20):
        other = RemotePeer(served.address, NODE, KEY)
        other.status(MOVE)
        other.close()
    assert served.peer.status(MOVE).standing is OwnershipState.UNKNOWN
    assert served.peer._session is not first


# Proofs ------------------------------------------------------------------------------------------


def begun() -> tuple[PeerSession, Sessions]:
    sessions = Sessions(KEY, NODE)
    nonce = os.urandom(NONCE)
    met = sessions.hello(hello(KEY, nonce))
    assert met is not None
    session = PeerSession.begun(KEY, nonce, met[0], NODE, met[1])
    assert session is not None
    assert PeerSession.begun(KEY, nonce, met[0], b"m" * 16, met[1]) is None
    assert PeerSession.begun(KEY, bytes(NONCE), met[0], NODE, met[1]) is None
    assert PeerSession.begun(b"other", nonce, met[0], NODE, met[1]) is None
    return session, sessions


def test_seals_hold_their_place_and_direction() -> None:
    session, sessions = begun()
    call = session.call("/m")
    taken = sessions.admit("/m", call.metadata)
    assert taken is not None
    one, two = call.seal(b"one"), call.seal(b"two")
    assert taken.open(one) == b"one"
    with pytest.raises(BadSeal):
        taken.open(one)  # again, in place of the second
    with pytest.raises(BadSeal):
        call.open(two)  # our own message as the answer
    answer = taken.seal(b"answer")
    assert call._received == 1  # the failed one counts
    with pytest.raises(BadSeal):
        call.open(answer)


def test_calls_may_overtake_each_other_but_not_repeat() -> None:
    session, sessions = begun()
    calls = [session.call("/m").metadata for _ in range(1100)]
    assert sessions.admit("/m", calls[5]) and sessions.admit("/m", calls[2])
    assert not sessions.admit("/m", calls[5]) and not sessions.admit("/other", calls[4])
    assert sessions.admit("/m", calls[-1])
    assert not sessions.admit("/m", calls[3])  # too old to tell
    assert sessions.admit("/m", calls[-2]) and not sessions.admit("/m", calls[-2])


# The key's file ----------------------------------------------------------------------------------


def test_the_ends_of_one_user_find_the_key_by_themselves(tmp_path: Path) -> None:
    home, one, two = (tmp_path / name for name in ("home", "one", "two"))
    key = keys.own(one, home)
    assert keys.own(two, home) == keys.own(home, home) == keys.own(one, home) == key
    assert len(key) == keys.SIZE
    for folder in (home, one, two):
        assert stat.S_IMODE((folder / keys.NAME).stat().st_mode) == 0o600
        assert [path.name for path in (folder / "remote").iterdir()] == ["key"]


def test_a_home_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    home = tmp_path / "file" / "home"
    assert keys.own(tmp_path / "state", home) == keys.own(tmp_path / "state", home)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620])
def test_a_key_that_others_can_use_is_refused(tmp_path: Path, mode: int) -> None:
    keys.own(tmp_path, tmp_path)
    (tmp_path / keys.NAME).chmod(mode)
    with pytest.raises(MigrationError, match=f"used by others \\(mode {mode:04o}\\)") as caught:
        keys.own(tmp_path, tmp_path)
    assert "--token-file" in str(caught.value.hint)


def test_a_key_that_is_none(tmp_path: Path) -> None:
    keys.own(tmp_path, tmp_path)
    (tmp_path / keys.NAME).write_bytes(b"short")
    with pytest.raises(MigrationError, match="5 bytes instead of 32"):
        keys.own(tmp_path, tmp_path)
    (tmp_path / keys.NAME).unlink()
    os.mkfifo(tmp_path / keys.NAME, 0o600)
    with pytest.raises(MigrationError, match="not a regular file"):
        keys.own(tmp_path, tmp_path)


def test_two_ends_that_make_the_key_at_once(tmp_path: Path) -> None:
    found: list[bytes] = []
    threads = [
        threading.Thread(target=lambda: found.append(keys.own(tmp_path, tmp_path)))
        for _ in range(20)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 20 and len(set(found)) == 1


def test_token_files(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_bytes(b"  sixteen bytes ok\n")
    file.chmod(0o600)
    assert keys.token(file) == (b"sixteen bytes ok", False)
    file.chmod(0o644)
    assert keys.token(file) == (b"sixteen bytes ok", True)
    for content, said in ((b"fifteen bytes..", "15 bytes"), (b"\n" * 50, "0 bytes"),
                          (b"x" * 5000, "more than 4096")):  # fmt: skip
        file.write_bytes(content)
        with pytest.raises(MigrationError, match=said):
            keys.token(file)
    with pytest.raises(MigrationError, match="cannot be read: No such file"):
        keys.token(tmp_path / "none")
    with pytest.raises(MigrationError, match="cannot be read"):
        keys.token(tmp_path)
