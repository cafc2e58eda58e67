"""What arrives is held against this end's policy itself, whatever was announced for it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from tests.migrate.arriving import arrived
from wasmsr import Module, Snapshot, Store, WasmsrError
from wasmsr.migrate.handover.reception import Reception
from wasmsr.migrate.hosting.arriving_files import ArrivingFiles
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.migrate.protocol import (
    JournalError,
    Move,
    PeerRefused,
    ProgramLimits,
    Reason,
    Receipt,
)
from wasmsr.program.program import Program
from wasmsr.runspec.grants import HostGrants
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.filesystem.mounts import Mount
from wasmsr.wasi.state.manifest import TreeEntry

PLAIN = Module.from_text('(module (memory 2) (func (export "_start") (loop br 0)))')
SIMD = Module.from_text('(module (func (export "f") (drop (v128.const i64x2 1 2))))')
OTHER = Module.from_text("(module (func))")


def hosting(folder: Path, **options: Any) -> Hosting:
    return Hosting(lambda: HostGrants(stdin=None), known={}, files=folder, **options)


def paused(*modules: Module) -> SnapshotState:
    store = Store()
    instances = [store.instantiate(module) for module in modules]
    if modules and modules[0] is PLAIN:
        store.enqueue(instances[0].function("_start"))
        store.run(fuel=10)
    return Snapshot.of(store, embed=True).state


def arrive(there: Hosting, snapshot: SnapshotState, announced: Module = PLAIN) -> None:
    arrival = arrived(there, snapshot)
    arrival.restore(b"p" * 16, {announced.digest: announced.binary}).close()


def test_what_was_announced_arrives(tmp_path: Path) -> None:
    arrive(hosting(tmp_path, features="-simd"), paused(PLAIN))


@pytest.mark.parametrize(
    "snapshot",
    [paused(PLAIN, SIMD), paused(SIMD, PLAIN), paused(OTHER), paused(PLAIN, OTHER), paused()],
)
def test_other_modules_than_announced(tmp_path: Path, snapshot: SnapshotState) -> None:
    with pytest.raises(WasmsrError, match="other modules than were announced"):
        arrive(hosting(tmp_path, features="-simd"), snapshot)


def test_a_module_that_needs_what_is_off(tmp_path: Path) -> None:
    with pytest.raises(WasmsrError, match="simd"):
        arrive(hosting(tmp_path, features="-simd"), paused(SIMD), SIMD)
    arrive(hosting(tmp_path), paused(SIMD), SIMD)


def _table(s: SnapshotState) -> None:
    s.limits.table_elements = 1 << 28


def _stack(s: SnapshotState) -> None:
    s.limits.stack_slots = 1 << 27


def _frames(s: SnapshotState) -> None:
    s.limits.stack_frames = 1 << 25


def _memory(s: SnapshotState) -> None:
    s.limits.memory_pages = 1 << 20


@pytest.mark.parametrize("change", [_table, _stack, _frames, _memory])
def test_limits_beyond_those_here(tmp_path: Path, change: Callable[[SnapshotState], None]) -> None:
    snapshot = paused(PLAIN)
    change(snapshot)
    with pytest.raises(WasmsrError, match="is the most here"):
        arrive(hosting(tmp_path), snapshot)
    offered = replace(
        hosting(tmp_path).launch(lambda grants: Program.launch(PLAIN, grants=grants)).describe(),
        limits=ProgramLimits(
            snapshot.limits.memory_pages,
            snapshot.limits.table_elements,
            snapshot.limits.stack_slots,
            snapshot.limits.stack_frames,
        ),
    )
    refusal = hosting(tmp_path).refuse(offered)
    assert refusal is not None and refusal.reason is Reason.LIMIT


def test_a_memory_larger_than_this_end_gives(tmp_path: Path) -> None:
    there = hosting(tmp_path, max_pages=1)
    with pytest.raises(WasmsrError, match="memory 0 of 2 pages exceeds the limit of 1"):
        arrive(there, paused(PLAIN))
    arrive(hosting(tmp_path, max_pages=2), paused(PLAIN))


READS = Module.from_text("""(module
  (import "wasi_snapshot_preview1" "sched_yield" (func $y (result i32)))
  (memory (export "memory") 1) (func (export "_start") (loop (drop (call $y)) (br 0))))""")


def test_mounts_that_were_not_announced(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    grants = HostGrants(stdin=None, mounts=[Mount(tmp_path / "d", "/secret")])
    program = Program.launch(READS, grants=grants)
    program.stop_conditions.fuel = 10
    program.start()
    program.wait(30)
    snapshot = program.snapshot()
    snapshot.limits.fuel = None
    with pytest.raises(WasmsrError, match=r"not what was announced.*/secret"):
        arrive(hosting(tmp_path), snapshot, READS)
    program.close()


def test_a_program_is_closed_whose_image_cannot_be_kept(tmp_path: Path) -> None:
    """It was restored already; nobody else would ever close it."""
    events: list[str] = []

    def fails() -> None:
        raise JournalError("the disk fails")

    program = SimpleNamespace(close=lambda: events.append("closed"))
    reception = object.__new__(Reception)
    reception.move, reception.source, reception.memory = (
        Move(b"p" * 16, 2, b"a" * 16),
        "there",
        False,
    )
    reception._receiver = cast(Any, SimpleNamespace(restore=lambda *values: program))
    reception._image = cast(Any, SimpleNamespace(name="image", commit=fails))
    reception._syncing = cast(Any, SimpleNamespace(start=lambda: None, wait=lambda: None))
    reception._arrival, reception._node = cast(Any, None), b"n" * 16
    reception._description = cast(Any, SimpleNamespace(modules=(), shown=b"", fed=b"", lease=None))
    with pytest.raises(PeerRefused, match="the disk fails"):
        reception._ready(Receipt(1, b"r" * 32))
    assert events == ["closed"]


def test_folders_for_files_of_a_move_that_fails_are_gone(tmp_path: Path) -> None:
    """But for what was there before, or has something by now."""
    (tmp_path / "there").mkdir()
    trees: dict[str, tuple[Path, list[TreeEntry]]] = {
        "new": (tmp_path / "files" / "id" / "new", []),
        "there": (tmp_path / "there", []),
        "used": (tmp_path / "used", []),
    }
    files = ArrivingFiles(trees, {}, 1 << 20, lambda digest: None)
    assert (tmp_path / "files" / "id" / "new").is_dir()
    (tmp_path / "used" / "file").touch()
    files.give_up()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["there", "used"]
