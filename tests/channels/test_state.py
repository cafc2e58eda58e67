"""Channels in snapshots: paused, saved, restored, refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.channels.host import ECHO, Host, host, module
from wasmsr.channels import conduit
from wasmsr.channels.conduit import written_message
from wasmsr.channels.failures import ChannelRefused, ChannelsNotGranted
from wasmsr.channels.table import ChannelTable
from wasmsr.errors import FormatError, UnportableState, WasmsrError
from wasmsr.executor.local import LocalExecutor
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.inspect.describe import describe
from wasmsr.snapshot.moments.history import History


def launched(at: Host) -> Program:
    """Return a running program that copies messages."""
    program = Program.launch(module(ECHO), grants=HostGrants(channels=at.conduit().grant()))
    program.start()
    assert [at.next().payload for _ in range(2)] == [b"\x01in", b"\x02out"]
    return program


def bytes_of(program: Program) -> bytes:
    assert program.pause(60)
    return b"".join(encode(program.snapshot(embed=True)))


def resumed(data: bytes, at: Host) -> Program:
    return Program.resume(decode(data), grants=HostGrants(channels=at.conduit().grant()))


def test_a_program_in_a_poll_moves_and_goes_on() -> None:
    with host() as here, host() as there:
        program = launched(here)
        here.give(0, b"one")
        assert written_message(here.next().payload)[1:] == (1, b"one")
        data = bytes_of(program)  # it waits for ever
        program.close()
        moved = resumed(data, there)
        assert [there.next().payload for _ in range(2)] == [b"\x01in", b"\x02out"]
        there.give(0, b"two")
        moved.start()
        assert written_message(there.next().payload)[1:] == (2, b"two")
        assert moved.pause(60)
        moved.close()


def test_what_has_come_and_was_not_read_is_in_the_snapshot() -> None:
    with host() as here, host() as there:
        program = launched(here)
        assert program.pause(60)
        for number in range(1, 31):
            here.give(0, b"%d" % number, b"s" * 16, 1, number)
        data = bytes_of(program)
        program.close()
        moved = resumed(data, there)
        # What the new host had subscribed to meanwhile comes too; what is in both is dropped.
        for number in range(20, 41):
            there.give(0, b"%d" % number, b"s" * 16, 1, number)
        moved.start()
        there.next(), there.next()
        found = [written_message(there.next().payload)[2] for _ in range(40)]
        assert found == [b"%d" % number for number in range(1, 41)]
        assert moved.pause(60)
        moved.close()


def test_the_rest_of_a_time_out() -> None:
    source = """(module
      (import "env" "ch_open" (func $open (param i32 i32 i32) (result i32)))
      (import "env" "ch_poll" (func $poll (param i32 i32 i32) (result i32)))
      (memory (export "memory") 1) (data (i32.const 16) "in\\00")
      (func (export "_start")
        (drop (call $open (i32.const 16) (i32.const 0) (i32.const 0)))
        (drop (call $poll (i32.const 0) (i32.const 1) (i32.const 3600000)))))"""
    with host() as here:
        program = Program.launch(module(source), grants=HostGrants(channels=here.conduit().grant()))
        program.start()
        here.next()
        assert program.pause(60)
        while (state := program.snapshot()).extra["host state"]["channels"]["poll"] is None:
            program.start()  # it was not in the call yet
            assert program.pause(60)
        (_, waited) = state.extra["host state"]["channels"]["poll"]
        state.extra["host state"]["channels"]["poll"][1] = waited + 3_600_000_000_000
        data = b"".join(encode(state))
        program.close()
        with host() as there:
            moved = Program.resume(
                decode(data), module=module(source),
                grants=HostGrants(channels=there.conduit().grant()),
            )  # fmt: skip
            moved.start()
            assert moved.wait(60) is not None or moved.is_stopped  # its hour is over
            moved.close()


def test_a_host_that_gives_no_channels_refuses_by_name() -> None:
    with pytest.raises(ChannelsNotGranted, match="ch_open"):
        Program.launch(module(ECHO))
    with host() as here:
        program = launched(here)
        data = bytes_of(program)
        program.close()
    with pytest.raises(ChannelsNotGranted, match="gives it no channels"):
        Program.resume(decode(data))


def test_a_host_that_gives_other_channels_refuses_by_name() -> None:
    with host() as here, host(rules=[["out", 2, "out"]]) as there:
        program = launched(here)
        data = bytes_of(program)
        program.close()
        with pytest.raises(ChannelRefused, match="channel in open \\(read\\)"):
            resumed(data, there)


def test_a_large_message_waits_for_room_and_can_be_paused() -> None:
    source = ECHO.replace('(memory (export "memory") 1)', '(memory (export "memory") 20)')
    source = source.replace(
        "(loop $again",
        "(loop $again (drop (call $ch_write_msg (local.get $out) (i32.const 0)"
        " (i32.const 1000000))) (br $again)",
    ).replace("(drop (call $ch_poll", "(drop (call $ch_poll", 1)
    with host() as here:
        grant = here.conduit().grant()
        program = Program.launch(module(source), grants=HostGrants(channels=grant))
        program.start()
        assert here.next().kind == here.next().kind == conduit.OPEN
        assert len(here.next().payload) == 1_000_024
        assert program.pause(60)  # it waits for room, or is about to
        program.start()
        numbers = [written_message(here.next().payload)[1] for _ in range(3)]
        assert numbers == [2, 3, 4]
        here.socket.close()  # nobody reads any more: it still pauses
        assert program.pause(60)
        program.close()


def test_inspect_shows_channels_and_version_1_has_none() -> None:
    with host() as here:
        program = launched(here)
        assert program.pause(60)
        here.give(0, b"x")
        state = program.snapshot()
        assert describe(state)["channels"]["channels"] == [[0, "in", 1], [1, "out", 2]]
        with pytest.raises(UnportableState, match="version 1"):
            b"".join(encode(state, version=1))
        with pytest.raises(UnportableState, match="moments"):
            History(program.store).take()
        program.close()


def test_a_state_that_nobody_serves_stays_in_the_next_snapshot() -> None:
    with host() as here:
        program = launched(here)
        assert program.pause(60)
        state = program.snapshot(embed=True)
        kept = dict(state.extra["host state"])
        program.close()
    program = Program.launch(module('(module (func (export "_start")))'))
    other = program.snapshot()
    other.extra["host state"] = kept
    again = Program.resume(
        decode(b"".join(encode(other))), module=module('(module (func (export "_start")))')
    )
    assert again.snapshot().extra["host state"] == kept


STATE: dict[str, Any] = {
    "channels": [[0, "in", 1], [2, "out", 2]],
    "messages": [[0, b"a"], [0, b"bc"]],
    "senders": [[b"l" * 16, 3, [[0, 7]]]],
    "life": b"m" * 16,
    "written": 5,
    "poll": [[64, 0, 0], 12],
    "period": None,
    "flags": 0,
}


def test_a_state_and_back() -> None:
    assert ChannelTable.restore(STATE).capture() == STATE


WRONG: list[tuple[str, Callable[[dict[str, Any]], Any]]] = [
    ("no map", lambda s: []),
    ("a key more", lambda s: s | {"x": 1}),
    ("a key less", lambda s: {k: v for k, v in s.items() if k != "life"}),
    ("twice", lambda s: s | {"channels": [[0, "in", 1], [0, "out", 1]]}),
    ("one path twice", lambda s: s | {"channels": [[0, "in", 1], [1, "in", 1]]}),
    ("flags", lambda s: s | {"channels": [[0, "in", 0]]}),
    ("flags", lambda s: s | {"channels": [[0, "in", 4]]}),
    ("fd", lambda s: s | {"channels": [[256, "in", 1]]}),
    ("path", lambda s: s | {"channels": [[0, "", 1]]}),
    ("long path", lambda s: s | {"channels": [[0, "p" * 5000, 1]]}),
    ("message of no channel", lambda s: s | {"messages": [[1, b""]]}),
    ("message of a channel that writes", lambda s: s | {"messages": [[2, b""]]}),
    ("text", lambda s: s | {"messages": [[0, "a"]]}),
    ("large", lambda s: s | {"messages": [[0, bytes((1 << 20) + 1)]]}),
    ("life", lambda s: s | {"life": b""}),
    ("written", lambda s: s | {"written": -1}),
    ("bool", lambda s: s | {"written": True}),
    ("senders", lambda s: s | {"senders": [[b"l" * 16, 0, []]] * 2}),
    ("senders", lambda s: s | {"senders": [[b"l" * 16, 0, [[300, 1]]]]}),
    ("poll", lambda s: s | {"poll": [[1] * 1000, 0]}),
    ("poll", lambda s: s | {"poll": 3}),
    ("period", lambda s: s | {"period": "now"}),
]


@pytest.mark.parametrize(("what", "change"), WRONG, ids=[what for what, _ in WRONG])
def test_what_is_no_state(what: str, change: Callable[[dict[str, Any]], Any]) -> None:
    with pytest.raises(FormatError):
        ChannelTable.restore(change(dict(STATE)))
    state = Program.launch(module('(module (func (export "_start")))')).snapshot()
    state.extra["host state"] = {"channels": change(dict(STATE))}
    with pytest.raises(WasmsrError):
        b"".join(encode(state))


def test_an_executor_gives_channels_through_a_fourth_stream(tmp_path: Path) -> None:
    path = tmp_path / "echo.wasm"
    path.write_bytes(_binary(ECHO))
    executor = LocalExecutor()
    with host() as here:
        id = executor.start({"program": os.fspath(path)}, streams=(-1, -1, -1, here.end.fileno()))
        here.next(), here.next()
        here.give(0, b"hello")
        assert written_message(here.next().payload)[1:] == (1, b"hello")
        assert executor.cancel(id, 60)
    with host() as other:
        other.socket.close()
        other.end.recv(1 << 16)  # the grant
        with pytest.raises(WasmsrError, match="channels"):
            executor.start({"program": os.fspath(path)}, streams=(-1, -1, -1, other.end.fileno()))


def _binary(source: str) -> bytes:
    import wasmtime

    return bytes(wasmtime.wat2wasm(source))
