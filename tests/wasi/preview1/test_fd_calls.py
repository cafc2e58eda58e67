"""Reading, writing, seeking, attributes, listings: each call, and the errno of its failures."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from tests.wasi.guest import (
    CREAT,
    DATA,
    IOVS,
    OUT,
    ROOT,
    TRUNC,
    Guest,
    on,
)
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Errno, FdFlag, FileType, Right
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS, FILE_RIGHTS

READ_ONLY = FILE_RIGHTS & ~Right.FD_WRITE
WRITE_ONLY = FILE_RIGHTS & ~Right.FD_READ


def test_write_read_seek_tell(guest: Guest, data: Path) -> None:
    fd = guest.opened("f", CREAT)
    assert fd == 4
    assert guest.write(fd, b"hello ", b"", b"world") == (0, 11)
    assert (data / "f").read_bytes() == b"hello world"
    assert guest.call("fd_tell", fd, OUT) == 0
    assert guest.u64() == 11
    assert guest.seek(fd, -5, 2) == (0, 6)
    assert guest.seek(fd, 1, 1) == (0, 7)
    assert guest.read(fd, 2, 100) == (0, b"orld")
    assert guest.read(fd) == (0, b"")
    assert guest.seek(fd, -1)[0] == Errno.INVAL
    assert guest.seek(fd, 0, 3)[0] == Errno.INVAL
    assert guest.seek(fd, 1 << 40) == (0, 1 << 40)
    assert guest.read(fd) == (0, b"")


def test_more_buffers_than_the_host_takes(guest: Guest) -> None:
    fd = guest.opened("f", CREAT)
    at = 4096
    guest.put(
        at, b"".join((DATA).to_bytes(4, "little") + (1).to_bytes(4, "little") for _ in range(1500))
    )
    assert guest.call("fd_write", fd, at, 1500, OUT) == 0
    assert guest.u32() == 1024


def test_pread_pwrite(guest: Guest, data: Path) -> None:
    fd = guest.opened("f", CREAT)
    guest.write(fd, b"0123456789")
    guest.put(DATA, b"ab")
    assert guest.call("fd_pwrite", fd, *guest.iovecs([2]), 4, OUT) == 0
    assert guest.u32() == 2
    assert guest.call("fd_pread", fd, *guest.iovecs([3]), 3, OUT) == 0
    assert guest.get(DATA, 3) == b"3ab"
    assert guest.call("fd_pread", fd, *guest.iovecs([3]), 1 << 63, OUT) == Errno.INVAL
    assert guest.seek(fd, 0, 1) == (0, 10)
    for stream in (0, 1):
        call = ("fd_pread", "fd_pwrite")[stream]
        assert guest.call(call, stream, IOVS, 1, 0, OUT) == Errno.SPIPE


def test_wrong_mode_and_closed(guest: Guest) -> None:
    guest.call("fd_close", guest.opened("f", CREAT))
    reader, writer = guest.opened("f", 0, READ_ONLY), guest.opened("f", 0, WRITE_ONLY)
    assert guest.write(reader, b"x")[0] == Errno.BADF
    assert guest.read(writer)[0] == Errno.BADF
    assert guest.call("fd_pread", writer, IOVS, 1, 0, OUT) == Errno.BADF
    assert guest.call("fd_pwrite", reader, IOVS, 1, 0, OUT) == Errno.BADF
    assert guest.call("fd_filestat_set_size", reader, 0) == Errno.NOTCAPABLE
    assert guest.read(1)[0] == Errno.BADF
    assert guest.write(0, b"x")[0] == Errno.BADF
    assert guest.read(ROOT)[0] == Errno.ISDIR
    assert guest.write(ROOT, b"x")[0] == Errno.BADF
    for call, arguments in {
        "fd_read": (IOVS, 1, OUT),
        "fd_write": (IOVS, 1, OUT),
        "fd_pread": (IOVS, 1, 0, OUT),
        "fd_pwrite": (IOVS, 1, 0, OUT),
        "fd_seek": (0, 0, OUT),
        "fd_tell": (OUT,),
        "fd_close": (),
        "fd_sync": (),
        "fd_datasync": (),
        "fd_advise": (0, 0, 0),
        "fd_allocate": (0, 1),
        "fd_fdstat_get": (OUT,),
        "fd_fdstat_set_flags": (0,),
        "fd_fdstat_set_rights": (0, 0),
        "fd_filestat_get": (OUT,),
        "fd_filestat_set_size": (0,),
        "fd_filestat_set_times": (0, 0, 0),
        "fd_prestat_get": (OUT,),
        "fd_prestat_dir_name": (DATA, 100),
        "fd_readdir": (DATA, 100, 0, OUT),
        "fd_renumber": (0,),
        "sock_accept": (0, OUT),
        "sock_recv": (IOVS, 1, 0, OUT, OUT),
        "sock_send": (IOVS, 1, 0, OUT),
        "sock_shutdown": (1,),
    }.items():
        for fd in (77, -1):
            assert guest.call(call, fd, *arguments) == Errno.BADF, call


def test_append(guest: Guest, data: Path) -> None:
    (data / "f").write_bytes(b"abc")
    fd = guest.opened("f", 0, fdflags=FdFlag.APPEND)
    assert guest.seek(fd, 0) == (0, 0)
    assert guest.write(fd, b"d") == (0, 1)
    assert guest.call("fd_fdstat_set_flags", fd, 0) == 0
    guest.seek(fd, 0)
    guest.write(fd, b"X")
    assert (data / "f").read_bytes() == b"Xbcd"
    assert guest.call("fd_fdstat_set_flags", fd, FdFlag.APPEND) == 0
    guest.write(fd, b"e")
    assert (data / "f").read_bytes() == b"Xbcde"
    assert guest.fdstat(fd)[1][1] == FdFlag.APPEND
    assert guest.call("fd_fdstat_set_flags", fd, FdFlag.SYNC) == Errno.INVAL
    assert guest.call("fd_fdstat_set_flags", fd, 32) == Errno.INVAL


def test_synchronised_flags_are_kept(guest: Guest) -> None:
    flags = FdFlag.APPEND | FdFlag.SYNC
    fd = guest.opened("f", CREAT, fdflags=flags)
    assert guest.fdstat(fd)[1][1] == flags
    assert guest.call("fd_fdstat_set_flags", fd, flags | FdFlag.NONBLOCK) == 0
    assert guest.write(fd, b"x") == (0, 1)


def test_fdstat_and_rights(guest: Guest) -> None:
    assert guest.fdstat(ROOT) == (0, (FileType.DIRECTORY, 0, DIRECTORY_RIGHTS, ALL_RIGHTS))
    fd = guest.opened("f", CREAT)
    assert guest.fdstat(fd) == (0, (FileType.REGULAR_FILE, 0, FILE_RIGHTS, 0))
    kept = FILE_RIGHTS & ~Right.FD_SEEK
    assert guest.call("fd_fdstat_set_rights", fd, kept, 0) == 0
    assert guest.call("fd_fdstat_set_rights", fd, FILE_RIGHTS, 0) == Errno.NOTCAPABLE
    assert guest.call("fd_fdstat_set_rights", fd, kept, 1) == Errno.NOTCAPABLE
    assert guest.fdstat(fd)[1][2] == kept
    assert guest.seek(fd, 0, 1) == (0, 0)
    assert guest.seek(fd, 1, 1)[0] == Errno.NOTCAPABLE
    assert guest.call("fd_pread", fd, *guest.iovecs([1]), 0, OUT) == Errno.NOTCAPABLE
    assert guest.call("fd_fdstat_set_rights", fd, 0, 0) == 0
    for call, arguments in {
        "fd_filestat_get": (OUT,),
        "fd_filestat_set_size": (0,),
        "fd_filestat_set_times": (0, 0, 0),
        "fd_advise": (0, 0, 0),
        "fd_allocate": (0, 1),
        "fd_sync": (),
        "fd_datasync": (),
        "fd_fdstat_set_flags": (0,),
        "fd_tell": (OUT,),
    }.items():
        assert guest.call(call, fd, *arguments) == Errno.NOTCAPABLE, call


def test_streams(guest: Guest, output: io.BytesIO) -> None:
    assert guest.write(1, b"a", b"bc") == (0, 3)
    assert output.getvalue() == b"abc"
    assert guest.read(0, 2) == (0, b"in")
    assert guest.read(0, 1, 100) == (0, b"put")
    assert guest.read(0) == (0, b"")
    for fd in (0, 1):
        assert guest.fdstat(fd)[1][0] == FileType.UNKNOWN
        assert guest.seek(fd, 0, 1)[0] == Errno.SPIPE
        assert guest.call("fd_tell", fd, OUT) == Errno.SPIPE
        assert guest.call("fd_sync", fd) == Errno.INVAL
        assert guest.call("fd_datasync", fd) == Errno.INVAL
        assert guest.call("fd_advise", fd, 0, 0, 0) == Errno.SPIPE
        assert guest.call("fd_allocate", fd, 0, 1) == Errno.SPIPE
        assert guest.call("fd_filestat_set_size", fd, 0) == Errno.INVAL
        assert guest.call("fd_filestat_set_times", fd, 0, 0, 0) == Errno.NOTCAPABLE
        assert guest.filestat(fd)[0] == 0
        assert guest.call("fd_fdstat_set_flags", fd, FdFlag.NONBLOCK) == 0


def test_filestat_and_size(guest: Guest, data: Path) -> None:
    fd = guest.opened("f", CREAT)
    assert guest.call("fd_filestat_set_size", fd, 100) == 0
    errno, found = guest.filestat(fd)
    real = os.stat(data / "f")
    assert errno == 0
    assert found == {
        "dev": real.st_dev,
        "ino": real.st_ino,
        "filetype": FileType.REGULAR_FILE,
        "nlink": 1,
        "size": 100,
        "atim": real.st_atime_ns,
        "mtim": real.st_mtime_ns,
        "ctim": real.st_ctime_ns,
    }
    assert guest.call("fd_filestat_set_size", fd, 1 << 63) == Errno.INVAL
    assert guest.call("fd_filestat_set_size", ROOT, 0) == Errno.BADF
    assert guest.filestat(ROOT)[1]["filetype"] == FileType.DIRECTORY


def test_times(guest: Guest, data: Path) -> None:
    fd = guest.opened("f", CREAT)
    assert guest.call("fd_filestat_set_times", fd, 111, 222, 1 | 4) == 0
    assert (os.stat(data / "f").st_atime_ns, os.stat(data / "f").st_mtime_ns) == (111, 222)
    assert guest.call("fd_filestat_set_times", fd, 333, 444, 4) == 0
    assert (os.stat(data / "f").st_atime_ns, os.stat(data / "f").st_mtime_ns) == (111, 444)
    assert guest.call("fd_filestat_set_times", fd, 0, 0, 2) == 0
    assert os.stat(data / "f").st_atime_ns > 10**18
    assert os.stat(data / "f").st_mtime_ns == 444
    for flags in (1 | 2, 4 | 8, 16):
        assert guest.call("fd_filestat_set_times", fd, 1, 1, flags) == Errno.INVAL
    assert guest.call("fd_filestat_set_times", fd, 1 << 63, 0, 1) == Errno.INVAL
    assert guest.call("fd_filestat_set_times", ROOT, 5, 6, 5) == 0
    assert os.stat(data).st_mtime_ns == 6


def test_advise_allocate_sync(guest: Guest, data: Path) -> None:
    fd = guest.opened("f", CREAT)
    for advice in range(6):
        assert guest.call("fd_advise", fd, 0, 10, advice) == 0
    assert guest.call("fd_advise", fd, 0, 10, 6) == Errno.INVAL
    assert guest.call("fd_advise", fd, 1 << 63, 10, 0) == Errno.INVAL
    assert guest.call("fd_advise", ROOT, 0, 10, 0) == Errno.BADF
    assert guest.call("fd_allocate", fd, 10, 20) == 0
    assert (data / "f").stat().st_size == 30
    assert guest.call("fd_allocate", fd, 0, 5) == 0
    assert (data / "f").stat().st_size == 30
    assert guest.call("fd_allocate", fd, 0, 0) == Errno.INVAL
    assert guest.call("fd_allocate", fd, (1 << 63) - 2, 5) == Errno.FBIG
    assert guest.call("fd_allocate", ROOT, 0, 1) == Errno.BADF
    for call in ("fd_sync", "fd_datasync"):
        assert guest.call(call, fd) == 0
        assert guest.call(call, ROOT) == 0


def test_close_and_lowest_number(guest: Guest) -> None:
    fds = [guest.opened(name, CREAT) for name in "abc"]
    assert fds == [4, 5, 6]
    assert guest.call("fd_close", 5) == 0
    assert guest.call("fd_close", 5) == Errno.BADF
    assert guest.call("fd_close", 0) == 0
    assert guest.opened("a") == 0
    assert guest.opened("a") == 5
    assert guest.opened("a") == 7
    assert guest.call("fd_close", ROOT) == 0
    assert guest.call("fd_prestat_get", ROOT, OUT) == Errno.BADF
    assert guest.write(4, b"still open") == (0, 10)


def test_renumber(guest: Guest, data: Path, output: io.BytesIO) -> None:
    fd = guest.opened("a", CREAT)
    assert guest.call("fd_renumber", fd, 20) == Errno.BADF
    assert guest.call("fd_renumber", 20, fd) == Errno.BADF
    assert guest.call("fd_renumber", fd, fd) == 0
    assert guest.call("fd_renumber", fd, 1) == 0
    assert guest.write(fd, b"x")[0] == Errno.BADF
    assert guest.write(1, b"to the file") == (0, 11)
    assert (data / "a").read_bytes() == b"to the file"
    assert output.getvalue() == b""
    assert guest.call("fd_renumber", ROOT, 2) == 0
    assert guest.open("a", fd=2)[0] == 0
    assert guest.call("fd_prestat_get", 2, OUT) == 0


def test_prestat(guest: Guest) -> None:
    assert guest.call("fd_prestat_get", ROOT, OUT) == 0
    assert guest.get(OUT, 8) == b"\0\0\0\0\5\0\0\0"
    assert guest.call("fd_prestat_dir_name", ROOT, DATA, 5) == 0
    assert guest.get(DATA, 5) == b"/data"
    assert guest.call("fd_prestat_dir_name", ROOT, DATA, 4) == Errno.NAMETOOLONG
    for fd in (0, 4):
        assert guest.call("fd_prestat_get", fd, OUT) == Errno.BADF
        assert guest.call("fd_prestat_dir_name", fd, DATA, 10) == Errno.BADF


def test_readdir(guest: Guest, data: Path) -> None:
    (data / "b").write_text("")
    (data / "a").mkdir()
    os.symlink("a", data / "c")
    carried = guest.settings["mounts"][0].mode == "carry"
    if not carried:  # what cannot be carried, which test_mounts says
        os.mkfifo(data / "d")
    entries = guest.readdir(ROOT)
    fifo = [("d", FileType.UNKNOWN)]
    assert [(name, kind) for _, _, name, kind in entries] + fifo * carried == [
        (".", FileType.DIRECTORY),
        ("..", FileType.DIRECTORY),
        ("a", FileType.DIRECTORY),
        ("b", FileType.REGULAR_FILE),
        ("c", FileType.SYMBOLIC_LINK),
        ("d", FileType.UNKNOWN),
    ]
    assert entries[0][1] == os.stat(data).st_ino
    assert entries[3][1] == os.stat(data / "b").st_ino
    assert guest.call("fd_readdir", 0, DATA, 100, 0, OUT) == Errno.NOTDIR
    assert guest.call("fd_readdir", ROOT, DATA, 100, 1000, OUT) == 0
    assert guest.u32() == 0
    assert guest.call("fd_fdstat_set_rights", ROOT, DIRECTORY_RIGHTS & ~Right.FD_READDIR, 0) == 0
    assert guest.call("fd_readdir", ROOT, DATA, 100, 0, OUT) == Errno.NOTCAPABLE


def test_readdir_cookies_stay_while_entries_come_and_go(guest: Guest, data: Path) -> None:
    for number in range(20):
        (data / f"f{number:02}").write_text("")
    first = guest.readdir(ROOT, 0, 24 * 6 + 20)
    assert [entry[2] for entry in first] == [".", "..", "f00", "f01", "f02", "f03"]
    (data / "f00").unlink()
    (data / "f10").unlink()
    (data / "a").write_text("")
    rest = guest.readdir(ROOT, first[-1][0])
    assert [entry[2] for entry in rest] == [f"f{n:02}" for n in range(4, 20)]
    assert guest.names(ROOT)[2:4] == ["a", "f01"]


def test_readdir_cuts_the_last_entry(guest: Guest, data: Path) -> None:
    (data / "name").write_text("")
    for room in range(24 * 3 + 1 + 2 + 4 + 1):
        assert guest.call("fd_readdir", ROOT, DATA, room, 0, OUT) == 0
        assert guest.u32() == min(room, 24 * 3 + 1 + 2 + 4)
    assert guest.names(ROOT) == [".", "..", "name"]


def test_names_that_are_not_utf8(guest: Guest, data: Path) -> None:
    fd = guest.opened(b"\xff\xfe", CREAT)
    guest.write(fd, b"x")
    assert os.listdir(os.fsencode(data)) == [b"\xff\xfe"]
    assert [os.fsencode(name) for name in guest.names(ROOT)] == [b".", b"..", b"\xff\xfe"]


def test_truncation(guest: Guest, data: Path) -> None:
    (data / "f").write_bytes(b"content")
    guest.opened("f", TRUNC, 0)
    assert (data / "f").read_bytes() == b""


@pytest.mark.parametrize("count", [70_000])
def test_large_write_and_read(guest: Guest, count: int) -> None:
    fd = guest.opened("f", CREAT)
    guest.put(DATA, bytes(range(256)) * (count // 256))
    assert guest.call("fd_write", fd, *guest.iovecs([count]), OUT) == 0
    assert guest.u32() == count
    guest.seek(fd, 0)
    before = guest.get(DATA, count)
    guest.put(DATA, bytes(count))
    assert guest.call("fd_read", fd, *guest.iovecs([count]), OUT) == 0
    assert guest.get(DATA, count) == before


def test_full_device(data: Path) -> None:
    if not os.path.exists("/dev/full"):
        pytest.skip("no /dev/full here")
    with open("/dev/full", "wb", buffering=0) as full:
        guest = Guest(stdout=full.fileno())
        assert guest.write(1, b"x")[0] == Errno.NOSPC
        guest.close()


def test_regular_files_on_the_streams(data: Path) -> None:
    (data / "in").write_bytes(b"from a file")
    with open(data / "out", "wb") as out:
        guest = Guest(stdin=data / "in", stdout=out.fileno())
        assert guest.read(0, 4) == (0, b"from")
        assert guest.write(1, b"to a ", b"file") == (0, 9)
        guest.close()
    assert (data / "out").read_bytes() == b"to a file"


def test_devices_by_path() -> None:
    guest = on(Path("/dev"))
    null = guest.opened("null")
    assert guest.fdstat(null)[1][0] == FileType.CHARACTER_DEVICE
    assert guest.write(null, b"x" * 5000) == (0, 5000)
    assert guest.read(null) == (0, b"")
    zero = guest.opened("zero")
    assert guest.read(zero, 3) == (0, bytes(3))
    assert guest.seek(zero, 0, 1)[0] == Errno.SPIPE
    guest.close()
