"""What a slash or dots at the end of a path mean, also where a symbolic link brings them in.

Every path call is made with every path in each mode of a mount, and natively by the kernel in an
equal folder: the same errno, and the same files afterwards. Linux decides about a last slash when
it has expanded the link that brings it.
"""

from __future__ import annotations

import errno
import itertools
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wasi.guest import CREAT, DATA, DIRECTORY, EXCL, OUT, PATH2, ROOT, TRUNC, Guest, on
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import Errno, Right
from wasmsr.wasi.preview1.rights import FILE_RIGHTS

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer otherwise")

MODES = ["host", "carry", "overlay", "mem"]
LINKS = {
    "l": "file/",
    "n": "new/",
    "k": "sub/",
    "m": "l",  # a link to a link that brings the slash
    "j": "sub/../file/",
    "i": "sub/.",
    "h": "new/.",
    "g": "sub/x//",
    "plain": "file",
    "dir": "sub",
    "lost": "new",
    "loop": "loop/",
}
PATHS = [
    *("file", "file/", "file//", "file/.", "file/..", "new", "new/", "new/.", "sub", "sub/"),
    *("sub/.", "sub/..", "sub/../", ".", "./", "l", "l/", "n", "n/", "k", "k/", "m", "j", "i", "h"),
    *("h/", "g", "k/x", "l/x", "plain", "plain/", "dir", "dir/", "dir/.", "lost", "lost/", "loop"),
]
OLD = ["file", "file/", "new", "sub", "sub/", ".", "l", "l/", "k", "k/", "n/", "dir/"]
NEW = ["file", "file/", "new", "new/", "empty", "empty/", "sub/..", "l/", "k/", "n", "n/", "lost/"]

Call = Callable[[Any], int]
"""A call of a guest, or of the kernel on a folder: the errno."""


def populate(folder: Path) -> None:
    folder.mkdir()
    (folder / "file").write_text("keep")
    (folder / "sub").mkdir()
    (folder / "empty").mkdir()
    (folder / "sub/x").write_text("x")
    for name, target in LINKS.items():
        os.symlink(target, folder / name)


def native(call: Callable[[], object]) -> int:
    """The errno of a call of the kernel, as WASI numbers it."""
    try:
        call()
    except OSError as error:
        assert error.errno is not None
        return int(Errno[errno.errorcode[error.errno].removeprefix("E")])
    return 0


def _opens(oflags: int, follow: int) -> tuple[Callable[..., int], Callable[..., int]]:
    flags = os.O_RDWR if oflags & (CREAT | TRUNC) else os.O_RDONLY
    of_host = ((CREAT, os.O_CREAT), (EXCL, os.O_EXCL), (TRUNC, os.O_TRUNC))
    for flag, its in (*of_host, (DIRECTORY, os.O_DIRECTORY)):
        flags |= its if oflags & flag else 0
    flags |= 0 if follow else os.O_NOFOLLOW
    rights = FILE_RIGHTS if flags & os.O_RDWR else FILE_RIGHTS & ~Right.FD_WRITE

    def ours(guest: Guest, path: str) -> int:
        code, fd = guest.open(path, oflags, rights, follow=bool(follow))
        if not code:
            guest.call("fd_close", fd)
        return code

    def theirs(root: int, path: str) -> int:
        code = native(lambda: os.close(os.open(path, flags, 0o666, dir_fd=root)))
        # Ours calls a link that is not followed a link, whatever else was asked for.
        if code == Errno.NOTDIR and oflags & DIRECTORY and not follow and not path.endswith("/"):
            return code if native(lambda: os.readlink(path, dir_fd=root)) else int(Errno.LOOP)
        return code

    return ours, theirs


def _one(name: str, before: tuple[int, ...] = (), after: tuple[int, ...] = ()) -> Any:
    return lambda guest, path: guest.call(name, ROOT, *before, *guest.path(path), *after)


def _two(name: str, *before: int) -> Any:
    return lambda guest, old, new: guest.call(
        name, ROOT, *before, *guest.path(old), ROOT, *guest.path(new, PATH2)
    )


def _stat(follow: bool) -> Any:
    return lambda root, path: native(lambda: os.stat(path, dir_fd=root, follow_symlinks=follow))


def _utime(follow: bool) -> Any:
    return lambda root, path: native(
        lambda: os.utime(path, ns=(10**18, 10**18), dir_fd=root, follow_symlinks=follow)
    )


def _link(follow: bool) -> Any:
    return lambda root, old, new: native(
        lambda: os.link(old, new, src_dir_fd=root, dst_dir_fd=root, follow_symlinks=follow)
    )


ONE: dict[str, Any] = {
    f"open {oflags} {'follow' if follow else 'nofollow'}": _opens(oflags, follow)
    for oflags in (0, TRUNC, CREAT, CREAT | TRUNC, CREAT | EXCL, DIRECTORY)
    for follow in (1, 0)
}
ONE |= {
    "mkdir": (
        _one("path_create_directory"),
        lambda root, path: native(lambda: os.mkdir(path, dir_fd=root)),
    ),
    "rmdir": (
        _one("path_remove_directory"),
        lambda root, path: native(lambda: os.rmdir(path, dir_fd=root)),
    ),
    "unlink": (
        _one("path_unlink_file"),
        lambda root, path: native(lambda: os.unlink(path, dir_fd=root)),
    ),
    "readlink": (
        _one("path_readlink", after=(DATA, 100, OUT)),
        lambda root, path: native(lambda: os.readlink(path, dir_fd=root)),
    ),
    "symlink": (
        lambda guest, path: guest.call(
            "path_symlink", *guest.path("file"), ROOT, *guest.path(path, PATH2)
        ),
        lambda root, path: native(lambda: os.symlink("file", path, dir_fd=root)),
    ),
    "stat": (_one("path_filestat_get", (0,), (OUT,)), _stat(False)),
    "stat follow": (_one("path_filestat_get", (1,), (OUT,)), _stat(True)),
    "times": (_one("path_filestat_set_times", (0,), (10**18, 10**18, 5)), _utime(False)),
    "times follow": (_one("path_filestat_set_times", (1,), (10**18, 10**18, 5)), _utime(True)),
}
TWO: dict[str, Any] = {
    "rename": (
        _two("path_rename"),
        lambda root, old, new: native(
            lambda: os.rename(old, new, src_dir_fd=root, dst_dir_fd=root)
        ),
    ),
    "link": (_two("path_link", 0), _link(False)),
    "link follow": (_two("path_link", 1), _link(True)),
}


AS_WASMTIME = {
    ("rmdir", Errno.INVAL, Errno.NOTEMPTY),  # what ends in `..`
    ("symlink", Errno.NOTDIR, Errno.EXIST),  # a new name with a slash where a file is
    ("link", Errno.NOTDIR, Errno.EXIST),
    ("link follow", Errno.NOTDIR, Errno.EXIST),
}
"""Our errno and the kernel's, where wasmtime answers as we do. Nothing is done in either."""


class Pair:
    """A guest and a folder of the host that begin with the same files."""

    def __init__(self, scratch: Path, mode: str) -> None:
        self.scratch, self.mode = scratch, mode
        self.number = 0
        self.guest: Guest | None = None
        self.root = -1

    def fresh(self) -> tuple[Guest, int]:
        """Both as they were at the beginning."""
        if self.guest is None:
            self.number += 1
            theirs = self.scratch / f"theirs-{self.number}"
            ours = self.scratch / f"ours-{self.number}"
            populate(theirs)
            self.root = os.open(theirs, os.O_RDONLY | os.O_DIRECTORY)
            self.theirs = theirs
            if self.mode == "mem":
                self.guest = Guest(mounts=[Mount.memory("/data")])
                root = self.guest.wasi.process.trees[b"/data"].private
                assert root is not None
                shutil.copytree(theirs, root.path, symlinks=True, dirs_exist_ok=True)
            else:
                populate(ours)
                self.guest = on(ours, self.mode)
        return self.guest, self.root

    def compare(self) -> None:
        """The files of both."""
        assert self.guest is not None
        assert seen(self.guest) == there(self.theirs)

    def drop(self) -> None:
        if self.guest is not None:
            self.guest.close()
            os.close(self.root)
            self.guest = None


def seen(guest: Guest, path: str = "") -> dict[str, Any]:
    """What the guest finds below `path`."""
    found: dict[str, Any] = {}
    fd = guest.open_directory(path or ".")
    listed = guest.readdir(fd)
    guest.call("fd_close", fd)
    for _, _, name, kind in listed:
        if name in (".", ".."):
            continue
        whole = f"{path}/{name}" if path else name
        if kind == 3:
            found[whole] = "directory"
            found |= seen(guest, whole)
        elif kind == 7:
            assert guest.call("path_readlink", ROOT, *guest.path(whole), DATA, 100, OUT) == 0
            found[whole] = "->" + guest.get(DATA, guest.u32()).decode()
        else:
            fd = guest.opened(whole, 0, FILE_RIGHTS & ~Right.FD_WRITE)
            found[whole] = guest.read(fd)[1]
            guest.call("fd_close", fd)
    return found


def there(folder: Path) -> dict[str, Any]:
    """The same of a folder of the host."""
    found: dict[str, Any] = {}
    for path in folder.rglob("*"):
        name = str(path.relative_to(folder))
        if path.is_symlink():
            found[name] = "->" + os.readlink(path)
        else:
            found[name] = "directory" if path.is_dir() else path.read_bytes()
    return found


@pytest.fixture
def pair(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Pair]:
    made = Pair(tmp_path, request.param)
    yield made
    made.drop()


def differences(pair: Pair, name: str, calls: Any, arguments: Any) -> list[str]:
    """What the two answer otherwise."""
    ours, theirs = calls
    found = []
    for paths in arguments:
        guest, root = pair.fresh()
        mine, its = ours(guest, *paths), theirs(root, *paths)
        if mine != its and (name, Errno(mine), Errno(its)) not in AS_WASMTIME:
            found.append(f"{name} {paths}: {Errno(mine).name}, the kernel {Errno(its).name}")
        if not (mine and its) or name.startswith("open"):
            pair.compare()
        if not (mine and its):
            pair.drop()
    return found


@pytest.mark.parametrize("pair", MODES, indirect=True)
@pytest.mark.parametrize("name", ONE)
def test_one_path(pair: Pair, name: str) -> None:
    assert differences(pair, name, ONE[name], [(path,) for path in PATHS]) == []


@pytest.mark.parametrize("pair", MODES, indirect=True)
@pytest.mark.parametrize("name", TWO)
def test_two_paths(pair: Pair, name: str) -> None:
    assert differences(pair, name, TWO[name], itertools.product(OLD, NEW)) == []
