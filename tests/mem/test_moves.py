"""Memories that move from process to process while clients use them: nothing lost or done twice."""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.mem.served import SECONDS, ServedMemory, ask, greeted, served
from tests.mem.test_exactly_once import counted
from tests.mem.test_memory_wire import until
from wasmsr.cli.elements.memory import has_come
from wasmsr.mem.failures import RemoteMemoryError
from wasmsr.mem.memory_link import MemoryLink
from wasmsr.mem.serving.arriving import ArrivingMemory, MoveFailed, MoveInDoubt
from wasmsr.mem.serving.memory_images import MemoryImageError, MemoryImages, emptied
from wasmsr.mem.serving.memory_region import MemoryCut, MemoryRegion, MemorySession
from wasmsr.mem.wire import commands
from wasmsr.mem.wire.commands import Command, whole

PAGE = 1 << 16


class Counting:
    """Clients that count in a memory, each a number of its own, until they are told to stop."""

    def __init__(self, url: str, clients: int = 3) -> None:
        self.counts = [0] * clients
        self.errors: list[BaseException] = []
        self.stopping = threading.Event()
        self.links = [MemoryLink("m", url) for _ in self.counts]
        self.threads = [
            threading.Thread(target=self._count, args=(at,), daemon=True) for at in range(clients)
        ]
        for thread in self.threads:
            thread.start()

    def _count(self, at: int) -> None:
        link, number = self.links[at], memoryview(bytearray(4))
        try:
            while not self.stopping.is_set():
                link.read(at * PAGE, number)
                assert int.from_bytes(number, "little") == self.counts[at]
                number[:] = (self.counts[at] + 1).to_bytes(4, "little")
                link.write(at * PAGE, number)
                self.counts[at] += 1
        except BaseException as error:  # noqa: BLE001 (the test looks at it)
            self.errors.append(error)

    def stop(self) -> list[int]:
        self.stopping.set()
        for thread in self.threads:
            thread.join(SECONDS)
        for link in self.links:
            link.close()
        assert not self.errors
        return self.counts


@contextmanager
def moved(source: ServedMemory) -> Iterator[ServedMemory]:
    """Give a server to which a memory has moved."""
    arriving = ArrivingMemory(source.url)
    arriving.begin()
    with served(arriving.size) as there:
        there.server.stop()  # it listens again when the memory is here
        region = MemoryRegion(memoryview(bytearray(arriving.size)))
        from wasmsr.mem.serving.memory_server import MemoryServer

        server = MemoryServer(region, port=there.server.port)
        try:
            arriving.take(region, there.url, lambda one: None)
        except BaseException:
            server.close()
            raise
        server.start()
        there.region, there.server = region, server
        yield there


def numbers(region: MemoryRegion, count: int = 3) -> list[int]:
    return [
        int.from_bytes(region.buffer[at * PAGE : at * PAGE + 4], "little") for at in range(count)
    ]


def test_a_memory_moves_while_clients_count_in_it() -> None:
    with served(5 * PAGE + 7) as first:
        first.bytes[-3:] = b"end"
        clients = Counting(first.url)
        until(lambda: min(clients.counts) > 5)
        with moved(first) as second:
            seen = list(clients.counts)
            until(lambda: all(now > was + 5 for now, was in zip(clients.counts, seen, strict=True)))
            with moved(second) as third:
                seen = list(clients.counts)
                until(lambda: all(now > was for now, was in zip(clients.counts, seen, strict=True)))
                assert clients.stop() == numbers(third.region)
                assert bytes(third.region.buffer[-3:]) == b"end"
                assert third.region.ident == first.region.ident
                assert {link.url for link in clients.links} == {third.url}


@pytest.mark.full
def test_a_memory_moves_a_hundred_times() -> None:
    from contextlib import ExitStack

    with served(8 * PAGE) as first, ExitStack() as stack:
        clients = Counting(first.url)
        places = [first]
        for _ in range(100):
            seen = list(clients.counts)
            places.append(stack.enter_context(moved(places[-1])))
            until(
                lambda seen=seen: (
                    clients.errors
                    or all(now > was for now, was in zip(clients.counts, seen, strict=True))
                )
            )
        assert clients.stop() == numbers(places[-1].region)


def said(step: int, token: bytes = b"t" * 16, more: bytes = b"") -> bytes:
    data = commands.MOVE.pack(commands.MOVE_VERSION, token) + more
    return whole(Command(commands.OP_MOVE, addr=step), data)


def status(answer: bytes) -> int:
    return commands.read_header(answer).status


@pytest.mark.parametrize("steps", [[1], [1, 2], [1, 2, 3], [1, 3]])
def test_a_mover_that_goes_away_changes_nothing(steps: list[int]) -> None:
    with served(3 * PAGE) as memory:
        link = MemoryLink("m", memory.url)
        link.write(0, memoryview(b"before"))
        mover = greeted(memory.server.port)
        for step in steps:
            assert status(ask(mover, said(step))) == commands.OK
        if 3 in steps:  # the memory stands: the command waits
            thread = threading.Thread(target=lambda: link.write(0, memoryview(b"after!")))
            thread.start()
            thread.join(0.05)
            assert thread.is_alive() and memory.bytes[:6] == b"before"
            mover.close()
            thread.join(SECONDS)
        else:
            mover.close()
            link.write(0, memoryview(b"after!"))
        assert memory.bytes[:6] == b"after!"
        with moved(memory) as there:  # and it can move another time
            link.write(0, memoryview(b"there!"))
            assert bytes(there.region.buffer[:6]) == b"there!"
        link.close()


def test_a_mover_that_is_too_slow(monkeypatch: pytest.MonkeyPatch) -> None:
    """The memory stands for a bounded time; who decides after it is refused."""
    monkeypatch.setattr("wasmsr.mem.serving.memory_move.STOP_SECONDS", 0.1)
    with served(PAGE) as memory:
        mover = greeted(memory.server.port)
        for step in (1, 3):
            assert status(ask(mover, said(step))) == commands.OK
        link = MemoryLink("m", memory.url)
        link.write(0, memoryview(b"on"))
        late = ask(mover, said(4, more=b"tcp://127.0.0.1:1"))
        assert status(late) == commands.OUT_OF_ORDER
        assert memory.bytes[:2] == b"on" and not memory.region.moved
        link.close()
        mover.close()


@pytest.mark.parametrize(
    ("steps", "token", "more", "expected"),
    [
        ([2], b"t" * 16, b"", commands.OUT_OF_ORDER),  # nobody has begun
        ([1, 4], b"t" * 16, b"tcp://127.0.0.1:1", commands.OUT_OF_ORDER),  # it does not stand
        ([1, 3, 4], b"t" * 16, b"", commands.OUT_OF_ORDER),  # no address
        ([1, 3, 4], b"t" * 16, b"x" * 301, commands.OUT_OF_ORDER),
        ([1, 3, 4], b"t" * 16, b"\xff\xfe", commands.OUT_OF_ORDER),
        ([1, 9], b"t" * 16, b"", commands.OUT_OF_ORDER),
        ([1, 1], b"t" * 16, b"", commands.OUT_OF_ORDER),  # one move at a time
        ([1, 3, 3], b"t" * 16, b"", commands.OUT_OF_ORDER),
    ],
)
def test_steps_out_of_order(steps: list[int], token: bytes, more: bytes, expected: int) -> None:
    with served(PAGE) as memory:
        mover = greeted(memory.server.port)
        found = [status(ask(mover, said(step, token, more))) for step in steps]
        assert found == [commands.OK] * (len(steps) - 1) + [expected]
        mover.close()
        link = MemoryLink("m", memory.url)
        link.write(0, memoryview(b"on"))
        assert memory.bytes[:2] == b"on"
        link.close()


def test_no_decision_follows_a_question() -> None:
    """A process that was started again asks; what the one before has sent may arrive later."""
    with served(PAGE) as memory:
        before, again = greeted(memory.server.port), greeted(memory.server.port)
        assert [status(ask(before, said(step))) for step in (1, 3)] == [commands.OK] * 2
        assert status(ask(again, said(5, b"u" * 16))) == commands.OK
        assert status(ask(again, said(1, b"u" * 16))) == commands.OK  # it can begin at once
        late = ask(before, said(4, more=b"tcp://127.0.0.1:1"))
        assert status(late) == commands.OUT_OF_ORDER and not memory.region.moved
        before.close()
        again.close()


def test_messages_that_are_no_steps() -> None:
    with served(PAGE) as memory:
        mover = greeted(memory.server.port)
        assert status(ask(mover, Command(commands.OP_MOVE, addr=1).alone())) == 2
        wrong = whole(Command(commands.OP_MOVE, addr=1), commands.MOVE.pack(9, b"t" * 16))
        assert status(ask(mover, wrong)) == 2
        mover.close()


def test_a_memory_that_processes_share_does_not_move() -> None:
    with served(PAGE) as memory:
        memory.region.move.decide = None
        with pytest.raises(MoveFailed, match="share it"):
            ArrivingMemory(memory.url).begin()


def test_a_decision_that_cannot_be_kept_is_none() -> None:
    def fails(address: str) -> None:
        raise OSError(28, "No space left on device")

    with served(PAGE) as memory:
        memory.region.move.decide = fails
        link = MemoryLink("m", memory.url)
        link.write(0, memoryview(b"here"))
        with pytest.raises(MoveFailed), moved(memory):
            pass
        link.write(0, memoryview(b"stay"))
        assert memory.bytes[:4] == b"stay"
        link.close()


class Losing:
    """Stands before a memory, and loses the answer to the decision, or the decision itself."""

    def __init__(self, port: int, loses: str) -> None:
        self._port, self._loses, self.lost = port, loses, 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"tcp://127.0.0.1:{self._listener.getsockname()[1]}"
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        while True:
            try:
                near, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(near,), daemon=True).start()

    def _serve(self, near: socket.socket) -> None:
        from wasmsr.mem.wire.sp import receive_exactly

        with near, socket.create_connection(("127.0.0.1", self._port)) as far:
            try:
                for one, other in ((near, far), (far, near)):
                    hello = bytearray(8)
                    receive_exactly(one, memoryview(hello))
                    other.sendall(hello)
                while True:
                    for one, other in ((near, far), (far, near)):
                        head = bytearray(12)
                        receive_exactly(one, memoryview(head))
                        rest = bytearray(int.from_bytes(head[:8], "big") - 4)
                        receive_exactly(one, memoryview(rest))
                        decides = rest[19] == commands.OP_MOVE and rest[0] == commands.MOVE_DONE
                        lost = "decision" if one is near else "answer"
                        if decides and lost == self._loses and not self.lost:
                            self.lost += 1
                            return
                        other.sendall(head + rest)
            except (OSError, EOFError):
                return

    def close(self) -> None:
        self._listener.close()


def test_a_decision_whose_answer_is_lost_is_asked_for() -> None:
    with served(2 * PAGE) as first:
        losing = Losing(first.server.port, "answer")
        link = MemoryLink("m", first.url)
        link.write(0, memoryview(b"one"))
        first.url = losing.url
        with moved(first) as second:
            assert losing.lost == 1 and first.region.moved == second.url.encode()
            link.write(0, memoryview(b"two"))
            assert bytes(second.region.buffer[:3]) == b"two" and first.bytes[:3] == b"one"
        link.close()
        losing.close()


def test_a_decision_that_is_lost_was_none() -> None:
    with served(2 * PAGE) as first:
        done = counted(first)
        losing = Losing(first.server.port, "decision")
        link = MemoryLink("m", first.url)
        first.url = losing.url
        with pytest.raises(MoveFailed, match="stays"), moved(first):
            pass
        assert losing.lost == 1 and not first.region.moved
        link.write(0, memoryview(b"on"))
        assert done == [1]
        link.close()
        losing.close()


def test_nobody_serves_what_is_in_doubt(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.mem.serving.arriving.DOUBT_SECONDS", 0.3)
    with served(2 * PAGE) as first:
        arriving = ArrivingMemory(first.url)
        arriving.begin()
        region = MemoryRegion(memoryview(bytearray(2 * PAGE)))
        stops = iter([lambda: None, first.server.stop])
        with pytest.raises(MoveInDoubt, match="does not say"):
            arriving.take(region, "tcp://127.0.0.1:1", lambda one: next(stops)())


def test_an_answer_of_another_form_to_the_decision_leaves_a_doubt(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The memory may be here, so it is asked, as after a connection that broke."""
    with served(2 * PAGE) as first:
        told: list[int] = []
        plain = ArrivingMemory._ask

        def ask(self: ArrivingMemory, step: int, more: bytes = b"") -> tuple[int, bytes]:
            found = plain(self, step, more)
            told.append(step)
            if step == commands.MOVE_DONE:
                raise ValueError("an answer of another length, or to another request")
            return found

        monkeypatch.setattr(ArrivingMemory, "_ask", ask)
        with moved(first) as second:
            assert told[-2:] == [commands.MOVE_DONE, commands.MOVE_ASK]
            assert first.region.moved == second.url.encode()


@pytest.mark.parametrize("said", [b"[" * 100_000, b'{"size": 1e999}', b'{"size": []}', b"\xff"])
def test_a_source_that_lies_about_its_size(said: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    with served(2 * PAGE) as first:
        monkeypatch.setattr(ArrivingMemory, "_ask", lambda self, step: (commands.OK, said))
        with pytest.raises(MoveFailed, match="wrong answer"):
            ArrivingMemory(first.url).begin()


@pytest.mark.parametrize("value", [0.5, "1", -1, 1 << 64, None, True])
def test_a_cut_that_lies(value: object) -> None:
    region = MemoryRegion(memoryview(bytearray(PAGE)))
    said = region.cut_now().said()
    with pytest.raises((TypeError, ValueError)):
        MemoryCut.read(said | {"epoch": value})
    row = ["00" * 16, value, 1, Command(commands.OP_NOP).header().hex()]
    with pytest.raises((TypeError, ValueError)):
        MemoryCut.read(said | {"clients": [row]})
    assert MemoryCut.read(said | {"clients": [[row[0], 7, *row[2:]]]}).clients[0][1] == 7


def test_a_mover_that_is_silent_for_long_blocks_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its machine may be lost, and then nothing says that its connection has ended."""
    now = [1000.0]
    clock = SimpleNamespace(monotonic=lambda: now[0])
    monkeypatch.setattr("wasmsr.mem.serving.memory_move.time", clock)
    region = MemoryRegion(memoryview(bytearray(PAGE)))

    def step(session: MemorySession, number: int, token: bytes) -> int:
        data = commands.MOVE.pack(commands.MOVE_VERSION, token) + commands.PADDING
        return region.answer(session, Command(commands.OP_MOVE, addr=number), memoryview(data))[
            0
        ].status

    first, second = MemorySession(), MemorySession()
    assert step(first, commands.MOVE_BEGIN, b"1" * 16) == commands.OK
    now[0] += 500
    region.answer(first, Command(commands.OP_READ, 0, 1), memoryview(b""))
    now[0] += 500
    assert step(second, commands.MOVE_BEGIN, b"2" * 16) == commands.OUT_OF_ORDER
    now[0] += 101
    assert step(second, commands.MOVE_BEGIN, b"2" * 16) == commands.OK
    assert step(first, commands.MOVE_ROUND, b"1" * 16) == commands.OUT_OF_ORDER
    assert step(second, commands.MOVE_ROUND, b"2" * 16) == commands.OK


def test_a_memory_of_another_kind_does_not_move() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    url = f"tcp://127.0.0.1:{listener.getsockname()[1]}"

    def other() -> None:
        sock, _ = listener.accept()
        with sock:
            sock.recv(100)
            sock.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    thread = threading.Thread(target=other, daemon=True)
    thread.start()
    with pytest.raises(RemoteMemoryError, match="HTTP"):
        ArrivingMemory(url).begin()
    thread.join(SECONDS)
    listener.close()
    with pytest.raises(RemoteMemoryError, match="is away"):
        ArrivingMemory(url).begin()


# ---- the command ---------------------------------------------------------------------------------


class Server:
    """`wasmsr memory` in a process."""

    def __init__(self, folder: Path, *words: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "wasmsr", "memory", "0", *words], cwd=folder,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self.process.stdout is not None
        self.line = self.process.stdout.readline()
        found = re.search(r"tcp://\S+:\d+", self.line)
        self.url = found[0] if found else ""

    def end(self, number: signal.Signals = signal.SIGTERM) -> str:
        self.process.send_signal(number)
        _, words = self.process.communicate(timeout=SECONDS)
        return words


@pytest.mark.full
def test_a_memory_moves_between_processes(tmp_path: Path) -> None:
    saves = ("--snapshot-every", "3600", "--folder")
    first = Server(tmp_path, "--size", "1M", *saves, "a")
    clients = Counting(first.url)
    until(lambda: min(clients.counts) > 5)
    second = Server(tmp_path, "--from", first.url, *saves, "b")
    assert f"moved from {first.url}" in second.line, second.end()
    seen = list(clients.counts)
    until(lambda: all(now > was for now, was in zip(clients.counts, seen, strict=True)))
    counts = clients.stop()
    second.end()
    again = Server(tmp_path, "--size", "1M", *saves, "b")
    link = MemoryLink("m", again.url)
    number = memoryview(bytearray(4))
    for at, count in enumerate(counts):
        link.read(at * PAGE, number)
        assert int.from_bytes(number, "little") == count
    link.close()
    assert f"has moved to {second.url}" in first.end()
    old = Server(
        tmp_path, "--size", "1M", *saves, "a"
    )  # what it has is old, so it sends everybody away
    assert f"which has moved to {second.url}" in old.line
    old.end()
    refused = Server(tmp_path, "--from", again.url, *saves, "b")
    assert "another process saves" in refused.process.communicate(timeout=SECONDS)[1]
    again.end()
    refused = Server(tmp_path, "--from", first.url, *saves, "a")
    assert "has a memory already" in refused.process.communicate(timeout=SECONDS)[1]


@pytest.mark.full
def test_a_memory_that_has_come_is_found_by_the_same_command(tmp_path: Path) -> None:
    """The process was ended after the decision, before it knew: what it has is the memory."""
    saves = ("--snapshot-every", "3600", "--folder")
    first = Server(tmp_path, "--size", "1M", *saves, "a")
    link = MemoryLink("m", first.url)
    link.write(0, memoryview(b"only here"))
    words = ("--from", first.url, *saves, "b")
    second = Server(tmp_path, *words)
    link.write(100, memoryview(b"written there"))
    second.end()
    MemoryImages(tmp_path / "b").note_arrival(first.url, second.url)
    again = Server(tmp_path, *words)
    assert "as saved in b" in again.line, again.end()
    found = MemoryLink("m", again.url)
    for at, data in ((0, b"only here"), (100, b"written there")):
        read = memoryview(bytearray(len(data)))
        found.read(at, read)
        assert read == data
    found.close()
    link.close()
    again.end()
    first.end()


def test_nothing_is_removed_as_long_as_nobody_knows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wasmsr.mem.serving.arriving.DOUBT_SECONDS", 0.3)
    region = MemoryRegion(memoryview(bytearray(PAGE)))
    images = MemoryImages(tmp_path)
    images.save(region)
    with served(PAGE) as first:
        images.note_arrival(first.url, "tcp://127.0.0.1:2")
        first.server.stop()
        with pytest.raises(MoveInDoubt):
            has_come(images)
        assert images.arrives and not MemoryImages(tmp_path).is_empty
    with served(PAGE) as other:
        images.note_arrival(other.url, "tcp://127.0.0.1:2")
        assert not has_come(images)  # it goes on there
        other.region.move_to("tcp://127.0.0.1:2")
        assert has_come(images) and images.arrives is None


def test_what_is_left_of_a_move_does_not_count(tmp_path: Path) -> None:
    images = MemoryImages(tmp_path)
    region = MemoryRegion(memoryview(bytearray(PAGE)))
    images.note_arrival("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    images.save(region)
    assert MemoryImages(tmp_path).arrives == ("tcp://127.0.0.1:1", "tcp://127.0.0.1:2")
    found = emptied(tmp_path)
    assert found.is_empty
    found.save(region)
    found.arrived()
    assert MemoryImages(tmp_path).arrives is None
    with pytest.raises(MemoryImageError, match="already"):
        emptied(tmp_path)
    for name in ("arrives", "moved"):
        (tmp_path / f"{name}.json").write_text("[]")
        with pytest.raises(MemoryImageError, match="damaged"):
            getattr(MemoryImages(tmp_path), name)
