"""The file sections: what they hold, and bytes that lie about it."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from struct import pack

import pytest

from tests.snapshot.samples import Kind, carrying, parts, seal, small
from wasmsr.errors import FormatError, SnapshotError
from wasmsr.snapshot.format import Decoder, decode, encode
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state.contents import CHUNK, Contents, digest_of
from wasmsr.wasi.state.restore import CarriedFiles


def written() -> bytes:
    return b"".join(encode(carrying()))


def test_contents_come_back(tmp_path: Path) -> None:
    before = carrying()
    after = decode(written())
    assert before.files is not None and after.files is not None
    assert list(after.files) == list(before.files)
    for digest, length in before.files:
        assert after.files.read(digest) == before.files.read(digest)
        assert len(after.files.read(digest)) == length
    assert after.wasi == before.wasi
    assert b"".join(encode(after)) == written()


def test_what_is_in_the_sample_can_be_restored(tmp_path: Path) -> None:
    """But for its archive, which nobody has."""
    snapshot = decode(written())
    assert snapshot.wasi is not None and snapshot.files is not None
    wasi = dict(snapshot.wasi)
    wasi["mounts"] = [m for m in wasi["mounts"] if m["mode"] != "archive"]
    wasi["descriptors"] = [d for d in wasi["descriptors"] if d["mount"] != b"/archive"]
    (tmp_path / "old").mkdir()
    (tmp_path / "removed").write_bytes(b"")
    (tmp_path / "seen").write_bytes(b"")
    mounts = [Mount(tmp_path, f"/{mode}", mode) for mode in ("host", "ro", "overlay")]
    with Wasi.restore(wasi, mounts=mounts, carried=CarriedFiles(snapshot.files)) as restored:
        process = restored.process
        overlay = process.trees[b"/overlay"]
        names = [name for name, _, _ in overlay.list(overlay.root)]
        assert names == [b".", b"..", b"new", b"seen"]
        place = process.trees[b"/carry"].private
        assert place is not None
        assert (place.path / "a").stat().st_size == CHUNK * 3 + 1000
        assert (place.path / "b").stat().st_nlink == 2
        assert os.fstat(process.descriptors[20].host).st_size == CHUNK + 5
        assert os.pread(process.descriptors[20].host, 9, CHUNK) != bytes(5)


def test_the_same_chunk_is_stored_once() -> None:
    files = Contents()
    for _ in range(3):
        files.add(digest_of(b"x" * 100), b"x" * 100, None)
    assert len(files) == 1 and files.size == 100


def test_nothing_is_written_without_files() -> None:
    data = b"".join(encode(replace(small(), files=Contents())))
    assert data == b"".join(encode(small()))


def test_more_than_the_limit_is_not_read() -> None:
    decoder = Decoder(files=CHUNK)
    with pytest.raises(FormatError, match="more than the 65536 that may be read"):
        decoder.feed(written())


def index(change: Callable[[bytes], bytes]) -> bytes:
    """The sample with another index."""
    sections = parts(written())
    return seal([(k, change(data) if k == Kind.FILE_INDEX else data) for k, data in sections])


LIES: dict[str, tuple[Callable[[bytes], bytes], str]] = {
    "cut": (lambda data: data[:-1], "ends in the middle of a chunk"),
    "twice": (lambda data: data + data[:36], "there twice"),
    "empty chunk": (lambda data: data + bytes(32) + pack("<I", 0), "empty or too long"),
    "long chunk": (lambda data: data + bytes(32) + pack("<I", CHUNK + 1), "empty or too long"),
    "too little": (lambda data: data[:-36], "in place of"),
    "too much": (lambda data: data + bytes(32) + pack("<I", CHUNK), "in place of"),
    "other digest": (lambda data: b"\xff" + data[1:], "not what it should be"),
}


@pytest.mark.parametrize("lie", LIES)
def test_an_index_that_lies_is_refused(lie: str) -> None:
    change, why = LIES[lie]
    with pytest.raises(SnapshotError, match=why):
        decode(index(change))


@pytest.mark.parametrize("gone", [Kind.FILE_INDEX, Kind.FILE_DATA])
def test_one_section_without_the_other_is_refused(gone: int) -> None:
    sections = parts(written())
    with pytest.raises(FormatError, match=r"file data|in place of"):
        decode(seal([(kind, data) for kind, data in sections if kind != gone]))
