"""The store: round trips, sharing, names, removal."""

from __future__ import annotations

import random
import threading
import time
import tracemalloc
from pathlib import Path

import pytest

from tests.snapshot.samples import full
from tests.snapshot.store.filled import (
    STATES,
    embedding,
    entries,
    growing,
    pages,
    random_memory,
    saved,
)
from wasmsr import Module, Snapshot, SnapshotError, Store
from wasmsr.errors import (
    EncryptionError,
    FormatError,
    SignatureError,
    UnportableState,
    VersionError,
)
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import encode, save_pieces
from wasmsr.snapshot.store import catalogue
from wasmsr.snapshot.store.catalogue import Catalogue
from wasmsr.snapshot.store.folder import StoreFolder
from wasmsr.snapshot.store.pack import (
    ENTRY,
    INDEX_LIMIT,
    PACK,
    PackFrame,
    PackIndex,
    encode_index,
    read_index,
)
from wasmsr.snapshot.store.store import NAME_LIMIT, SnapshotStore, is_name
from wasmsr.snapshot.tools.copies import write_full
from wasmsr.snapshot.tools.opened import open_snapshot

GOLDEN = [
    path
    for path in sorted((Path(__file__).parents[2] / "golden").glob("v*.bin"))
    if path.stem != "v2-increment"  # its base is not beside it
]


@pytest.fixture
def store(tmp_path: Path) -> SnapshotStore:
    return SnapshotStore(tmp_path / "store", create=True)


def complete(store: SnapshotStore) -> bool:
    """Whether `verify` finds nothing."""
    return all(error is None for _, error in store.verify())


@pytest.mark.parametrize("name", STATES)
def test_version_2_comes_back(name: str, store: SnapshotStore, tmp_path: Path) -> None:
    state = STATES[name]()
    source = saved(tmp_path / "source.bin", state)
    done = store.put(source, "one")
    copied = store.get("one", str(tmp_path / "out.bin"))
    opened = open_snapshot(source)
    assert copied.root == done.root == opened.decoder.root
    assert (tmp_path / "out.bin").read_bytes() == source.read_bytes()
    assert complete(store)


@pytest.mark.parametrize("path", GOLDEN, ids=lambda path: path.stem)
def test_version_1_gets_the_root_of_convert(
    path: Path, store: SnapshotStore, tmp_path: Path
) -> None:
    wanted = write_full(open_snapshot(path), str(tmp_path / "convert.bin"), version=2)
    assert store.put(path, "one").root == wanted.root
    assert store.get("one", str(tmp_path / "out.bin")) == wanted
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "convert.bin").read_bytes()


def test_there_are_frozen_samples() -> None:
    assert len(GOLDEN) > 5


def test_mark_of_hand_over_stays(store: SnapshotStore, tmp_path: Path) -> None:
    store.put(saved(tmp_path / "a.bin", random_memory(1), handed=True), "a")
    store.get("a", str(tmp_path / "out.bin"))
    assert open_snapshot(tmp_path / "out.bin").header.handed
    assert [row.handed for row in store.ls()] == [True]


def test_last_checkpoint_of_a_folder(store: SnapshotStore, tmp_path: Path) -> None:
    from tests.snapshot.checkpoints.guest import GUEST

    (tmp_path / "d").mkdir()
    with Store() as program:
        instance = program.instantiate(Module.from_text(GUEST))
        program.enqueue(instance.function("run"), 100_000)
        writer = Checkpointer(CheckpointFolder(tmp_path / "d"), keep=100, merge_after=100)
        for _ in range(3):
            program.run(fuel=50_000)
            assert writer.take(program, lambda: capture(program, embed=True))
            writer.wait()
        last = Snapshot.of(program, embed=True)
        writer.close()
    opened = open_snapshot(tmp_path / "d")
    assert opened.depth == 2
    assert store.put(tmp_path / "d", "one").root == opened.decoder.root
    store.get("one", str(tmp_path / "out.bin"))
    found = open_snapshot(tmp_path / "out.bin")
    assert found.form == "full"
    assert found.decoder.root == opened.decoder.root
    assert found.state.memories == last.state.memories
    last_file = max((tmp_path / "d").glob("checkpoint-*.bin"))
    damaged = bytearray(last_file.read_bytes())
    damaged[-60] ^= 1
    last_file.write_bytes(damaged)
    said: list[str] = []
    store.put(tmp_path / "d", "two", warn=said.append)
    assert len(said) == 1


def test_each_page_is_stored_once(store: SnapshotStore, tmp_path: Path) -> None:
    """The snapshots have ten times as many pages as the store."""
    states = growing()
    added = files = 0
    for number, state in enumerate(states):
        source = saved(tmp_path / "one.bin", state, version=1 + number % 2)
        added += store.put(source, f"s{number}").added
        files += source.stat().st_size
    found = [entry.digest for entry in entries(tmp_path / "store")]
    assert len(found) == len(set(found)) == added
    wanted = set().union(*(pages(state) for state in states))
    assert wanted <= set(found)
    assert len(pages(states[-1])) > 300
    assert sum(len(pages(state)) for state in states) > 9 * len(wanted)
    stored = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.pack"))
    rows = store.ls()
    assert len(rows) == 20
    assert sum(row.stored for row in rows) > 8 * stored
    assert all(0 < row.shared <= row.stored for row in rows)
    everything = sum(path.stat().st_size for path in (tmp_path / "store").rglob("*.*"))
    assert everything < files / 4


def test_programs_share_modules_files_and_pages(store: SnapshotStore, tmp_path: Path) -> None:
    first = store.put(saved(tmp_path / "a.bin", embedding()), "a")
    other = random_memory(5)  # the same memory, without the modules
    second = store.put(saved(tmp_path / "b.bin", other), "b")
    assert second.written < 1000 < 300_000 < first.written
    third = store.put(saved(tmp_path / "c.bin", embedding(), version=1), "c")
    assert third.added == 0
    carrying = STATES["carrying"]()
    assert store.put(saved(tmp_path / "d.bin", carrying), "d").written > 60_000
    assert store.put(saved(tmp_path / "e.bin", carrying), "e").added == 0


def test_zero_pages_are_not_stored(store: SnapshotStore, tmp_path: Path) -> None:
    state = random_memory(1, 1)
    state.memories[0].data = bytes(64 << 20)
    assert store.put(saved(tmp_path / "a.bin", state), "a").written < 2000
    store.get("a", str(tmp_path / "out.bin"))
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_packs_are_full_but_for_the_last(store: SnapshotStore, tmp_path: Path) -> None:
    for seed in range(5):
        store.put(saved(tmp_path / "a.bin", random_memory(seed, 400)), f"s{seed}")
    sizes = sorted(path.stat().st_size for path in (tmp_path / "store/packs").glob("*.pack"))
    assert len(sizes) == 2
    assert sizes[0] < PACK <= sizes[1] < PACK + 262144
    assert complete(store)


def test_gc(store: SnapshotStore, tmp_path: Path) -> None:
    for seed in range(4):
        store.put(saved(tmp_path / f"{seed}.bin", random_memory(seed, 400)), f"s{seed}")
    assert store.gc() == (0, 0, 0, [])
    for name in ("s0", "s2"):
        store.remove(name)
    before = len(entries(tmp_path / "store"))
    done = store.gc()
    assert done.pieces == before - len(entries(tmp_path / "store")) >= 800
    assert done.bytes > 800 * 4096 * 0.9
    assert done.kept == []
    assert complete(store)
    for seed in (1, 3):
        store.get(f"s{seed}", str(tmp_path / "out.bin"))
        assert (tmp_path / "out.bin").read_bytes() == (tmp_path / f"{seed}.bin").read_bytes()
    assert store.gc().pieces == 0
    for name in ("s1", "s3"):
        store.remove(name)
    store.gc()
    assert list((tmp_path / "store/packs").iterdir()) == []


def test_gc_removes_what_killed_writers_left(store: SnapshotStore, tmp_path: Path) -> None:
    store.put(saved(tmp_path / "a.bin", random_memory(1)), "a")
    packs = tmp_path / "store" / "packs"
    (packs / f"{'0' * 32}.pack").write_bytes(b"waste")
    (packs / ".x.index.abc.part").write_bytes(b"waste")
    only = next(path for path in packs.glob("*.pack") if path.stat().st_size > 5)
    with only.open("ab") as file:
        file.write(b"a tail that no index names")
    done = store.gc()
    assert done.bytes == 5 + 26
    assert {path.suffix for path in packs.iterdir()} == {".pack", ".index"}
    assert len(list(packs.iterdir())) == 2
    assert complete(store)


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", ".x", "a/b", "../x", "a\0b", "a b", "ä", "-x", "a\n", "x" * (NAME_LIMIT + 1)],
)
def test_names_that_cannot_be(name: str, store: SnapshotStore, tmp_path: Path) -> None:
    assert not is_name(name)
    source = saved(tmp_path / "a.bin", random_memory(1))
    for call in (
        lambda: store.put(source, name),
        lambda: store.get(name, str(tmp_path / "out.bin")),
        lambda: store.remove(name),
    ):
        with pytest.raises(SnapshotError, match="cannot be a name"):
            call()


def test_names(store: SnapshotStore, tmp_path: Path) -> None:
    one = saved(tmp_path / "a.bin", random_memory(1))
    two = saved(tmp_path / "b.bin", random_memory(2))
    for name in ("x" * NAME_LIMIT, "a.b-c_d+e@f=1", "_", "0"):
        store.put(one, name)
    with pytest.raises(SnapshotError, match="has a snapshot with the name"):
        store.put(two, "0")
    store.get("0", str(tmp_path / "out.bin"))
    assert (tmp_path / "out.bin").read_bytes() == one.read_bytes()
    store.put(two, "0", replace=True)
    store.get("0", str(tmp_path / "out.bin"))
    assert (tmp_path / "out.bin").read_bytes() == two.read_bytes()
    assert not store.folder.write("names/0.manifest", b"another", replace=False)
    assert complete(store)
    for call in (lambda: store.get("none", "x"), lambda: store.remove("none")):
        with pytest.raises(SnapshotError, match="no snapshot with the name"):
            call()


def test_a_name_is_removed_once(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where all who remove it look for it at the same moment."""
    store.put(saved(tmp_path / "a.bin", random_memory(1)), "a")
    size, found = StoreFolder.size, []

    def slow(folder: StoreFolder, name: str) -> int | None:
        seen = size(folder, name)
        time.sleep(0.1)  # only so that the others have looked, too
        return seen

    def work() -> None:
        try:
            SnapshotStore(store.folder.path).remove("a")
        except SnapshotError:
            found.append("gone")
        else:
            found.append("removed")

    monkeypatch.setattr(StoreFolder, "size", slow)
    threads = [threading.Thread(target=work) for _ in range(3)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
    assert sorted(found) == ["gone", "gone", "removed"]


def test_a_name_is_removed_with_its_own_snapshot_only(store: SnapshotStore, tmp_path: Path) -> None:
    first = store.put(saved(tmp_path / "a.bin", random_memory(1)), "a").root
    store.remove("a")
    second = store.put(saved(tmp_path / "b.bin", random_memory(2)), "a").root
    with pytest.raises(SnapshotError, match="another snapshot"):
        store.remove("a", root=first)
    assert store.names() == ["a"]
    store.remove("a", root=second)
    with pytest.raises(SnapshotError, match="no snapshot with the name"):
        store.remove("a", root=second)
    assert complete(store)


def test_outputs_that_are_refused(store: SnapshotStore, tmp_path: Path) -> None:
    store.put(saved(tmp_path / "a.bin", random_memory(1)), "a")
    (tmp_path / "text").write_text("mine")
    with pytest.raises(SnapshotError, match="is no snapshot"):
        store.get("a", str(tmp_path / "text"))
    for inside in ("names/a.manifest", "packs/new", "new"):
        with pytest.raises(SnapshotError, match="is in the store"):
            store.get("a", str(tmp_path / "store" / inside))
    assert complete(store)


def test_folders_that_are_no_stores(tmp_path: Path) -> None:
    with pytest.raises(SnapshotError, match="is no store"):
        SnapshotStore(tmp_path / "none")
    assert not (tmp_path / "none").exists()
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter").write_text("dear")
    with pytest.raises(SnapshotError, match="has files in it"):
        SnapshotStore(tmp_path / "mine", create=True)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["letter"]
    (tmp_path / "file").write_text("dear")
    with pytest.raises(SnapshotError):
        SnapshotStore(tmp_path / "file", create=True)
    for content, kind in ((b"wasmsr store 1\n", VersionError), (b"what", FormatError)):
        (tmp_path / "later").mkdir(exist_ok=True)
        (tmp_path / "later" / "format").write_bytes(content)
        with pytest.raises(kind):
            SnapshotStore(tmp_path / "later", create=True)


def test_unknown_sections_are_refused(store: SnapshotStore, tmp_path: Path) -> None:
    from tests.snapshot.samples import parts, seal

    data = b"".join(encode(random_memory(1)))
    (tmp_path / "a.bin").write_bytes(seal([*parts(data), (0xF123, b"x")]))
    with pytest.raises(UnportableState, match="0xf123"):
        store.put(tmp_path / "a.bin", "a")
    assert store.ls() == []


def test_a_failed_put_leaves_no_name(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = saved(tmp_path / "a.bin", random_memory(1, 2000))

    def fails(number: int, data: bytes) -> None:
        raise SnapshotError("no space left")

    monkeypatch.setattr(store.folder, "append", fails)
    with pytest.raises(SnapshotError, match="no space left"):
        store.put(source, "a")
    monkeypatch.undo()
    assert store.ls() == []
    assert complete(store)
    store.put(source, "a")
    assert complete(store)


def test_pieces_are_read_in_the_order_of_the_snapshot(store: SnapshotStore, tmp_path: Path) -> None:
    """A manifest with two pieces swapped has another root."""
    store.put(saved(tmp_path / "a.bin", random_memory(1)), "a")
    manifest = store._manifest("a")
    for number, section in enumerate(manifest.sections):
        if section.kind == 35:
            data = section.references
            swapped = data[36:72] + data[:36] + data[72:]
            manifest.sections[number] = section._replace(references=swapped)
            assert swapped != data
    store.folder.write("names/a.manifest", manifest.encode())
    with pytest.raises(SnapshotError, match="is damaged"):
        store.get("a", str(tmp_path / "out.bin"))
    assert not (tmp_path / "out.bin").exists()
    assert not complete(store)


def test_one_snapshot_is_about_as_large_as_its_file(store: SnapshotStore, tmp_path: Path) -> None:
    """Pages that compress well are not compressed one by one: frames have sixty-four."""
    state = random_memory(1, 1)
    source = random.Random(2)
    words = [source.randbytes(12) for _ in range(400)]
    text = b"".join(source.choice(words) for _ in range(1 << 20))
    state.memories[0].data = bytearray(text[: 8 << 20])
    size = saved(tmp_path / "a.bin", state).stat().st_size
    store.put(tmp_path / "a.bin", "a")
    files = [path for path in (tmp_path / "store").rglob("*") if path.is_file()]
    stored = sum(path.stat().st_size for path in files)
    assert stored < 1.2 * size, (stored, size)
    store.get("a", str(tmp_path / "out.bin"))
    assert (tmp_path / "out.bin").read_bytes() == (tmp_path / "a.bin").read_bytes()


def test_lists_of_pages_are_shared(store: SnapshotStore, tmp_path: Path) -> None:
    """A page more at the beginning moves all others; nearly all lists stay."""
    state = random_memory(1, 4000)
    put = store.put(saved(tmp_path / "a.bin", state), "a")
    assert put.pieces > 4000 + 4000 // 256
    data = state.memories[0].data
    state.memories[0].data = bytearray(random.Random(3).randbytes(65536)) + data
    more = store.put(saved(tmp_path / "b.bin", state), "b")
    assert 16 <= more.added < 30
    manifest = (tmp_path / "store" / "names" / "b.manifest").stat().st_size
    assert manifest < 4000 * 36 / 20
    assert complete(store)


def test_signatures_stay_and_are_asked_for(store: SnapshotStore, tmp_path: Path) -> None:
    pytest.importorskip("cryptography", reason="cryptography has no wheel for this machine")
    from wasmsr.snapshot.trust.encryption import EncryptionKey
    from wasmsr.snapshot.trust.policy import ReadTrust, WriteTrust
    from wasmsr.snapshot.trust.signatures import SigningKey

    key, other, lock = SigningKey(bytes(32)), SigningKey(b"o" * 32), EncryptionKey(bytes(32))
    path = tmp_path / "a.bin"
    save_pieces(encode(full(), version=2, trust=WriteTrust(key, lock)), path)
    with pytest.raises(EncryptionError):
        store.put(path, "a")
    with pytest.raises(SignatureError):
        store.put(path, "a", trust=ReadTrust((lock,), (other.public,)))
    assert store.names() == []
    store.put(path, "a", trust=ReadTrust((lock,), (key.public,)))
    out = str(tmp_path / "out.bin")
    with pytest.raises(SignatureError, match="is signed by key"):
        store.get("a", out, trust=ReadTrust((), (other.public,)))
    assert not (tmp_path / "out.bin").exists()
    store.get("a", out, trust=ReadTrust((), (key.public,)), write=WriteTrust(None, lock))
    found = open_snapshot(out, trust=ReadTrust((lock,), (key.public,)))
    assert found.state == full() and found.header.encrypted


def test_the_table_of_pieces_is_bounded(
    store: SnapshotStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A piece of a store takes a few dozen bytes; so does one of a hostile index."""
    count = 65536
    raw = b"".join(ENTRY.pack(number.to_bytes(32, "big"), 1) for number in range(count))
    frames = [PackFrame(number, 1, 1) for number in range(count)]
    (tmp_path / "store" / "packs" / f"{'0' * 32}.pack").write_bytes(bytes(count))
    index = encode_index(PackIndex(frames, raw, [1] * count))
    assert len(index) < INDEX_LIMIT
    path = tmp_path / "store" / "packs" / f"{'0' * 32}.index"
    path.write_bytes(index)
    tracemalloc.start()
    found = Catalogue(store.folder)
    held, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (9).to_bytes(32, "big") in found
    assert held < 140 * count and peak < 40 << 20, (held, peak)
    del found
    monkeypatch.setattr(catalogue, "CATALOGUE_LIMIT", len(index) - 1000)
    with pytest.raises(SnapshotError, match="more pieces than a store may have"):
        store.ls()
    path.write_bytes(bytes(INDEX_LIMIT + 1))
    with pytest.raises(FormatError, match="is larger than"):
        read_index(store.folder, "0" * 32)
