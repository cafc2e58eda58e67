"""Arguments, environment, clocks, random bytes, the end; and what every call does with pointers."""

from __future__ import annotations

import os
import time

import pytest

from tests.wasi.guest import DATA, OUT, OUT2, SIZE, Guest
from wasmsr.errors import Exit, WasiConfigError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.preview1 import process_calls
from wasmsr.wasi.preview1.abi import Errno, Signal


def strings(guest: Guest, name: str) -> list[bytes]:
    sizes = {"args_get": "args_sizes_get", "environ_get": "environ_sizes_get"}[name]
    assert guest.call(sizes, OUT, OUT2) == 0
    count, size = guest.u32(OUT), guest.u32(OUT2)
    guest.put(DATA, b"\xee" * 2000)
    assert guest.call(name, DATA, DATA + 1000) == 0
    pointers = [guest.u32(DATA + 4 * i) for i in range(count)]
    assert guest.get(DATA + 1000 + size - 1, 2) == (b"\0\xee" if size else b"\xee\xee")
    return [guest.get(p, 100).split(b"\0")[0] for p in pointers]


def test_arguments_and_environment(guest: Guest) -> None:
    assert strings(guest, "args_get") == [b"prog", b"a b", "ü".encode()]
    assert strings(guest, "environ_get") == [b"A=1", b"B=x=y"]


def test_no_arguments() -> None:
    guest = Guest()
    assert strings(guest, "args_get") == []
    guest.close()


@pytest.mark.parametrize(
    "settings",
    [{"args": ["a\0b"]}, {"env": ["novalue"]}, {"env": ["=x"]}, {"env": {"a=b": "c"}}],
)
def test_unusable_settings(settings: dict[str, object]) -> None:
    with pytest.raises(WasiConfigError):
        Wasi(**settings)  # type: ignore[arg-type]


def test_clocks(guest: Guest) -> None:
    for id in range(4):
        assert guest.call("clock_res_get", id, OUT) == 0
        assert guest.u64() > 0
    assert guest.call("clock_res_get", 4, OUT) == Errno.INVAL
    assert guest.call("clock_time_get", 4, 0, OUT) == Errno.INVAL
    assert abs(guest.time(0) - time.time_ns()) < 5e9
    first = guest.time(1)
    time.sleep(0.002)
    second = guest.time(1)
    assert first >= 1_000_000_000
    assert second - first >= (0 if guest.hops else 2_000_000)
    assert guest.time(2) <= guest.time(3) <= guest.time(2) + 10**9


def test_random(guest: Guest) -> None:
    assert guest.call("random_get", DATA, 64) == 0
    first = guest.get(DATA, 64)
    assert guest.call("random_get", DATA, 64) == 0
    assert first != guest.get(DATA, 64) != bytes(64)
    assert guest.call("random_get", SIZE, 0) == 0


def test_exit_and_raise(guest: Guest) -> None:
    with pytest.raises(Exit) as caught:
        guest.wasi.imports[guest.module]["proc_exit"].call(guest.caller, 2**32 - 1)
    assert caught.value.code == 2**32 - 1
    with pytest.raises(Exit) as caught:
        guest.call("proc_raise", Signal.ABRT)
    assert caught.value.code == 134
    assert guest.call("proc_raise", Signal.CHLD) == 0
    assert guest.call("proc_raise", Signal.STOP) == Errno.NOTSUP
    assert guest.call("proc_raise", 31) == Errno.INVAL


def test_yield(guest: Guest) -> None:
    assert guest.call("sched_yield") == 0


END, BEYOND = SIZE - 2, 0xFFFFFFF0
POINTERS = [
    ("args_get", END, DATA),
    ("args_get", DATA, END),
    ("args_sizes_get", END, OUT),
    ("args_sizes_get", OUT, BEYOND),
    ("environ_get", END, DATA),
    ("environ_sizes_get", OUT, END),
    ("clock_res_get", 0, END),
    ("clock_time_get", 1, 0, END),
    ("random_get", END, 3),
    ("random_get", BEYOND, 0xFFFFFFFF),
    ("fd_fdstat_get", 1, END),
    ("fd_filestat_get", 1, END),
    ("fd_prestat_get", 3, END),
    ("fd_prestat_dir_name", 3, END, 5),
    ("fd_readdir", 3, END, 100, 0, OUT),
    ("fd_readdir", 3, DATA, 100, 0, END),
    ("path_open", 3, 0, END, 10, 1, 0, 0, 0, OUT),
    ("path_open", 3, 0, DATA, 1, 1, 0, 0, 0, END),
    ("path_create_directory", 3, BEYOND, 4),
    ("path_filestat_get", 3, 0, DATA, 1, END),
    ("path_filestat_set_times", 3, 0, END, 8, 0, 0, 0),
    ("path_link", 3, 0, END, 8, 3, DATA, 1),
    ("path_readlink", 3, DATA, 1, END, 8, OUT),
    ("path_remove_directory", 3, END, 8),
    ("path_rename", 3, DATA, 1, 3, END, 8),
    ("path_symlink", DATA, 1, 3, END, 8),
    ("path_unlink_file", 3, END, 8),
    ("poll_oneoff", END, DATA, 1, OUT),
    ("poll_oneoff", DATA, END, 1, OUT),
    ("poll_oneoff", DATA, DATA + 100, 1, END),
    ("poll_oneoff", DATA, DATA + 100, 0xFFFFFFFF, OUT),
]


@pytest.mark.parametrize("call", POINTERS, ids=lambda call: f"{call[0]}-{call[1:]}")
def test_bad_pointers_are_fault_before_any_effect(guest: Guest, data, call) -> None:
    guest.put(DATA, b"x")
    assert guest.call(call[0], *call[1:]) == Errno.FAULT
    assert os.listdir(data) == []


def test_bad_vectors_are_fault_before_any_effect(guest: Guest) -> None:
    fd = guest.opened("f", 1)
    guest.write(fd, b"0123456789")
    guest.seek(fd, 2)
    reading = [
        (SIZE - 7, 1, OUT),  # the array leaves memory
        (guest.iovecs([4, SIZE])[0], 2, OUT),  # the second buffer does
        (guest.iovecs([4])[0], 1, END),  # the answer does
        (guest.iovecs([4])[0], 0xFFFFFFFF, OUT),  # more buffers than memory
    ]
    for iovs, count, answer in reading:
        for call, more in (
            ("fd_read", ()),
            ("fd_write", ()),
            ("fd_pread", (0,)),
            ("fd_pwrite", (0,)),
        ):
            assert guest.call(call, fd, iovs, count, *more, answer) == Errno.FAULT
    guest.iovecs([4, SIZE])
    assert guest.call("fd_read", fd, 256, 2, OUT) == Errno.FAULT
    assert guest.seek(fd, 0, 1) == (0, 2)
    assert guest.read(fd) == (0, b"23456789")


@pytest.mark.parametrize("pointers", [(OUT, OUT2), (OUT, OUT + 4), (OUT, OUT + 2), (OUT, OUT)])
@pytest.mark.parametrize("name", ["args_sizes_get", "environ_sizes_get"])
def test_the_short_way_writes_what_the_long_way_does(name: str, pointers: tuple[int, int]) -> None:
    guest = Guest(args=["prog", "x" * 300], env={"A": "1"})
    assert guest.call(name, *pointers) == 0
    short = bytes(guest.memory)
    guest.put(0, bytes(len(short)))
    getattr(process_calls, name)(guest.wasi.process, guest.caller, *pointers)
    assert bytes(guest.memory) == short and any(short)
    for outside in ((SIZE - 3, OUT), (OUT, SIZE - 3), ((1 << 32) - 1, OUT)):
        guest.put(0, bytes(len(short)))
        assert guest.call(name, *outside) == Errno.FAULT
        assert not any(guest.memory)
    guest.close()
