"""Files appear whole or not at all, and are read with the same care as any bytes."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.snapshot.samples import full, large, small, to_bytes
from wasmsr.errors import DigestError, FormatError, HandedOver, SnapshotError
from wasmsr.snapshot import format as front
from wasmsr.snapshot.format import Decoder, load, mark_handed, read_file, save, save_pieces
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.snapshot.state import SnapshotState


def test_save_and_load(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    written = Snapshot(full()).save(path)
    assert written == path.stat().st_size == len(to_bytes(full()))
    assert path.read_bytes() == to_bytes(full())
    assert Snapshot.load(path).state == full()
    assert os.listdir(tmp_path) == ["snapshot.bin"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_save_replaces_and_follows_links(tmp_path: Path) -> None:
    path, link = tmp_path / "real.bin", tmp_path / "link.bin"
    save(small(), path)
    link.symlink_to("real.bin")
    save(full(), link, compress=False)
    assert link.is_symlink()
    assert load(path) == full()
    assert sorted(os.listdir(tmp_path)) == ["link.bin", "real.bin"]


def test_a_reader_of_the_old_file_keeps_it(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    save(small(), path)
    with path.open("rb") as old:
        save(full(), path)
        assert old.read() == to_bytes(small())


def test_save_to_a_pipe(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[SnapshotState] = []
    reader = threading.Thread(target=lambda: found.append(load(pipe)))
    reader.start()
    save(large(), pipe)
    reader.join(30)
    assert found == [large()]
    assert stat.S_ISFIFO(pipe.stat().st_mode)


def _left(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in os.listdir(folder)}


@pytest.mark.parametrize("existing", [False, True])
@pytest.mark.parametrize("at", ["write", "fsync", "replace"])
def test_a_disk_that_fails(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, existing: bool, at: str
) -> None:
    path = tmp_path / "snapshot.bin"
    if existing:
        save(small(), path)
    before = _left(tmp_path)
    full_disk = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def refuse(*_: object) -> None:
        raise full_disk

    def pieces() -> Iterator[bytes]:
        yield to_bytes(full())[:500]
        raise full_disk

    if at == "write":
        attempt = lambda: save_pieces(pieces(), path)  # noqa: E731
    else:
        monkeypatch.setattr(front.os, at, refuse)
        attempt = lambda: save(full(), path)  # noqa: E731
    with pytest.raises(SnapshotError) as caught:
        attempt()
    assert "No space left on device" in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.hint is not None
    assert _left(tmp_path) == before


def test_an_interrupted_save_leaves_nothing(tmp_path: Path) -> None:
    def pieces() -> Iterator[bytes]:
        yield b"begin"
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save_pieces(pieces(), tmp_path / "snapshot.bin")
    assert os.listdir(tmp_path) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    try:
        done = subprocess.run(mount, capture_output=True, check=False)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip("mounting a tiny file system needs privileges that this user has not")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_is_full(tiny_disk: Path) -> None:
    path = tiny_disk / "snapshot.bin"
    save(small(), path)
    before = _left(tiny_disk)
    with pytest.raises(SnapshotError, match="No space left on device"):
        save(large(), path)
    assert _left(tiny_disk) == before
    assert load(path) == small()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("missing/snapshot.bin", "No such file or directory"),
        (".", "is a folder"),
        ("file/snapshot.bin", "Not a directory"),
    ],
)
def test_paths_that_cannot_be(tmp_path: Path, name: str, words: str) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SnapshotError, match=words):
        save(small(), tmp_path / name)
    reading = "Is a directory" if name == "." else words
    with pytest.raises(SnapshotError, match=f"cannot read.*{reading}"):
        load(tmp_path / name)
    assert os.listdir(tmp_path) == ["file"]


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    save(full(), path)
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DigestError):
        load(path)
    path.write_bytes(data[:1000])
    with pytest.raises(FormatError, match="cut off"):
        load(path)


def test_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    save(full(), path, handed=True)
    with pytest.raises(HandedOver, match="another host"):
        load(path)
    assert load(path, adopt=True) == full()


def test_marking_a_file_as_handed_over(tmp_path: Path) -> None:
    path = tmp_path / "snapshot.bin"
    save(full(), path)
    mark_handed(path)
    mark_handed(path)
    with pytest.raises(HandedOver):
        load(path)
    assert load(path, adopt=True) == full()
    other = tmp_path / "other.bin"
    save(full(), other, handed=True)
    assert path.read_bytes() == other.read_bytes()
    plain, marked = Decoder(), read_file(path, Decoder())
    plain.feed(to_bytes(full()))
    plain.finish()
    assert plain.header is not None and marked.header is not None
    assert plain.header.root == marked.header.root


def test_marking_what_is_no_snapshot(tmp_path: Path) -> None:
    path = tmp_path / "file"
    for content in (b"", b"text", bytes(100)):
        path.write_bytes(content)
        with pytest.raises(FormatError):
            mark_handed(path)
        assert path.read_bytes() == content
    with pytest.raises(SnapshotError, match="cannot mark"):
        mark_handed(tmp_path / "missing")
