"""Damaged and lying files of a store: a typed error, never a wrong answer."""

from __future__ import annotations

import os
import random
import resource
import shutil
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import pytest

from tests.snapshot.store.filled import PAGE, embedding, random_memory, saved
from wasmsr import SnapshotError
from wasmsr.errors import DigestError, FormatError, VersionError
from wasmsr.snapshot.store import manifest, pack
from wasmsr.snapshot.store import place as places
from wasmsr.snapshot.store.manifest import LISTS, Manifest, ManifestSection, decode_manifest
from wasmsr.snapshot.store.pack import PIECE, PackFrame, PackIndex, decode_index, encode_index
from wasmsr.snapshot.store.store import SnapshotStore


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A store with two snapshots, each also as a file."""
    store = SnapshotStore(tmp_path / "store", create=True)
    store.put(saved(tmp_path / "a.bin", random_memory(1, 40)), "a")
    store.put(saved(tmp_path / "b.bin", embedding()), "b")
    return tmp_path / "store"


def only(place: Path, suffix: str) -> Path:
    """The only file with a suffix."""
    (found,) = list(place.rglob(f"*{suffix}"))
    return found


def sealed(data: bytes) -> bytes:
    """Bytes with their digest."""
    return data + sha256(data).digest()


def wrong(place: Path) -> list[str]:
    """What `verify` finds damaged."""
    return [what for what, error in SnapshotStore(place).verify() if error is not None]


def test_a_damaged_pack(place: Path, tmp_path: Path) -> None:
    store = SnapshotStore(place)
    path = only(place, ".pack")
    data = bytearray(path.read_bytes())
    data[1000] ^= 1
    path.write_bytes(data)
    found = wrong(place)
    assert found[0] == f"pack {path.stem}"
    assert len(found) > 1
    with pytest.raises(DigestError, match="is damaged"):
        store.get(found[1], str(tmp_path / "out.bin"))
    assert not (tmp_path / "out.bin").exists()
    store.remove("b")
    assert store.gc().kept in ([], [path.stem])
    path.with_suffix(".index").unlink(missing_ok=True)
    for name in ("a", "b"):  # the way that the hint of `verify` names
        store.put(tmp_path / f"{name}.bin", name, replace=True)
    assert wrong(place) == []
    store.gc()
    assert wrong(place) == []


def test_a_pack_that_is_cut_off(place: Path, tmp_path: Path) -> None:
    path = only(place, ".pack")
    os.truncate(path, path.stat().st_size - 10)
    found = wrong(place)
    assert f"pack {path.stem}" in found
    assert "b" in found
    SnapshotStore(place).put(tmp_path / "b.bin", "b", replace=True)
    assert wrong(place) == [f"pack {path.stem}"]
    assert SnapshotStore(place).gc().kept == [path.stem]


def test_packs_and_indexes_that_are_missing(place: Path, tmp_path: Path) -> None:
    path = only(place, ".pack")
    data = path.read_bytes()
    path.unlink()
    assert wrong(place) == [f"pack {path.stem}", "a", "b"]
    path.write_bytes(data)
    assert wrong(place) == []
    path.with_suffix(".index").unlink()
    assert wrong(place) == ["a", "b"]
    with pytest.raises(FormatError, match="does not have the piece"):
        SnapshotStore(place).get("a", str(tmp_path / "out.bin"))
    rows = SnapshotStore(place).ls()
    assert all(row.error is not None for row in rows)


def test_swapped_packs(place: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    SnapshotStore(other, create=True).put(saved(tmp_path / "c.bin", random_memory(7, 300)), "c")
    shutil.copy(only(other, ".pack"), only(place, ".pack"))
    assert wrong(place) == [f"pack {only(place, '.pack').stem}", "a", "b"]


HUGE = 0xFFFFFFFF


def index_of(
    stored: int = 1, length: int = 1, count: int = 1, *, pieces: int = 1, frames: int = 1
) -> bytes:
    """An index made by hand, of one frame."""
    head = pack.HEAD.pack(pack.MAGIC, pack.VERSION, 0, frames, pieces)
    frame = pack.FRAME.pack(0, stored, count)
    return sealed(head + frame * min(frames, 1) + pack.ENTRY.pack(bytes(32), length) * pieces)


ZERO = bytes(32)
INDEXES: dict[str, tuple[bytes, type[SnapshotError]]] = {
    "empty": (b"", FormatError),
    "text": (b"hello\n" * 50, FormatError),
    "version": (sealed(pack.HEAD.pack(pack.MAGIC, 1, 0, 0, 0)), VersionError),
    "reserved": (sealed(pack.HEAD.pack(pack.MAGIC, pack.VERSION, 1, 0, 0)), FormatError),
    "count": (sealed(pack.HEAD.pack(pack.MAGIC, pack.VERSION, 0, HUGE, HUGE)), FormatError),
    "cut off": (index_of(frames=2), FormatError),
    "digest": (index_of()[:-1] + b"\0", DigestError),
    "empty piece": (index_of(length=0), FormatError),
    "large piece": (index_of(length=PIECE + 1), FormatError),
    "longer": (index_of(stored=9, length=8), FormatError),
    "nothing stored": (index_of(stored=0), FormatError),
    "no piece in a frame": (index_of(count=0), FormatError),
    "too many in a frame": (index_of(count=2), FormatError),
    "more than frames": (index_of(pieces=2), FormatError),
    "large frame": (index_of(length=PIECE, count=5, pieces=5), FormatError),
    "many in a frame": (index_of(count=1025, pieces=1025), FormatError),
    "overlap": (
        encode_index(
            PackIndex(
                [PackFrame(0, 5, 9), PackFrame(4, 5, 9)], pack.ENTRY.pack(ZERO, 9) * 2, [1, 1]
            )
        ),
        FormatError,
    ),
}


@pytest.mark.parametrize("case", INDEXES)
def test_indexes_that_are_refused(case: str, place: Path, tmp_path: Path) -> None:
    data, kind = INDEXES[case]
    with pytest.raises(kind):
        decode_index(data, "0" * 32)
    path = only(place, ".index")
    path.write_bytes(data)
    assert wrong(place) == [f"pack {path.stem}", "a", "b"]
    SnapshotStore(place).put(tmp_path / "a.bin", "a", replace=True)
    assert wrong(place) == [f"pack {path.stem}", "b"]


def test_an_index_that_lies(place: Path, tmp_path: Path) -> None:
    path = only(place, ".index")
    index = decode_index(path.read_bytes(), path.stem)
    size = pack.ENTRY.size
    far = [*index.frames[:-1], index.frames[-1]._replace(offset=1 << 62)]
    short = [index.frames[0]._replace(stored=index.frames[0].stored - 1), *index.frames[1:]]
    digest, length = pack.ENTRY.unpack_from(index.raw)
    longer = pack.ENTRY.pack(digest, length - 1) + index.raw[size:]
    swapped = index.raw[size : 2 * size] + index.raw[:size] + index.raw[2 * size :]
    for changed in (
        replace(index, frames=far),
        replace(index, frames=short),
        replace(index, raw=longer),
        replace(index, raw=swapped),
    ):
        path.write_bytes(encode_index(changed))
        found = wrong(place)
        assert f"pack {path.stem}" in found
        assert {"a", "b"} & set(found)


MANIFEST = Manifest(bytes(32), False, [])
LARGEST = (1 << 64) - 1


def manifest_of(*parts: bytes, count: int = 1, flags: int = 0, version: int = 2) -> bytes:
    """A manifest made by hand."""
    head = manifest.HEAD.pack(manifest.MAGIC, version, flags, count, bytes(32))
    return sealed(head + b"".join(parts))


MANIFESTS: dict[str, tuple[bytes, type[SnapshotError]]] = {
    "empty": (b"", FormatError),
    "text": (b"hello\n" * 50, FormatError),
    "version": (manifest_of(version=1, count=0), VersionError),
    "flags": (manifest_of(flags=2, count=0), FormatError),
    "digest": (MANIFEST.encode()[:-1] + b"\0", DigestError),
    "sections": (manifest_of(count=0xFFFFFFFF), FormatError),
    "cut off": (manifest_of(manifest.PART.pack(2, 0, 1, 1)), FormatError),
    "pieces": (manifest_of(manifest.PART.pack(2, 0, 0xFFFFFFFF, LARGEST)), FormatError),
    "length": (manifest_of(manifest.PART.pack(2, 0, 0, LARGEST)), FormatError),
    "form": (manifest_of(manifest.PART.pack(2, 2, 0, 0)), FormatError),
    "more": (manifest_of(b"more", count=0), FormatError),
    "piece": (
        manifest_of(
            manifest.PART.pack(2, 0, 1, PIECE + 1), manifest.REFERENCE.pack(bytes(32), PIECE + 1)
        ),
        FormatError,
    ),
}


@pytest.mark.parametrize("case", MANIFESTS)
def test_manifests_that_are_refused(case: str, place: Path, tmp_path: Path) -> None:
    data, kind = MANIFESTS[case]
    with pytest.raises(kind):
        decode_manifest(data, "a")
    (place / "names" / "a.manifest").write_bytes(data)
    store = SnapshotStore(place)
    assert wrong(place) == ["a"]
    with pytest.raises(kind):
        store.get("a", str(tmp_path / "out.bin"))
    with pytest.raises(kind, match="nothing is removed"):
        store.gc()
    assert [row.name for row in store.ls() if row.error is not None] == ["a"]
    store.remove("a")
    store.gc()
    assert wrong(place) == []


def _replaced(whole: Manifest, kind: int, by: ManifestSection) -> list[ManifestSection]:
    return [by if section.kind == kind else section for section in whole.sections]


def test_manifests_that_lie(place: Path, tmp_path: Path) -> None:
    """Each is well formed, and what it names is not a snapshot with this root."""
    store = SnapshotStore(place)
    whole = store._manifest("a")
    page = next(section for section in whole.sections if section.kind == 35).references[:36]
    many = ManifestSection(35, PAGE * 400_000, page * 400_000)
    lists = many._replace(form=LISTS)
    lies = [
        Manifest(bytes(32), False, whole.sections),
        Manifest(whole.root, False, []),
        Manifest(whole.root, False, whole.sections[:-1]),
        Manifest(whole.root, False, whole.sections[::-1]),
        Manifest(whole.root, False, [*whole.sections, whole.sections[-1]]),
        Manifest(whole.root, False, _replaced(whole, 35, many)),
        Manifest(whole.root, False, _replaced(whole, 2, many._replace(kind=2))),
        Manifest(whole.root, False, _replaced(whole, 35, lists)),
        Manifest(whole.root, False, _replaced(whole, 35, lists._replace(references=page))),
    ]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for lie in lies:
        store.folder.write("names/a.manifest", lie.encode())
        with pytest.raises(SnapshotError):
            store.get("a", str(tmp_path / "out.bin"))
        assert not (tmp_path / "out.bin").exists()
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 600 << 10  # KiB


def test_files_that_are_too_large(place: Path) -> None:
    """Sparse files of a terabyte are refused before they are read."""
    path = only(place, ".index")
    kept = path.read_bytes()
    os.truncate(path, 1 << 40)
    assert wrong(place) == [f"pack {path.stem}", "a", "b"]
    path.write_bytes(kept)
    os.truncate(place / "names" / "a.manifest", 1 << 40)
    assert wrong(place) == ["a"]


def test_files_of_other_kinds(place: Path) -> None:
    """A pipe in the place of a file makes nobody wait; a folder is no file."""
    path = only(place, ".index")
    kept = path.read_bytes()
    path.unlink()
    os.mkfifo(path)
    assert wrong(place) == [f"pack {path.stem}", "a", "b"]
    path.unlink()
    path.mkdir()
    assert wrong(place) == [f"pack {path.stem}", "a", "b"]
    path.rmdir()
    path.write_bytes(kept)
    (place / "packs" / "what.index").write_bytes(b"ours?")
    (place / "names" / "a b.manifest").write_bytes(b"ours?")
    assert wrong(place) == []


@pytest.mark.parametrize("suffix", [".pack", ".index", "a.manifest", "b.manifest"])
def test_any_byte(suffix: str, place: Path, tmp_path: Path) -> None:
    """A byte changed, bytes cut off or added, anywhere: what is wrong is found, or nothing is."""
    source = random.Random(suffix)
    path = only(place, suffix)
    data = path.read_bytes()

    def flip() -> bytes:
        at = source.randrange(len(data))
        return data[:at] + bytes([data[at] ^ (1 << source.randrange(8))]) + data[at + 1 :]

    def cut() -> bytes:
        return data[: source.randrange(len(data))]

    kinds: list[Callable[[], bytes]] = [flip, flip, cut]
    for _ in range(8):
        path.write_bytes(source.choice(kinds)())
        assert wrong(place), "the damage was not found"
        for name in ("a", "b"):
            try:
                SnapshotStore(place).get(name, str(tmp_path / "out.bin"))
            except SnapshotError:
                continue
            wanted = (tmp_path / f"{name}.bin").read_bytes()
            assert (tmp_path / "out.bin").read_bytes() == wanted
            (tmp_path / "out.bin").unlink()
    assert (place / "format").read_bytes() == places.FORMAT
