"""The plain state: a snapshot as parts, and back; and what is no plain state."""

from __future__ import annotations

import os
import random
from dataclasses import replace
from pathlib import Path

import pytest

from wasmsr import Module, Paused, Snapshot, Store, UnportableState
from wasmsr.errors import HandedOver, SnapshotError
from wasmsr.snapshot.encoding.reader import decode
from wasmsr.snapshot.format import content_digest, encode, mark_handed
from wasmsr.snapshot.runnable import plain_state as plain
from wasmsr.snapshot.runnable.doorway import as_snapshot
from wasmsr.snapshot.runnable.exporting import make_runnable
from wasmsr.snapshot.runnable.incoming import read_plain
from wasmsr.snapshot.runnable.outgoing import plain_program
from wasmsr.snapshot.state import SnapshotState
from wasmsr.snapshot.tools.export import write_runnable
from wasmsr.snapshot.tools.opened import open_snapshot
from wasmsr.wasi.facade import Wasi
from wasmsr.wasi.filesystem.mounts import Mount

EVERYTHING = """(module
  (type $f (func (param i32) (result i32)))
  (tag $t (param i32 i64))
  (tag $inner (param exnref f64))
  (memory (export "memory") 2 9)
  (table $functions 4 9 funcref)
  (table $caught 2 exnref)
  (global $i (mut i32) (i32.const 7))
  (global $v (mut v128) (v128.const i64x2 1 -2))
  (global $e (mut exnref) (ref.null exn))
  (elem (table $functions) (i32.const 1) func $double)
  (elem $gone func $double)
  (data (i32.const 70000) "here")
  (data $passive "never")
  (func $double (type $f) (i32.mul (local.get 0) (i32.const 2)))
  (func (export "run") (param i32 v128) (result i64) (local f64 exnref)
    (local.set 2 (f64.const 1.5))
    (elem.drop $gone)
    (local.set 3 (block (result exnref) (try_table (catch_all_ref 0)
      (throw $t (i32.const 5) (i64.const -6))) (unreachable)))
    (global.set $e (block (result exnref) (try_table (catch_all_ref 0)
      (throw $inner (local.get 3) (f64.const 0.25))) (unreachable)))
    (table.set $caught (i32.const 1) (local.get 3))
    (drop (memory.grow (i32.const 1)))
    (i32.store (i32.const 150000) (i32.const 9))
    (loop (local.set 0 (call $double (local.get 0)))
      (i64x2.extract_lane 1 (local.get 1)) (drop)
      (br_if 0 (f64.lt (local.get 2) (f64.const 2)))) (i64.const 1)))"""


def everything() -> tuple[SnapshotState, bytes]:
    """A state with all that a program can have of its own, and its module."""
    module = Module.from_text(EVERYTHING)
    with Store() as store:
        run = store.instantiate(module).function("run")
        store.enqueue(run, 3, 1 << 100)
        assert store.run(fuel=200) == Paused("fuel")
        return Snapshot.of(store).state, bytes(module.binary)


def packed(state: SnapshotState, binary: bytes) -> bytes:
    """A state as the file that a runnable module writes."""
    program = plain_program(state, [binary])
    parts = {
        kind: bytes(part) for kind, part in plain.split_parts(memoryview(program.head)).items()
    }
    return plain.join_parts({**parts, plain.PAGES: b"".join(program.pages())})


def test_everything_comes_back() -> None:
    state, binary = everything()
    assert state.exceptions and state.thread.frames and state.instances[0].dropped_elements
    back = read_plain(memoryview(packed(state, binary)))
    assert content_digest(back) == content_digest(state)
    embedded = read_plain(memoryview(packed(state, binary)), embed=True)
    assert embedded.modules[0].binary == binary


def test_it_is_read_wherever_a_snapshot_is(tmp_path: Path) -> None:
    state, binary = everything()
    file = tmp_path / "state.wsp"
    file.write_bytes(packed(state, binary))
    assert content_digest(Snapshot.load(file).state) == content_digest(state)
    pieces = list(as_snapshot([file.read_bytes()[:5], file.read_bytes()[5:]]))
    assert content_digest(decode(b"".join(pieces))) == content_digest(state)
    snapshot = b"".join(encode(state))
    assert b"".join(as_snapshot([snapshot[:3], snapshot[3:]])) == snapshot
    assert list(as_snapshot([])) == []


def test_damage_is_an_error() -> None:
    """A cut anywhere, and a changed byte anywhere: a typed error, or the same program."""
    state, binary = everything()
    data = packed(state, binary)
    for size in [*range(200), *range(200, len(data), 97)]:
        with pytest.raises(SnapshotError):
            read_plain(memoryview(data[:size]))
    chosen = random.Random(5)
    for _ in range(600):
        changed = bytearray(data)
        changed[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
        try:
            found = read_plain(memoryview(bytes(changed)))
        except SnapshotError:
            continue
        assert [one.digest for one in found.modules] == [one.digest for one in state.modules]


def test_lies_about_sizes_cost_nothing() -> None:
    """Lengths that say more than there is, or more than may be, are refused first."""
    state, binary = everything()
    parts = {
        kind: bytes(part)
        for kind, part in plain.split_parts(memoryview(packed(state, binary))).items()
    }
    huge = 2**32 - 1
    lies = {
        plain.SIZES: plain.u64(2**40),
        plain.RUNS: plain.u32(0, 0, huge, 0),
        plain.MODULES: plain.u32(huge) + b"x",
        plain.SEGMENTS: plain.u32(huge),
        plain.LIMITS: plain.u64(1),
        plain.WASI: plain.u32(0, 0, 0),
        plain.TEMPLATE: plain.u32(huge),
    }
    for kind, lie in lies.items():
        if kind == plain.WASI:
            continue  # this program has no WASI, so nobody reads the part
        with pytest.raises(SnapshotError):
            read_plain(memoryview(plain.join_parts({**parts, kind: lie})))
    for kind in (plain.THREADS, plain.TEMPLATE, plain.MODULES):
        with pytest.raises(SnapshotError, match=f"no part of kind {kind}"):
            read_plain(memoryview(plain.join_parts({k: v for k, v in parts.items() if k != kind})))


def test_what_cannot_go_along_is_named(tmp_path: Path) -> None:
    state, binary = everything()
    with pytest.raises(UnportableState, match="an object of the host"):
        make_runnable(replace(state, externs=["one"]), [binary])
    with pytest.raises(UnportableState, match="is not in the snapshot"):
        make_runnable(state, [None])
    module = Module.from_text('(module (import "env" "log" (func)) (func (export "_start")))')
    with Store() as store:
        store.instantiate(module, {"env": {"log": lambda: None}})
        found = Snapshot.of(store).state
    with pytest.raises(UnportableState, match=r"the host function env\.log"):
        make_runnable(found, [bytes(module.binary)])


def test_files_in_the_snapshot_go_to_a_folder(tmp_path: Path) -> None:
    (tmp_path / "carried").mkdir()
    (tmp_path / "carried" / "a.txt").write_text("hello")
    (tmp_path / "carried" / "sub").mkdir()
    (tmp_path / "carried" / "sub" / "b.bin").write_bytes(bytes(100_000) + b"end")
    module = Module.from_text('(module (memory (export "memory") 1) (func (export "_start")))')
    with (
        Wasi(mounts=[Mount(tmp_path / "carried", "/data", "carry")]) as wasi,
        Store() as store,
    ):
        store.instantiate(module, wasi.imports)
        state = Snapshot.of(store, wasi=wasi).state
    with pytest.raises(UnportableState, match="the files of /data are in it") as refused:
        make_runnable(state, [bytes(module.binary)])
    assert refused.value.hint is not None and "--files FOLDER" in refused.value.hint
    made = make_runnable(state, [bytes(module.binary)], str(tmp_path / "out"))
    [(place, guest)] = made.mounts
    assert guest == "/data" and place is not None
    assert (Path(place) / "a.txt").read_text() == "hello"
    assert (Path(place) / "sub" / "b.bin").read_bytes() == bytes(100_000) + b"end"
    assert made.command("x y.wasm") == f"wasmtime run --dir={place}::/data 'x y.wasm'"
    with pytest.raises(SnapshotError, match="File exists"):
        make_runnable(state, [bytes(module.binary)], str(tmp_path / "out"))
    assert (Path(place) / "a.txt").exists()
    # What cannot go along, or cannot be written, leaves nothing.
    new = str(tmp_path / "new")
    with pytest.raises(UnportableState):
        make_runnable(replace(state, externs=["one"]), [bytes(module.binary)], new)
    assert not os.path.exists(new)
    assert state.wasi is not None
    (mount,) = state.wasi["mounts"]
    mounts = [mount, {**mount, "guest": b"/\xff" + b"n" * 300}]
    with pytest.raises(SnapshotError):
        two = replace(state, wasi={**state.wasi, "mounts": mounts})
        make_runnable(two, [bytes(module.binary)], new)
    assert os.listdir(new) == []


def test_a_program_that_was_handed_over_is_not_exported(tmp_path: Path) -> None:
    """It would run twice."""
    state, binary = everything()
    file = tmp_path / "snapshot.bin"
    file.write_bytes(b"".join(encode(state)))
    module = Module(binary)
    write_runnable(open_snapshot(file), [module], str(tmp_path / "one.wasm"), None)
    mark_handed(file)
    with pytest.raises(HandedOver, match="handed over to another host"):
        write_runnable(open_snapshot(file), [module], str(tmp_path / "two.wasm"), None)
    assert not (tmp_path / "two.wasm").exists()
