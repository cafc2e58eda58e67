"""The same calls through wasmtime's WASI give the same errno; where not, the reason is listed."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.wasi.guest import (
    CREAT,
    DATA,
    DIRECTORY,
    EXCL,
    IOVS,
    OUT,
    OUT2,
    PATH2,
    ROOT,
    RW,
    Calls,
    Peer,
    on,
)
from wasmsr.wasi.preview1.abi import Errno, Right
from wasmsr.wasi.preview1.rights import FILE_RIGHTS

PATHS = [
    "",
    "/etc/passwd",
    "/file",
    "file",
    "file/",
    "file/.",
    "file/..",
    "file/x",
    ".",
    "./file",
    "..",
    "../secret",
    "dir",
    "dir/",
    "dir/.",
    "dir/..",
    "dir/../..",
    "dir/../file",
    "link",
    "link/",
    "dirlink",
    "dirlink/",
    "dirlink/inner",
    "abs",
    "absdir/etc/passwd",
    "up",
    "updir/secret",
    "dangling",
    "dangling/",
    "loop",
    "nope",
    "nope/x",
    "a" * 256,
]

Call = Callable[[Calls, str], int]
CALLS: dict[str, Call] = {
    "open": lambda g, p: g.open(p, 0, Right.FD_READ)[0],
    "open nofollow": lambda g, p: g.open(p, 0, Right.FD_READ, follow=False)[0],
    "open directory": lambda g, p: g.open(p, DIRECTORY, Right.FD_READ)[0],
    "open directory nofollow": lambda g, p: g.open(p, DIRECTORY, Right.FD_READ, follow=False)[0],
    "create": lambda g, p: g.open(p, CREAT, RW)[0],
    "create new": lambda g, p: g.open(p, CREAT | EXCL, RW)[0],
    "stat": lambda g, p: g.path_filestat(p)[0],
    "stat follow": lambda g, p: g.path_filestat(p, follow=True)[0],
    "times": lambda g, p: g.call("path_filestat_set_times", ROOT, 1, *g.path(p), 5, 7, 5),
    "mkdir": lambda g, p: g.call("path_create_directory", ROOT, *g.path(p)),
    "rmdir": lambda g, p: g.call("path_remove_directory", ROOT, *g.path(p)),
    "unlink": lambda g, p: g.call("path_unlink_file", ROOT, *g.path(p)),
    "readlink": lambda g, p: g.call("path_readlink", ROOT, *g.path(p), DATA, 100, OUT),
    "symlink": lambda g, p: g.call("path_symlink", *g.path("t", PATH2), ROOT, *g.path(p)),
    "symlink to": lambda g, p: g.call("path_symlink", *g.path(p, PATH2), ROOT, *g.path("new")),
    "link": lambda g, p: g.call("path_link", ROOT, 0, *g.path(p), ROOT, *g.path("new", PATH2)),
    "link to": lambda g, p: g.call("path_link", ROOT, 0, *g.path("file"), ROOT, *g.path(p, PATH2)),
    "rename": lambda g, p: g.call("path_rename", ROOT, *g.path(p), ROOT, *g.path("new", PATH2)),
    "rename file to": lambda g, p: g.call(
        "path_rename", ROOT, *g.path("file"), ROOT, *g.path(p, PATH2)
    ),
    "rename dir to": lambda g, p: g.call(
        "path_rename", ROOT, *g.path("dir"), ROOT, *g.path(p, PATH2)
    ),
}

# Ours are what Linux answers to the same call in the directory itself. wasmtime follows a link
# before a trailing slash where nothing is to be followed, and does not show absolute links.
DIFFERENT = {
    ("rmdir", "dir/"): (Errno.NOTEMPTY, Errno.INVAL),
    ("rmdir", "dirlink/"): (Errno.NOTDIR, Errno.INVAL),
    ("rmdir", "dangling/"): (Errno.NOTDIR, Errno.NOENT),
    ("unlink", "dirlink/"): (Errno.NOTDIR, Errno.ISDIR),
    ("unlink", "dangling/"): (Errno.NOTDIR, Errno.NOENT),
    ("symlink", "dirlink/"): (Errno.NOTDIR, Errno.EXIST),
    ("symlink", "dangling/"): (Errno.NOTDIR, Errno.NOENT),
    ("link to", "dirlink/"): (Errno.NOTDIR, Errno.EXIST),
    ("link to", "dangling/"): (Errno.NOTDIR, Errno.NOENT),
    ("readlink", "abs"): (Errno.SUCCESS, Errno.PERM),
}


def furnish(root: Path) -> None:
    if root.exists():
        shutil.rmtree(root)
    root.mkdir()
    (root / "file").write_text("hello world")
    (root / "dir").mkdir()
    (root / "dir/inner").write_text("x")
    for name, content in {
        "link": "file",
        "dirlink": "dir",
        "abs": "/etc/passwd",
        "absdir": "/",
        "up": "../secret",
        "updir": "..",
        "dangling": "nowhere",
        "loop": "loop",
    }.items():
        os.symlink(content, root / name)


@pytest.mark.parametrize("name", CALLS)
def test_paths(name: str, data: Path, tmp_path: Path) -> None:
    seen: dict[str, tuple[int, int]] = {}
    for path in PATHS:
        answers = []
        for make in (on, Peer):
            furnish(data)
            guest = make(data)
            answers.append(CALLS[name](guest, path))
            if make is on:
                guest.close()  # type: ignore[union-attr]
        if answers != list(DIFFERENT.get((name, path), answers[1:] * 2)):
            seen[path] = (answers[0], answers[1])
    assert not seen, {p: tuple(Errno(a).name for a in both) for p, both in seen.items()}


DESCRIPTORS: dict[str, Callable[[Calls], int]] = {
    "stdin": lambda g: 0,
    "stdout": lambda g: 1,
    "root": lambda g: ROOT,
    "closed": lambda g: 77,
    "file": lambda g: g.opened("file"),
    "reader": lambda g: g.opened("file", 0, FILE_RIGHTS & ~Right.FD_WRITE),
    "writer": lambda g: g.opened("file", 0, FILE_RIGHTS & ~Right.FD_READ),
}
OPERATIONS: dict[str, tuple[object, ...]] = {
    "read": ("fd_read", IOVS, 1, OUT),
    "write": ("fd_write", IOVS, 0, OUT),
    "pread": ("fd_pread", IOVS, 1, 0, OUT),
    "pwrite": ("fd_pwrite", IOVS, 1, 0, OUT),
    "seek": ("fd_seek", 3, 0, OUT),
    "seek before the start": ("fd_seek", -1, 0, OUT),
    "seek far before": ("fd_seek", -1 << 63, 2, OUT),
    "tell": ("fd_tell", OUT),
    "close": ("fd_close",),
    "renumber": ("fd_renumber", ROOT),
    "renumber to nothing": ("fd_renumber", 88),
    "fdstat": ("fd_fdstat_get", OUT),
    "filestat": ("fd_filestat_get", OUT),
    "prestat": ("fd_prestat_get", OUT),
    "size": ("fd_filestat_set_size", 3),
    "times": ("fd_filestat_set_times", 1, 2, 5),
    "accept": ("sock_accept", 0, OUT),
    "receive": ("sock_recv", IOVS, 1, 0, OUT, OUT2),
    "send": ("sock_send", IOVS, 1, 0, OUT),
    "shutdown": ("sock_shutdown", 1),
}
# POSIX: reading a directory is EISDIR, sizing a pipe EINVAL. A reader lacks the right, and the
# times of a standard stream are not the program's to set.
OTHERWISE = {
    ("read", "root"): (Errno.ISDIR, Errno.BADF),
    ("pread", "root"): (Errno.ISDIR, Errno.BADF),
    ("size", "stdin"): (Errno.INVAL, Errno.BADF),
    ("size", "stdout"): (Errno.INVAL, Errno.BADF),
    ("size", "reader"): (Errno.NOTCAPABLE, Errno.INVAL),
    ("times", "stdin"): (Errno.NOTCAPABLE, Errno.BADF),
    ("times", "stdout"): (Errno.NOTCAPABLE, Errno.BADF),
}


@pytest.mark.parametrize("name", OPERATIONS)
def test_descriptors(name: str, data: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").write_bytes(b"")
    call, *arguments = OPERATIONS[name]
    for which, descriptor in DESCRIPTORS.items():
        answers = []
        for ours in (True, False):
            furnish(data)
            if ours:
                guest: Calls = on(data, stdin=tmp_path / "empty")
            else:
                guest = Peer(data, tmp_path / "empty")
            fd = descriptor(guest)
            guest.iovecs([5])
            answers.append(guest.call(str(call), fd, *arguments))  # type: ignore[arg-type]
            if ours:
                guest.close()  # type: ignore[attr-defined]
        expected = OTHERWISE.get((name, which), (answers[1], answers[1]))
        assert tuple(answers) == expected, (which, *map(Errno, answers))
