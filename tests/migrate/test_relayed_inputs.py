"""Input that stays where it is while the program goes: each byte is read once, wherever it is."""

from __future__ import annotations

import errno
import os
import pty
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.migrate.counter import Counter, CounterArrival, CounterHost, World
from tests.migrate.ends import Fault
from tests.migrate.test_faults import Session
from tests.wasi.guest import FakeCaller
from wasmsr.interp.modules.module import Module
from wasmsr.migrate.handover.source import MoveSource
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.migrate.hosting.hosted_program import HostedProgram
from wasmsr.migrate.hosting.own_inputs import FEEDS
from wasmsr.migrate.journal.journal import Journal
from wasmsr.migrate.ports import Buffer, Relays
from wasmsr.migrate.protocol import (
    ABILITIES,
    Answer,
    Move,
    Offer,
    PeerLost,
    PeerRefused,
    Reason,
    Refusal,
)
from wasmsr.migrate.streams import inputs
from wasmsr.migrate.streams.inputs import Feed, Gone, Local, Remote, Stale
from wasmsr.migrate.streams.relays import input_along
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.wasi.errors import CallError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.preview1.abi import FdFlag
from wasmsr.wasi.streams.descriptor import FileKind
from wasmsr.wasi.streams.relayed_input import Inflow, RelayedInput
from wasmsr.wasi.streams.standard import RelayPosition

PATIENCE = 20.0
PROMPT = 0.05
"""Seconds of a pause; it takes well under one millisecond where nobody else computes."""


def calling() -> Any:
    """What the engine gives host functions."""
    return FakeCaller()


def until(condition: object) -> None:
    """Waits until `condition()` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline, "it does not come to that"
        time.sleep(0.002)


class Road:
    """A program that goes to and fro, its input, and what fails on the wire."""

    def __init__(self, host: int) -> None:
        self.feed = Feed(host)
        self.epoch = 1
        self.caller = calling()
        self.stream = self._stream()

    def _stream(self) -> RelayedInput:
        inflow: Inflow
        if self.epoch % 2:
            inflow = Local(self.feed, self.epoch)
        else:
            inflow = Remote(self._fetcher(self.epoch))
            # The test takes the steps of its thread.
            inflow._thread = threading.current_thread()
        stream = RelayedInput(inflow)
        stream.flags = FdFlag.NONBLOCK
        return stream

    def _fetcher(self, epoch: int) -> inputs.Fetch:
        return lambda position, most: self.feed.fetch(epoch, position, min(most, 50), 0)

    def step(self, trouble: str = "") -> None:
        """Asks for input, if the program is elsewhere and wants some."""
        remote = self.stream.inflow
        if not isinstance(remote, Remote) or not remote._wanted:
            return
        if trouble == "question":
            return
        if trouble == "answer":
            remote._fetch(remote._position, inputs.PIECE)
            return
        remote.step()

    def read(self, size: int) -> bytes | None:
        """What the program reads; None if there is nothing yet."""
        buffer = bytearray(size)
        try:
            count = self.stream.read(self.caller, [memoryview(buffer)])
        except CallError as failure:
            assert failure.errno == errno.EAGAIN
            return None
        return bytes(buffer[:count])

    def move(self, late: bool) -> None:
        """Saved, and restored on the other side; a `late` answer comes in between."""
        state = self.stream.relayed()
        assert state is not None
        unread = self.stream.unread
        if late:
            self.step()
        self.stream.close()
        self.epoch += 1
        self.stream = self._stream()
        self.stream.go_on(state)
        self.stream.unread = unread

    def close(self) -> None:
        self.stream.close()
        self.feed.close()
        self.caller.close()


STEPS = st.one_of(
    st.tuples(st.just("write"), st.integers(1, 120)),
    st.tuples(st.just("read"), st.integers(1, 120)),
    st.tuples(st.just("step"), st.sampled_from(["", "question", "answer"])),
    st.tuples(st.just("move"), st.booleans()),
)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.lists(STEPS, max_size=40))
def test_every_byte_is_read_once(steps: list[tuple[str, int | str | bool]]) -> None:
    reader, writer = os.pipe()
    road = Road(reader)
    written, seen = 0, b""
    try:
        for name, value in steps:
            if name == "write":
                size = int(value)
                os.write(writer, bytes((written + i) % 251 for i in range(size)))
                written += size
            elif name == "read":
                seen += road.read(int(value)) or b""
            elif name == "step":
                road.step(str(value))
            else:
                road.move(bool(value))
            assert len(road.feed._kept) <= 50
        os.close(writer)
        writer = -1
        for _ in range(200):
            got = road.read(7)
            road.step()
            if got == b"":
                break
            seen += got or b""
        else:
            for _ in range(written + 10):
                got = road.read(120)
                road.step()
                if got == b"":
                    break
                seen += got or b""
        assert seen == bytes(i % 251 for i in range(written))
        # The end of a pipe is for ever.
        again = road.read(1)
        road.step()
        assert again in (None, b"")
    finally:
        road.close()
        if writer >= 0:
            os.close(writer)


@pytest.fixture
def road() -> Iterator[tuple[Road, int]]:
    reader, writer = os.pipe()
    made = Road(reader)
    yield made, writer
    made.close()
    os.close(writer)


@pytest.mark.parametrize("trouble", ["", "question", "answer"])
@pytest.mark.parametrize("moves", [0, 1, 2])
def test_an_end_on_a_terminal_counts_once(trouble: str, moves: int) -> None:
    master, slave = pty.openpty()
    road = Road(slave)
    road.move(late=False)
    os.write(master, b"one\n\x04two\n")

    def read() -> bytes:
        for turn in range(20):
            got = road.read(100)
            if got is not None:
                return got
            road.step(trouble)
            # An end that has come and was not seen is not passed by a move.
            for _ in range(moves if turn == 0 else 0):
                road.move(late=True)
            road.step()
        raise AssertionError("nothing comes")

    assert [read(), read(), read()] == [b"one\n", b"", b"two\n"]
    assert road.stream.filetype == FileKind.CHARACTER_DEVICE
    road.close()
    os.close(master)


def test_nothing_is_taken_that_was_not_asked_for(road: tuple[Road, int]) -> None:
    made, writer = road
    made.move(late=False)
    os.write(writer, b"x" * 100)
    made.step()
    assert made.feed.pending() == 100 and made.feed._kept == b""
    assert made.stream.available(0) is None
    made.step()
    assert made.stream.available(0) == made.stream.pending() == 50
    assert made.read(30) == b"x" * 30
    # What is here and unread goes along.
    state = made.stream.relayed()
    assert state is not None and (made.stream.unread, state.position) == (b"x" * 20, 50)


def test_a_question_that_is_too_late_takes_nothing(road: tuple[Road, int]) -> None:
    made, writer = road
    made.move(late=False)
    old = made._fetcher(made.epoch)
    assert made.read(10) is None
    made.move(late=False)
    assert made.read(10) is None
    os.write(writer, b"mine")
    with pytest.raises(Stale):
        old(0, 50)
    assert made.read(10) == b"mine"


@pytest.mark.parametrize("position", [3, 6, 1 << 61])
def test_a_place_where_the_program_does_not_stand(road: tuple[Road, int], position: int) -> None:
    made, writer = road
    os.write(writer, b"hello")
    assert made.read(4) == b"hell"
    with pytest.raises(Stale):
        made.feed.fetch(2, position, 50, 0)
    assert made.read(4) == b"o"


def test_a_question_ends_the_one_before_and_closing_all(road: tuple[Road, int]) -> None:
    made, _ = road
    answers: list[tuple[bytes, bool]] = []

    def ask(seconds: float) -> threading.Thread:
        thread = threading.Thread(
            target=lambda: answers.append(made.feed.fetch(2, 0, 50, seconds)), daemon=True
        )
        thread.start()
        return thread

    first = ask(60)
    until(lambda: made.feed._waiter >= 0)
    assert made.feed.fetch(2, 0, 50, 0.01) == (b"", False)
    first.join(PATIENCE)
    second = ask(60)
    until(lambda: made.feed._waiter >= 0)
    made.feed.close()
    second.join(PATIENCE)
    assert answers == [(b"", False)] * 2


def test_a_pipe_that_another_process_drains_blocks_nobody(road: tuple[Road, int]) -> None:
    made, writer = road
    thief = threading.Event()

    def steal() -> None:
        while not thief.is_set():
            os.write(writer, b"x")
            os.read(made.feed.host, 1)

    thread = threading.Thread(target=steal)
    thread.start()
    began = time.monotonic()
    for _ in range(50):
        made.feed.fetch(2, made.feed._base + len(made.feed._kept), 1, 0)
        if made.feed._kept:
            # The thief misses one.
            os.write(writer, b"x")
    thief.set()
    thread.join(PATIENCE)
    assert not thread.is_alive() and time.monotonic() - began < PATIENCE


# At the other end, with its thread ---------------------------------------------------------------


class Line:
    """Gives what was put in, and fails as it is told."""

    def __init__(self) -> None:
        self.data = b""
        self.asked: list[int] = []
        self.error: Exception | None = None

    def fetch(self, position: int, most: int) -> tuple[bytes, bool]:
        self.asked.append(position)
        if self.error is not None:
            raise self.error
        time.sleep(0.005)
        return self.data[position : position + most], False


@pytest.fixture
def line(monkeypatch: pytest.MonkeyPatch) -> Line:
    monkeypatch.setattr(inputs, "AGAIN", 0.005)
    return Line()


def test_input_is_fetched_when_it_is_wanted(line: Line) -> None:
    remote, caller = Remote(line.fetch), calling()
    stream = RelayedInput(remote)
    time.sleep(0.05)
    assert not line.asked
    threading.Timer(0.1, lambda: setattr(line, "data", b"typed")).start()
    buffer = bytearray(10)
    assert stream.read(caller, [memoryview(buffer)[:2], memoryview(buffer)[2:]]) == 5
    assert buffer[:5] == b"typed"
    asked = len(line.asked)
    time.sleep(0.05)
    assert len(line.asked) == asked
    stream.close()
    caller.close()


def test_a_peer_that_does_not_answer_for_a_while(line: Line) -> None:
    remote, caller = Remote(line.fetch), calling()
    line.error = PeerLost("gone")

    def back() -> None:
        line.data, line.error = b"back", None

    threading.Timer(0.1, back).start()
    buffer = bytearray(10)
    assert RelayedInput(remote).read(caller, [memoryview(buffer)]) == 4
    remote.close()
    caller.close()


@pytest.mark.parametrize(
    "error", [PeerLost("gone"), PeerRefused(Refusal(Reason.STORAGE, "it is gone"))]
)
def test_an_input_that_is_cut_is_an_error(
    line: Line, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(inputs, "CUT_SECONDS", 0.1)
    remote, caller = Remote(line.fetch), calling()
    stream = RelayedInput(remote)
    stream.unread = b"first"
    line.error = error
    buffer = bytearray(10)
    # What had come is read before.
    assert stream.read(caller, [memoryview(buffer)]) == 5
    for _ in range(2):
        with pytest.raises(OSError, match="is cut") as caught:
            stream.read(caller, [memoryview(buffer)])
        assert caught.value.errno == errno.EIO
    assert stream.available(0) == 0
    stream.close()
    caller.close()


def test_an_input_that_nobody_has() -> None:
    caller = calling()
    stream = RelayedInput(Gone())
    stream.go_on(RelayPosition(7, terminal=False))
    assert stream.available(0) == 0
    with pytest.raises(OSError, match="is cut"):
        stream.read(caller, [memoryview(bytearray(1))])
    assert stream.relayed() == RelayPosition(7, terminal=False)
    caller.close()


def test_a_pause_ends_the_waiting_at_once(line: Line) -> None:
    """Blocked in fd_read, and in poll_oneoff."""
    read = "(call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24))"
    poll = """(call $poll_oneoff (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 24))
        (call $fd_read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)) i32.add"""
    for call in (read, poll):
        text = f"""(module
          (import "wasi_snapshot_preview1" "fd_read"
            (func $fd_read (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "poll_oneoff"
            (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
          (import "wasi_snapshot_preview1" "proc_exit" (func $proc_exit (param i32)))
          (memory (export "memory") 1)
          (func (export "_start")
            (i32.store (i32.const 16) (i32.const 100))
            (i32.store (i32.const 20) (i32.const 7))
            (i64.store (i32.const 200) (i64.const 5))
            (i32.store8 (i32.const 208) (i32.const 1))
            {call}
            (i32.add (i32.load8_u (i32.const 100)))
            (call $proc_exit)))"""
        line.data = b""
        stream = RelayedInput(Remote(line.fetch))
        module = Module.from_text(text)
        program = Program.launch(module, grants=HostGrants(stdin=stream))
        program.start()
        took = []
        for _ in range(10):
            time.sleep(0.02)
            began = time.monotonic()
            assert program.pause(PATIENCE)
            took.append(time.monotonic() - began)
            program.start()
        assert sorted(took)[5] < PROMPT
        assert program.pause(PATIENCE)
        snapshot = program.snapshot()
        stream.close()
        again = RelayedInput(Remote(line.fetch))
        moved = Program.resume(snapshot, module=module, grants=HostGrants(stdin=again), live=True)
        moved.start()
        line.data = b"Q"
        assert getattr(moved.wait(PATIENCE), "code", None) == ord("Q")
        moved.close()


# A host with an input ----------------------------------------------------------------------------

YIELDS = """(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
  (memory (export "memory") 1) (func (export "_start")))"""


def hosting(folder: Path, stdin: int | None) -> Hosting:
    made = Hosting(
        lambda: HostGrants(stdin=None),
        known={},
        files=folder,
        stdin=lambda: None if stdin is None else os.dup(stdin),
    )
    made.node = b"here" * 4
    return made


def launch(host: Hosting) -> HostedProgram:
    module = Module.from_text(YIELDS)
    return host.launch(lambda grants: Program.launch(module, grants=grants))


def test_a_pipe_stays_and_a_file_goes_along(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    (tmp_path / "file").write_bytes(b"rest")
    file = os.open(tmp_path / "file", os.O_RDONLY)
    for stdin, fed in ((reader, b"here" * 4), (file, b""), (None, b"")):
        host = hosting(tmp_path, stdin)
        program = launch(host)
        assert program.describe().fed == fed
        state = program.program.snapshot().wasi
        assert state is not None
        along = input_along(program.program, state, "relay")["descriptors"][0]
        assert ("relayed" in along, along.get("ended")) == (
            bool(fed),
            True if stdin == file else None,
        )
        assert along["unread"] == (b"rest" if stdin == file else b"")
        program.close()
        host.close()
    host = hosting(tmp_path, reader)
    host.inputs.after = "eof"
    program = launch(host)
    assert program.describe().fed == b""
    program.close()
    for descriptor in (reader, writer, file):
        os.close(descriptor)


def test_an_input_of_this_host_is_for_one_program_each(tmp_path: Path) -> None:
    reader, writer = os.pipe()
    host = hosting(tmp_path, reader)
    first, second = bytes(16), bytes(range(16))
    one, fed = host.inputs.of_end(first, 3)
    assert fed == host.node and isinstance(one, RelayedInput)
    os.write(writer, b"abc")
    assert host.feed(Move(first, 4, b"a" * 16), 0, 2) == (b"ab", False)
    with pytest.raises(ValueError, match="started again"):
        host.feed(Move(second, 4, b"a" * 16), 0, 2)
    # Coming back it goes on behind what it has read.
    again, _ = host.inputs.of_guest(first, Relays(b"", host.node, 5, None, None))
    assert isinstance(again, RelayedInput)
    again.go_on(RelayPosition(1, terminal=False))
    assert again.available(0) == 1
    gone, fed = host.inputs.of_guest(second, Relays(b"", host.node, 5, None, None))
    assert isinstance(gone, RelayedInput) and isinstance(gone.inflow, Gone) and fed == host.node
    # Programs that are only offered do not use up this process's descriptors.
    for number in range(3 * FEEDS):
        host.inputs.of_end(bytes([number]) * 16, 1)
    assert len(host.inputs) <= FEEDS
    host.forget(first, here=True)
    host.close()
    os.close(reader)
    os.close(writer)


def test_a_saved_program_reads_the_input_of_whoever_resumes_it() -> None:
    """The place in a relayed input means nothing elsewhere."""
    reader, writer = os.pipe()
    os.write(writer, b"abc")
    stream = RelayedInput(Local(Feed(reader), 1))
    with Wasi(stdin=stream) as wasi:
        stream.read(calling(), [memoryview(bytearray(2))])
        stream.unread = b"kept "
        state = wasi.capture()
    assert state["descriptors"][0]["relayed"] == {"position": 2, "terminal": False}
    with Wasi.restore(state, stdin=b"other") as wasi:
        assert wasi.capture()["descriptors"][0]["unread"] == b"kept other"
    os.close(writer)


# Two ends ----------------------------------------------------------------------------------------


class FedCounter(Counter):
    """A counter whose input is somewhere."""

    fed = b"x" * 16

    def describe(self):  # type: ignore[no-untyped-def]
        return replace(super().describe(), fed=self.fed)


class OldPeer:
    """A peer that answers an offer, with these abilities."""

    address = "there"

    def __init__(self, *abilities: str) -> None:
        self.abilities = abilities

    def prepare(self, offer: Offer) -> Answer:
        return Answer(b"o" * 16, abilities=self.abilities)


def test_an_older_peer_gets_no_program_whose_input_stays(tmp_path: Path) -> None:
    journal = Journal(tmp_path)
    program, move = FedCounter(World(), "a"), Move(b"p" * 16, 2, b"a" * 16)

    def prepare(peer: OldPeer) -> None:
        MoveSource(journal, peer, lambda event: None, threading.Event()).prepare(  # type: ignore
            program, move
        )

    with pytest.raises(PeerRefused, match="older version") as caught:
        prepare(OldPeer())
    assert caught.value.reason is Reason.VERSION and "--stdin-after-move eof" in str(
        caught.value.hint
    )
    prepare(OldPeer(*ABILITIES))
    program.fed = b"o" * 16  # it is the peer itself that has the input
    prepare(OldPeer())
    journal.close()


def test_a_third_end_has_the_input(tmp_path: Path) -> None:
    session = Session(tmp_path, [])
    node = session.b.node
    assert node
    offer = Offer(b"n" * 16, Move(b"p" * 16, 2, b"a" * 16), FedCounter(World(), "a").describe())
    with pytest.raises(PeerRefused, match="third end") as caught:
        node.answers.prepare(offer)
    assert caught.value.reason is Reason.FEATURE
    session.close()


def test_who_may_ask_for_input(tmp_path: Path) -> None:
    session = Session(tmp_path, [])
    session.begin()
    a = session.a.node
    assert a
    record = a.journal.get(session.program)
    assert record
    move = Move(session.program, 2, b"a" * 16)
    with pytest.raises(PeerRefused, match="no program of that move"):
        a.answers.input(move, 0, 1)
    session.move()
    record = a.journal.get(session.program)
    assert record
    assert a.answers.input(Move(session.program, 2, record.attempt), 0, 1) == (b"", True)
    for wrong in (Move(session.program, 2, b"a" * 16), Move(session.program, 4, record.attempt)):
        with pytest.raises(PeerRefused, match="no program of that move"):
            a.answers.input(wrong, 0, 1)
    session.close()


@pytest.mark.parametrize("stream", ["shown", "fed"])
def test_an_end_that_is_killed_while_ready_knows_where_the_streams_are(
    tmp_path: Path, stream: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = Session(tmp_path, [Fault("b", "after READY is on disk", "kill")])
    session.begin()
    assert session.a.node
    node = session.a.node.journal.node
    counter = session.held["a"]
    plain = counter.describe()
    told = replace(plain, shown=node) if stream == "shown" else replace(plain, fed=node)
    monkeypatch.setattr(counter, "describe", lambda: told)
    found: list[Relays] = []

    def arrival(
        host: CounterHost,
        relays: Relays | None = None,
        *,
        image: int | None = None,
        rest: int = 0,
        program: bytes = b"",
        offer: Offer | None = None,
        files: int = 0,
    ) -> CounterArrival:
        assert relays is not None
        found.append(relays)
        return CounterArrival(host, image)

    def restored(host: CounterHost, file: Iterator[Buffer], relays: Relays) -> CounterArrival:
        found.append(relays)
        made = CounterArrival(host)
        for piece in file:
            made.feed(piece)
        return made

    monkeypatch.setattr(CounterHost, "arrival", arrival)
    monkeypatch.setattr(CounterHost, "restored", restored)
    assert session.a.node.source.move(counter) is None
    session.b.revive()
    assert len(found) == 2
    for relays in found:
        assert getattr(relays, stream) == node and relays.epoch == 2
        assert (relays.send is None) == (stream == "fed") == (relays.fetch is not None)
    session.close()
