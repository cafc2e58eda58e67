"""Files of a program that leaves: what it writes between scans, and what must be read again."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from wasmsr.errors import UnportableState
from wasmsr.wasi.filesystem.open_files import MountPath, RegularFile
from wasmsr.wasi.filesystem.trees import MountTree
from wasmsr.wasi.state import manifest
from wasmsr.wasi.state.contents import CHUNK, Contents
from wasmsr.wasi.state.file_rounds import FileRounds
from wasmsr.wasi.state.manifest import TreeEntry, scan
from wasmsr.wasi.state.written import WrittenFiles
from wasmsr.wasi.streams.descriptor import FileKind, StatusFlag

GUEST, LIMIT = b"data", 1 << 30


class Leaving:
    """A process with one carried tree, in place of a whole program."""

    def __init__(self, folder: Path, mode: str = "carry") -> None:
        self.folder = folder
        self.trees = {GUEST: MountTree(os.open(folder, os.O_RDONLY | os.O_DIRECTORY), mode)}
        self.descriptors: dict[int, RegularFile] = {}
        self.carry_limit = LIMIT
        self.rounds = FileRounds(self)  # type: ignore[arg-type]

    def tree_of(self, file: RegularFile) -> MountTree:
        return self.trees[file.place.mount]

    def open(self, name: str, flags: int = 0) -> RegularFile:
        """Open a file as the program does."""
        status = StatusFlag.APPEND if flags & os.O_APPEND else 0
        host = os.open(self.folder / name, os.O_RDWR | os.O_CREAT | flags)
        place = MountPath(GUEST, (name.encode(),))
        file = RegularFile(host, place, FileKind.REGULAR_FILE, int(status), os.O_RDWR)
        self.trees[GUEST].opened(file)
        self.descriptors[host] = file
        return file

    def exact(self) -> list[TreeEntry]:
        """What a capture finds; it must be what a reader finds who knows nothing."""
        tree = self.trees[GUEST]
        contents, plain = Contents(), Contents()
        found = scan(tree.root, "data", contents, LIMIT, tree.known, watch=self.watch)
        expected = scan(tree.root, "data", plain, LIMIT)
        assert [one.content for one in found.entries] == [one.content for one in expected.entries]
        assert dict(contents) == dict(plain)
        for digest, _ in plain:
            assert contents.read(digest) == plain.read(digest)
        return found.entries

    @property
    def watch(self) -> WrittenFiles | None:
        watch = self.trees[GUEST].watch
        assert watch is None or isinstance(watch, WrittenFiles)
        return watch

    def close(self) -> None:
        self.rounds.close()
        for host in self.descriptors:
            os.close(host)
        self.trees[GUEST].close()


def write(file: RegularFile, data: bytes, position: int | None = None) -> None:
    buffers = [memoryview(data[: len(data) // 2]), memoryview(data[len(data) // 2 :])]
    if position is None:
        file.write(None, buffers)  # type: ignore[arg-type]
    else:
        file.write_at(buffers, position)


@pytest.fixture
def leaving(tmp_path: Path) -> Iterator[Leaving]:
    folder = tmp_path / "data"
    folder.mkdir()
    (folder / "large").write_bytes(random.Random(1).randbytes(64 * CHUNK + 77))
    made = Leaving(folder)
    yield made
    made.close()


@pytest.fixture
def read(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    """How many bytes were read of files since the last question."""
    count = 0

    class Counting:
        def __getattr__(self, name: str) -> object:
            return getattr(os, name)

        def pread(self, file: int, size: int, offset: int) -> bytes:
            nonlocal count
            data = os.pread(file, size, offset)
            count += len(data)
            return data

    def since() -> int:
        nonlocal count
        found, count = count, 0
        return found

    monkeypatch.setattr(manifest, "os", Counting())
    return since


def write_twice(file: RegularFile) -> None:
    write(file, b"1", 0)
    write(file, b"2", 9 * CHUNK)


def resize(file: RegularFile, size: int) -> None:
    os.ftruncate(file.host, size)
    if file.watch is not None:
        file.watch.resized(file.host)


WRITES: dict[str, tuple[Callable[[RegularFile], None], int]] = {
    "one byte": (lambda file: write(file, b"!", 5 * CHUNK + 3), 1),
    "over a border": (lambda file: write(file, b"two", 5 * CHUNK - 1), 2),
    "at the offset": (lambda file: write(file, b"here"), 1),
    "at the end": (lambda file: write(file, b"e" * CHUNK, 64 * CHUNK + 77), 2),
    "beyond the end": (lambda file: write(file, b"e" * 10, 70 * CHUNK), 2),
    "nothing": (lambda file: write(file, b""), 1),
    "zeros": (lambda file: write(file, bytes(CHUNK), 3 * CHUNK), 1),
    "twice": (lambda file: write_twice(file), 2),
}


@pytest.mark.parametrize("case", WRITES)
def test_only_what_was_written_is_read(
    leaving: Leaving, read: Callable[[], int], case: str
) -> None:
    act, chunks = WRITES[case]
    file = leaving.open("large")
    leaving.rounds.watch()
    write(file, b"first", 0)  # so that the file counts as the program's, however new it is
    os.lseek(file.host, 0, os.SEEK_SET)
    leaving.rounds.scan()
    leaving.rounds.scan()
    read()
    act(file)
    leaving.rounds.scan()
    assert read() <= chunks * CHUNK
    act(file)
    tree = leaving.trees[GUEST]
    scan(tree.root, "data", Contents(), LIMIT, tree.known, watch=leaving.watch)
    assert read() <= chunks * CHUNK
    leaving.exact()


def test_what_is_pending(leaving: Leaving) -> None:
    file = leaving.open("large")
    leaving.rounds.watch()
    assert leaving.rounds.pending == 0
    write(file, b"!", CHUNK)
    write(file, b"!", CHUNK + 1)
    write(file, b"!", 9 * CHUNK)
    assert leaving.rounds.pending == 2 * CHUNK
    leaving.rounds.scan()
    assert leaving.rounds.pending == 0


@pytest.mark.parametrize("flags", [0, os.O_APPEND])
def test_a_file_that_is_open_to_append(leaving: Leaving, flags: int) -> None:
    """The host writes at the end then, whatever position is given."""
    file = leaving.open("large", flags)
    leaving.rounds.watch()
    for _ in range(3):
        write(file, b"a" * 100, 0)
        leaving.rounds.scan()
    write(file, b"b" * 100, 0)
    leaving.exact()


@pytest.mark.parametrize("after", [0, 1, 2])
def test_what_somebody_else_writes_is_found(leaving: Leaving, after: int) -> None:
    """Between the writes of the program, before them and after them."""
    file = leaving.open("large")
    leaving.rounds.watch()
    leaving.rounds.scan()
    for step in range(3):
        if step == after:
            other = os.open(leaving.folder / "large", os.O_WRONLY)
            os.pwrite(other, b"somebody else", 30 * CHUNK)
            os.utime(other, ns=(1, 1))
            os.close(other)
        if step < 2:
            write(file, b"program%d" % step, step * CHUNK)
    leaving.exact()


def test_a_size_that_was_set_and_set_back(leaving: Leaving) -> None:
    """Too fast for the clock of the host, so that the signature is the same."""
    file = leaving.open("large")
    leaving.rounds.watch()
    write(file, b"!", 0)
    leaving.rounds.scan()
    size = os.fstat(file.host).st_size
    times = os.fstat(file.host)
    resize(file, CHUNK)
    resize(file, size)
    os.utime(file.host, ns=(times.st_atime_ns, times.st_mtime_ns))
    leaving.exact()


def test_files_that_come_and_go(leaving: Leaving) -> None:
    leaving.rounds.watch()
    leaving.rounds.scan()
    one = leaving.open("one")
    write(one, b"1" * 200_000)
    leaving.rounds.scan()
    write(one, b"2" * 10)
    os.rename(leaving.folder / "one", leaving.folder / "renamed")
    os.link(leaving.folder / "renamed", leaving.folder / "other name")
    os.unlink(leaving.folder / "large")
    leaving.exact()
    write(one, b"3", 0)
    leaving.rounds.scan()
    os.ftruncate(one.host, 70_000)
    write(one, b"4", 69_999)
    leaving.exact()
    os.unlink(leaving.folder / "renamed")
    again = leaving.open("one", os.O_TRUNC)
    write(again, b"5" * 70_000)
    leaving.exact()


def test_a_scan_that_fails_loses_nothing(leaving: Leaving) -> None:
    """Its ranges are gone then, so the files are read whole."""
    file = leaving.open("large")
    leaving.rounds.watch()
    leaving.rounds.scan()
    write(file, b"!", CHUNK)
    os.mkfifo(leaving.folder / "a fifo")
    with pytest.raises(Exception, match="a fifo is a device, FIFO or socket"):
        leaving.rounds.scan()
    os.unlink(leaving.folder / "a fifo")
    write(file, b"!", 2 * CHUNK)
    leaving.exact()


def test_a_file_that_is_cut_off_while_it_is_scanned(
    leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chunks that it had do not get lengths by the size that it has now."""
    file = leaving.open("large")
    leaving.rounds.watch()
    write(file, b"!", 0)
    leaving.rounds.scan()
    walk = manifest._walk

    def late(root: int, guest: str) -> Iterator[tuple[bytes, os.stat_result]]:
        write(file, b"?", 0)
        resize(file, 100)
        return walk(root, guest)

    with monkeypatch.context() as patched:
        patched.setattr(manifest, "_walk", late)
        found = leaving.rounds.scan()
    assert [length for _, length in found] == [CHUNK] * 64 + [77]
    leaving.exact()


def test_a_file_that_goes_while_it_is_scanned(
    leaving: Leaving, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is passed over while the program runs; when it is paused, nobody may do that."""
    walk, gone = manifest._walk, leaving.folder / "gone"

    def late(root: int, guest: str) -> Iterator[tuple[bytes, os.stat_result]]:
        gone.write_bytes(b"temporary")
        found = list(walk(root, guest))
        gone.unlink()
        return iter(found)

    leaving.rounds.watch()
    with monkeypatch.context() as patched:
        patched.setattr(manifest, "_walk", late)
        found = leaving.rounds.scan()
        with pytest.raises(UnportableState, match="data/gone cannot be read"):
            leaving.exact()
    assert [length for _, length in found] == [CHUNK] * 64 + [77]
    leaving.exact()


def test_after_the_rounds_nothing_is_noted(leaving: Leaving) -> None:
    file = leaving.open("large")
    leaving.rounds.watch()
    assert file.watch is leaving.trees[GUEST].watch is not None
    leaving.rounds.close()
    assert file.watch is None and leaving.trees[GUEST].watch is None
    assert leaving.open("new").watch is None
    leaving.exact()


@pytest.mark.parametrize("seed", range(12))
def test_whatever_the_program_does(leaving: Leaving, seed: int) -> None:
    """Random writes, truncations, opens and removals, with scans between them."""
    made = random.Random(seed)
    names = ["large", "a", "b"]
    files = [leaving.open(name, made.choice((0, os.O_APPEND))) for name in names]
    leaving.rounds.watch()
    for _ in range(60):
        file = made.choice(files)
        size = made.choice((1, 100, CHUNK, 3 * CHUNK))
        act = made.randrange(12)
        if act < 4:
            write(file, made.randbytes(size))
        elif act < 8:
            write(file, made.randbytes(size), made.randrange(12 * CHUNK))
        elif act == 8:
            resize(file, made.randrange(8 * CHUNK))
        elif act == 9:
            os.lseek(file.host, made.randrange(8 * CHUNK), os.SEEK_SET)
        elif act == 10:
            name = made.choice(names)
            (leaving.folder / name).unlink(missing_ok=True)
            files.append(leaving.open(name, os.O_TRUNC))
        else:
            leaving.rounds.scan()
        if made.randrange(15) == 0:
            leaving.exact()
    leaving.exact()
