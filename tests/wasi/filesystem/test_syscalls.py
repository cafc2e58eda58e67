"""The system calls that Python lacks: what they do, and where the host has none of them."""

from __future__ import annotations

import errno
import os
import select
import sys
import threading
import time
from pathlib import Path

import pytest

from tests.seccomp import run_without
from wasmsr.wasi import syscalls

needs_openat2 = pytest.mark.skipif(
    not syscalls.can_open_beneath(), reason="this kernel has no openat2, or a sandbox forbids it"
)


@needs_openat2
@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("d/e", None),
        ("d/../d/./e", None),
        ("d/..", None),
        ("..", errno.EXDEV),
        ("d/../../secret", errno.EXDEV),
        ("/etc", errno.EXDEV),
        ("link/e", errno.ELOOP),
        ("link", errno.ELOOP),
        ("none/e", errno.ENOENT),
        ("file/e", errno.ENOTDIR),
        ("", errno.ENOENT),
    ],
)
def test_open_beneath(data: Path, path: str, expected: int | None) -> None:
    (data / "d/e").mkdir(parents=True)
    (data / "file").write_text("")
    os.symlink("d", data / "link")
    root = os.open(data, os.O_RDONLY)
    try:
        if expected is None:
            found = syscalls.open_beneath(root, os.fsencode(path), os.O_RDONLY)
            assert os.path.samestat(os.fstat(found), os.stat(data / path))
            assert not os.get_inheritable(found)
            os.close(found)
        else:
            with pytest.raises(OSError) as raised:
                syscalls.open_beneath(root, os.fsencode(path), os.O_RDONLY)
            assert raised.value.errno == expected
    finally:
        os.close(root)


FORBIDDEN = """
import os
from pathlib import Path
from tests.wasi.guest import on, ROOT
from wasmsr.wasi.filesystem import path_resolution
from wasmsr.wasi import syscalls
assert not syscalls.can_open_beneath() and not path_resolution.BY_KERNEL
guest = on(Path(sys.argv[3]))
assert guest.read(guest.opened("d/link/../file"))[1] == b"content"
assert guest.open("d/../../secret")[0] == 63
"""


@pytest.mark.skipif(sys.platform != "linux", reason="seccomp is Linux's")
@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_where_openat2_is_forbidden_paths_are_walked(data: Path, root: Path, answer: int) -> None:
    (data / "d").mkdir()
    (data / "d/file").write_text("content")
    os.symlink(".", data / "d/link")
    (data / "file").write_text("content")
    run_without(437, answer, FORBIDDEN, root, str(data))


@pytest.mark.parametrize("by_name", [True, False])
def test_set_times(data: Path, by_name: bool) -> None:
    path = data / "file"
    path.write_text("")
    directory, file = os.open(data, os.O_RDONLY), os.open(path, os.O_RDONLY)
    place: tuple[int, bytes | None] = (directory, b"file") if by_name else (file, None)
    syscalls.set_times(*place, 1_234_567_890_123_456_789, -1)
    assert path.stat().st_atime_ns == 1_234_567_890_123_456_789
    assert path.stat().st_mtime_ns == -1
    syscalls.set_times(*place, None, 5)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (1_234_567_890_123_456_789, 5)
    syscalls.set_times(*place, 7, None)
    assert (path.stat().st_atime_ns, path.stat().st_mtime_ns) == (7, 5)
    changed = path.stat().st_ctime_ns
    syscalls.set_times(*place, None, None)
    assert (path.stat().st_atime_ns, path.stat().st_ctime_ns) == (7, changed)
    with pytest.raises(FileNotFoundError):
        syscalls.set_times(directory, b"none", 1, 1)
    os.close(directory)
    os.close(file)


def test_waiting() -> None:
    read, write = os.pipe()
    wake, waker = os.pipe()
    assert syscalls.wait_many([(read, select.POLLIN)], 0) == []
    start = time.monotonic_ns()
    assert syscalls.wait_many([(read, select.POLLIN)], 300_000) == []
    assert 300_000 <= time.monotonic_ns() - start < 50_000_000
    assert syscalls.wait_one(write, select.POLLOUT, wake) == select.POLLOUT
    threading.Timer(0.02, os.write, (waker, b"x")).start()
    assert syscalls.wait_one(read, select.POLLIN, wake) == 0
    os.write(write, b"x")
    assert syscalls.wait_one(read, select.POLLIN, wake) == select.POLLIN
    both = [(read, select.POLLIN), (write, select.POLLOUT), (wake, select.POLLIN)]
    assert syscalls.wait_many(both, -1) == both
    os.close(write)
    assert syscalls.wait_many([(read, select.POLLIN)], -1)[0][1] & select.POLLHUP
    os.close(read)
    assert syscalls.wait_many([(read, select.POLLIN)], -1) == [(read, select.POLLNVAL)]
    os.close(wake)
    os.close(waker)
