"""What becomes of files when a program is killed and continues from its last checkpoint: the table
in docs/files.md, row by row.

The program keeps a file open. In each turn it overwrites the file's first bytes, appends a line,
and makes a new file. It is checkpointed at a turn A, goes on to a turn B, and is killed there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from wasmsr import Module, Mount
from wasmsr.errors import SnapshotError
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.checkpoints import checkpointer as writing
from wasmsr.snapshot.checkpoints.checkpointer import Checkpointer
from wasmsr.snapshot.checkpoints.folder import CheckpointFolder
from wasmsr.snapshot.format import content_digest
from wasmsr.snapshot.state import SnapshotState

GUEST = """(module
  (import "wasi_snapshot_preview1" "path_open"
    (func $open (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_pwrite"
    (func $pwrite (param i32 i32 i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_seek"
    (func $seek (param i32 i64 i32 i32) (result i32)))
  (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
  (memory (export "memory") 1)
  (data (i32.const 64) "open.txt")
  (data (i32.const 80) "new-0")
  (data (i32.const 96) "0000000\\n")
  (func $count (local $at i32)  ;; the decimal number at 96, plus 1
    (local.set $at (i32.const 102))
    (loop $carry
      (i32.store8 (local.get $at) (i32.add (i32.load8_u (local.get $at)) (i32.const 1)))
      (if (i32.gt_u (i32.load8_u (local.get $at)) (i32.const 57)) (then
        (i32.store8 (local.get $at) (i32.const 48))
        (local.set $at (i32.sub (local.get $at) (i32.const 1)))
        (br $carry)))))
  (func (export "_start") (local $file i32)
    (i32.store (i32.const 0) (i32.const 96)) (i32.store (i32.const 4) (i32.const 8))
    (drop (call $open (i32.const 3) (i32.const 0) (i32.const 64) (i32.const 8) (i32.const 1)
      (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 8)))
    (local.set $file (i32.load (i32.const 8)))
    (drop (call $seek (local.get $file) (i64.const 0) (i32.const 2) (i32.const 16)))
    (loop $turn
      (call $count)
      (drop (call $pwrite (local.get $file) (i32.const 0) (i32.const 1) (i64.const 0)
        (i32.const 12)))
      (drop (call $write (local.get $file) (i32.const 0) (i32.const 1) (i32.const 12)))
      (i32.store8 (i32.const 84) (i32.load8_u (i32.const 102)))
      (if (i32.eqz (call $open (i32.const 3) (i32.const 0) (i32.const 80) (i32.const 5)
          (i32.const 1) (i64.const 0x1fffffff) (i64.const 0) (i32.const 0) (i32.const 8)))
        (then (drop (call $close (i32.load (i32.const 8))))))
      (br $turn))))"""
TURN = 47
"""Instructions of a turn, about; each stage below has several turns."""
MODULE = Module.from_text(GUEST)


def run(program: Program, turns: int) -> None:
    """Let a program run for about so many turns."""
    program.stop_conditions.stop = (program.executed or 0) + TURN * turns
    program.start()
    program.wait()
    program.passed_stop()


class Life:
    """A program with a folder, its checkpoints, and the state at the last of them."""

    def __init__(self, place: Path, mode: str) -> None:
        self.work, self.mode = place / "work", mode
        self.work.mkdir()
        # Where a file has no generation number, the 4 KiB before the offset must be as they were.
        (self.work / "open.txt").write_bytes(b"." * 8192)
        (place / "checkpoints").mkdir()
        self.folder = CheckpointFolder(place / "checkpoints")
        self.saved: SnapshotState | None = None
        self.program = Program.launch(MODULE, grants=self.grants())
        self.checkpointer = Checkpointer(self.folder, failed=lambda error: None)

    def grants(self) -> HostGrants:
        host = None if self.mode == "mem" else self.work
        mounts = [Mount(host, "/w", self.mode)]
        return HostGrants(mounts=mounts, stdin=None, on_changed="truncate")

    def go(self, turns: int) -> None:
        run(self.program, turns)

    def checkpoint(self) -> str:
        """Take a checkpoint; return the digest of the state."""
        snapshot = self.program.snapshot(embed=True)
        digest = content_digest(snapshot).hex()
        assert self.checkpointer.take(self.program.store, lambda: snapshot)
        self.checkpointer.wait()
        return digest

    def files(self) -> dict[str, bytes]:
        return {path.name: path.read_bytes() for path in sorted(self.work.iterdir())}

    def killed(self) -> None:
        """Forget the program as a kill does: nothing of it is closed in order."""
        self.checkpointer.close()

    def resumed(self) -> Program:
        _, state = self.folder.load(warn=lambda sentence: None)
        self.saved = state
        return Program.resume(state, module=MODULE, grants=self.grants())


def _after_a_checkpoint(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment is between two checkpoints."""


def _during_a_checkpoint(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The moment is while the next one is written: a part of it lies there."""
    (last,) = life.folder.numbers()
    data = Path(life.folder.file(last)).read_bytes()
    Path(life.folder.file(last + 1)).write_bytes(data[: len(data) // 2])
    Path(life.folder.file(last) + ".xyz.part").write_bytes(data[:100])


def _with_a_full_disk(life: Life, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next one could not be written."""

    def full(*_: object, **__: object) -> int:
        raise SnapshotError("no space is left")

    monkeypatch.setattr(writing, "save_pieces", full)
    life.checkpoint()
    monkeypatch.undo()


MOMENTS: list[Callable[[Life, pytest.MonkeyPatch], None]] = [
    _after_a_checkpoint,
    _during_a_checkpoint,
    _with_a_full_disk,
]


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda one: one.__name__.strip("_"))
@pytest.mark.parametrize("mode", ["host", "ro", "carry", "overlay", "mem"])
def test_files_after_a_crash(
    mode: str,
    moment: Callable[[Life, pytest.MonkeyPatch], None],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    life = Life(tmp_path, mode)
    life.go(5)
    digest, at_a = life.checkpoint(), life.files()
    life.go(5)
    moment(life, monkeypatch)
    at_b = life.files()
    life.killed()
    program = life.resumed()
    assert life.saved is not None and content_digest(life.saved).hex() == digest
    after = life.files()
    if mode == "host":
        assert set(after) == set(at_b) > set(at_a), "new files stay"
        assert len(after["open.txt"]) == len(at_a["open.txt"]), "what was appended is gone"
        assert after["open.txt"][:8] == at_b["open.txt"][:8], "what was overwritten stays"
        assert after["open.txt"][8:] == at_a["open.txt"][8:]
    elif mode == "carry":
        assert after == at_a != at_b, "everything is as it was"
    else:
        assert after == at_a == at_b, "the folder never changed"
    again = program.snapshot(embed=True)
    if mode in ("overlay", "mem"):
        assert again.wasi is not None and life.saved.wasi is not None
        assert again.wasi["mounts"] == life.saved.wasi["mounts"], "the tree is as it was"
    run(program, 5)
    assert program.store.frames(), "it goes on"
    program.close()


def test_before_the_first_checkpoint_there_is_nothing_to_continue(tmp_path: Path) -> None:
    life = Life(tmp_path, "host")
    life.go(5)
    before = life.files()
    life.killed()
    with pytest.raises(SnapshotError, match="no complete checkpoint"):
        life.resumed()
    assert life.files() == before


@pytest.mark.parametrize("change", ["shorter", "gone", "another"])
def test_an_open_file_of_the_host_that_cannot_be_right_is_refused(
    change: str, tmp_path: Path
) -> None:
    life = Life(tmp_path, "host")
    life.go(5)
    life.checkpoint()
    life.killed()
    path = life.work / "open.txt"
    if change == "shorter":
        os.truncate(path, 3)
    else:
        path.unlink()
        if change == "another":
            path.write_bytes(b"x" * 1000)
    with pytest.raises(SnapshotError, match=r"open\.txt"):
        life.resumed()
