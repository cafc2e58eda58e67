"""Saving changes nothing that the program, or another holder of the same open file, can notice."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.wasi.guest import CREAT, ROOT, Guest, on
from wasmsr.wasi.filesystem import unnoticed
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import FdFlag, Right
from wasmsr.wasi.preview1.rights import FILE_RIGHTS
from wasmsr.wasi.state import contents
from wasmsr.wasi.state.capture import SHORT
from wasmsr.wasi.state.contents import Contents

LONG = 2 * SHORT
OLD = 10**18
"""An access time long ago, which any reading would renew (ns)."""


@pytest.fixture(params=["proc", "no proc"])
def again(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """Whether the host can open an open file again."""
    if request.param != "proc":
        monkeypatch.setattr(unnoticed, "OPEN_FILES", "/nowhere")
    return bool(request.param == "proc")


@pytest.fixture(params=["host", "carry", "overlay", "mem"])
def program(request: pytest.FixtureRequest, data: Path) -> Iterator[Guest]:
    mode = request.param
    mounts = [Mount.memory("/data")] if mode == "mem" else [Mount(data, "/data", mode)]
    made = Guest(mounts=mounts)
    yield made
    made.close()


def observed(guest: Guest, times: bool = True) -> list[Any]:
    """All that can be told of the open files, by the program and by who shares them."""
    found: list[Any] = []
    for fd, descriptor in guest.wasi.process.descriptors.items():
        if descriptor.host < 0:
            continue
        status = os.fstat(descriptor.host)
        kept = [status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_nlink]
        if times:
            kept.append(status.st_atime_ns)
        flags = fcntl.fcntl(descriptor.host, fcntl.F_GETFL)
        offset = None
        if descriptor.seekable or descriptor.kind == "stdin":
            offset = os.lseek(descriptor.host, 0, os.SEEK_CUR)
        found.append((fd, kept, flags, offset))
    return found


def fill(guest: Guest, fd: int, size: int) -> None:
    host = guest.wasi.process.descriptors[fd].host
    os.pwrite(host, os.urandom(size), 0)


def age(guest: Guest) -> None:
    """All open files were read last long ago, and written after that."""
    for descriptor in guest.wasi.process.descriptors.values():
        if descriptor.kind in ("file", "directory"):
            os.utime(descriptor.host, ns=(OLD, OLD + 1))


@pytest.mark.parametrize("size", [LONG, 1000])
def test_the_offset_of_a_file_without_a_name(program: Guest, again: bool, size: int) -> None:
    fd = program.opened("f", CREAT)
    fill(program, fd, size)
    assert program.call("path_unlink_file", ROOT, *program.path("f")) == 0
    program.seek(fd, 500)
    before = observed(program)
    shared = os.dup(program.wasi.process.descriptors[fd].host)
    for _ in range(2):
        program.state()
        assert program.seek(fd, 0, 1) == (0, 500)
        assert os.lseek(shared, 0, os.SEEK_CUR) == 500
    os.close(shared)
    assert again is False or observed(program) == before


def test_holes_and_several_descriptors(program: Guest, again: bool) -> None:
    fd = program.opened("f", CREAT)
    reader = program.opened("f", 0, FILE_RIGHTS & ~Right.FD_WRITE)
    os.ftruncate(program.wasi.process.descriptors[fd].host, 1 << 30)
    fill(program, fd, LONG)
    program.call("path_unlink_file", ROOT, *program.path("f"))
    program.seek(fd, (1 << 30) + 7)
    program.seek(reader, LONG + 1)
    age(program)
    before = observed(program, times=again)
    state = program.state()
    assert observed(program, times=again) == before
    assert state["unlinked"][0]["size"] == 1 << 30
    assert len(program.contents) == LONG // contents.CHUNK


@pytest.mark.parametrize("size", [LONG, 1000])
def test_a_file_only_written_or_appended_to(program: Guest, size: int) -> None:
    fd = program.opened("f", CREAT, FILE_RIGHTS & ~Right.FD_READ)
    more = program.opened("f", 0, fdflags=FdFlag.APPEND)
    fill(program, fd, size)
    program.call("path_unlink_file", ROOT, *program.path("f"))
    program.seek(fd, 10)
    program.seek(more, 20)
    age(program)
    before = observed(program)
    program.state()
    assert observed(program) == before


def test_files_and_directories_with_names(program: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(contents, "HELD", 0)  # what is carried is read when it is encoded
    program.call("path_create_directory", ROOT, *program.path("d"))
    fd = program.opened("d/f", CREAT)
    directory = program.open_directory("d")
    fill(program, fd, LONG)
    program.seek(fd, LONG - 1)
    age(program)
    before = observed(program)
    found = Contents()
    program.wasi.capture(found)
    for digest, _ in found:
        found.read(digest)
    assert observed(program) == before
    assert program.names(directory) == [".", "..", "f"]


def test_standard_input(data: Path, tmp_path: Path) -> None:
    path = tmp_path / "input"
    path.write_bytes(os.urandom(20_000))
    os.utime(path, ns=(OLD, OLD + 1))
    with open(path, "rb", buffering=0) as shared:
        shared.seek(9_000)
        guest = on(data, stdin=shared.fileno())
        before = observed(guest)
        state = guest.state()
        assert observed(guest) == before
        assert state["descriptors"][0]["file"]["offset"] == 9_000
        guest.close()
