"""Standard streams of a program that moves: where its output appears, and what it reads."""

from __future__ import annotations

import os
import pty
import random
import re
import signal
import threading
import time
from pathlib import Path

import pytest

from tests.migrate.remote import PATIENCE, Ends
from wasmsr.cli.moving.event_lines import EventLines
from wasmsr.errors import UnportableState
from wasmsr.interp.modules.module import Module
from wasmsr.migrate.events import Event
from wasmsr.migrate.protocol import PeerLost, PeerRefused, Reason, Refusal
from wasmsr.migrate.streams.relays import Relay, Shown, input_along
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.wasi.facade import Wasi

ECHO = Path(__file__).with_name("echo.wat")
LINES = b"".join(b"line %04d\n" % number for number in range(100))
TEXT = LINES.replace(b"\n", b"")


def output(ends: Ends, end: str) -> tuple[bytes, list[str]]:
    """What an end wrote: the program's output without line ends, which events bring too, and its
    own events."""
    out, err = ends.rest(end)
    assert ends.processes[end].returncode == 0, err
    event = r'\{"event"[^}]*\}'
    return re.sub(event, "", out).replace("\n", "").encode(), re.findall(event, out)


def begin(ends: Ends, *more: str) -> None:
    (ends.work / "input").write_bytes(LINES)
    ends.listen("b", "--every", "0.7")
    words = ("--send", "--program", str(ECHO), "--stdin", "input", "--every", "0.7", *more)
    ends.start("a", *words)


def test_output_appears_where_the_program_runs(ends: Ends) -> None:
    begin(ends)
    (first, _), (second, events) = output(ends, "a"), output(ends, "b")
    assert first and second and len(first) + len(second) == len(TEXT)
    assert sum('"arrived"' in event for event in events) >= 1
    # All of the input went along: every byte was written once, here or there.
    assert sorted(first + second) == sorted(TEXT)
    assert TEXT.startswith(first[:35])


@pytest.mark.full
def test_output_is_relayed_to_where_it_started(ends: Ends) -> None:
    begin(ends, "--stdout-after-move", "relay")
    (first, _), (second, _) = output(ends, "a"), output(ends, "b")
    assert (first, second) == (TEXT, b"")


def test_input_ends_with_the_move_if_that_is_wished(ends: Ends) -> None:
    begin(ends, "--stdin-after-move", "eof")
    (first, _), (second, _) = output(ends, "a"), output(ends, "b")
    assert second == b"" and TEXT.startswith(first) and 0 < len(first) < len(TEXT)


def test_an_input_that_cannot_go_along_keeps_the_program_here() -> None:
    reader, writer = os.pipe()
    text = """(module (import "wasi_snapshot_preview1" "sched_yield" (func (result i32)))
      (memory (export "memory") 1) (func (export "_start")))"""
    program = Program.launch(Module.from_text(text), grants=HostGrants(stdin=reader))
    state = program.snapshot().wasi
    assert state is not None
    with pytest.raises(UnportableState, match="standard input is a pipe"):
        input_along(program, state, "relay")
    ended = input_along(program, state, "eof")["descriptors"][0]
    assert ended["ended"] is True and ended["unread"] == b""
    program.close()
    os.close(reader)
    os.close(writer)


# The pieces of it --------------------------------------------------------------------------------


class Line:
    """A connection that fails before a piece arrives, or before its answer does."""

    def __init__(self, troubles: str) -> None:
        self.troubles = list(troubles)
        self.seen = b""
        self.shown = Shown(self.write)

    def write(self, number: int, data: bytes) -> int:
        self.seen += data[:3]
        return len(data[:3])

    def send(self, stream: str, offset: int, data: bytes) -> int:
        trouble = self.troubles.pop(0) if self.troubles else ""
        if trouble == "-":
            raise PeerLost("the message was lost")
        unseen = self.shown.show(b"attempt", stream, offset, data)
        if trouble == "+":
            raise PeerLost("the answer was lost")
        return unseen


@pytest.mark.parametrize("troubles", ["", "-", "+", "+-+", "++ +"])
def test_every_byte_is_shown_once(troubles: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wasmsr.migrate.streams.relays.AGAIN", 0.001)
    line = Line(troubles)
    relay = Relay("stdout", line.send)
    for piece in (b"one ", b"two ", b"three " * 100):
        assert relay.write(memoryview(piece)) == len(piece)
    assert line.seen == b"one two " + b"three " * 100


def test_a_relay_that_nobody_answers_waits_until_it_is_closed() -> None:
    relay = Relay("stdout", Line("-" * 100).send)
    threading.Timer(0.3, relay.close).start()
    with pytest.raises(OSError, match="Input/output"):
        relay.write(memoryview(b"x"))


def test_a_refused_piece_is_an_error_of_the_program() -> None:
    def refuse(stream: str, offset: int, data: bytes) -> int:
        raise PeerRefused(Refusal(Reason.STORAGE, "its terminal is gone"))

    with pytest.raises(OSError, match="terminal is gone"):
        Relay("stdout", refuse).write(memoryview(b"x"))


def test_a_piece_that_does_not_follow_is_refused() -> None:
    shown = Shown(lambda number, data: len(data))
    assert shown.show(b"attempt", "stdout", 0, b"data") == 0
    with pytest.raises(ValueError, match="does not follow"):
        shown.show(b"attempt", "stdout", 5, b"data")
    with pytest.raises(ValueError, match="does not follow"):
        shown.show(b"attempt", "stdin", 0, b"data")


def test_an_input_that_has_ended_stays_ended() -> None:
    assert Module.from_file(ECHO).imports
    with Wasi(stdin=b"rest") as wasi:
        state = wasi.capture()
    state["descriptors"][0]["ended"] = True
    with Wasi.restore(state, stdin=b"more") as wasi:
        again = wasi.capture()
        assert again["descriptors"][0]["unread"] == b"rest"
        assert again["descriptors"][0]["ended"] is True


# Input that stays --------------------------------------------------------------------------------


def fed(ends: Ends, stdin: int, *more: str, every: str = "0.4") -> None:
    """Two ends, the first with an input of its own that the program reads wherever it is."""
    ends.listen("b", "--every", every)
    words = ("--send", "--program", str(ECHO), "--stdin", "-", "--every", every, *more)
    ends.start("a", *words, stdin=stdin)


def test_a_pipe_is_read_wherever_the_program_is(ends: Ends) -> None:
    """Bytes come before, during and after moves, in pieces of all sizes, then the end."""
    reader, writer = os.pipe()
    fed(ends, reader, "--stdout-after-move", "relay")
    os.close(reader)
    written = 0
    chance = random.Random(1)
    deadline = time.monotonic() + 4
    while written < len(TEXT):
        size = chance.choice([1, 3, 10, 100])
        written += os.write(writer, TEXT[written : written + size])
        time.sleep(min(0.2, max(0.0, deadline - time.monotonic())) * chance.random())
    time.sleep(0.5)
    os.close(writer)
    (first, sent), (second, received) = output(ends, "a"), output(ends, "b")
    assert (first, second) == (TEXT, b"")
    assert sum('"moved"' in event for event in sent + received) >= 4


@pytest.mark.full
def test_what_is_typed_follows_the_program(ends: Ends) -> None:
    """A terminal: lines are seen at once, Ctrl-D is an end."""
    master, slave = pty.openpty()
    fed(ends, slave, "--stdout-after-move", "relay", every="1")
    ends.until("a", "moved")
    os.write(master, b"first line\n")
    assert ends.line("a") == "first line\n"
    os.write(master, b"second ")
    ends.until("a", "arrived")
    os.write(master, b"line\n")
    assert ends.line("a") == "second line\n"
    ends.until("a", "moved")
    os.write(master, b"\x04")
    (first, _), (second, _) = output(ends, "a"), output(ends, "b")
    assert (first, second) == (b"", b"")
    os.close(master)
    os.close(slave)


def test_an_input_whose_end_was_killed(ends: Ends) -> None:
    """The program gets EIO (29) once that end, started again, says that it has it no more."""
    reader, writer = os.pipe()
    fed(ends, reader)
    ends.until("b", "arrived")
    ends.processes["a"].kill()
    ends.rest("a")
    ends.start("a", "--program", str(ECHO), "--stdin", "-", stdin=reader)
    os.write(writer, b"for nobody")
    # Where it was, or where it has just come to, in its new process.
    deadline = time.monotonic() + PATIENCE
    while 29 not in [process.poll() for process in ends.processes.values()]:
        assert time.monotonic() < deadline, [process.poll() for process in ends.processes.values()]
        time.sleep(0.05)
    os.close(reader)
    os.close(writer)


def test_a_fifo_that_nobody_writes_to(ends: Ends) -> None:
    """It does not keep an end from starting, moving the program, or ending."""
    os.mkfifo(ends.work / "fifo")
    ends.listen("b", "--every", "60")
    words = ("--send", "--program", str(ECHO), "--stdin", "fifo", "--stdout-after-move", "relay")
    ends.start("a", *words, "--every", "0.4")
    ends.until("a", "moved")
    with open(ends.work / "fifo", "wb", buffering=0) as writer:
        writer.write(b"at last\n")
        assert ends.line("a") == "at last\n"
    (first, _), (second, _) = output(ends, "a"), output(ends, "b")
    assert (first, second) == (b"", b"")


def test_an_interrupt_while_a_fifo_is_waited_for(ends: Ends) -> None:
    os.mkfifo(ends.work / "fifo")
    ends.listen("b", "--every", "60")
    words = ("--send", "--program", str(ECHO), "--stdin", "fifo", "--every", "60")
    a = ends.start("a", *words)
    ends.until("a", "started")
    time.sleep(0.2)
    began = time.monotonic()
    a.send_signal(signal.SIGINT)
    _, said = ends.events("a")
    assert a.returncode == 130, said
    assert time.monotonic() - began < 5


def test_an_event_is_written_in_one_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    """The program writes to the same place, and must not get in between."""
    pieces: list[str] = []

    class Stream:
        write = staticmethod(pieces.append)

        def flush(self) -> None:
            pass

    monkeypatch.setattr("sys.stdout", Stream())
    show = EventLines(json=True)
    show(Event("ended", "", {"code": 0}))
    monkeypatch.undo()
    assert pieces == ['{"event": "ended", "code": 0}\n']
