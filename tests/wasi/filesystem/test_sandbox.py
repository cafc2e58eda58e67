"""Attempts to get out of a mounted directory: none reads, makes, changes or removes anything beside
it. `outer/secret` and `outer/other` lie next to the mount `outer/data`."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wasi.guest import CREAT, DATA, DIRECTORY, OUT, PATH2, ROOT, TRUNC, Guest
from wasmsr.wasi.preview1.abi import Errno, Right

pytestmark = pytest.mark.usefixtures("way")

REFUSED = {Errno.PERM, Errno.NOTCAPABLE, Errno.LOOP, Errno.NOENT, Errno.NOTDIR, Errno.INVAL}


@pytest.fixture
def outer(data: Path) -> Path:
    """What must stay as it is."""
    outer = data.parent
    (outer / "other").mkdir()
    (outer / "other/file").write_text("other")
    (data / "d/e").mkdir(parents=True)
    (data / "f").write_text("inside")
    os.symlink("..", data / "up")
    os.symlink("../..", data / "d/up-two")
    os.symlink("../secret", data / "to-secret")
    os.symlink("../other", data / "to-other")
    os.symlink(outer / "secret", data / "absolute")
    os.symlink(outer, data / "absolute-dir")
    os.symlink("/", data / "root")
    os.symlink("to-secret", data / "indirect")
    os.symlink("d/e/../../../secret", data / "winding")
    os.symlink("up/secret", data / "through-link")
    os.symlink("../new", data / "to-new")
    os.symlink("/proc/self/root", data / "magic")
    return outer


PATHS = [
    "../secret",
    "./../secret",
    "d/../../secret",
    "d/e/../../../secret",
    "d/./e/.././../../secret",
    "..//secret",
    "../data/../secret",
    "../../outer/secret",
    "{outer}/secret",
    "//secret",
    "{outer}/data/f",
    "up/secret",
    "up/data/f",
    "d/up-two/secret",
    "d/e/../up-two/secret",
    "to-secret",
    "to-secret/",
    "indirect",
    "absolute",
    "absolute-dir/secret",
    "absolute-dir",
    "root/etc/hostname",
    "root{outer}/secret",
    "winding",
    "through-link",
    "to-other/file",
    "to-other/../secret",
    "magic/etc/hostname",
    "..",
    "../",
    "d/../..",
    "up",
    "f/../../secret",
]


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("flags", [0, CREAT, TRUNC, DIRECTORY])
def test_nothing_opens(guest: Guest, outer: Path, path: str, flags: int) -> None:
    right = Right.FD_READ if flags == DIRECTORY else Right.FD_READ | Right.FD_WRITE
    errno, _ = guest.open(path.format(outer=outer), flags, right)
    assert errno in REFUSED | {Errno.ISDIR}, Errno(errno)
    untouched(outer)


def at(call: str, *after: int) -> Callable[[Guest, str], int]:
    return lambda guest, path: guest.call(call, ROOT, *guest.path(path), *after)


CALLS: dict[str, Callable[[Guest, str], int]] = {
    "mkdir": lambda g, p: at("path_create_directory")(g, p + "-new"),
    "rmdir": at("path_remove_directory"),
    "unlink": at("path_unlink_file"),
    "stat": lambda g, p: g.path_filestat(p, follow=True)[0],
    "times": lambda g, p: g.call("path_filestat_set_times", ROOT, 1, *g.path(p), 1, 1, 5),
    "readlink": at("path_readlink", DATA, 100, OUT),
    "symlink": lambda g, p: g.call("path_symlink", *g.path("f"), ROOT, *g.path(p + "-new", PATH2)),
    "link from": lambda g, p: g.call(
        "path_link", ROOT, 1, *g.path(p), ROOT, *g.path("stolen", PATH2)
    ),
    "link to": lambda g, p: g.call(
        "path_link", ROOT, 0, *g.path("f"), ROOT, *g.path(p + "-new", PATH2)
    ),
    "rename from": lambda g, p: g.call(
        "path_rename", ROOT, *g.path(p), ROOT, *g.path("stolen", PATH2)
    ),
    "rename to": lambda g, p: g.call(
        "path_rename", ROOT, *g.path("f"), ROOT, *g.path(p + "-new", PATH2)
    ),
}
DEEP = [path for path in PATHS if "secret" in path and not path.startswith("to-")] + [
    "to-other/file"
]


@pytest.mark.parametrize("path", DEEP)
@pytest.mark.parametrize("call", CALLS)
def test_nothing_changes(guest: Guest, outer: Path, path: str, call: str) -> None:
    assert CALLS[call](guest, path.format(outer=outer)) in REFUSED
    untouched(outer)


def untouched(outer: Path) -> None:
    assert sorted(os.listdir(outer)) == ["data", "other", "secret"]
    assert sorted(os.listdir(outer / "other")) == ["file"]
    assert (outer / "secret").read_text() == "secret"
    assert (outer / "other/file").read_text() == "other"
    assert not (outer / "data/stolen").exists()


def test_create_through_a_link_to_outside(guest: Guest, outer: Path) -> None:
    assert guest.open("to-new", CREAT)[0] == Errno.PERM
    untouched(outer)


def test_a_link_made_by_the_program_leads_nowhere(guest: Guest, outer: Path) -> None:
    assert guest.call("path_symlink", *guest.path("../secret"), ROOT, *guest.path("l", PATH2)) == 0
    assert guest.open("l")[0] == Errno.PERM
    assert (
        guest.call("path_symlink", *guest.path("/etc"), ROOT, *guest.path("m", PATH2)) == Errno.PERM
    )


def test_a_directory_descriptor_is_a_sandbox_of_its_own(guest: Guest, outer: Path) -> None:
    d = guest.open_directory("d")
    assert guest.open("../f", fd=d)[0] == Errno.PERM
    assert guest.open("e/../../f", fd=d)[0] == Errno.PERM
    assert guest.open("up-two/secret", fd=d)[0] == Errno.PERM
    e = guest.open_directory("e", fd=d)
    assert guest.open("..", DIRECTORY, 0, fd=e)[0] == Errno.PERM


def test_rename_between_directories_stays_inside(guest: Guest, outer: Path) -> None:
    d = guest.open_directory("d")
    for new in ("../f2", "../../f2"):
        moved = guest.call("path_rename", ROOT, *guest.path("f"), d, *guest.path(new, PATH2))
        assert moved == Errno.PERM
    untouched(outer)


def test_the_entry_above_is_not_described(guest: Guest, outer: Path) -> None:
    above = next(entry for entry in guest.readdir(ROOT) if entry[2] == "..")
    assert above[1] == 0
    assert guest.path_filestat("..")[0] == Errno.PERM


def test_a_directory_swapped_for_a_link_meanwhile(outer: Path, data: Path, output) -> None:
    """Another process plays swap; whatever is read is from inside."""
    from tests.wasi.guest import on

    (data / "swap").mkdir()
    (data / "swap/file").write_text("inside")
    (data / "spare").mkdir()
    (data / "spare/file").write_text("inside")
    os.symlink("../other", data / "evil")
    done = threading.Event()

    def swapper() -> None:
        while not done.is_set():
            os.rename(data / "swap", data / "parked")
            os.rename(data / "evil", data / "swap")
            os.rename(data / "swap", data / "evil")
            os.rename(data / "parked", data / "swap")

    guest = on(data, stdout=output)
    thread = threading.Thread(target=swapper)
    thread.start()
    seen = set()
    try:
        for _ in range(1500):
            errno, fd = guest.open("swap/file", 0, Right.FD_READ)
            if errno:
                seen.add(errno)
                continue
            assert guest.read(fd)[1] == b"inside"
            guest.call("fd_close", fd)
    finally:
        done.set()
        thread.join()
        guest.close()
    assert seen <= {Errno.PERM, Errno.NOENT, Errno.NOTDIR}


def test_no_descriptor_of_the_walk_is_left_open(guest: Guest, outer: Path) -> None:
    def count() -> int:
        return len(os.listdir("/proc/self/fd"))

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("no /proc here")
    guest.open("d/e/none")
    before = count()
    for path in [*PATHS, "d/e/none", "d/e/../e/f", "d/none/x", "f/x", "a" * 300, "d/" + "a" * 300]:
        guest.open(path.format(outer=outer))
        guest.path_filestat(path.format(outer=outer), follow=True)
        for call in CALLS.values():
            if "none" not in path:
                continue
            call(guest, path)
    assert count() == before
