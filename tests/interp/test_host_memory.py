"""Which memory host functions see: the one that the calling instance exports as `memory`."""

from __future__ import annotations

import io

import pytest

import wasmsr
from wasmsr import Caller, FuncType, HostFunction, Module, Paused, Store
from wasmsr.snapshot.format import decode, encode
from wasmsr.wasi.facade import Wasi

WASI = "wasi_snapshot_preview1"
WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
CALL = "(i32.const 1) (i32.const 0) (i32.const 1) (i32.const 100)"


def memories(kinds: str, exported: int, call: str = "(drop (call $write {}))") -> str:
    """A program that writes "right" from memory `exported`, where the others hold "wrong"."""
    data = "".join(
        f'(data (memory {n}) (i32.const 0) "\\08\\00\\00\\00\\06\\00\\00\\00'
        f'{"right" if n == exported else "wrong"}\\n")'
        for n in range(kinds.count("(memory"))
    )
    return f"""(module {WRITE} {kinds} {data}
      (export "memory" (memory {exported}))
      (func $do (export "_start") {call.format(CALL)}))"""


PROGRAMS = {
    "second": memories("(memory 1) (memory 1)", 1),
    "third of four": memories("(memory 1) (memory 1) (memory 1) (memory 1)", 2),
    "first": memories("(memory 1) (memory 1)", 0),
    "by a tail call": memories(
        "(memory 1) (memory 1)",
        1,
        f"(drop (call $tail))) (func $tail (result i32) (return_call $write {CALL})",
    ),
    "by a table": memories(
        "(type $t (func (param i32 i32 i32 i32) (result i32)))"
        " (table funcref (elem $write)) (memory 1) (memory 1)",
        1,
        "(drop (call_indirect (type $t) {} (i32.const 0)))",
    ),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_wasi_uses_the_exported_memory(name: str) -> None:
    out = io.BytesIO()
    assert wasmsr.run(PROGRAMS[name].encode(), stdout=out) == wasmsr.Finished()
    assert out.getvalue() == b"right\n"


@pytest.mark.parametrize("name", PROGRAMS)
def test_also_when_saved_before_the_call(name: str) -> None:
    module = Module.from_text(PROGRAMS[name])
    for steps in range(100):
        out = io.BytesIO()
        with Store() as store:
            store.wasi = wasi = Wasi(stdout=out)
            instance = store.instantiate(module, wasi.imports)
            store.enqueue(instance.function("_start"))
            if not isinstance(store.run(fuel=steps), Paused):
                break
            saved = wasmsr.Snapshot(decode(b"".join(encode(wasmsr.Snapshot.of(store).state))))
        with saved.restore(modules=[module], stdout=out) as later:
            assert later.run() == wasmsr.Finished()
        assert out.getvalue() == b"right\n"
    assert 4 < steps < 99


READ = FuncType((), (wasmsr.ValType.I32,))


def first_byte(caller: Caller) -> int:
    return caller.memory[0]


def test_any_host_function_gets_the_exported_memory() -> None:
    source = """(module (import "e" "read" (func $read (result i32)))
      (memory 1) (memory 1) (data (memory 0) (i32.const 0) "0") (data (memory 1) (i32.const 0) "1")
      (export "memory" (memory 1)) (func (export "f") (result i32) (call $read)))"""
    for given in (first_byte, HostFunction(READ, first_byte, raw=True)):
        store = Store()
        instance = store.instantiate(Module.from_text(source), {"e": {"read": given}})
        assert instance.function("f")() == ord("1")


def test_an_imported_memory_counts_and_a_function_of_the_name_does_not() -> None:
    read = '(import "e" "read" (func $read (result i32))) (import "e" "m" (memory 1)) (memory 1)'
    body = '(func (export "f") (result i32) (call $read))'
    text = (
        f'(module {read} (export "memory" (memory 0)) {body} (data (memory 1) (i32.const 0) "1"))'
    )
    store = Store()
    kind = wasmsr.MemoryType(wasmsr.Bounds(1))
    memory = wasmsr.Memory.new(store, kind)
    memory.write(0, b"m")
    imports: wasmsr.Imports = {"e": {"read": first_byte, "m": memory}}
    assert store.instantiate(Module.from_text(text), imports).function("f")() == ord("m")
    text = f'(module {read} (func (export "memory")) {body} (data (memory 1) (i32.const 0) "1"))'
    assert store.instantiate(Module.from_text(text), imports).function("f")() == ord("m")


def test_where_none_is_exported_it_is_memory_0_and_without_any_an_error() -> None:
    read = '(import "e" "read" (func $read (result i32)))'
    body = '(func (export "f") (result i32) (call $read))'
    text = f'(module {read} (memory 1) (memory 1) {body} (data (memory 0) (i32.const 0) "0"))'
    store = Store()
    imports = {"e": {"read": first_byte}}
    assert store.instantiate(Module.from_text(text), imports).function("f")() == ord("0")
    with pytest.raises(wasmsr.HostError, match="has no memory"):
        store.instantiate(Module.from_text(f"(module {read} {body})"), imports).function("f")()
