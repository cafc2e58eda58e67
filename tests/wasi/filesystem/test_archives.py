"""Archives that are small and want much: refused before anything of them is unpacked."""

from __future__ import annotations

import gzip
import io
import lzma
import os
import stat
import struct
import tarfile
import tempfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.wasi.guest import Guest
from wasmsr.errors import WasiConfigError
from wasmsr.wasi.filesystem import archives, private_folders, tree_walk
from wasmsr.wasi.filesystem.mount_trees import open_tree
from wasmsr.wasi.filesystem.mounts import Mount

LIMIT = 1 << 26


@pytest.fixture(autouse=True)
def above(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where archives are unpacked: nothing stays there."""
    memory = private_folders.MEMORY if os.access(private_folders.MEMORY, os.W_OK) else None
    folder = Path(tempfile.mkdtemp(dir=memory))  # on a disk many files take long
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.setattr(private_folders, "MEMORY", str(folder))
    yield folder
    left = os.listdir(folder)
    tree_walk.remove(folder)
    assert left == []


def header(name: str, size: int = 0, kind: bytes = tarfile.REGTYPE, **more: object) -> bytes:
    """The block of a tar file that announces an entry."""
    info = tarfile.TarInfo(name)
    info.size, info.type = size, kind
    for key, value in more.items():
        setattr(info, key, value)
    return info.tobuf(tarfile.GNU_FORMAT)


def pax(key: str, value: str) -> bytes:
    """A block with an extended header for the entry that follows, and that header."""
    record = f" {key}={value}\n"
    length = len(record) + 2
    content = f"{length}{record}".encode()
    assert len(content) == length
    return header("pax", len(content), tarfile.XHDTYPE) + content.ljust(512, b"\0")


def zeros(pieces: int) -> Iterator[bytes]:
    for _ in range(pieces):
        yield bytes(1 << 20)


def gz(path: Path, *pieces: bytes, bomb: int = 0) -> None:
    """A compressed file of these, and then so many MiB of zeros."""
    with gzip.open(path, "wb", compresslevel=1) as file:
        for piece in (*pieces, *zeros(bomb)):
            file.write(piece)


def refused(path: Path, limit: int = LIMIT) -> str:
    """Why it is refused, which takes neither long nor much memory, and makes no folder."""
    tracemalloc.start()
    began = time.monotonic()
    try:
        with pytest.raises(WasiConfigError) as caught:
            open_tree(Mount(path, "/data"), limit)
        most = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert most < 16 << 20
    assert time.monotonic() - began < 20
    return str(caught.value)


def many_in_tar(path: Path, kind: bytes, count: int) -> None:
    gz(path, *(header(f"d{i // 1000}/f{i}", 0, kind) for i in range(count)))


@pytest.mark.parametrize("kind", [tarfile.REGTYPE, tarfile.DIRTYPE, tarfile.FIFOTYPE])
def test_many_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes) -> None:
    monkeypatch.setattr(archives, "ENTRIES", 1000)
    many_in_tar(tmp_path / "a.tar.gz", kind, 1001)
    assert (tmp_path / "a.tar.gz").stat().st_size < 200_000
    assert "more than 1000 entries" in refused(tmp_path / "a.tar.gz")
    many_in_tar(tmp_path / "b.tar.gz", kind, 1000)
    open_tree(Mount(tmp_path / "b.tar.gz", "/data")).close()


def test_many_entries_in_a_zip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archives, "ENTRIES", 500)
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made:
        for number in range(501):
            made.writestr(f"f{number}", b"")
    assert "more than 500 entries" in refused(tmp_path / "a.zip")


def test_a_tar_file_that_ends_with_a_zip_file(tmp_path: Path) -> None:
    """It looks like a zip file from its end; what it holds are the entries of the tar file."""
    inner, outer, there = tmp_path / "inner.zip", tmp_path / "outer.tar", tmp_path / "there"
    with zipfile.ZipFile(inner, "w") as archive:
        archive.writestr("other", b"other")
    with tarfile.open(outer, "w") as tape:
        tape.add(inner, "inner.zip")
    assert zipfile.is_zipfile(outer)
    there.mkdir()
    root = os.open(there, os.O_RDONLY)
    try:
        archives.unpack(outer, root, archives.measure(outer, LIMIT))
    finally:
        os.close(root)
    assert [one.name for one in there.iterdir()] == ["inner.zip"]
    assert (there / "inner.zip").read_bytes() == inner.read_bytes()


def test_the_given_limit_is_below_a_minute_of_work() -> None:
    assert archives.ENTRIES < 150_000


def test_a_small_archive_of_many_files_is_unpacked_into_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, above: Path
) -> None:
    memory = above / "memory"
    memory.mkdir()
    monkeypatch.setattr(private_folders, "MEMORY", str(memory))
    monkeypatch.setattr(private_folders, "WORTHWHILE", 0)
    many_in_tar(tmp_path / "a.tar.gz", tarfile.REGTYPE, 1000)
    tree = open_tree(Mount(tmp_path / "a.tar.gz", "/data"))
    assert [p.name.startswith(private_folders.PREFIX) for p in memory.iterdir()] == [True]
    tree.close()
    memory.rmdir()


def deep(levels: int) -> bytes:
    info = tarfile.TarInfo("/".join(["d"] * levels))
    info.type = tarfile.DIRTYPE
    return info.tobuf(tarfile.GNU_FORMAT)


def test_deep_entries(tmp_path: Path) -> None:
    gz(tmp_path / "a.tar.gz", deep(3000))
    assert (tmp_path / "a.tar.gz").stat().st_size < 10_240
    assert "longer than 4096 bytes" in refused(tmp_path / "a.tar.gz")
    # As deep as a path can name: unpacked, seen, and removed again.
    gz(tmp_path / "b.tar.gz", deep(2000))
    guest = Guest(mounts=[Mount(tmp_path / "b.tar.gz", "/data")])
    assert guest.names(guest.open_directory("/".join(["d"] * 1999))) == [".", "..", "d"]
    guest.close()


BOMBS: dict[str, Callable[[Path], None]] = {
    "a name of a gigabyte": lambda path: gz(
        path, header("x", 1 << 30, tarfile.GNUTYPE_LONGNAME), bomb=100
    ),
    "an extended header of a gigabyte": lambda path: gz(
        path, header("x", 1 << 30, tarfile.XHDTYPE), bomb=100
    ),
    "a device with content": lambda path: gz(
        path, header("x", 1 << 40, tarfile.CONTTYPE), bomb=100
    ),
    "an unknown kind with content": lambda path: gz(path, header("x", 1 << 40, b"Z"), bomb=100),
    "a file of 2 EiB": lambda path: gz(path, header("x", 1 << 61), bomb=1),
    "a sparse file of 8 EiB": lambda path: gz(path, sparse((1 << 63) - 1)),
    "a negative size": lambda path: gz(path, header("x") + header("y", -512), bomb=1),
    "a negative size said apart": lambda path: gz(path, pax("size", "-0512") + header("y"), bomb=1),
}


def sparse(size: int) -> bytes:
    block = bytearray(header("x", 0, tarfile.GNUTYPE_SPARSE))
    block[483:495] = b"\x80" + size.to_bytes(11, "big")
    block[148:156] = b" " * 8
    block[148:156] = b"%06o\0 " % sum(block)
    return bytes(block)


@pytest.mark.parametrize("kind", BOMBS)
def test_what_headers_announce(tmp_path: Path, kind: str) -> None:
    BOMBS[kind](tmp_path / "a.tar.gz")
    message = refused(tmp_path / "a.tar.gz")
    assert "cannot be read" in message or "more than" in message or "neither" in message


@pytest.mark.parametrize("mtime", ["inf", "-inf", "nan", "1e99", "-1.5", "nonsense"])
def test_times_that_are_none(tmp_path: Path, mtime: str) -> None:
    gz(tmp_path / "a.tar.gz", pax("mtime", mtime) + header("f"))
    guest = Guest(mounts=[Mount(tmp_path / "a.tar.gz", "/data")])
    assert guest.path_filestat("f")[1]["mtim"] == 0
    guest.close()


def test_a_link_in_a_zip_that_says_much(tmp_path: Path) -> None:
    item = zipfile.ZipInfo("link")
    item.create_system, item.external_attr = 3, (stat.S_IFLNK | 0o777) << 16
    item.compress_type = zipfile.ZIP_DEFLATED
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as made, made.open(item, "w") as file:
        for piece in zeros(100):
            file.write(piece.replace(b"\0", b"x"))
    refused(tmp_path / "a.zip")


@pytest.mark.parametrize("compress", [gzip.compress, lzma.compress])
def test_noise_behind_the_marks_of_an_archive(
    tmp_path: Path, compress: Callable[[bytes], bytes]
) -> None:
    whole = io.BytesIO()
    with tarfile.open(fileobj=whole, mode="w") as tape:
        info = tarfile.TarInfo("f")
        info.size = 100_000
        tape.addfile(info, io.BytesIO(os.urandom(info.size)))
    raw = compress(whole.getvalue())
    for size in (3, 8, len(raw) // 2):
        (tmp_path / "a").write_bytes(raw[:size])
        refused(tmp_path / "a")
    damaged = bytearray(whole.getvalue())
    damaged[136:148] = struct.pack("<12s", b"\xff" * 12)
    (tmp_path / "b").write_bytes(damaged)
    refused(tmp_path / "b")
