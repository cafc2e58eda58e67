"""Small programs about links, offsets, holes, replaced and removed files, made in five ways.

The kernel makes the calls natively, wasmtime and we make them for a guest: straight, with the state
saved and restored before every call, and with a move to another folder before every call. All have
the same errnos, results, and files in the end. Where wasmtime differs, the program says so.
"""

from __future__ import annotations

import errno
import itertools
import os
import struct
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from tests.wasi.guest import (
    CREAT,
    DATA,
    DIRECTORY,
    EXCL,
    IOVS,
    OUT,
    PATH2,
    ROOT,
    TRUNC,
    Calls,
    Guest,
    Peer,
)
from tests.wasi.preview1.test_against import tree
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.preview1.abi import Errno, FdFlag
from wasmsr.wasi.preview1.rights import DIRECTORY_RIGHTS, FILE_RIGHTS
from wasmsr.wasi.state.restore import CarriedFiles

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other kernels answer otherwise")
APPEND = 16
"""Beside the flags of `path_open`: open to append."""


class Made:
    """The calls of a program, of whoever makes them; each answers an errno name or a result."""

    def __init__(self, calls: Calls) -> None:
        self.calls = calls

    def _do(self, name: str, *arguments: int) -> str | None:
        code = self.calls.call(name, *arguments)
        return Errno(code).name if code else None

    def open(self, path: str, flags: int = 0) -> Any:
        oflags = flags & 15
        rights = DIRECTORY_RIGHTS if oflags & DIRECTORY else FILE_RIGHTS
        fdflags = FdFlag.APPEND if flags & APPEND else 0
        code, fd = self.calls.open(path, oflags, rights, fdflags=fdflags)
        return Errno(code).name if code else fd

    def read(self, fd: int, *sizes: int) -> Any:
        code, data = self.calls.read(fd, *sizes)
        return Errno(code).name if code else data

    def write(self, fd: int, *pieces: bytes) -> Any:
        code, count = self.calls.write(fd, *pieces)
        return Errno(code).name if code else count

    def pwrite(self, fd: int, data: bytes, offset: int) -> Any:
        self.calls.put(DATA, data)
        self.calls.put(IOVS, struct.pack("<II", DATA, len(data)))
        return self._do("fd_pwrite", fd, IOVS, 1, offset, OUT) or self.calls.u32()

    def pread(self, fd: int, size: int, offset: int) -> Any:
        self.calls.put(IOVS, struct.pack("<II", DATA, size))
        wrong = self._do("fd_pread", fd, IOVS, 1, offset, OUT)
        return wrong or self.calls.get(DATA, self.calls.u32())

    def seek(self, fd: int, offset: int, whence: int = 0) -> Any:
        code, position = self.calls.seek(fd, offset, whence)
        return Errno(code).name if code else position

    def resize(self, fd: int, size: int) -> Any:
        return self._do("fd_filestat_set_size", fd, size)

    def size(self, fd: int) -> Any:
        code, found = self.calls.filestat(fd)
        return Errno(code).name if code else found["size"]

    def stat(self, path: str, follow: bool = False) -> Any:
        code, found = self.calls.path_filestat(path, follow=follow)
        if code:
            return Errno(code).name
        return found["filetype"], found["size"] if found["filetype"] != 3 else 0

    def close(self, fd: int) -> Any:
        return self._do("fd_close", fd)

    def mkdir(self, path: str) -> Any:
        return self._do("path_create_directory", ROOT, *self.calls.path(path))

    def rmdir(self, path: str) -> Any:
        return self._do("path_remove_directory", ROOT, *self.calls.path(path))

    def unlink(self, path: str) -> Any:
        return self._do("path_unlink_file", ROOT, *self.calls.path(path))

    def symlink(self, target: str, path: str) -> Any:
        return self._do(
            "path_symlink", *self.calls.path(target), ROOT, *self.calls.path(path, PATH2)
        )

    def rename(self, old: str, new: str) -> Any:
        new_at = self.calls.path(new, PATH2)
        return self._do("path_rename", ROOT, *self.calls.path(old), ROOT, *new_at)

    def link(self, old: str, new: str) -> Any:
        new_at = self.calls.path(new, PATH2)
        return self._do("path_link", ROOT, 0, *self.calls.path(old), ROOT, *new_at)

    def names(self, fd: int) -> Any:
        return sorted(set(self.calls.names(fd)) - {".", ".."})


class Native:
    """The same calls, made by the kernel in a folder."""

    def __init__(self, folder: Path) -> None:
        self.root = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        self.fds: list[int] = []

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self, "_" + name)

        def made(*arguments: Any, **more: Any) -> Any:
            try:
                return call(*arguments, **more)
            except OSError as error:
                assert error.errno is not None
                return errno.errorcode[error.errno].removeprefix("E")

        return made

    def finish(self) -> None:
        for fd in (*self.fds, self.root):
            with suppress(OSError):
                os.close(fd)

    def _open(self, path: str, flags: int = 0) -> int:
        kinds = {CREAT: os.O_CREAT, EXCL: os.O_EXCL, TRUNC: os.O_TRUNC, APPEND: os.O_APPEND}
        mode = os.O_DIRECTORY if flags & DIRECTORY else os.O_RDWR
        for flag, of_host in kinds.items():
            mode |= of_host if flags & flag else 0
        fd = os.open(path, mode, 0o666, dir_fd=self.root)
        self.fds.append(fd)
        return fd

    def _read(self, fd: int, *sizes: int) -> bytes:
        buffers = [bytearray(size) for size in sizes]
        count = os.readv(fd, buffers)
        return b"".join(buffers)[:count]

    def _write(self, fd: int, *pieces: bytes) -> int:
        return os.writev(fd, pieces)

    def _pwrite(self, fd: int, data: bytes, offset: int) -> int:
        return os.pwrite(fd, data, offset)

    def _pread(self, fd: int, size: int, offset: int) -> bytes:
        return os.pread(fd, size, offset)

    def _seek(self, fd: int, offset: int, whence: int = 0) -> int:
        return os.lseek(fd, offset, whence)

    def _resize(self, fd: int, size: int) -> None:
        os.ftruncate(fd, size)

    def _size(self, fd: int) -> int:
        return os.fstat(fd).st_size

    def _stat(self, path: str, follow: bool = False) -> tuple[int, int]:
        found = os.stat(path, dir_fd=self.root, follow_symlinks=follow)
        kind = {0o040000: 3, 0o100000: 4, 0o120000: 7}[found.st_mode & 0o170000]
        return kind, found.st_size if kind != 3 else 0

    def _close(self, fd: int) -> None:
        os.close(fd)

    def _mkdir(self, path: str) -> None:
        os.mkdir(path, dir_fd=self.root)

    def _rmdir(self, path: str) -> None:
        os.rmdir(path, dir_fd=self.root)

    def _unlink(self, path: str) -> None:
        os.unlink(path, dir_fd=self.root)

    def _symlink(self, target: str, path: str) -> None:
        os.symlink(target, path, dir_fd=self.root)

    def _rename(self, old: str, new: str) -> None:
        os.rename(old, new, src_dir_fd=self.root, dst_dir_fd=self.root)

    def _link(self, old: str, new: str) -> None:
        os.link(old, new, src_dir_fd=self.root, dst_dir_fd=self.root, follow_symlinks=False)

    def _names(self, fd: int) -> list[str]:
        return sorted(os.listdir(fd))


class Moving(Guest):
    """A guest that moves on to another folder, with its files, before every call."""

    def __init__(self, folder: Path) -> None:
        super().__init__(mounts=[Mount(folder, "/data", "carry")])
        self.folder = folder
        self.numbers = itertools.count()

    def call(self, name: str, *arguments: int) -> int:
        state = self.state()
        self.folder = self.folder.with_name(f"moved-{next(self.numbers)}")
        self.resume(
            state,
            mounts=[Mount(self.folder, "/data", "carry")],
            carried=CarriedFiles(self.contents),
            live=True,
        )
        return super().call(name, *arguments)


# The programs: what each answers is compared; descriptors are not.


def slash_in_a_link(p: Any) -> Iterator[Any]:
    yield p.write(p.open("file", CREAT), b"keep")
    yield p.symlink("file/", "l")
    yield p.symlink("new/", "n")
    yield p.open("l", TRUNC)
    yield p.open("n", CREAT)
    yield p.open("n", CREAT | TRUNC)
    yield p.stat("l", True), p.stat("n", True), p.stat("n")
    yield p.mkdir("new")
    yield p.open("n", CREAT)
    yield p.stat("n", True), p.stat("file")


def a_chain_of_links(p: Any) -> Iterator[Any]:
    yield p.mkdir("d"), p.mkdir("d/e")
    yield p.symlink("d/e/", "a"), p.symlink("a", "b"), p.symlink("../b/../f/", "d/c")
    fd = p.open("b/x", CREAT)
    yield p.write(fd, b"1")
    yield p.open("d/c", CREAT), p.open("d/c")
    yield p.write(p.open("d/f", CREAT | EXCL), b"22")
    yield p.open("d/c", TRUNC), p.stat("d/c", True), p.stat("d/f")
    yield p.rename("d/e", "moved"), p.open("b/x"), p.write(fd, b"3")
    yield p.stat("moved/x")


def an_offset_without_a_name(p: Any) -> Iterator[Any]:
    fd = p.open("f", CREAT)
    for number in range(40):
        yield p.write(fd, bytes([number]) * 60_000)
    yield p.unlink("f")
    yield p.seek(fd, 1000)
    yield p.seek(fd, 0, 1)
    yield p.read(fd, 3), p.seek(fd, 0, 1)
    yield p.write(fd, b"here"), p.seek(fd, -5, 2), p.read(fd, 100), p.size(fd)


def holes_without_a_name(p: Any) -> Iterator[Any]:
    fd = p.open("f", CREAT)
    yield p.resize(fd, 1 << 30), p.pwrite(fd, b"far", (1 << 30) - 10), p.pwrite(fd, b"near", 5)
    yield p.unlink("f")
    yield p.seek(fd, 7), p.read(fd, 4), p.pread(fd, 8, (1 << 30) - 11), p.seek(fd, 0, 1)
    yield p.seek(fd, 0, 2), p.write(fd, b"end"), p.size(fd)


def two_offsets_in_one_file(p: Any) -> Iterator[Any]:
    one, other = p.open("f", CREAT), p.open("f")
    yield p.write(one, b"0123456789"), p.read(other, 4), p.seek(one, 0, 1), p.seek(other, 0, 1)
    yield p.unlink("f"), p.open("f")
    yield p.write(other, b"xyz"), p.pread(one, 20, 0), p.seek(one, 0, 1), p.seek(other, 0, 1)
    yield p.resize(other, 2), p.read(one, 5), p.write(one, b"!"), p.pread(other, 20, 0)


def appending(p: Any) -> Iterator[Any]:
    fd, other = p.open("f", CREAT | APPEND), p.open("f")
    yield p.write(fd, b"one"), p.seek(fd, 0), p.write(fd, b"two"), p.seek(fd, 0, 1)
    yield p.write(other, b"X"), p.write(fd, b"three"), p.read(fd, 9), p.seek(fd, -20, 2)
    yield p.pread(other, 100, 0), p.size(fd)


def beyond_the_end(p: Any) -> Iterator[Any]:
    fd = p.open("f", CREAT)
    yield p.seek(fd, 100_000), p.read(fd, 5), p.size(fd), p.write(fd, b"x"), p.seek(fd, -1)
    yield p.seek(fd, 0, 1), p.pread(fd, 5, 99_998), p.seek(fd, 99_999), p.read(fd, 1, 0, 5)
    yield p.resize(fd, 3), p.read(fd, 5), p.seek(fd, 0, 1), p.seek(fd, 1 << 62), p.read(fd, 1)


def replaced_while_open(p: Any) -> Iterator[Any]:
    fd = p.open("f", CREAT)
    yield p.write(fd, b"old content"), p.write(p.open("g", CREAT), b"new")
    yield p.rename("g", "f"), p.seek(fd, 4), p.read(fd, 20), p.stat("f")
    again = p.open("f")
    yield p.read(again, 20), p.write(fd, b"!"), p.size(fd), p.size(again)


def a_name_that_is_left(p: Any) -> Iterator[Any]:
    fd = p.open("a", CREAT)
    yield p.write(fd, b"content"), p.link("a", "b"), p.unlink("b"), p.rename("a", "c")
    yield p.seek(fd, 2), p.read(fd, 3), p.open("a"), p.stat("c"), p.write(fd, b"--")
    yield p.link("c", "d/"), p.link("c/", "d"), p.rename("c/", "d"), p.rename("c", "c")


def a_directory_that_is_gone(p: Any) -> Iterator[Any]:
    yield p.mkdir("d"), p.mkdir("d/")
    fd = p.open("d", DIRECTORY)
    yield p.rmdir("d/"), p.names(fd), p.mkdir("d"), p.open("d/x", CREAT) != 0
    yield p.rename("d", "e/"), p.stat("d"), p.stat("e"), p.rmdir("e"), p.unlink("e/x"), p.rmdir("e")


def many_buffers(p: Any) -> Iterator[Any]:
    fd = p.open("f", CREAT)
    yield p.write(fd, *[bytes([n]) * n for n in range(200)]), p.seek(fd, 0, 1)
    yield p.seek(fd, 10), p.read(fd, *([0, 7] * 100)), p.read(fd, 1, 0, 100_000), p.seek(fd, 0, 1)


def links_at_the_end(p: Any) -> Iterator[Any]:
    yield p.mkdir("d"), p.symlink("d/", "l"), p.symlink("l/.", "m"), p.symlink("none/", "n")
    yield p.open("l/f", CREAT) != 0, p.stat("m/f"), p.unlink("l"), p.stat("l")
    yield p.rename("n", "o"), p.stat("o"), p.stat("o/"), p.rmdir("o/"), p.unlink("o/")
    yield p.mkdir("o"), p.mkdir("o/"), p.rename("o", "none"), p.open("none", CREAT) != 0


PROGRAMS = [
    slash_in_a_link,
    a_chain_of_links,
    an_offset_without_a_name,
    holes_without_a_name,
    two_offsets_in_one_file,
    appending,
    beyond_the_end,
    replaced_while_open,
    a_name_that_is_left,
    a_directory_that_is_gone,
    many_buffers,
    links_at_the_end,
]
WASMTIME_DIFFERS = {
    beyond_the_end: "it fills the first buffer only",
    many_buffers: "it fills the first buffer only",
    a_directory_that_is_gone: "rmdir of a name with a slash is EINVAL there",
    links_at_the_end: "it calls a link with a slash missing, and not no directory",
}


def run(program: Callable[[Any], Iterator[Any]], made: Any) -> list[Any]:
    return [list(answer) if isinstance(answer, tuple) else answer for answer in program(made)]


@pytest.mark.parametrize("way", ["straight", "saved before every call", "moved before every call"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_as_the_kernel(tmp_path: Path, program: Any, way: str) -> None:
    folders = [tmp_path / name for name in ("kernel", "ours")]
    for folder in folders:
        folder.mkdir()
    native = Native(folders[0])
    expected = run(program, native)
    native.finish()
    if way == "moved before every call":
        guest: Guest = Moving(folders[1])
    else:
        guest = Guest(mounts=[Mount(folders[1], "/data")], hops=way != "straight")
    assert run(program, Made(guest)) == expected
    guest.wasi.place_files()
    there = guest.folder if isinstance(guest, Moving) else folders[1]
    assert tree(there) == tree(folders[0])
    guest.close()


@pytest.mark.parametrize("program", [p for p in PROGRAMS if p not in WASMTIME_DIFFERS])
def test_as_wasmtime(tmp_path: Path, program: Any) -> None:
    folders = [tmp_path / name for name in ("wasmtime", "ours")]
    for folder in folders:
        folder.mkdir()
    peer, guest = Made(Peer(folders[0])), Guest(mounts=[Mount(folders[1], "/data")])
    assert run(program, Made(guest)) == run(program, peer)
    assert tree(folders[1]) == tree(folders[0])
    guest.close()
