"""Each row of the table declares the memory that a call writes: no less, and no more.

That no call writes anything else, `Guest.call` checks for every call of every test of the room.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.wasi.guest import DATA, IOVS, OUT, OUT2, PATH, ROOT, Guest, clock
from wasmsr import Mount
from wasmsr.wasi.engine import Retry
from wasmsr.wasi.preview1 import unstable
from wasmsr.wasi.preview1.functions import FUNCTIONS, MODULE
from wasmsr.wasi.streams import waiting

FILE, SOCKET, CONNECTION = 5, 4, 6
"""Descriptors: the listener comes after the mount, then what the fixture opens."""


@pytest.fixture
def around(tmp_path: Path) -> Iterator[Guest]:
    (tmp_path / "f").write_bytes(b"0123456789" * 100)
    os.symlink("target", tmp_path / "link")
    listening = socket.create_server(("127.0.0.1", 0))
    made = Guest(
        args=["prog", "one", ""],
        env={"A": "1", "LONG": "value"},
        mounts=[Mount(tmp_path, "/data")],
        sockets=[listening],
    )
    assert made.opened("f") == FILE
    with listening, socket.create_connection(listening.getsockname()) as client:
        assert made.call("sock_accept", SOCKET, 0, OUT) == 0
        assert made.u32() == CONNECTION
        others = [socket.create_connection(listening.getsockname()) for _ in range(2)]
        client.sendall(b"x" * 80)
        yield made
        for other in others:
            other.close()
    made.close()


TWO = (IOVS, 2)
CALLS: dict[str, tuple[int, ...]] = {
    "args_get": (OUT, DATA),
    "args_sizes_get": (OUT, OUT2),
    "environ_get": (OUT, DATA),
    "environ_sizes_get": (OUT, OUT2),
    "clock_res_get": (1, OUT),
    "clock_time_get": (1, 0, OUT),
    "fd_fdstat_get": (FILE, OUT),
    "fd_filestat_get": (FILE, OUT),
    "fd_pread": (FILE, *TWO, 3, OUT),
    "fd_prestat_get": (ROOT, OUT),
    "fd_prestat_dir_name": (ROOT, DATA, 5),
    "fd_pwrite": (FILE, *TWO, 3, OUT),
    "fd_read": (FILE, *TWO, OUT),
    "fd_readdir": (ROOT, DATA, 1000, 0, OUT),
    "fd_seek": (FILE, 7, 0, OUT),
    "fd_tell": (FILE, OUT),
    "fd_write": (FILE, *TWO, OUT),
    "path_filestat_get": (ROOT, 0, PATH, 1, OUT),
    "path_open": (ROOT, 0, PATH, 1, 0, 2, 0, 0, OUT),
    "path_readlink": (ROOT, PATH + 16, 4, DATA, 100, OUT),
    "poll_oneoff": (IOVS + 64, DATA, 1, OUT),
    "random_get": (DATA, 600),
    "sock_accept": (SOCKET, 0, OUT),
    "sock_recv": (CONNECTION, *TWO, 0, OUT, OUT2),
    "sock_send": (CONNECTION, *TWO, 0, OUT),
}
"""Arguments with which each call that writes memory succeeds, twice."""


def changed(guest: Guest, name: str, fill: int) -> tuple[set[int], set[int]]:
    """Addresses that a call changes, and those that it declares, where `fill` was before."""
    guest.put(0, bytes([fill]) * len(guest.memory))
    guest.put(IOVS, b"".join(n.to_bytes(4, "little") for n in (DATA, 7, DATA + 100, 33)))
    guest.put(IOVS + 64, clock(9, 0))
    guest.put(PATH, b"f")
    guest.put(PATH + 16, b"link")
    before = bytes(guest.memory)
    arguments = CALLS[name]
    function = guest.wasi.imports[guest.module][name]
    assert function.writes is not None
    told = function.writes(guest.caller, arguments)
    assert guest.call(name, *arguments) == 0
    declared = {i for start, size in told(True) for i in range(start, start + size)}
    return {i for i, byte in enumerate(guest.memory) if byte != before[i]}, declared


@pytest.mark.parametrize("name", sorted(CALLS))
def test_what_is_declared_is_written(around: Guest, name: str) -> None:
    first, declared = changed(around, name, 0x5A)
    second, again = changed(around, name, 0xA5)
    assert first and first <= declared and second <= again
    if name != "random_get":
        assert first | second == declared == again


def test_every_call_that_declares_something_is_tried() -> None:
    assert {row.name for row in FUNCTIONS if row.writes} == set(CALLS)


def test_the_older_abi_declares_its_own_layouts(around: Guest) -> None:
    around.module = unstable.MODULE
    _, declared = changed(around, "fd_filestat_get", 0x5A)
    assert len(declared) == unstable.FILESTAT.size == 56
    around.module = MODULE


def test_a_read_that_makes_way_for_a_pause(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What it has written by then is within what it declares."""
    monkeypatch.setattr(waiting, "PIECE", 1000)
    (tmp_path / "f").write_bytes(b"x" * 5000)
    guest = Guest(mounts=[Mount(tmp_path, "/data")])
    fd = guest.opened("f")
    guest.iovecs([700, 3000])
    guest.caller.pause()
    with pytest.raises(Retry):
        guest.call("fd_read", fd, *TWO, OUT)
    assert guest.get(DATA, 1) == b"x"
    guest.close()


def test_spans_stay_within_memory(around: Guest) -> None:
    end = len(around.memory)
    function = around.wasi.imports[MODULE]["random_get"]
    assert function.writes is not None
    assert function.writes(around.caller, (end - 3, 100))(False) == [(end - 3, 3)]
    assert function.writes(around.caller, (end, 100))(False) == []
    read = around.wasi.imports[MODULE]["fd_read"]
    assert read.writes is not None
    assert read.writes(around.caller, (FILE, end - 4, 1, OUT))(False) == [(OUT, 4)]
