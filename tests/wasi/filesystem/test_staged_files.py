"""Files that are made ahead: what is taken has the content of the entry, whatever came before."""

from __future__ import annotations

import os
import random
from pathlib import Path

import pytest

from wasmsr.errors import SnapshotError
from wasmsr.wasi.state import staged_files
from wasmsr.wasi.state.contents import CHUNK, PLACE, ZEROS, digest_of
from wasmsr.wasi.state.manifest import FILE, TreeEntry
from wasmsr.wasi.state.staged_files import StagedFiles

LIMIT = 1 << 30


def entry(path: bytes, data: bytes, pieces: dict[bytes, bytes]) -> TreeEntry:
    """An entry for a content; its chunks go into `pieces`. Zeros are holes."""
    places = b""
    for number in range(-(-len(data) // CHUNK)):
        chunk = data[number * CHUNK : (number + 1) * CHUNK]
        if chunk != ZEROS[: len(chunk)]:
            digest = digest_of(chunk)
            pieces[digest] = chunk
            places += PLACE.pack(number, digest)
    return TreeEntry(path, FILE, 0o600, 0, 0, len(data), places)


def content(source: random.Random, pool: list[bytes]) -> bytes:
    """Some chunks of a pool, and a last one of any length."""
    parts = [source.choice(pool) for _ in range(source.randint(1, 6))]
    return b"".join(parts) + source.choice(pool)[: source.choice((0, 1, 100, CHUNK - 1))]


@pytest.fixture
def root(tmp_path: Path) -> int:
    return os.open(tmp_path, os.O_RDONLY | os.O_DIRECTORY)


@pytest.mark.parametrize("seed", range(60))
def test_any_content_after_any_other(seed: int, root: int, tmp_path: Path) -> None:
    source = random.Random(seed)
    pool = [*(source.randbytes(CHUNK) for _ in range(4)), ZEROS]
    pieces: dict[bytes, bytes] = {}
    before = {b"%d" % n: content(source, pool) for n in range(5)}
    staged = StagedFiles(root, [entry(p, data, pieces) for p, data in before.items()], LIMIT)
    for share in (0.3, 0.7):
        come = {digest for digest in pieces if source.random() < share}
        left = source.choice((3, 100))

        def go_on() -> bool:
            nonlocal left
            left -= 1
            return left >= 0

        staged.work(lambda digest, come=come: pieces[digest] if digest in come else None, go_on)
    for path in before:
        last = content(source, pool) if source.random() < 0.8 else before[path]
        name = staged.take(entry(path, last, pieces), lambda digest: pieces[digest])
        if name is not None:
            assert (tmp_path / os.fsdecode(name)).read_bytes() == last
    staged.close()
    staged.close()
    assert not os.listdir(tmp_path)
    os.close(root)


def test_only_what_has_changed_is_written(
    root: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pieces: dict[bytes, bytes] = {}
    data = random.Random(1).randbytes(20 * CHUNK)
    staged = StagedFiles(root, [entry(b"film", data, pieces)], LIMIT)
    staged.work(pieces.get, lambda: True)
    written: list[int] = []
    put = staged_files._put
    monkeypatch.setattr(
        staged_files, "_put", lambda *given: (written.append(len(given[1])), put(*given))
    )
    later = data[:CHUNK] + b"new" + data[CHUNK + 3 :] + b"more"
    name = staged.take(entry(b"film", later, pieces), lambda digest: pieces[digest])
    assert name and (tmp_path / os.fsdecode(name)).read_bytes() == later
    assert written == [CHUNK, 4]
    staged.close()


def test_what_is_too_much_is_not_made(root: int, tmp_path: Path) -> None:
    pieces: dict[bytes, bytes] = {}
    data = random.Random(1).randbytes(2 * CHUNK)
    small = entry(b"small", b"x" * 100, pieces)
    for limit, wanted in ((CHUNK, 0), (2 * CHUNK, 1)):
        staged = StagedFiles(root, [entry(b"film", data, pieces), small], limit)
        staged.work(pieces.get, lambda: True)
        folders = list(tmp_path.iterdir())
        assert sum(len(list(one.iterdir())) for one in folders) == wanted
        staged.close()
    many = [entry(b"%d" % n, data, pieces) for n in range(staged_files.MOST + 5)]
    staged = StagedFiles(root, many, LIMIT)
    staged.work(pieces.get, lambda: True)
    (folder,) = tmp_path.iterdir()
    assert len(list(folder.iterdir())) == staged_files.MOST
    staged.close()


def test_a_folder_that_somebody_has_removed(root: int, tmp_path: Path) -> None:
    pieces: dict[bytes, bytes] = {}
    film = entry(b"film", random.Random(1).randbytes(2 * CHUNK), pieces)
    staged = StagedFiles(root, [film], LIMIT)
    staged.work(pieces.get, lambda: True)
    (folder,) = tmp_path.iterdir()
    (made,) = folder.iterdir()
    made.unlink()
    made.symlink_to("/etc/passwd")
    assert staged.take(film, lambda digest: pieces[digest]) is None
    staged.close()


def test_a_piece_of_another_length_is_refused(root: int) -> None:
    """A state can name a whole chunk as the last one of a file that ends sooner."""
    pieces: dict[bytes, bytes] = {}
    film = entry(b"film", random.Random(1).randbytes(2 * CHUNK), pieces)
    staged = StagedFiles(root, [film], LIMIT)
    staged.work(pieces.get, lambda: True)
    shorter = TreeEntry(b"film", FILE, 0o600, 0, 0, film.size - 9, film.chunks)
    with pytest.raises(SnapshotError, match="another length"):
        staged.take(shorter, lambda digest: pieces[digest])
    staged.close()
