"""Calls that wait, and pauses that end the waiting: at once, with nothing lost."""

from __future__ import annotations

import os
import select
import threading
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.wasi.guest import (
    DATA,
    IOVS,
    OUT,
    ROOT,
    Guest,
    clock,
    on,
    readable,
    writable,
)
from wasmsr.wasi.engine import Retry
from wasmsr.wasi.preview1.abi import Errno, FdFlag, FileType
from wasmsr.wasi.streams import waiting

MS = 1_000_000
PROMPT = 0.05
"""Seconds within which a pause must end a wait; it takes well under one millisecond, but the
machine that runs the tests is shared."""


def paused(guest: Guest, call: Callable[[], object], after: float = 0.03) -> float:
    """Make a call that must end in Retry when a pause comes; how long that took after it."""
    asked: list[float] = []

    def ask() -> None:
        time.sleep(after)
        asked.append(time.monotonic())
        guest.caller.pause()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        with pytest.raises(Retry):
            call()
        ended = time.monotonic()
    finally:
        thread.join()
        guest.caller.go_on()
    return ended - asked[0]


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        try:
            os.close(fd)
        except OSError:
            continue


def test_read_of_a_pipe_waits_and_is_paused(pipe: tuple[int, int]) -> None:
    guest = Guest(stdin=pipe[0])
    assert paused(guest, lambda: guest.read(0)) < PROMPT
    os.write(pipe[1], b"abcdef")
    assert guest.read(0, 4) == (0, b"abcd")
    assert guest.read(0) == (0, b"ef")
    os.close(pipe[1])
    assert guest.read(0) == (0, b"")
    guest.close()


def test_read_of_a_terminal_waits_and_is_paused() -> None:
    master, terminal = os.openpty()
    guest = Guest(stdin=terminal, stdout=terminal)
    assert guest.fdstat(0)[1][0] == FileType.CHARACTER_DEVICE
    assert guest.fdstat(1)[1][0] == FileType.CHARACTER_DEVICE
    assert paused(guest, lambda: guest.read(0)) < PROMPT
    os.write(master, b"line\n")
    assert guest.read(0) == (0, b"line\n")
    assert guest.write(1, b"out") == (0, 3)
    guest.close()
    os.close(master)
    os.close(terminal)


@pytest.mark.parametrize("size", [1000, 4000, 4096, 20_000, 100_000])
@pytest.mark.parametrize("raw", [False, True], ids=["cooked", "raw"])
def test_write_to_a_terminal_that_takes_no_more(size: int, raw: bool) -> None:
    """As after Ctrl-S: the pause ends the waiting; what was said to be written arrives once."""
    master, terminal = os.openpty()
    if raw:
        tty.setraw(terminal)
    guest = Guest(stdout=terminal)
    written = 0
    timer = threading.Timer(0.2, guest.caller.pause)
    timer.start()
    begun = time.monotonic()
    try:
        while not guest.caller.pause_requested:
            errno, count = guest.write(1, b"x" * min(size, 32_000))
            assert errno == 0 and count > 0
            written += count
    except Retry:
        pass
    assert time.monotonic() - begun < 0.2 + PROMPT * 4
    timer.join()
    guest.caller.go_on()
    full = 0
    assert guest.call("fd_fdstat_set_flags", 1, FdFlag.NONBLOCK) == 0
    while full < 3:
        errno, count = guest.write(1, b"x")
        assert errno in (0, Errno.AGAIN)
        full = full + 1 if errno else 0
        written += 0 if errno else count
        time.sleep(0.02 if errno else 0)
    assert guest.call("fd_fdstat_set_flags", 1, 0) == 0
    assert paused(guest, lambda: guest.write(1, b"y" * min(size, 32_000))) < PROMPT
    os.set_blocking(master, False)
    got = b""
    while len(got) < written:
        ready, _, _ = select.select([master], [], [], 5)
        assert ready, (len(got), written)
        got += os.read(master, 65536)
    assert got == b"x" * written
    assert guest.write(1, b"then") == (0, 4)
    assert os.get_blocking(terminal)
    guest.close()
    os.close(master)
    os.close(terminal)


def test_a_pause_before_the_call_ends_it_too(pipe: tuple[int, int]) -> None:
    guest = Guest(stdin=pipe[0])
    guest.caller.pause()
    with pytest.raises(Retry):
        guest.read(0)
    os.write(pipe[1], b"x")
    assert guest.read(0) == (0, b"x"), "what is there is read even so"
    guest.close()


def test_reading_nothing_does_not_wait(pipe: tuple[int, int]) -> None:
    guest = Guest(stdin=pipe[0])
    assert guest.call("fd_read", 0, *guest.iovecs([0]), OUT) == 0
    assert guest.call("fd_read", 0, IOVS, 0, OUT) == 0
    guest.close()


def test_nonblocking_is_ours_not_the_hosts(pipe: tuple[int, int]) -> None:
    guest = Guest(stdin=pipe[0])
    assert guest.call("fd_fdstat_set_flags", 0, FdFlag.NONBLOCK) == 0
    assert guest.read(0)[0] == Errno.AGAIN
    assert os.get_blocking(pipe[0])
    os.write(pipe[1], b"x")
    assert guest.read(0) == (0, b"x")
    guest.close()


def test_a_host_descriptor_that_does_not_block_still_waits(pipe: tuple[int, int]) -> None:
    os.set_blocking(pipe[0], False)
    guest = Guest(stdin=pipe[0])
    assert paused(guest, lambda: guest.read(0)) < PROMPT
    guest.close()


def test_closed_output_is_epipe(pipe: tuple[int, int]) -> None:
    guest = Guest(stdout=pipe[1])
    assert guest.write(1, b"x") == (0, 1)
    os.close(pipe[0])
    assert guest.write(1, b"x")[0] == Errno.PIPE
    assert guest.write(1, b"x" * 10000)[0] == Errno.PIPE
    guest.close()


def test_write_to_a_full_pipe_is_short_then_waits(pipe: tuple[int, int]) -> None:
    guest = Guest(stdout=pipe[1])
    timer = threading.Timer(0.05, guest.caller.pause)
    timer.start()
    errno, written = guest.write(1, b"x" * 100_000)
    timer.join()
    guest.caller.go_on()
    assert errno == 0
    assert 4096 <= written < 100_000
    assert paused(guest, lambda: guest.write(1, b"more")) < PROMPT
    assert len(os.read(pipe[0], 1 << 20)) == written
    assert guest.write(1, b"more") == (0, 4)
    assert os.read(pipe[0], 100) == b"more"
    guest.close()


def test_a_reader_gets_all_of_a_long_write(pipe: tuple[int, int]) -> None:
    guest = Guest(stdout=pipe[1])
    got = bytearray()

    def reader() -> None:
        while len(got) < 200_000:
            got.extend(os.read(pipe[0], 65536))

    thread = threading.Thread(target=reader)
    thread.start()
    data = bytes(range(250)) * 800
    assert guest.write(1, data[:100_000], data[100_000:]) == (0, 200_000)
    thread.join()
    assert got == data
    guest.close()


def test_full_output_without_blocking(pipe: tuple[int, int]) -> None:
    guest = Guest(stdout=pipe[1])
    guest.call("fd_fdstat_set_flags", 1, FdFlag.NONBLOCK)
    errno, written = guest.write(1, b"x" * 200_000)
    assert errno == 0 and written < 200_000
    assert guest.write(1, b"x")[0] == Errno.AGAIN
    guest.close()


# poll_oneoff


def test_sleep(guest: Guest) -> None:
    start = time.monotonic_ns()
    assert guest.poll(clock(7, 20 * MS)) == (0, [(7, 0, 0, 0, 0)])
    assert 20 * MS <= time.monotonic_ns() - start < 500 * MS
    start = time.monotonic_ns()
    assert guest.poll(clock(7, MS // 5)) == (0, [(7, 0, 0, 0, 0)])
    assert time.monotonic_ns() - start >= MS // 5


@pytest.mark.parametrize("id", [0, 1])
def test_absolute_deadlines(guest: Guest, id: int) -> None:
    assert guest.poll(clock(1, guest.time(id) - MS, id, 1))[1] == [(1, 0, 0, 0, 0)]
    start = time.monotonic_ns()
    assert guest.poll(clock(1, guest.time(id) + 20 * MS, id, 1))[1] == [(1, 0, 0, 0, 0)]
    assert time.monotonic_ns() - start >= 18 * MS


def test_the_earlier_of_two_clocks(guest: Guest) -> None:
    assert guest.poll(clock(1, 3600 * 10**9), clock(2, MS))[1] == [(2, 0, 0, 0, 0)]
    assert guest.poll(clock(1, 0), clock(2, 0, id=0))[1] == [(1, 0, 0, 0, 0), (2, 0, 0, 0, 0)]


def test_a_sleep_without_end_is_paused() -> None:
    guest = Guest()
    assert paused(guest, lambda: guest.poll(clock(1, 2**64 - 1))) < PROMPT
    guest.close()


def test_an_interrupted_sleep_waits_only_for_the_rest() -> None:
    guest = Guest()
    start = time.monotonic()
    assert paused(guest, lambda: guest.poll(clock(1, 200 * MS)), after=0.1) < PROMPT
    assert guest.poll(clock(1, 200 * MS))[0] == 0
    assert 0.2 <= time.monotonic() - start < 0.29
    start = time.monotonic()
    assert guest.poll(clock(1, 50 * MS))[0] == 0
    assert time.monotonic() - start >= 0.05, "the next one begins anew"
    guest.close()


def test_another_poll_after_the_interrupted_one_begins_anew() -> None:
    guest = Guest()
    paused(guest, lambda: guest.poll(clock(1, 100 * MS)), after=0.08)
    start = time.monotonic()
    assert guest.poll(clock(2, 100 * MS))[0] == 0
    assert time.monotonic() - start >= 0.1
    guest.close()


def test_a_saved_sleep_goes_on_where_it_was() -> None:
    guest = Guest()
    paused(guest, lambda: guest.poll(clock(1, 150 * MS)), after=0.1)
    state = guest.state()
    time.sleep(0.3)
    guest.resume(state)
    start = time.monotonic()
    assert guest.poll(clock(1, 150 * MS))[1] == [(1, 0, 0, 0, 0)]
    assert 0.02 <= time.monotonic() - start < 0.1
    guest.close()


def test_poll_of_pipes(pipe: tuple[int, int]) -> None:
    guest = Guest(stdin=pipe[0], stdout=pipe[1])
    assert guest.poll(readable(1, 0), clock(2, MS))[1] == [(2, 0, 0, 0, 0)]
    assert guest.poll(readable(1, 0), writable(3, 1))[1] == [(3, 0, 2, 0, 0)]
    assert paused(guest, lambda: guest.poll(readable(1, 0), clock(2, 10**10))) < PROMPT
    os.write(pipe[1], b"abc")
    assert guest.poll(readable(1, 0), clock(2, 10**12))[1] == [(1, 0, 1, 3, 0)]
    assert guest.poll(readable(1, 0), readable(2, 0))[1] == [(1, 0, 1, 3, 0), (2, 0, 1, 3, 0)]
    os.read(pipe[0], 3)
    os.close(pipe[1])
    assert guest.poll(readable(1, 0))[1] == [(1, 0, 1, 0, 1)]
    guest.close()


def test_poll_of_what_is_always_ready(guest: Guest) -> None:
    fd = guest.opened("f", 1)
    guest.write(fd, b"12345")
    guest.seek(fd, 2)
    assert guest.poll(readable(1, fd))[1] == [(1, 0, 1, 3, 0)]
    assert guest.poll(writable(1, fd))[1][0][:3] == (1, 0, 2)
    assert guest.poll(writable(1, 1))[1][0][:3] == (1, 0, 2)
    assert guest.poll(readable(1, 0))[1] == [(1, 0, 1, 5, 0)]
    later = clock(2, 10**12)
    assert guest.poll(later, readable(1, fd))[1] == [(1, 0, 1, 3, 0)]


def test_poll_errors(guest: Guest) -> None:
    assert guest.call("poll_oneoff", DATA, DATA + 100, 0, OUT) == Errno.INVAL
    assert guest.poll(readable(1, 77))[1] == [(1, Errno.BADF, 1, 0, 0)]
    assert guest.poll(readable(1, ROOT))[1] == [(1, Errno.NOTCAPABLE, 1, 0, 0)]
    assert guest.poll(writable(1, 0))[1] == [(1, Errno.NOTCAPABLE, 2, 0, 0)]
    assert guest.poll(clock(1, 0, id=4))[1] == [(1, Errno.INVAL, 0, 0, 0)]
    assert guest.poll(clock(1, 0, id=2))[1] == [(1, Errno.NOTSUP, 0, 0, 0)]
    assert guest.poll(clock(1, 0, flags=2))[1] == [(1, Errno.INVAL, 0, 0, 0)]
    bad = bytearray(clock(1, 0))
    bad[8] = 3
    assert guest.poll(bytes(bad))[0] == Errno.INVAL


# Devices


def test_a_fifo_by_path_waits_and_is_paused(data) -> None:
    os.mkfifo(data / "fifo")
    guest = on(data)
    fd = guest.opened("fifo")
    assert paused(guest, lambda: guest.read(fd)) < PROMPT
    assert guest.write(fd, b"x") == (0, 1)
    assert guest.read(fd) == (0, b"x")
    guest.close()


@pytest.fixture
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> int:
    """Files are read by so many bytes."""
    monkeypatch.setattr(waiting, "PIECE", 1000)
    return 1000


@pytest.mark.parametrize("sizes", [(20_000,), (1, 2500, 999, 16_500)], ids=["whole", "scattered"])
@pytest.mark.parametrize("length", [20_000, 12_345, 900], ids=["full", "short", "less"])
def test_a_long_read_of_a_file_is_that_of_one_piece(
    guest: Guest, data: Path, small_pieces: int, sizes: tuple[int, ...], length: int
) -> None:
    content = bytes(i * 7 % 251 for i in range(length + 3))
    (data / "long").write_bytes(content)
    fd = guest.opened("long")
    assert guest.seek(fd, 3) == (0, 3)
    assert guest.read(fd, *sizes) == (0, content[3:])
    assert guest.seek(fd, 0, 1) == (0, length + 3)
    assert guest.call("fd_pread", fd, *guest.iovecs(sizes), 0, OUT) == 0
    assert guest.get(DATA, guest.u32()) == content[:20_000]
    assert guest.seek(fd, 0, 1) == (0, length + 3)


@pytest.mark.parametrize("sizes", [(20_000,), (1, 2500, 999, 16_500)], ids=["whole", "scattered"])
def test_a_pause_ends_a_long_read_as_if_it_had_not_been_made(
    guest: Guest, data: Path, small_pieces: int, sizes: tuple[int, ...]
) -> None:
    content = os.urandom(20_000)
    (data / "long").write_bytes(content)
    fd = guest.opened("long")
    hops, guest.hops = guest.hops, False
    guest.caller.pause()
    for call in ("fd_read", "fd_pread"):
        gave_up = 0
        while True:
            position = (0,) if call == "fd_pread" else ()
            try:
                errno = guest.call(call, fd, *guest.iovecs(sizes), *position, OUT)
            except Retry:
                assert guest.seek(fd, 0, 1) == (0, 0)
                gave_up += 1
                if hops and gave_up == 10:  # how far it had come is no part of a snapshot
                    guest.hop()
            else:
                break
        assert errno == 0 and guest.get(DATA, guest.u32()) == content
        once = 19 if len(sizes) == 1 else 21  # a piece ends where a buffer ends
        assert gave_up == once + 10 * hops
        assert guest.seek(fd, 0) == (0, 0)


@pytest.mark.parametrize("change", ["invocation", "offset", "size"])
def test_another_read_does_not_go_on_with_one_that_gave_up(
    guest: Guest, data: Path, small_pieces: int, change: str
) -> None:
    (data / "long").write_bytes(b"a" * 20_000)
    fd = guest.opened("long")
    guest.hops = False
    guest.caller.pause()
    for _ in range(3):
        with pytest.raises(Retry):
            guest.read(fd, 20_000)
    guest.caller.go_on()
    guest.put(DATA, bytes(20_000))
    offset, size = int(change == "offset"), 20_000 - (change == "size")
    guest.caller.invocations += change == "invocation"
    assert guest.seek(fd, offset) == (0, offset)
    assert guest.read(fd, size) == (0, b"a" * (size - offset))
