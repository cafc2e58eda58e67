"""Ways out of a mounted directory that need more than a path: another process that swaps things
meanwhile, magic links, mount points, moves of what is open. `test_sandbox` has the paths.

Each runs twice, resolved by the kernel and by the walk.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
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
    TRUNC,
    Guest,
    on,
)
from wasmsr.wasi.preview1.abi import Errno, Right

READ, WRITE = Right.FD_READ, Right.FD_WRITE


pytestmark = pytest.mark.usefixtures("way")


# A process that swaps a directory for a link that leads outside, as fast as it can.

SWAPPER = """
import ctypes, os, sys
os.chdir(sys.argv[1])
swap, evil = os.fsencode(sys.argv[2]), os.fsencode(sys.argv[3])
exchange = getattr(ctypes.CDLL(None), "renameat2", None)
print("ready", flush=True)
while True:
    if exchange is None or exchange(-100, swap, -100, evil, 2):
        os.rename(swap, b"parked")
        os.rename(evil, swap)
        os.rename(swap, evil)
        os.rename(b"parked", swap)
"""


@pytest.fixture
def outer(data: Path) -> Path:
    outer = data.parent
    (outer / "other").mkdir()
    (outer / "other/dir").mkdir()
    (data / "swap/dir").mkdir(parents=True)
    for name in ("file", "victim", "dir/file", "dir/victim"):
        (outer / "other" / name).write_text("outside")
    (data / "swap/file").write_text("inside")
    (data / "swap/dir/file").write_text("inside")
    os.symlink("../other", data / "evil")
    (data / "mine").write_text("mine")
    return outer


@pytest.fixture
def swapping(data: Path, outer: Path) -> Iterator[None]:
    with subprocess.Popen(
        [sys.executable, "-c", SWAPPER, str(data), "swap", "evil"], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def snapshot(outer: Path) -> dict[str, object]:
    found: dict[str, object] = {}
    for path in sorted((outer / "other").rglob("*")):
        status = path.lstat()
        content = path.read_bytes() if path.is_file() else None
        found[str(path.relative_to(outer))] = (status.st_mode, status.st_mtime_ns, content)
    return found


def open_and_read(guest: Guest, at: str) -> None:
    errno, fd = guest.open(f"{at}/file", 0, READ)
    if not errno:
        assert guest.read(fd)[1] == b"inside"
        guest.call("fd_close", fd)


def create(guest: Guest, at: str) -> None:
    errno, fd = guest.open(f"{at}/new", CREAT, READ | WRITE)
    if not errno:
        guest.write(fd, b"x")
        guest.call("fd_close", fd)
        guest.call("path_unlink_file", ROOT, *guest.path(f"{at}/new"))


def truncate(guest: Guest, at: str) -> None:
    errno, fd = guest.open(f"{at}/victim", CREAT | TRUNC, WRITE)
    if not errno:
        guest.call("fd_close", fd)


def list_it(guest: Guest, at: str) -> None:
    errno, fd = guest.open(at, DIRECTORY, Right.FD_READDIR)
    if not errno:
        assert "victim" not in guest.names(fd)
        guest.call("fd_close", fd)


def stat(guest: Guest, at: str) -> None:
    errno, found = guest.path_filestat(f"{at}/victim", follow=True)
    assert errno, found


def times(guest: Guest, at: str) -> None:
    guest.call("path_filestat_set_times", ROOT, 1, *guest.path(f"{at}/victim"), 5, 7, 5)


def unlink(guest: Guest, at: str) -> None:
    guest.call("path_unlink_file", ROOT, *guest.path(f"{at}/victim"))


def make_and_remove(guest: Guest, at: str) -> None:
    if guest.call("path_create_directory", ROOT, *guest.path(f"{at}/made")) == 0:
        guest.call("path_remove_directory", ROOT, *guest.path(f"{at}/made"))


def move_in(guest: Guest, at: str) -> None:
    there, here = guest.path(f"{at}/victim"), guest.path("taken", PATH2)
    guest.call("path_rename", ROOT, *there, ROOT, *here)


def link_in(guest: Guest, at: str) -> None:
    there, here = guest.path(f"{at}/victim"), guest.path("taken", PATH2)
    assert guest.call("path_link", ROOT, 1, *there, ROOT, *here) != 0


def move_out(guest: Guest, at: str) -> None:
    here, there = guest.path("mine"), guest.path(f"{at}/mine", PATH2)
    if guest.call("path_rename", ROOT, *here, ROOT, *there) == 0:
        guest.call("path_rename", ROOT, *guest.path(f"{at}/mine"), ROOT, *guest.path("mine", PATH2))


def link_out(guest: Guest, at: str) -> None:
    here, there = guest.path("mine"), guest.path(f"{at}/linked", PATH2)
    if guest.call("path_link", ROOT, 0, *here, ROOT, *there) == 0:
        guest.call("path_unlink_file", ROOT, *guest.path(f"{at}/linked"))


def climb(guest: Guest, at: str) -> None:
    """Up again from the swapped directory: what lies beside the mount must not come into view."""
    up = "../" * (at.count("/") + 1)
    errno, found = guest.path_filestat(f"{at}/{up}mine")
    assert errno or found["size"] == 4
    assert guest.path_filestat(f"{at}/{up}../secret")[0] != 0
    assert guest.path_filestat(f"{at}/{up}secret")[0] != 0


RACES: dict[str, Callable[[Guest, str], None]] = {
    call.__name__: call
    for call in (
        open_and_read,
        create,
        truncate,
        list_it,
        stat,
        times,
        unlink,
        make_and_remove,
        move_in,
        link_in,
        move_out,
        link_out,
        climb,
    )
}


@pytest.mark.parametrize("race", RACES)
@pytest.mark.parametrize("at", ["swap", "swap/dir"])
def test_another_process_swaps_a_directory_for_a_link(
    race: str, at: str, data: Path, outer: Path, swapping: None
) -> None:
    before = snapshot(outer)
    guest = on(data)
    end = time.monotonic() + 0.15
    tries = 0
    while time.monotonic() < end or tries < 50:
        RACES[race](guest, at)
        tries += 1
    guest.close()
    assert snapshot(outer) == before
    assert (outer / "secret").read_text() == "secret"
    assert not (data / "taken").exists()


def test_a_directory_moved_out_while_it_is_open(data: Path, outer: Path) -> None:
    """Its descriptor goes on to work, as the host's would; there is no way up from it."""
    guest = on(data)
    fd = guest.open_directory("swap/dir")
    os.rename(data / "swap/dir", outer / "moved")
    assert guest.open("..", DIRECTORY, 0, fd=fd)[0] == Errno.PERM
    assert guest.open("../secret", 0, READ, fd=fd)[0] == Errno.PERM
    assert guest.open("x/../../secret", 0, READ, fd=fd)[0] in (Errno.NOENT, Errno.PERM)
    (outer / "moved/sub").mkdir()
    assert guest.open("sub/../../secret", 0, READ, fd=fd)[0] == Errno.PERM
    guest.close()


def test_a_link_in_place_of_the_mounted_directory(data: Path, outer: Path) -> None:
    """A mount is the directory that was there at the start, whatever its name means later."""
    guest = on(data)
    os.rename(data, outer / "elsewhere")
    os.symlink("other", data)
    assert guest.open("victim", 0, READ)[0] == Errno.NOENT
    assert guest.path_filestat("mine")[0] == 0
    guest.close()


# Links


@pytest.mark.parametrize(
    "target",
    [
        "../secret",
        "./../secret",
        "swap/../../secret",
        "swap/dir/../../../secret",
        "evil/../secret",
        "evil/victim",
        "/",
        "/etc/passwd",
        "..",
        "../",
        ".././..",
    ],
)
@pytest.mark.parametrize("path", ["{}", "{}/", "{}/.", "{}/x", "swap/../{}", "via", "swap/down"])
def test_links_to_outside(data: Path, outer: Path, target: str, path: str) -> None:
    os.symlink(target, data / "link")
    os.symlink("link", data / "via")
    os.symlink("../link", data / "swap/down")
    name = path.format("link")
    guest = on(data)
    before = snapshot(outer)
    for oflags in (0, CREAT, CREAT | EXCL, TRUNC, DIRECTORY):
        rights = Right.FD_READDIR if oflags == DIRECTORY else READ | WRITE
        assert guest.open(name, oflags, rights)[0] != 0
    assert guest.path_filestat(name, follow=True)[0] != 0
    assert guest.call("path_filestat_set_times", ROOT, 1, *guest.path(name), 1, 1, 5) != 0
    assert guest.call("path_link", ROOT, 1, *guest.path(name), ROOT, *guest.path("new", PATH2)) != 0
    assert guest.call("path_create_directory", ROOT, *guest.path(name + "/made")) != 0
    guest.close()
    assert snapshot(outer) == before
    assert sorted(os.listdir(outer)) == ["data", "other", "secret"]


def test_a_chain_of_links_that_ends_outside(data: Path, outer: Path) -> None:
    os.symlink("../secret", data / "chain0")
    for number in range(1, 39):
        os.symlink(f"chain{number - 1}", data / f"chain{number}")
    guest = on(data)
    assert guest.open("chain38", 0, READ)[0] == Errno.PERM
    os.symlink("chain38", data / "chain39")
    os.symlink("chain39", data / "chain40")
    assert guest.open("chain40", 0, READ)[0] == Errno.LOOP
    guest.close()


def test_links_between_mounts_lead_nowhere(data: Path, outer: Path) -> None:
    """Two mounts beside each other: neither is a way into the other."""
    from wasmsr.wasi.filesystem.mounts import Mount

    guest = Guest(mounts=[Mount(data, "/data"), Mount(outer / "other", "/other")])
    assert guest.open("victim", 0, READ, fd=ROOT + 1)[0] == 0
    assert guest.open("../other/victim", 0, READ)[0] == Errno.PERM
    assert guest.open("evil/victim", 0, READ)[0] == Errno.PERM
    guest.close()


def test_a_hard_link_is_made_of_the_link_itself(data: Path, outer: Path) -> None:
    guest = on(data)
    assert guest.call("path_link", ROOT, 0, *guest.path("evil"), ROOT, *guest.path("l", PATH2)) == 0
    assert (data / "l").is_symlink()
    assert guest.open("l/victim", 0, READ)[0] == Errno.PERM
    guest.close()


def test_renaming_a_link_moves_the_link(data: Path, outer: Path) -> None:
    guest = on(data)
    moved = guest.call("path_rename", ROOT, *guest.path("evil"), ROOT, *guest.path("swap/e", PATH2))
    assert moved == 0
    assert os.readlink(data / "swap/e") == "../other"
    assert guest.open("swap/e/victim", 0, READ)[0] == Errno.NOENT, "it now points inside"
    assert (
        guest.call("path_rename", ROOT, *guest.path("mine"), ROOT, *guest.path("swap/e", PATH2))
        == 0
    )
    assert (data / "swap/e").read_text() == "mine"
    guest.close()


def test_unlinking_a_link_leaves_what_it_names(data: Path, outer: Path) -> None:
    os.symlink("../secret", data / "s")
    guest = on(data)
    assert guest.call("path_unlink_file", ROOT, *guest.path("s")) == 0
    assert guest.call("path_unlink_file", ROOT, *guest.path("evil/victim")) == Errno.PERM
    assert guest.call("path_remove_directory", ROOT, *guest.path("evil")) == Errno.NOTDIR
    assert guest.call("path_remove_directory", ROOT, *guest.path("evil/dir")) == Errno.PERM
    guest.close()
    assert (outer / "secret").exists() and (outer / "other/dir").exists()


def test_times_of_a_link_are_the_links_own(data: Path, outer: Path) -> None:
    os.symlink("../secret", data / "s")
    before = (outer / "secret").stat().st_mtime_ns
    guest = on(data)
    assert guest.call("path_filestat_set_times", ROOT, 0, *guest.path("s"), 5, 7, 5) == 0
    assert guest.call("path_filestat_set_times", ROOT, 1, *guest.path("s"), 5, 7, 5) == Errno.PERM
    guest.close()
    assert (outer / "secret").stat().st_mtime_ns == before
    assert (data / "s").lstat().st_mtime_ns == 7


def test_readlink_shows_text_and_reads_nothing(data: Path, outer: Path) -> None:
    guest = on(data)
    assert guest.call("path_readlink", ROOT, *guest.path("evil"), DATA, 100, OUT) == 0
    assert guest.get(DATA, guest.u32()) == b"../other"
    reading = guest.call("path_readlink", ROOT, *guest.path("evil/victim"), DATA, 100, OUT)
    assert reading == Errno.PERM
    guest.close()


# Magic links: those of /proc, which look like links and lead to open files.


@pytest.mark.parametrize(
    "path",
    [
        "self/root/etc/passwd",
        "self/root",
        "self/cwd/pyproject.toml",
        "self/cwd",
        "self/exe",
        "self/fd/{fd}",
        "self/fd/{fd}/victim",
        "self/fd/{fd}/..",
        "thread-self/root/etc/passwd",
        "self/task/{pid}/root/etc",
        "{pid}/root/passwd",
        "self/ns/mnt",
    ],
)
def test_magic_links(outer: Path, path: str) -> None:
    if not os.path.exists("/proc/self/root"):
        pytest.skip("no /proc here")
    beside = os.open(outer / "other", os.O_RDONLY | os.O_DIRECTORY)
    guest = on(Path("/proc"))
    name = path.format(fd=beside, pid=os.getpid())
    refused = (Errno.PERM, Errno.NOENT)
    assert guest.open(name, 0, READ)[0] in refused
    assert guest.open(name, DIRECTORY, Right.FD_READDIR)[0] in refused
    assert guest.path_filestat(name, follow=True)[0] in refused
    guest.close()
    os.close(beside)


# Mount points of the host


@pytest.fixture
def mounted(data: Path, outer: Path) -> Iterator[Path]:
    """`data/point`, where `outer/other` is mounted too."""
    point = data / "point"
    point.mkdir()
    mount = shutil.which("mount")
    done = mount and subprocess.run(
        [mount, "--bind", str(outer / "other"), str(point)], capture_output=True
    )
    if not done or done.returncode:
        pytest.skip("only root may mount")
    yield point
    subprocess.run(["umount", str(point)], check=True)


def test_a_mount_point_is_a_directory_like_others(mounted: Path, data: Path, outer: Path) -> None:
    """What the host's owner mounted below a directory is granted with it; the way up from there
    leads back below, not to where the mounted directory lies otherwise."""
    guest = on(data)
    fd = guest.opened("point/victim", 0, READ)
    assert guest.read(fd)[1] == b"outside"
    assert guest.path_filestat("point/../mine")[1]["size"] == 4
    assert guest.open("point/../../secret", 0, READ)[0] == Errno.PERM
    assert guest.open("point/../secret", 0, READ)[0] == Errno.NOENT
    inner = guest.open_directory("point")
    assert guest.open("../secret", 0, READ, fd=inner)[0] == Errno.PERM
    link = guest.call(
        "path_link", ROOT, 0, *guest.path("mine"), ROOT, *guest.path("point/mine", PATH2)
    )
    assert link == Errno.XDEV
    assert guest.call("path_remove_directory", ROOT, *guest.path("point")) == Errno.BUSY
    guest.close()


# Names


@pytest.mark.parametrize(
    ("path", "errno"),
    [
        (b"mine\0/../../secret", Errno.INVAL),
        (b"..\0", Errno.INVAL),
        (b"\0../secret", Errno.INVAL),
        (b"", Errno.NOENT),
        (b"swap//..//..//secret", Errno.PERM),
        (b"swap/./../../secret", Errno.PERM),
        (b"....//secret", Errno.NOENT),
        (b"..%2fsecret", Errno.NOENT),
        (b"..\\secret", Errno.NOENT),
        (b"\xe2\x80\xa4\xe2\x80\xa4/secret", Errno.NOENT),
        (b"\xc0\xae\xc0\xae/secret", Errno.NOENT),
        (b"x" * 256, Errno.NAMETOOLONG),
        (b"swap/../" * 700 + b"../secret", Errno.PERM),
        (b"../" * 600 + b"etc/passwd", Errno.PERM),
    ],
)
def test_names_that_are_tricks(data: Path, outer: Path, path: bytes, errno: Errno) -> None:
    guest = on(data)
    assert guest.open(path, 0, READ)[0] == errno
    assert guest.open(path, CREAT, READ | WRITE)[0] in (errno, 0)
    guest.close()
    assert sorted(os.listdir(outer)) == ["data", "other", "secret"]
    assert (outer / "secret").read_text() == "secret"
