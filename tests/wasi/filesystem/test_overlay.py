"""Overlays: the base is never written, and the program sees what it would see in a copy of it."""

from __future__ import annotations

import os
import random
import shutil
import zipfile
from pathlib import Path

import pytest

from tests.wasi.filesystem.test_mounts import tree
from tests.wasi.guest import CREAT, DIRECTORY, EXCL, ROOT, TRUNC, Guest, on
from wasmsr.errors import SnapshotError, WasiConfigError
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import Errno, Right
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS, FILE_RIGHTS

READ = FILE_RIGHTS & ~Right.FD_WRITE


@pytest.fixture
def base(data: Path) -> Path:
    (data / "d" / "e").mkdir(parents=True)
    (data / "d" / "e" / "deep").write_bytes(b"deep")
    (data / "d" / "g").write_bytes(b"g" * 70_000)
    (data / "empty").mkdir()
    (data / "f").write_bytes(b"content")
    os.utime(data / "f", ns=(10**18, 10**18 + 1))
    os.symlink("d/g", data / "l")
    os.symlink("d", data / "ld")
    os.symlink("../secret", data / "out")
    return data


@pytest.fixture(params=[False, True], ids=["straight", "hops"])
def guest(request: pytest.FixtureRequest, base: Path):
    before = tree(base)
    made = on(base, "overlay")
    made.hops = request.param
    yield made
    made.close()
    assert tree(base) == before


def content(guest: Guest, path: str) -> bytes:
    return guest.read(guest.opened(path, rights=READ))[1]


def test_reading_and_writing(guest: Guest) -> None:
    assert guest.names(ROOT) == [".", "..", "d", "empty", "f", "l", "ld", "out"]
    assert content(guest, "f") == b"content"
    before = guest.path_filestat("f")[1]
    fd = guest.opened("f")
    guest.seek(fd, 3)
    guest.write(fd, b"!!")
    assert content(guest, "f") == b"con!!nt"
    assert content(guest, "ld/e/deep") == b"deep"
    assert before["mtim"] == 10**18 + 1
    assert guest.open("out", 0, READ)[0] == Errno.PERM
    made = guest.opened("d/new", CREAT)
    guest.write(made, b"new")
    there = guest.open_directory("d")
    assert guest.names(there) == [".", "..", "e", "g", "new"]
    assert guest.open("f", CREAT | EXCL)[0] == Errno.EXIST
    cut = guest.opened("d/g", TRUNC)
    assert guest.filestat(cut)[1]["size"] == 0


def test_to_look_changes_nothing(guest: Guest) -> None:
    before = [guest.path_filestat(path)[1]["mtim"] for path in (".", "d", "d/e", "f", "l")]
    guest.open_directory("d/e")
    content(guest, "l")
    after = [guest.path_filestat(path)[1]["mtim"] for path in (".", "d", "d/e", "f", "l")]
    assert after == before


def test_deleting(guest: Guest) -> None:
    call = guest.call
    assert call("path_unlink_file", ROOT, *guest.path("f")) == 0
    assert call("path_unlink_file", ROOT, *guest.path("f")) == Errno.NOENT
    assert guest.open("f")[0] == Errno.NOENT
    assert call("path_remove_directory", ROOT, *guest.path("d")) == Errno.NOTEMPTY
    assert call("path_remove_directory", ROOT, *guest.path("empty")) == 0
    assert call("path_unlink_file", ROOT, *guest.path("l")) == 0
    assert call("path_unlink_file", ROOT, *guest.path("d")) == Errno.ISDIR
    assert guest.names(ROOT) == [".", "..", "d", "ld", "out"]
    # What takes the place of something removed has nothing of it.
    assert call("path_create_directory", ROOT, *guest.path("empty")) == 0
    assert call("path_unlink_file", ROOT, *guest.path("d/e/deep")) == 0
    assert call("path_unlink_file", ROOT, *guest.path("d/g")) == 0
    assert call("path_remove_directory", ROOT, *guest.path("d/e")) == 0
    assert call("path_remove_directory", ROOT, *guest.path("d")) == 0
    assert call("path_create_directory", ROOT, *guest.path("d")) == 0
    assert guest.names(guest.open_directory("d")) == [".", ".."]


def test_renaming(guest: Guest) -> None:
    def rename(old: str, new: str) -> int:
        return guest.call("path_rename", ROOT, *guest.path(old), ROOT, *guest.path(new, 9216))

    assert rename("d", "moved") == 0
    assert content(guest, "moved/e/deep") == b"deep"
    assert guest.open("d", DIRECTORY, DIRECTORY_RIGHTS)[0] == Errno.NOENT
    assert rename("moved/g", "f") == 0
    assert content(guest, "f") == b"g" * 4096
    assert guest.names(guest.open_directory("moved")) == [".", "..", "e"]
    assert rename("f", "moved") == Errno.ISDIR
    assert rename("moved", "f") == Errno.NOTDIR
    assert rename("empty", "moved") == Errno.NOTEMPTY
    assert rename("moved", "empty") == 0
    assert content(guest, "empty/e/deep") == b"deep"
    assert rename("empty", "empty/e/x") == Errno.INVAL
    assert guest.names(ROOT) == [".", "..", "empty", "f", "l", "ld", "out"]


def test_links_and_times(guest: Guest) -> None:
    two = (*guest.path("d/g"), ROOT, *guest.path("hard", 9216))
    assert guest.call("path_link", ROOT, 0, *two) == 0
    assert guest.path_filestat("hard")[1]["nlink"] == 2 == guest.path_filestat("d/g")[1]["nlink"]
    assert guest.call("path_link", ROOT, 0, *two) == Errno.EXIST
    assert guest.call("path_symlink", *guest.path("f"), ROOT, *guest.path("l", 9216)) == Errno.EXIST
    assert guest.call("path_filestat_set_times", ROOT, 0, *guest.path("f"), 5, 6, 5) == 0
    assert guest.path_filestat("f")[1]["mtim"] == 6
    assert content(guest, "f") == b"content"


def test_times_of_a_file_open_to_be_read(guest: Guest) -> None:
    fd = guest.opened("f", rights=READ)
    guest.read(fd, 3)
    assert guest.call("fd_filestat_set_times", fd, 5, 6, 5) == 0
    assert guest.path_filestat("f")[1]["mtim"] == 6 == guest.filestat(fd)[1]["mtim"]
    assert guest.read(fd) == (0, b"tent")


def test_a_reader_keeps_what_it_opened(guest: Guest) -> None:
    reader = guest.opened("f", rights=READ)
    guest.write(guest.opened("f", TRUNC), b"other")
    assert guest.read(reader) == (0, b"content")


def test_changes_move_and_the_base_is_found_there(base: Path, tmp_path: Path) -> None:
    guest = on(base, "overlay")
    fd = guest.opened("d/e/deep")
    guest.write(fd, b"D")
    guest.call("path_unlink_file", ROOT, *guest.path("f"))
    guest.call("path_rename", ROOT, *guest.path("d"), ROOT, *guest.path("dd", 9216))
    there = tmp_path / "there"
    shutil.copytree(base, there, symlinks=True)
    (there / "d" / "more").write_bytes(b"only there")
    state = guest.state()
    # What was only read is not carried.
    assert guest.contents.size == 4
    with pytest.raises(WasiConfigError, match="mounts that were not given: /data") as error:
        guest.resume(state, mounts=())
    assert "HOST::/data::overlay" in (error.value.hint or "")
    guest.resume(state, mounts=[Mount(there, "/data", "overlay")])
    assert guest.names(ROOT) == [".", "..", "dd", "empty", "l", "ld", "out"]
    assert content(guest, "dd/more") == b"only there"
    assert content(guest, "dd/g") == b"g" * 4096
    guest.write(fd, b"E")
    assert content(guest, "dd/e/deep") == b"DEep"
    assert (there / "d" / "e" / "deep").read_bytes() == b"deep"
    guest.close()


def test_over_an_archive(tmp_path: Path) -> None:
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("d/f", b"archived")
    guest = Guest(mounts=[Mount.parse(f"{path}::/a::overlay")])
    guest.hops = True
    guest.write(guest.opened("d/f"), b"A")
    assert content(guest, "d/f") == b"Archived"
    state = guest.state()
    with zipfile.ZipFile(path, "a") as archive:
        archive.writestr("g", b"")
    with pytest.raises(SnapshotError, match="another archive"):
        guest.resume(state)
    guest.close()


NAMES = ("d", "d/e", "d/e/deep", "d/g", "empty", "f", "l", "new", "d/new", "empty/x", "ld/g", "d/")


@pytest.mark.parametrize("seed", range(12))
def test_it_is_like_a_copy(seed: int, base: Path, tmp_path: Path) -> None:
    """Random calls in an overlay, with a snapshot before each, and in a copy of its base."""
    shutil.copytree(base, tmp_path / "copy", symlinks=True)
    guests = [on(base, "overlay"), on(tmp_path / "copy")]
    guests[0].hops = True
    chance = random.Random(seed)
    for step in range(30):
        one, other = chance.choice(NAMES), chance.choice(NAMES)
        what, flags = chance.randrange(8), chance.randrange(16)
        answers = [act(guest, what, one, other, flags) for guest in guests]
        assert answers[0] == answers[1], (step, what, one, other, flags)
    assert seen(guests[0], ".") == seen(guests[1], ".")
    for guest in guests:
        guest.close()


def act(guest: Guest, what: int, one: str, other: str, flags: int) -> object:
    """One call; its errno, or what it gives that must be the same."""
    first, second = guest.path(one), guest.path(other, 9216)
    if what == 0:
        errno, fd = guest.open(one, flags & ~DIRECTORY)
        if errno == 0:
            guest.write(fd, b"w%d" % flags)
            guest.call("fd_close", fd)
        return errno
    if what == 1:
        return guest.call("path_unlink_file", ROOT, *first)
    if what == 2:
        return guest.call("path_remove_directory", ROOT, *first)
    if what == 3:
        return guest.call("path_create_directory", ROOT, *first)
    if what in (4, 5):
        return guest.call("path_rename", ROOT, *first, ROOT, *second)
    if what == 6:
        return guest.call("path_link", ROOT, 0, *first, ROOT, *second)
    return guest.call("path_symlink", *guest.path("f"), ROOT, *second)


def seen(guest: Guest, path: str) -> object:
    """What a program sees below a path."""
    errno, fd = guest.open(path, DIRECTORY, DIRECTORY_RIGHTS, follow=False)
    if errno == 0:
        return {name: seen(guest, f"{path}/{name}") for name in guest.names(fd)[2:]}
    errno, fd = guest.open(path, 0, READ, follow=False)
    return errno or guest.read(fd)
