"""Mapped files of a store: made once, admitted, and removed with what they are of."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.snapshot.mapped.samples import end_of, is_mapped, saved
from wasmsr import Snapshot, SnapshotError
from wasmsr.snapshot.format import save
from wasmsr.snapshot.mapped.opening import open_mapped
from wasmsr.snapshot.store.store import SnapshotStore
from wasmsr.snapshot.tools.opened import open_snapshot


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SnapshotStore:
    """A store with one name, `one`, which is in `one.bin` too."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    found = SnapshotStore(tmp_path / "store", create=True)
    save(saved().state, tmp_path / "one.bin")
    found.put(tmp_path / "one.bin", "one")
    return found


def test_it_is_made_once_and_mapped(store: SnapshotStore, tmp_path: Path) -> None:
    first = store.mapped("one")
    assert first.admitted and first.size == os.path.getsize(first.path)
    assert first.root == open_snapshot(tmp_path / "one.bin").decoder.root
    status = os.stat(first.path)
    assert status.st_mode & 0o777 == 0o400
    assert os.stat(os.path.dirname(first.path)).st_mode & 0o777 == 0o700
    assert store.mapped("one") == first
    assert os.stat(first.path).st_ino == status.st_ino
    with Snapshot.load(first.path).restore() as restored, saved().restore() as copied:
        assert is_mapped(restored)
        assert end_of(restored) == end_of(copied)
    assert SnapshotStore(store.folder.path).names() == ["one"]


def test_a_damaged_one_is_made_anew(store: SnapshotStore) -> None:
    path = store.mapped("one").path
    os.chmod(path, 0o600)
    with open(path, "r+b") as file:
        file.seek(-5000, os.SEEK_END)
        file.write(b"other")
    os.chmod(path, 0o400)
    assert open_mapped(path) is None
    assert store.mapped("one").admitted
    assert open_mapped(path) is not None
    Snapshot.load(path)


def test_the_collector_removes_what_is_of_no_name(store: SnapshotStore, tmp_path: Path) -> None:
    first = store.mapped("one").path
    store.gc()
    assert os.path.exists(first)
    other = saved(embed=False)
    save(other.state, tmp_path / "other.bin")
    store.put(tmp_path / "other.bin", "one", replace=True)
    second = store.mapped("one").path
    assert first != second
    store.gc()
    assert (os.path.exists(first), os.path.exists(second)) == (False, True)
    store.remove("one")
    store.gc()
    assert not os.path.exists(second)


def test_one_that_was_handed_over_stays_so(store: SnapshotStore, tmp_path: Path) -> None:
    save(saved().state, tmp_path / "two.bin", handed=True)
    store.put(tmp_path / "two.bin", "two")
    assert open_snapshot(store.mapped("two").path).header.handed


def test_names_that_are_not_there(store: SnapshotStore) -> None:
    with pytest.raises(SnapshotError, match="no snapshot with the name"):
        store.mapped("none")


def test_the_command(store: SnapshotStore, tmp_path: Path) -> None:
    words = [sys.executable, "-m", "wasmsr", "store", "map", "one", "--store", store.folder.path]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=True)
    path = done.stdout.rstrip("\n")
    assert done.stderr == "" and open_mapped(path) is not None
    words = [sys.executable, "-m", "wasmsr", "run", "--from-snapshot", path]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
