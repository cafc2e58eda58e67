"""A store in S3: a real local server, several writers, and writers that are killed."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.s3 import s3_server
from tests.snapshot.store.filled import STATES, growing, random_memory, saved
from tests.snapshot.store.test_writers import GC, PATIENCE, PUT, begun, go
from wasmsr.errors import FormatError, SnapshotError, VersionError
from wasmsr.snapshot.store import remote
from wasmsr.snapshot.store.remote import RemoteStore
from wasmsr.snapshot.store.store import SnapshotStore
from wasmsr.snapshot.tools.opened import open_snapshot

BUCKET = "snapshots"


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """The address of an S3 server on this machine, which the tests and their processes use."""
    with s3_server() as address:
        yield address


@pytest.fixture
def s3(endpoint: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The file system of an empty bucket."""
    import s3fs

    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "test")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "test")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    files = s3fs.S3FileSystem(use_listings_cache=False)
    if files.exists(BUCKET):
        files.rm(BUCKET, recursive=True)
    files.mkdir(BUCKET)
    yield files


URL = f"s3://{BUCKET}/deep/store"


def complete(store: SnapshotStore) -> bool:
    return all(error is None for _, error in store.verify())


@pytest.mark.full
def test_there_and_back(s3: Any, tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="is no store of snapshots"):
        SnapshotStore(URL)
    store = SnapshotStore(URL, create=True)
    for name, make in STATES.items():
        store.put(saved(tmp_path / f"{name}.bin", make()), name)
    store = SnapshotStore(URL)
    assert [row.name for row in store.ls()] == sorted(STATES)
    for name in STATES:
        store.get(name, str(tmp_path / "out.bin"))
        assert (tmp_path / "out.bin").read_bytes() == (tmp_path / f"{name}.bin").read_bytes()
        (tmp_path / "out.bin").unlink()
    assert complete(store)
    with pytest.raises(SnapshotError, match="has a snapshot with the name"):
        store.put(tmp_path / "small.bin", "full")
    before = len(s3.ls(f"{BUCKET}/deep/store/packs"))
    store.gc()
    assert len(s3.ls(f"{BUCKET}/deep/store/packs")) == 2 < before, "small packs become one"
    assert complete(store)
    for name in STATES:
        store.remove(name)
    store.gc()
    assert not s3.exists(f"{BUCKET}/deep/store/packs")
    assert not s3.exists(f"{BUCKET}/deep/store/locks")


def test_snapshots_of_one_program_share_their_pages(s3: Any, tmp_path: Path) -> None:
    store = SnapshotStore(URL, create=True)
    states = growing(6)
    done = [
        store.put(saved(tmp_path / "a.bin", state), f"s{number}")
        for number, state in enumerate(states)
    ]
    assert sum(one.added for one in done) < sum(one.pieces for one in done) / 2


@pytest.mark.full
def test_two_writers_and_a_collector(s3: Any, tmp_path: Path) -> None:
    for number, state in enumerate(growing(4)):
        saved(tmp_path / f"{number}.bin", state)
    store = SnapshotStore(URL, create=True)
    store.put(saved(tmp_path / "r.bin", random_memory(0, 600)), "gone")
    store.remove("gone")
    gc = GC.replace("range(20)", "range(3)")
    processes = [
        begun(PUT, URL, *(f"{tmp_path}/{number}.bin::a{number}" for number in range(4))),
        begun(PUT, URL, *(f"{tmp_path}/{number}.bin::b{number}" for number in range(4))),
        begun(gc, URL),
    ]
    for process in processes:
        go(process)
    for process in processes:
        out, _ = process.communicate(timeout=PATIENCE)
        assert (process.returncode, out) == (0, "done\n")
    assert complete(store)
    for number in range(4):
        wanted = open_snapshot(tmp_path / f"{number}.bin").decoder.root
        for name in (f"a{number}", f"b{number}"):
            assert store.get(name, str(tmp_path / "out.bin")).root == wanted


@pytest.mark.parametrize("seed", [pytest.param(seed, marks=pytest.mark.full) for seed in range(8)])
def test_killed_writers(
    seed: int, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every name leads to a whole snapshot or to none, whenever the writer was killed."""
    source = random.Random(seed)
    store = SnapshotStore(URL, create=True)
    keep = saved(tmp_path / "keep.bin", random_memory(99, 300))
    store.put(keep, "keep")
    new = saved(tmp_path / "new.bin", random_memory(seed, 3000))
    start = time.monotonic()
    store.put(new, "trial")
    whole = time.monotonic() - start
    store.remove("trial")
    store.gc()
    process = begun(PUT, URL, f"{new}::new")
    go(process)
    time.sleep(source.random() * whole * 1.2)
    process.kill()
    process.communicate(timeout=PATIENCE)
    assert complete(store)
    assert store.names() in (["keep"], ["keep", "new"])
    # The marker of the killed writer keeps a collector away, until it lapses.
    if s3.exists(f"{BUCKET}/deep/store/locks"):
        monkeypatch.setattr(remote, "PATIENCE", 0.1)
        with pytest.raises(SnapshotError, match="another command writes in"):
            store.gc()
    monkeypatch.setattr(remote, "LEASE", 3.0)
    time.sleep(4.2)  # S3 counts in whole seconds
    store.gc()
    monkeypatch.setattr(remote, "LEASE", 900.0)
    store.put(new, "new", replace=True)
    assert complete(store)
    assert store.get("new", str(tmp_path / "out.bin")).root == open_snapshot(new).decoder.root


def test_what_is_in_the_way(s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    store = SnapshotStore(URL, create=True)
    place = store.folder
    assert isinstance(place, RemoteStore)
    source = saved(tmp_path / "a.bin", random_memory(1))
    monkeypatch.setattr(remote, "PATIENCE", 0.0)
    s3.pipe_file(f"{BUCKET}/deep/store/locks/alone-x", b"1")
    with pytest.raises(SnapshotError, match="another command removes pieces"):
        store.put(source, "a")
    assert store.ls() == []
    s3.rm_file(f"{BUCKET}/deep/store/locks/alone-x")
    with place.locked("write"):
        monkeypatch.setattr(place, "_marked", time.monotonic() - remote.LEASE)
        with pytest.raises(SnapshotError, match="took too long between two steps"):
            place.write("names/late.manifest", b"x")
        monkeypatch.setattr(place, "_marked", time.monotonic() - remote.LEASE / 5)
        place.write("names/x y.manifest", b"x")
        assert time.monotonic() - place._marked < 5, "it was renewed"
    store.put(source, "a")
    s3.pipe_file(f"{BUCKET}/deep/store/locks/names-x", b"1")
    store.put(source, "b")
    with pytest.raises(SnapshotError, match="another command"):  # it removes a name, too
        store.remove("b")
    s3.rm_file(f"{BUCKET}/deep/store/locks/names-x")
    store.remove("b")
    for content, kind in ((b"wasmsr store 9\n", VersionError), (b"what", FormatError)):
        s3.pipe_file(f"{BUCKET}/deep/store/format", content)
        with pytest.raises(kind):
            SnapshotStore(URL)


def test_large_and_missing_objects(s3: Any, tmp_path: Path) -> None:
    store = SnapshotStore(URL, create=True)
    store.put(saved(tmp_path / "a.bin", random_memory(1, 40)), "a")
    (pack,) = s3.glob(f"{BUCKET}/deep/store/packs/*.pack")
    data = s3.cat_file(pack)
    s3.pipe_file(pack, data + bytes(9 << 20))
    with pytest.raises(FormatError, match="is larger than"):
        store.get("a", str(tmp_path / "out.bin"))
    s3.pipe_file(pack, data[:-9])
    assert not complete(SnapshotStore(URL))
    s3.rm_file(pack)
    with pytest.raises(SnapshotError):
        SnapshotStore(URL).get("a", str(tmp_path / "out.bin"))


def test_addresses_that_cannot_be(s3: Any) -> None:
    for address in ("file:///tmp/x", "http://localhost/x", "sftp://host/x", "what://x"):
        with pytest.raises(SnapshotError, match="files there do not appear at once"):
            SnapshotStore(address, create=True)
    with pytest.raises(SnapshotError, match=r"cannot (read|write|open)"):
        SnapshotStore("s3://no-such-bucket-here/x", create=True)


@pytest.mark.full
def test_the_command(s3: Any, tmp_path: Path) -> None:
    saved(tmp_path / "a.bin", random_memory(1))

    def typed(*words: str, **variables: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "wasmsr", "store", *words],
            cwd=tmp_path,
            env={**os.environ, **variables},
            capture_output=True,
            text=True,
            timeout=PATIENCE,
        )

    assert typed("put", "a.bin", "a", "--store", URL).returncode == 0
    assert typed("get", "a", "-o", "b.bin", WASMSR_STORE=URL).returncode == 0
    assert (tmp_path / "b.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()
    assert URL in typed("ls", "--json", "--store", URL).stdout
    down = typed("ls", "--store", URL, AWS_ENDPOINT_URL="http://127.0.0.1:9")
    assert down.returncode == 123 and "cannot read s3://" in down.stderr
    assert "Traceback" not in down.stderr
