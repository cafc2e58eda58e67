"""The wire of memories: recorded bytes in both directions, and what no peer should send."""

from __future__ import annotations

import json
import random
import socket
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.mem.served import SECONDS, ask, greeted, raw, served
from wasmsr.mem.failures import OtherProtocolError, RemoteMemoryAway, RemoteMemoryError
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.serving.memory_region import MemoryRegion, MemorySession
from wasmsr.mem.wire import commands
from wasmsr.mem.wire.commands import Command, read_header, whole
from wasmsr.mem.wire.sp import LAST, PROTOCOLS, REP, REQ, check_hello, hello, stack_of

VECTORS = Path(__file__).resolve().parents[3] / "shared" / "vectors" / "scad" / "vectors.jsonl"
recorded = pytest.mark.skipif(not VECTORS.exists(), reason="recordings are not beside the tree")


def vectors(kind: str) -> list[dict[str, Any]]:
    lines = VECTORS.read_text().splitlines()
    return [one for one in map(json.loads, lines) if one["kind"].startswith(kind)]


# ---- recorded bytes ------------------------------------------------------------------------------


@recorded
def test_recorded_connection_of_a_client() -> None:
    """Our server answers the recorded client as the recorded server did; padding is 0 in ours."""
    with served(1 << 20) as memory:
        sock = raw(memory.server.port)
        said = vectors("tcp bytes")
        assert [one["dir"] for one in said[::2]] == ["client->server"] * 3
        for question, answer in zip(said[::2], said[1::2], strict=True):
            sock.sendall(bytes.fromhex(question["hex"]))
            wanted = bytes.fromhex(answer["hex"])
            got = bytearray(len(wanted))
            sock.settimeout(SECONDS)
            view = memoryview(got)
            while len(view):
                view = view[sock.recv_into(view) :]
            assert defined(bytes(got)) == defined(wanted)
        sock.close()


def defined(message: bytes) -> bytes:
    """The bytes of an answer that the peer defines: not address, number and padding."""
    if len(message) <= 8:
        return message
    body = bytearray(message[12:])
    body[0:8] = bytes(8)
    body[16:18] = bytes(2)
    body[-4:] = bytes(4)
    return message[:12] + bytes(body)


@recorded
def test_recorded_connection_of_a_server() -> None:
    """Our link says HELLO, is answered as the recorded server answers it, and says the rest."""
    said = [bytes.fromhex(one["hex"]) for one in vectors("tcp bytes")]
    heard: list[bytes] = []
    listener = socket.create_server(("127.0.0.1", 0))

    def peer() -> None:
        sock, _ = listener.accept()
        with sock:
            heard.append(exactly(sock, 8))
            sock.sendall(said[1])
            # HELLO is a write of nothing to a server that takes what it does not know as a write.
            hello_length = int.from_bytes(exactly(sock, 8), "big")
            message = exactly(sock, hello_length)
            assert read_header(message[4:]).size == 0
            answer = bytearray(Command(commands.OP_WRITE).alone())
            sock.sendall((28).to_bytes(8, "big") + message[:4] + answer)
            for reply in (said[3], said[5]):
                length = exactly(sock, 8)
                message = exactly(sock, int.from_bytes(length, "big"))
                heard.append(message)
                sock.sendall(reply[:8] + message[:4] + reply[12:])

    thread = threading.Thread(target=peer)
    thread.start()
    link = MemoryLink("mem1", f"tcp://127.0.0.1:{listener.getsockname()[1]}")
    link.write(0, memoryview((12345).to_bytes(4, "little")))
    got = bytearray(4)
    link.read(0, memoryview(got))
    link.close()
    thread.join(SECONDS)
    listener.close()
    assert int.from_bytes(got, "little") == 12345
    assert link.fenced is False
    assert heard[0] == said[0]
    for ours, theirs in zip(heard[1:], (said[2], said[4]), strict=True):
        assert without_number(ours) == without_number(theirs[8:])


def without_number(message: bytes) -> bytes:
    """A message without request id and number of the command, which peers choose."""
    return message[4:20] + message[22:]


def exactly(sock: socket.socket, count: int) -> bytes:
    found = b""
    while len(found) < count:
        part = sock.recv(count - len(found))
        assert part
        found += part
    return found


@recorded
@pytest.mark.parametrize("at", range(6))
def test_recorded_commands(at: int) -> None:
    vector = vectors("command and reply")[at]
    region = MemoryRegion(memoryview(bytearray(1 << 16)))
    session = MemorySession()
    for before in vectors("command and reply")[: at + 1]:
        request = bytes.fromhex(before["request_hex"])
        answer, data = region.answer(session, read_header(request), memoryview(request)[20:])
    got, wanted = whole(answer, data), bytes.fromhex(vector["reply_hex"])
    assert len(got) == vector["reply_len"]
    if vector["name"].startswith("nop"):
        assert read_header(got).status == 0  # the peer takes it as a write of `size` bytes
    else:
        assert got[8:16] + got[18:-4] == wanted[8:16] + wanted[18:-4]


# ---- what each command does ----------------------------------------------------------------------


def test_a_read_sees_the_write_and_the_answer_echoes() -> None:
    with served() as memory, greeted(memory.server.port) as sock:
        answer = ask(sock, whole(Command(commands.OP_WRITE, 40, 5, 77), b"hello"))
        assert answer == Command(commands.OP_WRITE, 40, 5, 77).alone()
        answer = ask(sock, Command(commands.OP_READ, 38, 8, 78).alone())
        assert answer == whole(Command(commands.OP_READ, 38, 8, 78), b"\0\0hello\0")


@pytest.mark.parametrize("op", [commands.OP_READ, commands.OP_WRITE])
@pytest.mark.parametrize(
    ("addr", "size"), [(65_536, 1), (65_533, 4), (2**64 - 1, 1), (2**64 - 4, 8), (0, 2**64 - 1)]
)
def test_beyond_the_end(op: int, addr: int, size: int) -> None:
    region = MemoryRegion(memoryview(bytearray(b"x" * 65_536)))
    data = memoryview(
        b"yyyyyyyy"[: min(size, 8)] + bytes(4) if op == commands.OP_WRITE else bytes(4)
    )
    answer, read = region.answer(MemorySession(), Command(op, addr, size, 3), data)
    assert answer.status in (1, 2) and not read
    assert (answer.addr, answer.size, answer.seq, answer.op) == (addr, size, 3, op)
    assert bytes(region.buffer) == b"x" * 65_536


def test_the_end_itself_is_inside() -> None:
    region = MemoryRegion(memoryview(bytearray(16)))
    command = Command(commands.OP_WRITE, 12, 4)
    assert region.answer(MemorySession(), command, memoryview(b"abcd"))[0].status == 0
    empty = Command(commands.OP_READ, 16, 0)
    assert region.answer(MemorySession(), empty, memoryview(bytes(4)))[0].status == 0


@pytest.mark.parametrize("op", [1, 4, 5, 15, 17, 255])
def test_unknown_commands_get_status_2(op: int) -> None:
    with served() as memory, greeted(memory.server.port) as sock:
        assert read_header(ask(sock, Command(op, 1, 2, 9).alone())).status == 2
        assert read_header(ask(sock, Command(0, 8, 0, 9).alone())).status == 0


@pytest.mark.parametrize("extra", [b"", b"12345", bytes(100)])
def test_wrong_lengths_get_status_2(extra: bytes) -> None:
    with served() as memory, greeted(memory.server.port) as sock:
        assert read_header(ask(sock, whole(Command(commands.OP_WRITE, 0, 50), extra))).status == 2
        if extra:
            wrong = Command(commands.OP_READ, 0, 4).alone() + extra
            assert read_header(ask(sock, wrong)).status == 2


def test_a_stack_of_devices_comes_back() -> None:
    with served() as memory, greeted(memory.server.port) as sock:
        stack = b"\0\0\0\1\0\0\0\2\x80\0\0\3"
        command = Command(commands.OP_READ, 0, 4).alone()
        sock.sendall((len(stack) + 24).to_bytes(8, "big") + stack + command)
        assert exactly(sock, 8 + len(stack)) == (12 + 28).to_bytes(8, "big") + stack


def test_pipelined_commands_are_answered_in_order() -> None:
    with served() as memory, greeted(memory.server.port) as sock:
        many = b"".join(
            (28).to_bytes(8, "big") + (LAST | at).to_bytes(4, "big") + Command(3, at, 0, at).alone()
            for at in range(5000)
        )
        sender = threading.Thread(target=sock.sendall, args=(many,))
        sender.start()
        for at in range(5000):
            assert read_header(exactly(sock, 36)[12:]).seq == at
        sender.join(SECONDS)


# ---- hostile peers -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("said", "words"),
    [
        (b"GET / HT", "HTTP client"),
        (b"SSH-2.0-", "SSH server"),
        (b"\x16\x03\x01\0\0\0\0\0", "TLS"),
        (b"PRI * HT", "HTTP/2"),
        (hello(0x20), "PUB"),
        (hello(REP), "socket of REP"),
        (hello(0x99), "0x99"),
        (b"\0\1\2\3\4\5\6\7", "00 01 02"),
    ],
)
def test_a_wrong_hello_says_what_speaks(said: bytes, words: str) -> None:
    with pytest.raises(OtherProtocolError, match=words):
        check_hello(said, REQ)
    with served() as memory:
        sock = raw(memory.server.port)
        sock.sendall(said)
        assert exactly(sock, 8) == hello(REP)
        assert sock.recv(1) == b""
        sock.close()
        assert any(words in note for note in memory.notes)


def test_a_link_says_what_speaks_at_its_other_end() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            sock, _ = listener.accept()
            with sock:
                sock.sendall(b"SSH-2.0-OpenSSH_9\r\n")
                sock.recv(8)

        thread = threading.Thread(target=answer)
        thread.start()
        link = MemoryLink("mem1", f"tcp://127.0.0.1:{listener.getsockname()[1]}", patience=5)
        with pytest.raises(OtherProtocolError, match=r"memory mem1 .*SSH server"):
            link.write(0, memoryview(b"x"))
        thread.join(SECONDS)


def test_a_stack_without_an_end() -> None:
    with pytest.raises(OtherProtocolError):
        stack_of(bytes(64))
    assert set(PROTOCOLS) >= {REQ, REP}


@pytest.mark.parametrize("length", [1 << 17, 1 << 40, 2**64 - 1])
def test_a_length_allocates_nothing(length: int) -> None:
    with served(1 << 16) as memory, greeted(memory.server.port) as sock:
        sock.sendall(length.to_bytes(8, "big"))
        assert sock.recv(1) == b""
        sock.close()
        assert "a message of" in memory.notes[0]


@pytest.mark.parametrize("part", [0, 4, 8, 12, 30, 100_000])
def test_a_peer_that_goes_away_in_a_message_changes_nothing(part: int) -> None:
    with served(1 << 20) as memory:
        sock = greeted(memory.server.port)
        command = whole(Command(commands.OP_WRITE, 0, 200_000), b"x" * 200_000)
        message = (4 + len(command)).to_bytes(8, "big") + LAST.to_bytes(4, "big") + command
        sock.sendall(message[:part])
        sock.close()
        link = MemoryLink("m", memory.url)
        got = bytearray(100)
        link.read(0, memoryview(got))
        link.close()
        assert not any(memory.bytes)


def test_a_slow_peer_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.mem.serving.conversation.STALL_SECONDS", 0.2)
    with served() as memory, greeted(memory.server.port) as sock:
        sock.sendall(b"\0\0\0\0")
        assert sock.recv(1) == b""
    with served() as memory, greeted(memory.server.port) as sock:
        # Who says nothing between two messages stays.
        sock.settimeout(0.6)
        with pytest.raises(TimeoutError):
            sock.recv(1)


def test_a_peer_that_reads_nothing_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.mem.serving.conversation.STALL_SECONDS", 0.3)
    with served(1 << 24) as memory, greeted(memory.server.port) as sock:
        command = Command(commands.OP_READ, 0, 1 << 24).alone()
        sock.sendall((28).to_bytes(8, "big") + LAST.to_bytes(4, "big") + command)
        until(lambda: memory.server.connections == 0)
        assert memory.notes == ["said or took nothing for too long"]


def until(condition) -> None:
    import time

    ends = time.monotonic() + SECONDS
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.01)


def test_one_connection_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.mem.serving.memory_server.CONNECTIONS", 2)
    with served() as memory:
        first, second = greeted(memory.server.port), greeted(memory.server.port)
        third = raw(memory.server.port)
        assert third.recv(1) == b""
        first.close()
        until(lambda: memory.server.connections == 1)
        greeted(memory.server.port).close()
        second.close()
        third.close()


def fuzzed(random_: random.Random, size: int) -> bytes:
    """A command that a peer may send: most fields are near the limits."""
    near = (0, 1, 4, size - 1, size, size + 1, 2**32, 2**63, 2**64 - 1, random_.randrange(size))
    op = random_.choice((0, 1, 2, 2, 2, 3, 3, 4, 16, 17, random_.randrange(256)))
    command = Command(op, random_.choice(near), random_.choice(near), random_.randrange(65_536))
    data = random_.randbytes(
        random_.choice((0, 4, 8, 29, random_.randrange(64), command.size % 99))
    )
    message = command.header() + data
    cut = random_.choice((None, None, None, random_.randrange(24)))
    return message if cut is None else message[:cut]


@pytest.mark.parametrize("seed", range(4))
def test_fuzzed_commands(seed: int) -> None:
    """100,000 commands at the memory itself: no byte outside, and each answer has its form."""
    random_ = random.Random(seed)
    size = 4096
    around = bytearray(b"\xaa" * (3 * size))
    region = MemoryRegion(memoryview(around)[size : 2 * size])
    model = bytearray(b"\xaa" * size)
    session = MemorySession()
    for _ in range(25_000):
        message = fuzzed(random_, size)
        try:
            command = read_header(message)
        except commands.CommandError:
            continue
        if command.op == commands.OP_HELLO and random_.random() < 0.9:
            continue  # otherwise an epoch of the far future soon ends all writing
        answer, read = region.answer(session, command, memoryview(message)[20:])
        assert answer.status in commands.STATUS_WORDS
        assert (answer.addr, answer.size, answer.seq) == (command.addr, command.size, command.seq)
        if command.op == commands.OP_WRITE and answer.status == 0:
            model[command.addr : command.addr + command.size] = message[20 : 20 + command.size]
        if command.op == commands.OP_READ and answer.status == 0:
            assert read == model[command.addr : command.addr + command.size]
    assert around[:size] == around[2 * size :] == b"\xaa" * size
    assert region.buffer == model


def test_fuzzed_messages_end_no_server() -> None:
    random_ = random.Random(7)
    with served(4096) as memory:
        for _ in range(300):
            sock = greeted(memory.server.port)
            joined = b"".join(
                (4 + len(one)).to_bytes(8, "big") + LAST.to_bytes(4, "big") + one
                for one in (fuzzed(random_, 4096) for _ in range(3))
            )
            body = bytearray(joined)
            if body and random_.random() < 0.5:
                body[random_.randrange(len(body))] ^= 1 << random_.randrange(8)
            sock.sendall(body)
            sock.shutdown(socket.SHUT_WR)
            while True:
                try:
                    if not sock.recv(65_536):
                        break
                except ConnectionResetError:
                    break
            sock.close()
        link = MemoryLink("m", memory.url, epoch=2**64 - 1)
        link.write(0, memoryview(b"alive"))
        assert memory.bytes[:5] == b"alive"
        link.close()


# ---- a server that answers wrongly ---------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, *(pytest.param(at, marks=pytest.mark.full) for at in (1, 2))])
def test_fuzzed_answers(seed: int) -> None:
    """A link gets wrong answers: each is an error with a type, and never bytes of another read."""
    random_ = random.Random(seed)
    listener = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def peer() -> None:
        while not ended.is_set():
            try:
                sock, _ = listener.accept()
            except OSError:
                return
            with sock:
                sock.sendall(hello(REP))
                exactly(sock, 8)
                try:
                    while True:
                        length = int.from_bytes(exactly(sock, 8), "big")
                        message = exactly(sock, length)
                        answer = bytearray(random_.choice((28, 29, 40, 75)).to_bytes(8, "big"))
                        answer += message[:4] + message[4:28] + random_.randbytes(50)
                        if random_.random() < 0.7:
                            answer[random_.randrange(len(answer))] ^= 1 << random_.randrange(8)
                        sock.sendall(answer[: random_.randrange(8, len(answer))])
                        if random_.random() < 0.3:
                            break
                except (AssertionError, OSError):
                    continue

    thread = threading.Thread(target=peer, daemon=True)
    thread.start()
    for _ in range(40):
        link = MemoryLink("m", f"tcp://127.0.0.1:{listener.getsockname()[1]}", patience=0.1)
        try:
            link.read(0, memoryview(bytearray(16)))
            link.write(0, memoryview(bytearray(16)))
        except RemoteMemoryError:
            pass
        link.close()
    ended.set()
    listener.close()


def test_a_memory_that_is_away() -> None:
    with served() as memory:
        link = MemoryLink("mem1", memory.url, patience=0.3)
        link.write(0, memoryview(b"x"))
    with pytest.raises(RemoteMemoryAway, match=r"memory mem1 .* away: .*last answered") as found:
        link.write(0, memoryview(b"y"))
    assert found.value.since is not None
    never = MemoryLink("mem2", memory.url, patience=0.1)
    with pytest.raises(RemoteMemoryAway, match="never answered"):
        never.read(0, memoryview(bytearray(1)))
