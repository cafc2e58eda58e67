"""Each kind of descriptor through a snapshot; what is refused; what is noticed on the way back."""

from __future__ import annotations

import io
import os
import shutil
import time
from pathlib import Path

import pytest

from tests.wasi.guest import CREAT, ROOT, Guest, on
from wasmsr.errors import SnapshotError, UnportableState, WasiConfigError
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import Errno, FdFlag, Right
from wasmsr.wasi.preview1.rights import FILE_RIGHTS
from wasmsr.wasi.state import capture as capturing


@pytest.fixture
def program(data: Path):
    guest = on(data, args=["p"], env={"K": "V"})
    yield guest
    guest.close()


def test_what_is_saved_of_the_process(program: Guest) -> None:
    state = program.state()
    assert state["args"] == [b"p"]
    assert state["environ"] == [b"K=V"]
    assert state["mounts"] == [{"guest": b"/data", "mode": "host"}]
    assert [d["kind"] for d in state["descriptors"]] == ["stdin", "stdout", "stdout", "directory"]
    program.resume(state)
    assert program.state() == state


def test_nothing_of_the_host_is_saved(program: Guest, data: Path) -> None:
    program.opened("f", CREAT)
    program.open_directory(".")
    assert str(data).encode() not in repr(program.state()).encode()


def test_a_file_goes_on_elsewhere(program: Guest, data: Path, tmp_path: Path) -> None:
    fd = program.opened("f", CREAT)
    program.write(fd, b"before ")
    state = program.state()
    copy = tmp_path / "copy"
    shutil.copytree(data, copy)
    program.resume(state, mounts=[Mount(copy, "/data")])
    assert program.write(fd, b"after") == (0, 5)
    assert (copy / "f").read_bytes() == b"before after"
    assert (data / "f").read_bytes() == b"before "


def test_flags_and_rights_are_kept(program: Guest, data: Path) -> None:
    (data / "f").write_text("content")
    fd = program.opened(
        "f", 0, Right.FD_READ | Right.FD_WRITE | Right.FD_SEEK, fdflags=FdFlag.APPEND
    )
    program.call("fd_fdstat_set_rights", fd, Right.FD_WRITE | Right.FD_SEEK, 0)
    before = program.fdstat(fd)
    program.hop()
    assert program.fdstat(fd) == before
    assert program.read(fd)[0] == Errno.BADF
    program.seek(fd, 0)
    program.write(fd, b"!")
    assert (data / "f").read_text() == "content!"


def test_truncating_and_creating_are_not_repeated(program: Guest, data: Path) -> None:
    fd = program.opened("f", CREAT | 8)
    program.write(fd, b"kept")
    program.hop()
    assert (data / "f").read_bytes() == b"kept"


def test_a_renamed_file_is_found(program: Guest, data: Path) -> None:
    (data / "d").mkdir()
    fd = program.opened("d/f", CREAT)
    program.write(fd, b"x")
    inner = program.open_directory("d")
    os.rename(data / "d", data / "e")
    os.rename(data / "e/f", data / "e/g")
    state = program.state()
    assert [d["path"] for d in state["descriptors"][4:]] == [b"e/g", b"e"]
    program.resume(state)
    assert program.write(fd, b"y") == (0, 1)
    assert (data / "e/g").read_bytes() == b"xy"
    assert program.names(inner) == [".", "..", "g"]


def test_a_file_reached_through_links_is_saved_by_its_own_path(program: Guest, data: Path) -> None:
    (data / "d").mkdir()
    (data / "d/f").write_text("x")
    os.symlink("d", data / "l")
    os.symlink("../l/f", data / "d/m")
    fd = program.opened("l/m")
    state = program.state()
    assert state["descriptors"][4]["path"] == b"d/f"
    os.unlink(data / "l")
    program.resume(state)
    assert program.read(fd) == (0, b"x")


def test_an_unlinked_file_travels(program: Guest, data: Path) -> None:
    fd = program.opened("f", CREAT)
    again = program.opened("f", 0, FILE_RIGHTS & ~Right.FD_WRITE)
    writer = program.opened("f", 0, FILE_RIGHTS & ~Right.FD_READ)
    program.write(fd, b"secret content")
    program.seek(fd, 3)
    program.seek(again, 7)
    os.unlink(data / "f")
    state = program.state()
    assert [u["content"] for u in state["unlinked"]] == [b"secret content"]
    program.resume(state)
    assert program.state()["unlinked"] == state["unlinked"]
    assert program.read(fd) == (0, b"ret content")
    assert program.read(again, 3) == (0, b"con")
    assert program.seek(writer, 0, 2) == (0, 14)
    assert program.write(writer, b"!") == (0, 1)
    assert program.read(fd) == (0, b"!"), "they are still the same file"
    assert program.filestat(fd)[1]["nlink"] == 0
    assert os.listdir(data) == []
    program.hop()
    program.seek(fd, 0)
    assert program.read(fd) == (0, b"secret content!")


def test_an_unlinked_file_too_large_is_refused(
    program: Guest, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capturing, "SHORT", 5)
    program.wasi.process.carry_limit = 10
    fd = program.opened("big", CREAT)
    program.write(fd, b"x" * 11)
    os.unlink(data / "big")
    with pytest.raises(UnportableState, match=r"descriptor 4 \(/data/big\).* 11 bytes"):
        program.state()


def test_a_removed_directory_travels(program: Guest, data: Path) -> None:
    (data / "d").mkdir()
    fd = program.open_directory("d")
    (data / "d").rmdir()
    program.hop()
    assert program.names(fd) == [".", ".."]
    assert program.open("x", CREAT, fd=fd)[0] == Errno.NOENT


def test_a_name_that_went_while_another_link_lives_is_refused(program: Guest, data: Path) -> None:
    program.opened("f", CREAT)
    os.link(data / "f", data / "g")
    os.unlink(data / "f")
    with pytest.raises(UnportableState, match="descriptor 4 was opened as /data/f"):
        program.state()


def test_a_file_moved_out_of_its_mount_is_refused(program: Guest, data: Path) -> None:
    program.opened("f", CREAT)
    os.rename(data / "f", data.parent / "away")
    with pytest.raises(UnportableState, match="descriptor 4 was opened as /data/f"):
        program.state()


def test_directory_listings_and_cookies(program: Guest, data: Path) -> None:
    for name in "abc":
        (data / name).write_text("")
    entries = program.readdir(ROOT)
    (data / "a").unlink()
    (data / "z").write_text("")
    program.hop()
    assert [e[2] for e in program.readdir(ROOT, entries[2][0])] == ["b", "c"]
    assert program.names(ROOT) == [".", "..", "b", "c", "z"]


def test_closed_and_renumbered_preopens(program: Guest, data: Path) -> None:
    (data / "d").mkdir()
    inner = program.open_directory("d")
    program.call("fd_close", ROOT)
    program.hop()
    assert program.state()["mounts"], "a file below still needs it"
    assert program.opened("f", CREAT, fd=inner) == ROOT
    program.call("fd_close", inner)
    program.call("fd_close", ROOT)
    assert program.state()["mounts"] == []
    program.resume(program.state(), mounts=[])
    assert program.call("fd_prestat_get", ROOT, 0) == Errno.BADF


def test_two_mounts_and_the_files_below(tmp_path: Path) -> None:
    mounts = []
    for name in "ab":
        (tmp_path / name).mkdir()
        mounts.append(Mount(tmp_path / name, f"/{name}"))
    guest = Guest(mounts=mounts)
    fd = guest.opened("f", CREAT, fd=4)
    guest.resume(guest.state(), mounts=mounts[::-1])
    guest.write(fd, b"x")
    assert (tmp_path / "b/f").read_bytes() == b"x"
    assert guest.opened("g", CREAT, fd=3) == 6
    assert (tmp_path / "a/g").exists()
    with pytest.raises(WasiConfigError) as caught:
        guest.resume(guest.state(), mounts=mounts[:1])
    assert "/b" in str(caught.value)
    assert caught.value.hint is not None and "--dir HOST::/b" in caught.value.hint
    guest.close()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: (d / "f").unlink(), "/data/f, which .* does not exist"),
        (lambda d: ((d / "f").unlink(), (d / "f").mkdir()), "/data/f.* another kind"),
        (lambda d: ((d / "f").unlink(), os.mkfifo(d / "f")), "/data/f.* another kind"),
        (
            lambda d: (os.rename(d / "f", d / "g"), os.symlink("g", d / "f")),
            "/data/f.* another kind",
        ),
        (lambda d: (d / "f").write_text("short"), "/data/f is shorter .* 5 bytes instead of 9"),
        (lambda d: (d / "s/i").rmdir(), "/data/s/i, which .* does not exist"),
        (lambda d: ((d / "s/i").rmdir(), (d / "s/i").write_text("")), "/data/s/i.* another kind"),
        (
            lambda d: (os.rename(d / "s", d / "t"), os.symlink("t", d / "s")),
            "/data/s/i is a link now",
        ),
    ],
)
def test_what_changed_meanwhile_is_named(program: Guest, data: Path, change, message: str) -> None:
    (data / "f").write_text("long text")
    (data / "s/i").mkdir(parents=True)
    program.opened("f", 0, FILE_RIGHTS & ~Right.FD_WRITE)
    program.open_directory("s/i")
    state = program.state()
    change(data)
    with pytest.raises(SnapshotError, match=message):
        program.resume(state)


def test_a_file_that_grew_meanwhile(program: Guest, data: Path) -> None:
    fd = program.opened("log", CREAT, fdflags=FdFlag.APPEND)
    reader = program.opened("log", 0, FILE_RIGHTS & ~Right.FD_WRITE)
    program.write(fd, b"one\n")
    state = program.state()
    program.write(fd, b"two\n")
    with pytest.raises(SnapshotError, match=r"/data/log, which the program writes, has grown"):
        program.resume(state, live=True)
    assert (data / "log").read_bytes() == b"one\ntwo\n"
    program.resume(state, on_changed="keep")
    assert (data / "log").read_bytes() == b"one\ntwo\n"
    program.resume(state)
    assert program.write(fd, b"2\n") == (0, 2)
    assert program.read(reader) == (0, b"one\n2\n")


def test_nothing_is_truncated_when_something_else_is_missing(program: Guest, data: Path) -> None:
    program.write(program.opened("log", CREAT), b"1")
    program.opened("other", CREAT)
    state = program.state()
    (data / "log").write_bytes(b"123")
    (data / "other").unlink()
    with pytest.raises(SnapshotError):
        program.resume(state)
    assert (data / "log").read_bytes() == b"123"


def test_memory_devices_travel_and_others_do_not(data: Path) -> None:
    guest = on(Path("/dev"))
    fd = guest.opened("null")
    guest.hop()
    assert guest.write(fd, b"x") == (0, 1)
    guest.call("fd_close", fd)
    guest.opened("tty") if os.path.exists("/dev/tty") and guest.open("tty")[0] == 0 else None
    guest.close()
    os.mkfifo(data / "fifo")
    guest = on(data)
    guest.opened("fifo")
    with pytest.raises(UnportableState, match=r"descriptor 4 is a device or FIFO, /data/fifo"):
        guest.state()
    guest.close()


# Standard input


def test_unread_bytes_come_first_then_the_new_input() -> None:
    guest = Guest(stdin=b"0123456789")
    assert guest.read(0, 4) == (0, b"0123")
    guest.resume(guest.state(), stdin=b"abc")
    assert guest.read(0, 3) == (0, b"456")
    read, write = os.pipe()
    os.write(write, b"from a pipe")
    os.close(write)
    guest.resume(guest.state(), stdin=read)
    assert guest.read(0) == (0, b"789abc")
    assert guest.read(0) == (0, b"from a pipe")
    assert guest.read(0) == (0, b"")
    guest.close()
    os.close(read)


def test_a_pipe_is_not_read_ahead() -> None:
    read, write = os.pipe()
    os.write(write, b"0123456789")
    guest = Guest(stdin=read)
    guest.read(0, 4)
    assert guest.state()["descriptors"][0]["unread"] == b""
    guest.hop()
    assert guest.read(0) == (0, b"456789")
    guest.close()
    os.close(read)
    os.close(write)


def test_the_same_file_goes_on_where_it_was(tmp_path: Path) -> None:
    text, copy, other = tmp_path / "in", tmp_path / "copy", tmp_path / "other"
    text.write_bytes(bytes(range(250)) * 40)
    shutil.copy(text, copy)
    other.write_bytes(b"x" * 20000)
    guest = Guest(stdin=text)
    assert guest.read(0, 5000)[1] == (bytes(range(250)) * 40)[:5000]
    state = guest.state()
    guest.resume(state, stdin=copy)
    assert guest.read(0, 3)[1] == (bytes(range(250)) * 40)[5000:5003]
    with open(text, "rb") as file:
        guest.resume(state, stdin=file.fileno())
        assert guest.read(0, 3)[1] == (bytes(range(250)) * 40)[5000:5003]
        guest.resume(state, stdin=other)
        assert guest.read(0, 3) == (0, b"xxx"), "another file is new input"
    copy.write_bytes(b"short")
    guest.resume(state, stdin=copy)
    assert guest.read(0) == (0, b"short")
    other.write_bytes(b"\0" + b"x" * 20000)
    guest.resume(Guest(stdin=text).state(), stdin=other)
    assert guest.read(0, 2) == (0, b"\0x")
    guest.resume(state, stdin=None)
    assert guest.read(0) == (0, b"")
    guest.close()


@pytest.mark.parametrize("stdin", [Path("/no/such/file"), Path("/"), 987654])
def test_unusable_input(stdin: object) -> None:
    with pytest.raises(WasiConfigError, match="standard"):
        Wasi(stdin=stdin)  # type: ignore[arg-type]


def test_a_closed_stream_stays_closed() -> None:
    out = io.BytesIO()
    guest = Guest(stdout=out, stdin=b"x")
    guest.call("fd_close", 0)
    guest.call("fd_close", 1)
    guest.resume(guest.state(), stdin=b"new")
    assert guest.read(0)[0] == Errno.BADF
    assert guest.write(1, b"x")[0] == Errno.BADF
    guest.close()


# Clocks and chance


def test_the_monotonic_clock_stands_still_while_saved() -> None:
    guest = Guest()
    before = guest.time(1)
    cpu = guest.time(2)
    state = guest.state()
    time.sleep(0.05)
    guest.resume(state)
    assert before <= guest.time(1) < before + 40_000_000
    assert guest.time(2) >= cpu
    guest.resume(state, live=True)
    assert guest.time(1) >= before + 50_000_000
    guest.resume(state)
    time.sleep(0.02)
    guest.wasi.resume_clock()
    assert guest.time(1) < before + 20_000_000
    guest.close()


def test_live_never_goes_back() -> None:
    guest = Guest()
    before = guest.time(1)
    state = guest.state()
    state["clocks"]["stopped_at"] = time.time_ns() + 10**12
    guest.resume(state, live=True)
    assert guest.time(1) >= before
    guest.close()


def test_stopping_and_going_on_in_place() -> None:
    guest = Guest()
    before = guest.time(1)
    guest.wasi.stop_clock()
    time.sleep(0.03)
    guest.wasi.stop_clock()
    guest.wasi.resume_clock()
    assert guest.time(1) < before + 25_000_000
    guest.close()


def test_deterministic_runs_are_equal(data: Path) -> None:
    def run(guest: Guest, hop_at: int = -1) -> list[object]:
        seen: list[object] = []
        for step in range(8):
            if step == hop_at:
                guest.hop()
            seen.append([guest.time(id) for id in range(4)])
            guest.call("random_get", 4096, 100 + step)
            seen.append(guest.get(4096, 100 + step))
            from tests.wasi.guest import clock

            seen.append(guest.poll(clock(1, 3600 * 10**9)))
        guest.close()
        return seen

    start = time.monotonic()
    first = run(Guest(deterministic=True))
    assert first == run(Guest(deterministic=True))
    for at in range(8):
        assert first == run(Guest(deterministic=True), at)
    other = run(Guest(deterministic=True, seed=1))
    assert first[1] != other[1]
    assert first[0] == other[0]
    assert time.monotonic() - start < 5, "an hour of virtual sleep takes no time"


def test_an_endless_deterministic_sleep_ends() -> None:
    from tests.wasi.guest import clock

    guest = Guest(deterministic=True)
    assert guest.poll(clock(1, 2**64 - 1))[1] == [(1, 0, 0, 0, 0)]
    guest.hop()
    assert guest.poll(clock(1, 5, 0))[1] == [(1, 0, 0, 0, 0)]
    guest.close()


# The library's objects


def test_host_descriptors_given_as_numbers_stay_open(data: Path) -> None:
    read, write = os.pipe()
    guest = Guest(stdin=read, stdout=write)
    guest.call("fd_close", 0)
    guest.call("fd_close", 1)
    guest.close()
    os.write(write, b"x")
    assert os.read(read, 1) == b"x"
    os.close(read)
    os.close(write)


def test_close_leaves_nothing_open(data: Path) -> None:
    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here")

    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    before = count()
    with Wasi(mounts=[Mount(data, "/data")]) as wasi:
        assert count() > before
        state = wasi.capture()
    for broken in ({**state, "args": 1}, {**state, "mounts": []}):
        with pytest.raises(SnapshotError):
            Wasi.restore(broken, mounts=[Mount(data, "/data")], stdin=data / "none")
    (data / "in").write_text("")
    with pytest.raises(WasiConfigError):
        Wasi.restore(state, stdin=data / "in")
    with pytest.raises(WasiConfigError):
        Wasi(mounts=[Mount(data, "/data"), Mount(data, "/data")])
    assert count() == before
