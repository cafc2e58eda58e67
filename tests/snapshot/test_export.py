"""Plain modules and coredumps of saved programs, read by other engines and tools."""

from __future__ import annotations

import random
import shutil
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from wasmsr import FuncType, HostFunction, Module, Snapshot, Store, UnportableState, ValType
from wasmsr.snapshot.encoding.writer import encode
from wasmsr.snapshot.format import save_pieces
from wasmsr.snapshot.tools import module_binary as wasm
from wasmsr.snapshot.tools.export import write_coredump, write_wasm
from wasmsr.snapshot.tools.opened import OpenedSnapshot, open_snapshot

wasmtime: Any = pytest.importorskip("wasmtime", reason="Wasmtime runs what is exported")

GUEST = """(module
  (type $t (func (param i32) (result i32)))
  (import "env" "log" (func $log (param i32)))
  (memory (export "memory") 1 20)
  (table $ops (export "ops") 3 10 funcref)
  (table $other 2 funcref)
  (global $count (export "count") (mut i32) (i32.const 0))
  (global $big (mut i64) (i64.const 0))
  (global $f (mut f32) (f32.const 0))
  (global $d (mut f64) (f64.const 0))
  (global $v (mut v128) (v128.const i32x4 0 0 0 0))
  (global $r (mut funcref) (ref.null func))
  (global $e (mut externref) (ref.null extern))
  (global $seven i32 (i32.const 7))
  (elem $kept func $double $triple)
  (elem $dropped func $triple)
  (elem (table $ops) (i32.const 0) func $double)
  (elem declare func $declared $log)
  (data $still "still here")
  (data $gone "gone")
  (data (i32.const 100) "at first")
  (func $double (type $t) (i32.mul (local.get 0) (i32.const 2)))
  (func $triple (type $t) (i32.mul (local.get 0) (i32.const 3)))
  (func $declared (type $t) (i32.add (local.get 0) (i32.const 1000)))
  (func (export "warm")
    (drop (memory.grow (i32.const 3)))
    (i32.store offset=100 (i32.const 0) (i32.const 0x01020304))
    (i32.store (i32.const 262000) (i32.const 99))
    (global.set $count (i32.const -5))
    (global.set $big (i64.const -6))
    (global.set $f (f32.reinterpret_i32 (i32.const 0x7fa00001)))
    (global.set $d (f64.const -0.0))
    (global.set $v (v128.const i32x4 1 2 3 4))
    (global.set $r (ref.func $declared))
    (table.set $ops (i32.const 1) (ref.func $triple))
    (drop (table.grow $ops (ref.func $declared) (i32.const 2)))
    (table.set $other (i32.const 1) (ref.func $log))
    (elem.drop $dropped)
    (data.drop $gone)
    (call $log (i32.const 1)))
  (func (export "use") (param i32 i32) (result i32)
    (call $log (local.get 1))
    (global.set $count (i32.add (global.get $count) (i32.const 1)))
    (call_indirect $ops (type $t) (local.get 1) (local.get 0)))
  (func (export "sum") (result i64)
    (i64.add (global.get $big) (i64.add (i64.extend_i32_s (global.get $count))
      (i64.add (i64.extend_i32_u (i32.reinterpret_f32 (global.get $f)))
        (i64.add (i64.reinterpret_f64 (global.get $d))
          (i64.extend_i32_u (i32x4.extract_lane 3 (global.get $v))))))))
  (func (export "still") (param i32)
    (memory.init $still (i32.const 3000) (i32.const 0) (local.get 0)))
  (func (export "gone") (param i32)
    (memory.init $gone (i32.const 3000) (i32.const 0) (local.get 0)))
  (func (export "dropped") (table.init $ops $dropped (i32.const 0) (i32.const 0) (i32.const 1)))
  (func (export "kept") (table.init $ops $kept (i32.const 0) (i32.const 1) (i32.const 1)))
  (func (export "nulls") (result i32)
    (i32.add (ref.is_null (global.get $r))
      (i32.add (i32.mul (i32.const 10) (ref.is_null (global.get $e)))
        (i32.mul (i32.const 100) (ref.is_null (table.get $other (i32.const 0)))))))
  (func (export "size") (result i32) (i32.add (memory.size) (table.size $ops)))
  (func (export "load") (param i32) (result i32) (i32.load (local.get 0)))
  (start $begin)
  (func $begin (global.set $count (i32.const 77))))"""

CALLS: list[tuple[str, tuple[int, ...]]] = [
    ("size", ()),
    ("sum", ()),
    ("nulls", ()),
    *[("use", (place, 5)) for place in range(6)],
    *[("load", (at,)) for at in (0, 100, 104, 262000, 3000)],
    ("gone", (0,)),
    ("gone", (1,)),
    ("still", (5,)),
    ("load", (3000,)),
    ("dropped", ()),
    ("kept", ()),
    ("use", (0, 7)),
    ("sum", ()),
    ("size", ()),
]
"""What both engines are asked, one after the other; some of it traps."""


def log() -> dict[str, dict[str, Any]]:
    return {"env": {"log": HostFunction(FuncType((ValType.I32,), ()), lambda caller, value: None)}}


def opened(tmp_path: Path, store: Store) -> OpenedSnapshot:
    path = tmp_path / "saved.bin"
    save_pieces(encode(Snapshot.of(store, embed=True).state, version=2), path)
    return open_snapshot(path)


def warmed(store: Store) -> Any:
    instance: Any = store.instantiate(Module.from_text(GUEST), log())
    instance.exports["warm"]()
    return instance


def asked(call: Any) -> object:
    """What a call gives; a trap is one answer, whatever the engine calls it."""
    try:
        return call()
    except Exception:  # noqa: BLE001 (each engine has its own)
        return "trap"


def test_another_engine_continues_where_the_program_was(tmp_path: Path) -> None:
    with Store() as store:
        instance = warmed(store)
        write_wasm(opened(tmp_path, store), [], str(tmp_path / "x.wasm"))
        mine = [asked(lambda n=n, a=a: instance.exports[n](*a)) for n, a in CALLS]
    engine = wasmtime.Store()
    module = wasmtime.Module(engine.engine, (tmp_path / "x.wasm").read_bytes())
    function = wasmtime.Func(
        engine, wasmtime.FuncType([wasmtime.ValType.i32()], []), lambda value: None
    )
    exports = wasmtime.Instance(engine, module, [function]).exports(engine)
    theirs = [asked(lambda n=n, a=a: exports[n](engine, *a)) for n, a in CALLS]
    assert theirs == mine
    assert "trap" in mine and mine[0] == 4 + 5


def test_our_own_engine_gets_the_same_memories(tmp_path: Path) -> None:
    source = random.Random(4)
    with Store() as store:
        text = '(module (memory (export "m") 40))'
        instance: Any = store.instantiate(Module.from_text(text))
        view = instance.exports["m"].data
        for _ in range(3000):
            at = source.randrange(len(view) - 300)
            size = source.choice((1, 2, 63, 64, 65, 300))
            view[at : at + size] = source.randbytes(size)
        view[65530:65545] = b"over the border"
        wanted = bytes(view)
        del view
        write_wasm(opened(tmp_path, store), [], str(tmp_path / "x.wasm"))
    with Store() as store:
        again: Any = store.instantiate(Module((tmp_path / "x.wasm").read_bytes()))
        assert bytes(again.exports["m"].data) == wanted


def test_segments_stay_below_the_limit_of_engines() -> None:
    data = bytearray(40 << 20)
    data[::300] = b"x" * len(data[::300])
    found = wasm.data_segments(0, memoryview(data), False)
    assert 0 < len(found) <= 50_000


@pytest.mark.parametrize(
    ("text", "imports", "match"),
    [
        ('(module (import "a" "m" (memory 1)))', "m", r"the memory a\.m is imported"),
        ('(module (import "a" "g" (global i32)))', "g", r"the global a\.g is imported"),
    ],
)
def test_imports_other_than_functions_are_refused(
    text: str, imports: str, match: str, tmp_path: Path
) -> None:
    given = '(module (memory (export "m") 1) (global (export "g") i32 (i32.const 1)))'
    with Store() as store:
        first = store.instantiate(Module.from_text(given))
        second = Module.from_text(text)
        store.instantiate(second, {"a": {imports: first.exports[imports]}})
        found = opened(tmp_path, store)
        with pytest.raises(UnportableState, match="has 2 instances, not one"):
            write_wasm(found, [], str(tmp_path / "x.wasm"))
        found.state.instances.pop(0)
        found.state.instances[0].functions = []
        with pytest.raises(UnportableState, match=match):
            write_wasm(found, [], str(tmp_path / "x.wasm"))
    assert not (tmp_path / "x.wasm").exists()


def test_what_cannot_go_is_named(tmp_path: Path) -> None:
    out = str(tmp_path / "x.wasm")
    with Store() as store:
        instance = warmed(store)
        store.enqueue(instance.function("size"))
        with pytest.raises(UnportableState, match="a call has not begun yet"):
            write_wasm(opened(tmp_path, store), [], out)
        store.run()
        store.enqueue(instance.function("use"), 0, 1)
        store.run(fuel=2)
        with pytest.raises(UnportableState, match="a call of function 5 is in progress, 1 frames"):
            write_wasm(opened(tmp_path, store), [], out)
        store.run()
        found = opened(tmp_path, store)
        found.state.externs = ["object"]
        with pytest.raises(UnportableState, match="an object of the host"):
            write_wasm(found, [], out)
        found = opened(tmp_path, store)
        found.state.wasi = {"descriptors": [{"fd": 0, "kind": "stdin", "unread": b""},
                                            {"fd": 5, "kind": "file"}]}  # fmt: skip
        with pytest.raises(UnportableState, match="descriptor 5, a file, is open"):
            write_wasm(found, [], out)
        found = opened(tmp_path, store)
        found.state.modules[0].binary = None
        with pytest.raises(UnportableState, match="the module of the program is not in") as caught:
            write_wasm(found, [], out)
        assert caught.value.hint is not None and "--program" in caught.value.hint
        (tmp_path / "x.wasm").write_text("mine")
        with pytest.raises(Exception, match="is there already"):
            write_wasm(opened(tmp_path, store), [], out)
    assert (tmp_path / "x.wasm").read_text() == "mine"


DEEP = """(module
  (memory (export "memory") 1)
  (memory 1)
  (global (mut i64) (i64.const -9))
  (func $leaf (param i32 i64 f32 f64) (local externref)
    (i32.store (i32.const 16) (local.get 0))
    (loop (br_if 0 (i64.ne (local.get 1) (i64.const 1))) )
    (drop (f32.add (local.get 2) (f32.const 1)))
    (drop (f64.add (local.get 3) (f64.const 1))))
  (func $run (export "run") (param i32)
    (i32.const 41)
    (call $leaf (i32.const -7) (i64.const 0x1122334455667788) (f32.const 1.5) (f64.const -2.25))
    (drop)))"""


def paused(tmp_path: Path) -> OpenedSnapshot:
    with Store() as store:
        instance = store.instantiate(Module.from_text(DEEP))
        store.enqueue(instance.function("run"), 3)
        store.run(fuel=40)
        return opened(tmp_path, store)


def test_a_coredump_has_frames_values_globals_and_memories(tmp_path: Path) -> None:
    found = paused(tmp_path)
    write_coredump(found, [], str(tmp_path / "core.wasm"))
    data = (tmp_path / "core.wasm").read_bytes()
    parts = list(wasm.sections(data))
    stack = next(payload for kind, payload in parts if payload.startswith(b"\x09corestack"))
    cursor = wasm.BinaryCursor(stack, 10)
    assert cursor.byte() == 0 and cursor.take(cursor.number()) == b"main"
    assert cursor.number() == 2
    innermost = found.state.thread.frames[-1]
    body = Module(found.state.modules[0].binary or b"").body_range(innermost.function)[0]
    assert [cursor.byte(), cursor.number(), cursor.number()] == [0, 0, 0]
    assert cursor.number() == innermost.offset - body > 0
    assert cursor.number() == 5
    assert cursor.byte() == 0x01, "the first argument is dead here: missing, and not 0"
    assert cursor.byte() == 0x7E
    cursor.skip_leb()
    assert (cursor.byte(), cursor.take(4)) == (0x7D, struct.pack("<f", 1.5))
    assert (cursor.byte(), cursor.take(8)) == (0x7C, struct.pack("<d", -2.25))
    assert cursor.byte() == 0x01, "a reference is a missing value"


def test_the_tools_of_others_read_a_coredump(tmp_path: Path) -> None:
    """`wasm-tools` of the Bytecode Alliance parses the sections of coredumps."""
    beside = Path(sys.executable).with_name("wasm-tools")
    tool = str(beside) if beside.exists() else shutil.which("wasm-tools")
    if tool is None:
        pytest.skip("wasm-tools is not installed")
    write_coredump(paused(tmp_path), [], str(tmp_path / "core.wasm"))

    def run(*words: str) -> str:
        done = subprocess.run([tool, *words], cwd=tmp_path, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    run("validate", "core.wasm")
    dump = run("dump", "core.wasm")
    for name in ("core", "coremodules", "coreinstances", "corestack"):
        assert f'name: "{name}"' in dump
    said = " ".join(dump.split())
    assert "funcidx: 0" in said and "funcidx: 1" in said
    assert f"I64({0x1122334455667788})" in said and "stack: [I32(41)]" in said
    assert "Missing" in said and "stacks: main" in said
    assert (
        "instances: [CoreDumpInstance { module_index: 0, memories: [0, 1], globals: [0] }]" in said
    )
