"""Files that a program writes while it leaves: pieces in the rounds, their list at the end."""

from __future__ import annotations

import errno
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmsr import Module
from wasmsr.errors import SnapshotError
from wasmsr.migrate.hosting.host import HostedArrival, Hosting
from wasmsr.migrate.hosting.hosted_program import HostedProgram
from wasmsr.migrate.hosting.leaving import LeavingProgram
from wasmsr.program.program import Program
from wasmsr.record import replaced
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.encoding.reader import Decoder
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state import staged_files, tree_restore
from wasmsr.wasi.state.contents import named_chunks

BLOCK, CHUNK = 4000, 65536
LARGE = random.Random(1).randbytes(20 * CHUNK + 5)
LIMIT = 1 << 26
TEXT = f"""(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $path_open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $fd_write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "poll_oneoff"
    (func $poll_oneoff (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 100) "log")
  (func (export "_start") (local $block i32)
    (drop (call $path_open (i32.const 3) (i32.const 0) (i32.const 100) (i32.const 3)
      (i32.const 1) (i64.const 0x60) (i64.const 0) (i32.const 0) (i32.const 0)))
    (i32.store (i32.const 16) (i32.const 1000))
    (i32.store (i32.const 20) (i32.const {BLOCK}))
    (i32.store (i32.const 216) (i32.const 1))
    (i64.store (i32.const 224) (i64.const 1000000))
    (loop $next
      (i32.store (i32.const 1000) (local.get $block))
      (i32.store (i32.const {1000 + BLOCK - 4}) (local.get $block))
      (drop (call $fd_write (i32.load (i32.const 0)) (i32.const 16) (i32.const 1) (i32.const 24)))
      (local.set $block (i32.add (local.get $block) (i32.const 1)))
      (drop (call $poll_oneoff (i32.const 200) (i32.const 300) (i32.const 1) (i32.const 24)))
      (br $next))))"""


def hosting(folder: Path) -> Hosting:
    """A host that gives the folder `data` below, which carries."""
    (folder / "data").mkdir(parents=True)
    mount = Mount(folder / "data", "data", "carry")
    return Hosting(
        lambda: replaced(HostGrants(), mounts=(mount,)), known={}, files=folder / "files"
    )


def length(folder: Path) -> int:
    """How many bytes the program has written."""
    log = folder / "data" / "log"
    return log.stat().st_size if log.exists() else 0


def grown(folder: Path, blocks: int) -> None:
    """Wait until the program has written so many more blocks."""
    end = length(folder) + blocks * BLOCK
    deadline = time.monotonic() + 60
    while length(folder) < end:
        assert time.monotonic() < deadline, "the program does not write"
        time.sleep(0.005)


def check(folder: Path) -> int:
    """Every block once, in order, and the file that nobody writes; return the number of blocks."""
    data = (folder / "data" / "log").read_bytes()
    assert len(data) % BLOCK == 0
    for number in range(len(data) // BLOCK):
        block = data[number * BLOCK : (number + 1) * BLOCK]
        mark = number.to_bytes(4, "little")
        assert block == mark + bytes(BLOCK - 8) + mark, number
    assert (folder / "data" / "large").read_bytes() == LARGE
    return len(data) // BLOCK


@pytest.fixture
def program(tmp_path: Path) -> Iterator[HostedProgram]:
    here = hosting(tmp_path / "here")
    (tmp_path / "here" / "data" / "large").write_bytes(LARGE)
    made = here.launch(lambda grants: Program.launch(Module.from_text(TEXT), grants=grants))
    made.start()
    grown(tmp_path / "here", 3 * CHUNK // BLOCK)
    yield made
    made.pause(30)
    made.close()


class Sent:
    """What one leaving program has sent."""

    def __init__(self, leaving: LeavingProgram, arrival: HostedArrival) -> None:
        self.leaving, self.arrival = leaving, arrival
        self.files: list[int] = []
        self.rest = 0

    def round(self, *, last: bool = False) -> None:
        assert self.leaving.round(lambda *_: last, 30) == last
        self.arrival.resize(self.leaving.sizes)
        if not last:
            self.give()
        for batch in self.leaving.batches():
            self.arrival.pages(batch.memory, batch.runs, batch.data, batch.zeros)
        if last:
            self.give()

    def give(self) -> None:
        self.files.append(0)
        for batch in self.leaving.files():
            self.arrival.files(batch.digests, batch.lengths, batch.data)
            self.files[-1] += len(batch.data)

    def finish(self, *, since: bool) -> None:
        for part in self.leaving.rest(since=since):
            if isinstance(part, tuple):
                self.arrival.repeat(*part)
            else:
                self.rest += len(part)
                self.arrival.feed(bytes(part))
        assert self.arrival.finish() == self.leaving.digest


def go_on(sent: Sent, program: HostedProgram, folder: Path) -> None:
    """Let the program go on where it came, and see that its files are right."""
    module = program.program.module
    moved = sent.arrival.restore(b"p" * 16, {module.digest: module.binary})
    sent.leaving.close()
    moved.start()
    grown(folder / "there", 5)
    assert moved.pause(30)
    assert check(folder / "there") > check(folder / "here")
    moved.close()


def test_only_what_was_written_last_is_sent_in_the_stop(
    program: HostedProgram, tmp_path: Path
) -> None:
    there, module = hosting(tmp_path / "there"), program.program.module
    leaving = program.leave(files=LIMIT)
    assert leaving.files_size >= len(LARGE)
    with open(tmp_path / "image", "w+b") as image:
        arrival = there.arrival(
            image=image.fileno(), rest=leaving.rest_size, files=leaving.files_size
        )
        sent = Sent(leaving, arrival)
        if leaving.early:  # a busy machine may have found that a scan takes too long
            arrival.early(leaving.early)
            arrival.prepare({module.digest: module.binary})
        for _ in range(3):
            before = length(tmp_path / "here")
            sent.round()
            arrival.sync()
            grown(tmp_path / "here", 3)
        sent.round(last=True)
        sent.finish(since=bool(leaving.early))
        first, *_, last = sent.files
        assert first >= len(LARGE)
        # How much the program wrote meanwhile depends on the machine; the rest had come before.
        assert last <= length(tmp_path / "here") - before + CHUNK
        assert sent.rest < 20_000, "the rest has no files"
        arrival.sync()
        go_on(sent, program, tmp_path)
        decoder = Decoder()
        decoder.feed((tmp_path / "image").read_bytes())
        state = decoder.finish()
        assert state.wasi is not None and state.files is not None
        assert all(digest in state.files for digest in named_chunks(state.wasi))


def staged_in(folder: Path) -> list[Path]:
    """The working folders of a tree."""
    return list((folder / "data").glob(".wasmsr-staging-*"))


def ahead(program: HostedProgram, tmp_path: Path) -> tuple[Sent, Hosting]:
    """A program that has been sent, whose files were made between its rounds."""
    there, module = hosting(tmp_path / "there"), program.program.module
    leaving = program.leave(files=LIMIT)
    while not leaving.early:  # a busy machine may have found that a scan takes too long
        leaving.close()
        leaving = program.leave(files=LIMIT)
    arrival = there.arrival(program=b"p" * 16, files=leaving.files_size)
    sent = Sent(leaving, arrival)
    arrival.early(leaving.early)
    arrival.prepare({module.digest: module.binary})
    for _ in range(2):
        sent.round()
        arrival.sync()
        arrival.place()
        grown(tmp_path / "here", 3)
    (folder,) = staged_in(tmp_path / "there")
    assert sum(one.stat().st_size for one in folder.iterdir()) >= len(LARGE)
    assert not (tmp_path / "there" / "data" / "large").exists(), "it is no part of the tree yet"
    sent.round(last=True)
    sent.finish(since=True)
    return sent, there


def test_files_are_made_between_the_rounds(
    program: HostedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When the program starts, only what has changed since is written."""
    sent, _ = ahead(program, tmp_path)
    written: list[int] = []
    put = staged_files._put

    def note(host: int, data: bytes, offset: int) -> None:
        written.append(len(data))
        put(host, data, offset)

    def whole(*given: object) -> None:
        raise AssertionError("a file was made anew")

    monkeypatch.setattr(staged_files, "_put", note)
    monkeypatch.setattr(tree_restore, "write_chunks", whole)
    go_on(sent, program, tmp_path)
    assert written and sum(written) <= length(tmp_path / "here")
    assert len(LARGE) not in written and sum(written) < len(LARGE)
    assert not staged_in(tmp_path / "there")


@pytest.mark.parametrize("ready", [False, True])
def test_files_of_a_move_that_fails_are_gone(
    program: HostedProgram, tmp_path: Path, ready: bool
) -> None:
    sent, _ = ahead(program, tmp_path)
    if ready:
        module = program.program.module
        sent.arrival.restore(b"p" * 16, {module.digest: module.binary}).close()
    else:
        sent.arrival.close()
    assert not list((tmp_path / "there" / "data").iterdir())
    sent.leaving.close()


def test_files_that_cannot_be_made_are_made_later(
    program: HostedProgram, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is full between the rounds, and has room when the program comes."""

    def full_disk(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    there, module = hosting(tmp_path / "there"), program.program.module
    leaving = program.leave(files=LIMIT)
    arrival = there.arrival(program=b"p" * 16)
    sent = Sent(leaving, arrival)
    if leaving.early:
        arrival.early(leaving.early)
        arrival.prepare({module.digest: module.binary})
    with monkeypatch.context() as patched:
        patched.setattr(staged_files, "_put", full_disk)
        sent.round()
        arrival.sync()
        arrival.place()
        arrival.place()
    assert not staged_in(tmp_path / "there")
    sent.round(last=True)
    sent.finish(since=bool(leaving.early))
    go_on(sent, program, tmp_path)


def test_what_the_destination_does_not_take_is_in_the_rest(
    program: HostedProgram, tmp_path: Path
) -> None:
    there = hosting(tmp_path / "there")
    leaving = program.leave(files=3 * CHUNK)
    sent = Sent(leaving, there.arrival())
    sent.round()
    sent.round(last=True)
    assert sum(sent.files) <= 3 * CHUNK
    sent.finish(since=False)
    assert sent.rest > len(LARGE) - 3 * CHUNK
    go_on(sent, program, tmp_path)


def test_an_end_that_takes_none_gets_all_in_the_rest(
    program: HostedProgram, tmp_path: Path
) -> None:
    there = hosting(tmp_path / "there")
    leaving = program.leave()
    assert not leaving.early and not leaving.files_size
    sent = Sent(leaving, there.arrival())
    sent.round()
    sent.round(last=True)
    assert sent.files == [0, 0]
    sent.finish(since=False)
    assert sent.rest > len(LARGE)
    go_on(sent, program, tmp_path)


def test_what_was_held_is_not_sent(program: HostedProgram, tmp_path: Path) -> None:
    leaving = program.leave(files=LIMIT)
    before = length(tmp_path / "here")
    digests = [digest for batch in leaving.files() for digest in batch.digests]
    leaving.close()
    again = program.leave(digests, files=LIMIT)
    assert again.files_size <= length(tmp_path / "here") - before + CHUNK
    again.close()


def test_a_move_that_fails_leaves_no_trace(program: HostedProgram, tmp_path: Path) -> None:
    """Writes are noted no more, and the program runs on."""
    leaving = program.leave(files=LIMIT)
    list(leaving.files())
    wasi = program.program.wasi
    assert wasi is not None
    (tree,) = wasi.process.trees.values()
    watched = [tree.watch is not None]
    leaving.close()
    watched.append(tree.watch is not None)
    assert watched == [True, False]
    grown(tmp_path / "here", 5)
    assert program.pause(30)
    check(tmp_path / "here")
    (tmp_path / "here" / "data" / "large").write_bytes(os.urandom(100))


def test_a_beginning_that_fails_leaves_no_trace(
    program: HostedProgram, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(leaving: LeavingProgram, trial: bool) -> bool:
        raise SnapshotError("as the test wants it")

    wasi = program.program.wasi
    assert wasi is not None
    (tree,) = wasi.process.trees.values()
    with monkeypatch.context() as patched:
        patched.setattr(LeavingProgram, "_begin", fail)
        with pytest.raises(SnapshotError, match="as the test wants it"):
            program.leave(files=LIMIT)
    assert tree.watch is None
    program.leave(files=LIMIT).close()


def test_a_file_that_cannot_be_read_is_no_matter_before_the_stop(
    program: HostedProgram, tmp_path: Path
) -> None:
    """A FIFO is in the folder for a while; what stays is named at the end."""
    fifo = tmp_path / "here" / "data" / "fifo"
    os.mkfifo(fifo)
    leaving = program.leave(files=LIMIT)
    assert not leaving.early and not list(leaving.files())
    fifo.unlink()
    assert list(leaving.files())
    os.mkfifo(fifo)
    assert leaving.round(lambda *_: True, 30)
    with pytest.raises(Exception, match="fifo is a device, FIFO or socket"):
        list(leaving.files())
    leaving.close()
