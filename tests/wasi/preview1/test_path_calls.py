"""The calls that take a path: what they do, and the errno of their failures."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.wasi.guest import (
    CREAT,
    DATA,
    DIRECTORY,
    EXCL,
    OUT,
    PATH2,
    ROOT,
    RW,
    TRUNC,
    Guest,
)
from wasmsr.wasi.preview1.abi import ALL_RIGHTS, Errno, FileType, Right
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS, FILE_RIGHTS


def mkdir(guest: Guest, path: str) -> int:
    return guest.call("path_create_directory", ROOT, *guest.path(path))


def rmdir(guest: Guest, path: str) -> int:
    return guest.call("path_remove_directory", ROOT, *guest.path(path))


def unlink(guest: Guest, path: str) -> int:
    return guest.call("path_unlink_file", ROOT, *guest.path(path))


def symlink(guest: Guest, content: str | bytes, path: str) -> int:
    return guest.call("path_symlink", *guest.path(content), ROOT, *guest.path(path, PATH2))


def link(guest: Guest, old: str, new: str, flags: int = 0) -> int:
    return guest.call("path_link", ROOT, flags, *guest.path(old), ROOT, *guest.path(new, PATH2))


def rename(guest: Guest, old: str, new: str) -> int:
    return guest.call("path_rename", ROOT, *guest.path(old), ROOT, *guest.path(new, PATH2))


def readlink(guest: Guest, path: str, room: int = 100) -> tuple[int, bytes]:
    errno = guest.call("path_readlink", ROOT, *guest.path(path), DATA, room, OUT)
    return errno, guest.get(DATA, guest.u32()) if not errno else b""


def test_open_flags(guest: Guest, data: Path) -> None:
    assert guest.open("f")[0] == Errno.NOENT
    assert guest.open("f", CREAT)[0] == 0
    assert guest.open("f", CREAT)[0] == 0
    assert guest.open("f", CREAT | EXCL)[0] == Errno.EXIST
    assert guest.open("f", DIRECTORY, 0)[0] == Errno.NOTDIR
    assert guest.open("f/", 0, 0)[0] == Errno.NOTDIR
    assert guest.open("g/", CREAT)[0] == Errno.ISDIR
    assert guest.open("f", CREAT | DIRECTORY)[0] == Errno.INVAL
    assert guest.open("f", TRUNC | DIRECTORY)[0] == Errno.INVAL
    assert guest.open("f", 16)[0] == Errno.INVAL
    assert guest.open("f", fdflags=32)[0] == Errno.INVAL
    assert guest.call("path_open", ROOT, 2, *guest.path("f"), 0, 0, 0, 0, OUT) == Errno.INVAL
    assert mkdir(guest, "d") == 0
    assert guest.open("d", 0, RW)[0] == Errno.ISDIR
    assert guest.open("d", DIRECTORY, RW)[0] == Errno.ISDIR
    assert guest.open("d", CREAT, Right.FD_READ)[0] == Errno.ISDIR
    assert guest.open("d///", 0, 0)[0] == 0
    assert guest.open("f", fd=0)[0] == Errno.NOTDIR
    assert guest.open("f", fd=99)[0] == Errno.BADF
    assert guest.open("a" * 256)[0] == Errno.NAMETOOLONG
    assert guest.open("")[0] == Errno.NOENT
    assert guest.open("f\0")[0] == Errno.INVAL


def test_open_gives_what_can_be_inherited_and_means_something(guest: Guest) -> None:
    fd = guest.opened("f", CREAT, ALL_RIGHTS)
    assert guest.fdstat(fd)[1][2:] == (FILE_RIGHTS, 0)
    mkdir(guest, "d")
    some = Right.PATH_OPEN | Right.PATH_CREATE_FILE | Right.PATH_UNLINK_FILE
    directory = guest.opened("d", DIRECTORY, some, inheriting=Right.FD_READ | Right.FD_SEEK)
    assert guest.fdstat(directory)[1][2:] == (some, Right.FD_READ | Right.FD_SEEK)
    fd = guest.opened("f", CREAT, FILE_RIGHTS & ~Right.FD_WRITE, fd=directory)
    assert guest.fdstat(fd)[1][2] == Right.FD_READ | Right.FD_SEEK
    assert guest.open("f", 0, RW, fd=directory)[0] == Errno.NOTCAPABLE


@pytest.mark.parametrize(
    ("right", "call"),
    [
        (Right.PATH_OPEN, lambda g: g.open("f")[0]),
        (Right.PATH_CREATE_FILE, lambda g: g.open("g", CREAT)[0]),
        (Right.PATH_FILESTAT_SET_SIZE, lambda g: g.open("f", TRUNC)[0]),
        (Right.PATH_CREATE_DIRECTORY, lambda g: mkdir(g, "d")),
        (Right.PATH_LINK_SOURCE, lambda g: link(g, "f", "l")),
        (Right.PATH_LINK_TARGET, lambda g: link(g, "f", "l")),
        (Right.PATH_READLINK, lambda g: readlink(g, "f")[0]),
        (Right.PATH_RENAME_SOURCE, lambda g: rename(g, "f", "l")),
        (Right.PATH_RENAME_TARGET, lambda g: rename(g, "f", "l")),
        (Right.PATH_SYMLINK, lambda g: symlink(g, "f", "l")),
        (Right.PATH_REMOVE_DIRECTORY, lambda g: rmdir(g, "f")),
        (Right.PATH_UNLINK_FILE, lambda g: unlink(g, "f")),
        (Right.PATH_FILESTAT_GET, lambda g: g.path_filestat("f")[0]),
        (
            Right.PATH_FILESTAT_SET_TIMES,
            lambda g: g.call("path_filestat_set_times", ROOT, 0, *g.path("f"), 0, 0, 0),
        ),
        (Right.FD_FILESTAT_GET, lambda g: g.filestat(ROOT)[0]),
        (Right.FD_SYNC, lambda g: g.call("fd_sync", ROOT)),
    ],
)
def test_each_right_is_needed(guest: Guest, data: Path, right: int, call) -> None:
    (data / "f").write_text("x")
    assert guest.call("fd_fdstat_set_rights", ROOT, DIRECTORY_RIGHTS & ~right, ALL_RIGHTS) == 0
    assert call(guest) == Errno.NOTCAPABLE
    assert os.listdir(data) == ["f"]
    assert (data / "f").read_text() == "x"


def test_links_are_followed_inside(guest: Guest, data: Path) -> None:
    (data / "d").mkdir()
    (data / "d/f").write_text("content")
    assert symlink(guest, "d", "to-d") == 0
    assert symlink(guest, "to-d/../to-d/f", "to-f") == 0
    assert guest.read(guest.opened("to-f", 0, Right.FD_READ))[1] == b"content"
    assert guest.read(guest.opened("to-d/f", 0, Right.FD_READ, follow=False))[1] == b"content"
    assert guest.open("to-f", follow=False)[0] == Errno.LOOP
    assert guest.open("to-d", DIRECTORY, 0, follow=False)[0] == Errno.LOOP
    assert guest.open("to-d/", 0, 0, follow=False)[0] == 0
    assert guest.path_filestat("to-f")[1]["filetype"] == FileType.SYMBOLIC_LINK
    assert guest.path_filestat("to-f", follow=True)[1]["size"] == 7
    assert guest.path_filestat("to-d/")[1]["filetype"] == FileType.DIRECTORY
    assert guest.path_filestat("to-f/")[0] == Errno.NOTDIR
    assert readlink(guest, "to-f") == (0, b"to-d/../to-d/f")
    assert readlink(guest, "to-f", 4) == (0, b"to-d")
    assert readlink(guest, "d")[0] == Errno.INVAL
    assert readlink(guest, "to-d/")[0] == Errno.INVAL
    assert readlink(guest, "none")[0] == Errno.NOENT


def test_a_dangling_link_is_created_through(guest: Guest, data: Path) -> None:
    symlink(guest, "d/new", "l")
    assert guest.open("l", CREAT)[0] == Errno.NOENT
    mkdir(guest, "d")
    assert guest.open("l", CREAT | EXCL)[0] == Errno.EXIST
    assert guest.open("l", CREAT)[0] == 0
    assert (data / "d/new").exists()


def test_loops_and_long_chains(guest: Guest, data: Path) -> None:
    symlink(guest, "loop", "loop")
    symlink(guest, "b", "a")
    symlink(guest, "a", "b")
    for path in ("loop", "a", "loop/x", "a/x", "loop/"):
        assert guest.open(path)[0] == Errno.LOOP
        assert guest.path_filestat(path, follow=True)[0] == Errno.LOOP
    (data / "end").write_text("x")
    for n in range(41):
        symlink(guest, f"c{n + 1}" if n < 40 else "end", f"c{n}")
    assert guest.open("c1")[0] == 0
    assert guest.open("c0")[0] == Errno.LOOP


def test_directories(guest: Guest, data: Path) -> None:
    assert mkdir(guest, "d") == 0
    assert mkdir(guest, "d") == Errno.EXIST
    assert mkdir(guest, "d/e/") == 0
    assert mkdir(guest, "x/y") == Errno.NOENT
    assert mkdir(guest, ".") == Errno.EXIST
    assert rmdir(guest, "d") == Errno.NOTEMPTY
    assert rmdir(guest, "d/e/") == 0
    assert rmdir(guest, "none") == Errno.NOENT
    (data / "f").write_text("")
    assert rmdir(guest, "f") == Errno.NOTDIR
    assert rmdir(guest, "f/") == Errno.NOTDIR
    assert mkdir(guest, "f/x") == Errno.NOTDIR
    assert rmdir(guest, ".") == Errno.INVAL
    assert rmdir(guest, "d") == 0


def test_unlink(guest: Guest, data: Path) -> None:
    (data / "f").write_text("")
    (data / "d").mkdir()
    assert unlink(guest, "f/") == Errno.NOTDIR
    assert unlink(guest, "d") == Errno.ISDIR
    assert unlink(guest, "d/") == Errno.ISDIR
    assert unlink(guest, ".") == Errno.ISDIR
    assert unlink(guest, "none") == Errno.NOENT
    symlink(guest, "f", "l")
    assert unlink(guest, "l") == 0
    assert (data / "f").exists()
    assert unlink(guest, "f") == 0
    assert os.listdir(data) == ["d"]


def test_rename(guest: Guest, data: Path) -> None:
    (data / "f").write_text("f")
    (data / "d").mkdir()
    (data / "full").mkdir()
    (data / "full/x").write_text("")
    assert rename(guest, "f", "g") == 0
    assert rename(guest, "f", "g") == Errno.NOENT
    assert rename(guest, "g", "d") == Errno.ISDIR
    assert rename(guest, "d", "g") == Errno.NOTDIR
    assert rename(guest, "d", "full") == Errno.NOTEMPTY
    assert rename(guest, "g", "h/") == Errno.NOTDIR
    assert rename(guest, "g/", "h") == Errno.NOTDIR
    assert rename(guest, "d/", "e/") == 0
    assert rename(guest, "e", "e/sub") == Errno.INVAL
    assert rename(guest, "g", "e/g") == 0
    symlink(guest, "e/g", "l")
    assert rename(guest, "l", "m") == 0
    assert os.readlink(data / "m") == "e/g"


def test_hard_links(guest: Guest, data: Path) -> None:
    (data / "f").write_text("f")
    assert link(guest, "f", "g") == 0
    assert os.stat(data / "g").st_ino == os.stat(data / "f").st_ino
    assert link(guest, "f", "g") == Errno.EXIST
    assert link(guest, "none", "h") == Errno.NOENT
    assert link(guest, "f", "h/") == Errno.NOENT
    assert link(guest, "f/", "h") == Errno.NOTDIR
    (data / "d").mkdir()
    assert link(guest, "d", "h") == Errno.PERM
    assert link(guest, "f", "d/") == Errno.EXIST
    assert link(guest, "f", "g/") == Errno.NOTDIR
    symlink(guest, "f", "l")
    assert link(guest, "l", "l2") == 0
    assert os.path.islink(data / "l2")
    assert link(guest, "l", "l3", flags=1) == 0
    assert not os.path.islink(data / "l3")
    assert link(guest, "l", "l4", flags=2) == Errno.INVAL


def test_symlinks(guest: Guest, data: Path) -> None:
    (data / "f").write_text("")
    (data / "d").mkdir()
    assert symlink(guest, "anything/at/all", "l") == 0
    assert symlink(guest, "x", "l") == Errno.EXIST
    assert symlink(guest, "x", "new/") == Errno.NOENT
    assert symlink(guest, "x", "d/") == Errno.EXIST
    assert symlink(guest, "x", "f/") == Errno.NOTDIR
    assert symlink(guest, "/etc/passwd", "abs") == Errno.PERM
    assert symlink(guest, "a\0b", "nul") == Errno.INVAL
    assert symlink(guest, "", "empty") == Errno.NOENT
    assert sorted(os.listdir(data)) == ["d", "f", "l"]


def test_times_of_files_and_links(guest: Guest, data: Path) -> None:
    (data / "f").write_text("")
    symlink(guest, "f", "l")
    before = os.stat(data / "f").st_mtime_ns
    name = guest.path("l")
    assert guest.call("path_filestat_set_times", ROOT, 0, *name, 0, 77, 4) == 0
    assert os.lstat(data / "l").st_mtime_ns == 77
    assert os.stat(data / "f").st_mtime_ns == before
    assert guest.call("path_filestat_set_times", ROOT, 1, *name, 5, 88, 5) == 0
    assert (os.stat(data / "f").st_atime_ns, os.stat(data / "f").st_mtime_ns) == (5, 88)
    assert guest.call("path_filestat_set_times", ROOT, 1, *name, 0, 0, 12) == Errno.INVAL
    assert guest.call("path_filestat_set_times", ROOT, 4, *name, 0, 0, 0) == Errno.INVAL
    missing = guest.path("none")
    assert guest.call("path_filestat_set_times", ROOT, 0, *missing, 0, 0, 4) == Errno.NOENT


def test_below_another_directory(guest: Guest, data: Path) -> None:
    (data / "d/e").mkdir(parents=True)
    (data / "d/e/f").write_text("deep")
    d = guest.open_directory("d")
    assert guest.read(guest.opened("e/f", 0, Right.FD_READ, fd=d))[1] == b"deep"
    assert guest.read(guest.opened("e/../e/./f", 0, Right.FD_READ, fd=d))[1] == b"deep"
    assert guest.open("../d/e/f", fd=d)[0] == Errno.PERM
    assert guest.call("path_rename", d, *guest.path("e/f"), ROOT, *guest.path("g", PATH2)) == 0
    assert (data / "g").read_text() == "deep"


def test_what_is_asked_is_checked_before_the_path(guest: Guest) -> None:
    """As wasmtime does: found by tests/wasi/preview1/test_against.py."""
    call = ("path_filestat_set_times", ROOT, 0, *guest.path("none/f"))
    assert guest.call(*call, 1, 1, 3) == Errno.INVAL
    assert guest.call(*call, 1, 1, 1) == Errno.NOENT
