"""Names that peers choose never become paths, and their times never prove anything."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from tests.migrate.arriving import arrived
from tests.wasi.guest import CREAT, Guest
from wasmsr.errors import SnapshotError
from wasmsr.migrate.files.carried_trees import BASE, CarriedTrees, folder_name
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.record import replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state.restore import CarriedFiles
from wasmsr.wasi.state.tree_restore import OnChanged

PROGRAM = b"\7" * 16
NAMES = {
    "up": "..",
    "here": ".",
    "further up": "../../..",
    "our own file": "base",
    "our own file in capitals": "BASE",
    "our own part": "base.part",
    "put aside": "data.old-1",
    "bytes": os.fsdecode(b"\xff\xfe/name"),
    "half a character": os.fsdecode(b"caf\xc3"),
    "long": "n" * 4000,
    "control characters": "a\33[2Jb\nc",
    "quoted": "%2e%2e",
    "like a digest": "tree-" + "0" * 32,
    "device": "nul",
    "empty parts": "//",
    "unicode twins": "\u00e9",
}


@pytest.fixture
def files(tmp_path: Path) -> Path:
    """The folder of belongings, with something of another program beside it."""
    folder = tmp_path / "state" / "files"
    (folder / "other").mkdir(parents=True)
    (folder / "other" / "precious").write_text("of another program")
    (tmp_path / "state" / "precious").write_text("of nobody's")
    os.utime(tmp_path / "state" / "precious", ns=(10**18, 10**18))
    return folder


@pytest.mark.parametrize("kind", NAMES)
def test_a_tree_stays_in_its_folder(files: Path, kind: str) -> None:
    guest = NAMES[kind]
    belongings = CarriedTrees(files)
    place = belongings.place(PROGRAM, guest)
    assert place.parent == files / PROGRAM.hex()
    assert place.name not in (".", "..", BASE)
    assert place.name.isascii() and "/" not in place.name and len(place.name) <= 100
    assert place.name.lower() != BASE
    assert belongings.place(PROGRAM, guest) == place
    assert belongings.owns(PROGRAM, place)


def test_every_name_has_a_folder_of_its_own() -> None:
    names = [*NAMES.values(), "data", "/data", "DATA", "e\u0301", "n" * 3999, folder_name("..")]
    folders = [folder_name(name).lower() for name in names]
    assert len(set(folders)) == len(folders)
    assert folder_name("/data/deep") == "%2Fdata%2Fdeep"


MODULE = """(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $yield (result i32)))
  (memory (export "memory") 1)
  (func (export "_start") (loop $l (drop (call $yield)) (br $l))))"""


def arrival(
    hosting: Hosting, guest: str, module: wasmsr.Module, created: int, **extra: Any
) -> None:
    """A program with a carried tree of that name comes, as a peer sends it."""
    wasi = Wasi(mounts=[Mount.memory(guest, {"f": b"of the program"})])
    with wasmsr.Store() as store, wasi:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        store.run(fuel=100)
        sent = wasmsr.Snapshot.of(store, wasi=wasi).state
        assert sent.wasi is not None
        sent.wasi["mounts"][0]["mode"] = "carry"
        sent.wasi.update(extra)
        sent.lineage.created = created
        coming = arrived(hosting, sent)
    program = coming.restore(PROGRAM, {module.digest: module.binary})
    try:
        program.program.wasi.place_files()  # type: ignore[union-attr]
    finally:
        program.close()


def hosting_of(files: Path, mounts: list[Mount], policy: OnChanged) -> Hosting:
    def grants() -> HostGrants:
        return replaced(HostGrants(), mounts=tuple(mounts), on_changed=policy)

    return Hosting(grants, known={}, files=files)


@pytest.mark.parametrize("kind", [kind for kind in NAMES if kind != "long"])
def test_a_program_comes_with_such_a_name(files: Path, kind: str) -> None:
    hosting = hosting_of(files, [], "truncate")
    arrival(hosting, NAMES[kind], wasmsr.Module.from_text(MODULE), created=0)
    assert (files / "other" / "precious").read_text() == "of another program"
    assert (files.parent / "precious").read_text() == "of nobody's"
    (found,) = (files / PROGRAM.hex()).rglob("f")
    assert found.read_bytes() == b"of the program"
    assert sorted(os.listdir(files)) == sorted([PROGRAM.hex(), "other"])


@pytest.mark.parametrize("created", [0, 1, 10**18])
def test_a_time_from_a_peer_removes_nothing(files: Path, tmp_path: Path, created: int) -> None:
    """Also not where the peer says that the state was saved here, in this very folder."""
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "precious").write_text("mine")
    hosting = hosting_of(files, [Mount(mine, "/work", "carry")], "truncate")
    module = wasmsr.Module.from_text(MODULE)
    here = Guest(mounts=[Mount(mine, "/work", "carry")])
    origin = here.state()["origin"]
    here.close()
    for extra in ({}, {"origin": origin}):
        with pytest.raises(SnapshotError, match="precious is not the program's"):
            arrival(hosting, "/work", module, created, **extra)
        assert (mine / "precious").read_text() == "mine"


def test_a_time_in_a_file_from_elsewhere_removes_nothing(tmp_path: Path) -> None:
    """A snapshot that is resumed here, and says that it is older than everything here."""
    theirs, mine = tmp_path / "theirs", tmp_path / "mine"
    for folder in (theirs, mine):
        folder.mkdir()
    (mine / "precious").write_text("mine")
    module = wasmsr.Module.from_text(MODULE)
    wasi = Wasi(mounts=[Mount(theirs, "/work", "carry")])
    with wasmsr.Store() as store, wasi:
        store.enqueue(store.instantiate(module, wasi.imports).function("_start"))
        store.run(fuel=100)
        sent = wasmsr.Snapshot.of(store, wasi=wasi).state
    sent.lineage.created = 0
    state = sent.wasi
    assert state is not None
    mounts = [Mount(mine, "/work", "carry")]
    for change in (dict, lambda origin: {**origin, "machine": bytes(32)}, None):
        sent.wasi = {k: v for k, v in state.items() if k != "origin"}
        if change is not None:
            sent.wasi["origin"] = change(state["origin"])
        with pytest.raises(SnapshotError, match="precious is not the program's"):
            wasmsr.Snapshot(sent).restore(modules=[module], mounts=mounts, on_changed="truncate")
        assert (mine / "precious").read_text() == "mine"


def test_what_was_changed_here_later_is_undone_still(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    guest = Guest(mounts=[Mount(mine, "/work", "carry")])
    guest.write(guest.opened("f", CREAT), b"saved")
    state, then = guest.state(), time.time_ns()
    time.sleep(0.05)  # coarser than any clock of a file system here
    (mine / "later").write_text("after the snapshot")
    guest.resume(state, carried=CarriedFiles(guest.contents, since=then), on_changed="truncate")
    assert os.listdir(mine) == ["f"]
    guest.close()
