"""Snapshots and moments are copies, also of files that a capture knows and does not read again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmsr import History, Module, Mount, Snapshot, Store, Wasi
from wasmsr.wasi.state import contents, manifest

PROGRAM = Module.from_text("""(module
  (import "wasi_snapshot_preview1" "fd_close" (func (param i32) (result i32)))
  (memory (export "memory") 1) (func (export "run")))""")
SIZE = 200_000


@pytest.fixture(autouse=True)
def _every_file_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also one that has just been written; otherwise it takes 0.1 s."""
    monkeypatch.setattr(manifest, "COARSE", -(10**12))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "file").write_bytes(os.urandom(SIZE))
    made = Store()
    made.wasi = Wasi(mounts=[Mount(tmp_path / "d", "/d", "carry")])
    made.instantiate(PROGRAM, made.wasi.imports)
    yield made
    if not made.closed:
        made.close()


def read(snapshot: Snapshot) -> list[bytes]:
    files = snapshot.state.files
    assert files is not None
    return [files.read(digest) for digest, _ in files]


@pytest.mark.parametrize("held", [contents.HELD, 70_000, 0])
def test_a_snapshot_is_a_copy(
    store: Store, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "HELD", held)
    before = (tmp_path / "d" / "file").read_bytes()
    first, second = Snapshot.of(store), Snapshot.of(store)
    (tmp_path / "d" / "file").write_bytes(b"other")
    assert store.wasi is not None
    store.wasi.close()
    store.close()
    (tmp_path / "d" / "file").unlink()
    for snapshot in (first, second):
        assert b"".join(read(snapshot)) == before
        snapshot.save(tmp_path / "saved.bin")
        assert b"".join(read(Snapshot.load(tmp_path / "saved.bin"))) == before


@pytest.mark.parametrize("held", [contents.HELD, 0])
def test_a_moment_is_a_copy(
    store: Store, tmp_path: Path, held: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(contents, "HELD", held)
    file = tmp_path / "d" / "file"
    before = file.read_bytes()
    history = History(store)
    moments = [history.take() for _ in range(3)]
    for moment in moments:
        file.write_bytes(b"other")
        history.go_to(moment)
        assert file.read_bytes() == before
    kept = [moment.wasi.files._memory for moment in moments]
    for digest, data in kept[0].items():
        assert kept[2][digest] is data, "equal chunks are there once"
