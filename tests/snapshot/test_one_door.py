"""`restore` is the one door into a store: it checks every value, however it was made."""

from __future__ import annotations

import copy
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import msgpack
import pytest

import wasmsr
from tests.snapshot.samples import Kind
from wasmsr import FormatError, Module, ModuleError, SnapshotError, Store
from wasmsr.program.program import Program
from wasmsr.snapshot.encoding.registry import BY_KIND
from wasmsr.snapshot.format import content_digest, decode, encode
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.state import SnapshotState

MODULE = Module.from_text("""(module
  (tag $t (param i32 exnref)) (table 3 funcref) (memory 1) (global (mut exnref) (ref.null exn))
  (func $f (export "f") (result i32)
    (block $h (result i32 exnref)
      (try_table (catch $t $h) (throw $t (i32.const 1) (ref.null exn))) unreachable)
    drop
    (block $h2 (result exnref)
      (try_table (catch_all_ref $h2) (throw $t (i32.const 2) (ref.null exn))) unreachable)
    global.set 0))""")


def made() -> SnapshotState:
    """One that holds an exception."""
    store = Store()
    store.enqueue(store.instantiate(MODULE).function("f"))
    while not (value := wasmsr.Snapshot.of(store).state).exceptions:
        store.run(fuel=1)
    value.thread.frames[:] = []
    return value


def _tag(s: SnapshotState) -> None:
    s.exceptions[0].tag = 60000


def _shorter(s: SnapshotState) -> None:
    s.exceptions[0].fields.pop()


def _negative(s: SnapshotState) -> None:
    s.thread.queue.append((0, [-1]))


def _function(s: SnapshotState) -> None:
    s.thread.queue.append((77, []))


def _float(s: SnapshotState) -> None:
    s.limits.stack_slots = 3.5  # type: ignore[assignment]


def _none(s: SnapshotState) -> None:
    s.instances[0].name = 7  # type: ignore[assignment]


def _view(s: SnapshotState) -> None:
    s.memories[0].data = memoryview(bytes(131072))[::2]


def _tables(s: SnapshotState) -> None:
    s.instances[0].tables[0] = 9


def _no_tags(s: SnapshotState) -> None:
    s.tags = []


def _thread(s: SnapshotState) -> None:
    s.thread = None  # type: ignore[assignment]


LIES = [_tag, _shorter, _negative, _function, _float, _none, _view, _tables, _no_tags, _thread]


@pytest.mark.parametrize("lie", LIES)
def test_lies_are_refused(lie: Callable[[SnapshotState], None]) -> None:
    value = made()
    restore(value, modules=[MODULE]).check()
    lie(value)
    for door in (
        lambda: wasmsr.Snapshot(value).restore(modules=[MODULE]),
        lambda: restore(value, modules=[MODULE]),
        lambda: Program.resume(value, module=MODULE),
        lambda: b"".join(encode(value)),
    ):
        with pytest.raises(SnapshotError):
            door()


def test_wasi_is_not_begun_for_a_lie(tmp_path: Path) -> None:
    """What WASI would do outside comes after the check."""
    value = replace(made(), wasi={"nonsense": 1})
    with pytest.raises(SnapshotError, match="WASI"):
        wasmsr.Snapshot(value).restore(modules=[MODULE])
    _tag(value)
    with pytest.raises(FormatError, match="exception 0 has tag 60000"):
        wasmsr.Snapshot(value).restore(modules=[MODULE])
    value = replace(made(), wasi=[1])  # type: ignore[arg-type]
    with pytest.raises(FormatError, match="wasi of the snapshot is of the wrong type"):
        wasmsr.Snapshot(value).restore(modules=[MODULE])


SIMD = '(module (func (export "f") (drop (v128.const i64x2 1 2))))'


def test_an_embedded_module_may_not_need_what_is_off() -> None:
    """Also where it is not the program's own: what is allowed here holds for all of them."""
    store = Store()
    plain = Module.from_text("(module)")
    store.instantiate(Module.from_text(SIMD))
    store.instantiate(plain)
    value = wasmsr.Snapshot.of(store, embed=True).state
    wasmsr.Snapshot(value).restore()
    with pytest.raises(ModuleError, match="simd"):
        wasmsr.Snapshot(value).restore(features="-simd")
    with pytest.raises(ModuleError, match="simd"):
        Program.resume(value, module=Module(plain.binary, features="-simd"))
    with pytest.raises(ModuleError, match="simd"):
        Program.resume(value, features="-simd")
    twice = copy.deepcopy(value)
    twice.modules.reverse()
    for instance in twice.instances:
        instance.module = 1 - instance.module
    with pytest.raises(ModuleError, match="simd"):
        Program.resume(twice, features="-simd")


def test_a_store_without_a_module_is_no_program(tmp_path: Path) -> None:
    value = wasmsr.Snapshot.of(Store()).state
    assert wasmsr.Snapshot(value).restore().instances == []
    for module in (None, MODULE):
        with pytest.raises(SnapshotError, match="holds no program"):
            Program.resume(value, module=module)
    wasmsr.Snapshot(value).save(tmp_path / "snapshot.bin")
    line = [sys.executable, "-m", "wasmsr", "run", "--from-snapshot", "snapshot.bin"]
    done = subprocess.run(line, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 123 and "holds no program" in done.stderr
    value = wasmsr.Snapshot.of(Store()).state
    value.modules = made().modules
    with pytest.raises(SnapshotError, match="holds no program"):
        Program.resume(value, module=MODULE)


@pytest.mark.parametrize("depth", [1025, 5000, 200_000])
@pytest.mark.parametrize("open_", [b"\x91", b"\x81\xa1k"])
def test_depth_is_said(depth: int, open_: bytes) -> None:
    """A section that is nested too deeply: the sentence says so, and ends in a word."""
    with pytest.raises(FormatError, match=r"nested too deeply$"):
        BY_KIND[Kind.WASI].unpack(open_ * depth + b"\xc0")


def test_depth_on_the_way_out() -> None:
    deep: object = None
    for _ in range(5000):
        deep = [deep]
    store = Store()
    kind = wasmsr.GlobalType(wasmsr.ValType.EXTERNREF)
    wasmsr.Global.new(store, kind, deep)
    with pytest.raises(wasmsr.UnportableState, match=r"externref 0 \(list\) cannot be saved: \w"):
        wasmsr.Snapshot.of(store).save("/dev/null")


def test_no_sentence_ends_in_a_colon() -> None:
    assert str(msgpack.exceptions.StackError()) == ""
    assert "malformed" in str(BY_KIND[Kind.WASI].malformed("x"))

    def fails() -> None:
        raise KeyError

    text = '(module (import "e" "f" (func $f)) (func (export "g") (call $f)))'
    instance = Store().instantiate(Module.from_text(text), {"e": {"f": fails}})
    with pytest.raises(wasmsr.HostError, match=r"raised KeyError$"):
        instance.function("g")()


def test_bytes_and_values_pass_the_same_check() -> None:
    value = made()
    data = b"".join(encode(value))
    again = decode(data)
    assert content_digest(again) == content_digest(value)
    wasmsr.Snapshot(again).restore(modules=[MODULE]).check()
