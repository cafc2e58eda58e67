"""Programs of several memories, host functions and invocations, and literals.

Each runs in Wasmtime, and here: straight, saved and restored after each instruction, and moved into
a fresh store a few times in each call. Results, output and exported memories are the same. (What is
not compared: an address outside of memory is a trap of Wasmtime's WASI, and EFAULT here.)
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import wasmsr
from wasmsr import Caller, Finished, FuncType, HostFunction, Module, Paused, Store, Trapped, ValType
from wasmsr.interp.literals import format_literal, parse_literal
from wasmsr.snapshot.format import decode, encode
from wasmsr.wasi.facade import Wasi

wasmtime: Any = pytest.importorskip("wasmtime")
WASI = "wasi_snapshot_preview1"
TRAP = ("trap",)

Memory = Callable[[int, "bytes | int"], bytes]
"""Write bytes at an address of the caller's memory, or read so many."""


def fill(memory: Memory, at: int, count: int) -> int:
    memory(at, bytes(range(1, count + 1)))
    return count


def total(memory: Memory, at: int, count: int) -> int:
    return sum(memory(at, count))


def swap(memory: Memory, a: int, b: int) -> tuple[int, int]:
    one, other = memory(a, 4), memory(b, 4)
    memory(a, other)
    memory(b, one)
    return int.from_bytes(other, "little"), int.from_bytes(one, "little")


HOSTS: dict[str, tuple[Callable[..., Any], int, int]] = {
    "fill": (fill, 2, 1),
    "total": (total, 2, 1),
    "swap": (swap, 2, 2),
}
"""Functions of the host, with the numbers of their parameters and results, all i32."""


@dataclass
class Twin:
    """A case: modules, which see the host, and the modules before them by the names m0, m1 ...;
    calls of (instance, export, arguments); and whether they use WASI."""

    modules: Sequence[str]
    calls: Sequence[tuple[int, str, tuple[int, ...]]]
    wasi: bool = False
    features: str | None = None
    memories: Sequence[tuple[int, str]] = field(default=((0, "memory"),))


def imports(*names: str) -> str:
    """Imports of functions of the host."""
    return " ".join(
        f'(import "host" "{n}" (func ${n} (param {"i32 " * HOSTS[n][1]})'
        f" (result {'i32 ' * HOSTS[n][2]})))"
        for n in names
    )


WRITE = f'(import "{WASI}" "fd_write" (func $write (param i32 i32 i32 i32) (result i32)))'
RANDOM = f'(import "{WASI}" "args_sizes_get" (func $args (param i32 i32) (result i32)))'
IOV = "\\10\\00\\00\\00\\05\\00\\00\\00"
COUNTER = """(global $n (export "g") (mut i32) (i32.const 100)) (memory (export "memory") 1)
  (func $add (param i32) (global.set $n (i32.add (global.get $n) (local.get 0)))
    (i32.store (i32.sub (global.get $n) (i32.const 90)) (global.get $n)))"""

TWINS = {
    "output from the third of three memories, which grows": Twin(
        [
            f"""(module {WRITE} (memory 1) (memory 1) (memory $m 1) (export "memory" (memory $m))
            (data (memory 0) (i32.const 0) "{IOV}________wrong") (data (memory $m) (i32.const 0)
            "{IOV}________right")
            (func (export "f") (result i32)
              (drop (memory.grow $m (i32.const 1)))
              (i32.store $m (i32.const 65536) (i32.const 16))
              (i32.store $m (i32.const 65540) (i32.const 5))
              (i32.add (call $write (i32.const 1) (i32.const 65536) (i32.const 1)
                (i32.const 131068))
                (i32.load $m (i32.const 131068)))))"""
        ],
        [(0, "f", ()), (0, "f", ())],
        wasi=True,
    ),
    "results of WASI go into the exported memory alone": Twin(
        [
            f"""(module {RANDOM} (memory 1) (memory $m 1) (export "memory" (memory $m))
            (func (export "f") (result i32 i32 i32 i32)
              (i32.store 0 (i32.const 64) (i32.const 77)) (i32.store $m (i32.const 64)
              (i32.const 88)) (drop (call $args (i32.const 64) (i32.const 68)))
              (i32.load 0 (i32.const 64)) (i32.load 0 (i32.const 68))
              (i32.load $m (i32.const 64)) (i32.load $m (i32.const 68))))"""
        ],
        [(0, "f", ())],
        wasi=True,
    ),
    "an address that only the exported memory has": Twin(
        [
            f"""(module {WRITE} (memory 1) (memory $m 2) (export "memory" (memory $m))
            (data (memory $m) (i32.const 65600) "{IOV}") (data (memory $m) (i32.const 16) "right")
            (func (export "f") (result i32 i32)
              (call $write (i32.const 1) (i32.const 65600) (i32.const 1) (i32.const 131000))
              (i32.load $m (i32.const 131000))))"""
        ],
        [(0, "f", ()), (0, "f", ())],
        wasi=True,
    ),
    "a tail call into the host": Twin(
        [
            f"""(module {imports("fill", "total")} (memory 1) (memory $m 1)
            (export "memory" (memory $m))
            (func $sum (param i32 i32) (result i32)
              (return_call $total (local.get 0) (local.get 1)))
            (func (export "f") (param i32) (result i32 i32)
              (call $sum (i32.const 5) (call $fill (i32.const 5) (local.get 0)))
              (i32.load 0 (i32.const 5))))"""
        ],
        [(0, "f", (9,)), (0, "f", (200,))],
    ),
    "each caller has its own memory": Twin(
        [
            f"""(module {imports("fill", "total")} (memory 1) (memory $m 1)
            (export "memory" (memory $m)) (export "fill" (func $fill))
            (func (export "g") (param i32) (result i32)
              (drop (call $fill (i32.const 3) (local.get 0)))
              (call $total (i32.const 0) (i32.const 100))))""",
            f"""(module {imports("total")} (import "m0" "fill" (func $fill (param i32 i32)
            (result i32))) (import "m0" "g" (func $g (param i32) (result i32)))
            (memory (export "memory") 1)
            (func (export "f") (param i32) (result i32 i32 i32)
              (call $fill (i32.const 0) (local.get 0))
              (call $g (i32.const 4))
              (call $total (i32.const 0) (i32.const 50))))""",
        ],
        [(1, "f", (7,)), (0, "g", (2,)), (1, "f", (3,))],
        memories=[(0, "memory"), (1, "memory")],
    ),
    "the exported memory is imported": Twin(
        [
            '(module (memory (export "mine") 1) (memory (export "memory") 1))',
            f"""(module {imports("fill", "swap")} (import "m0" "mine" (memory $mine 1)) (memory 1)
            (export "memory" (memory $mine))
            (func (export "f") (result i32 i32)
              (drop (call $fill (i32.const 8) (i32.const 8)))
              (call $swap (i32.const 8) (i32.const 12))))""",
        ],
        [(1, "f", ()), (1, "f", ())],
        memories=[(0, "mine"), (0, "memory"), (1, "memory")],
    ),
    "a table of host functions of another instance": Twin(
        [
            f"""(module {imports("fill")} (memory (export "memory") 1)
            (table (export "t") 1 funcref) (elem (i32.const 0) $fill))""",
            """(module (import "m0" "t" (table 1 funcref)) (memory (export "memory") 1)
            (func (export "f") (param i32) (result i32)
              (call_indirect (param i32 i32) (result i32) (i32.const 9) (local.get 0)
                (i32.const 0))))""",
        ],
        [(1, "f", (5,))],
        memories=[(0, "memory"), (1, "memory")],
    ),
    "copies between memories, one with 64-bit addresses": Twin(
        [
            f"""(module {imports("fill", "total")} (memory $a 1) (memory $b i64 1)
            (memory $c (export "memory") 1 3)
            (func (export "f") (param i32) (result i32 i64 i32)
              (drop (call $fill (i32.const 0) (local.get 0)))
              (memory.copy $b $c (i64.const 100) (i32.const 0) (local.get 0))
              (memory.copy $a $b (i32.const 200) (i64.const 100) (local.get 0))
              (memory.fill $c (i32.const 0) (i32.const 2) (i32.const 4))
              (memory.copy $c $a (i32.const 300) (i32.const 200) (local.get 0))
              (memory.grow $c (i32.const 1))
              (i64.load8_u $b (i64.const 101))
              (call $total (i32.const 0) (i32.const 1000))))"""
        ],
        [(0, "f", (6,)), (0, "f", (250,)), (0, "f", (1,))],
    ),
    "a start function, then one export after the other": Twin(
        [
            f"""(module {COUNTER} (start $s) (func $s (call $add (i32.const 1)))
            (func (export "_initialize") (call $add (i32.const 10)))
            (func (export "r") (result i32) (call $add (i32.const 3)) (global.get $n)))"""
        ],
        [(0, "_initialize", ()), (0, "r", ()), (0, "r", ()), (0, "r", ())],
    ),
    "an invocation that traps between two that do not": Twin(
        [
            f"""(module {COUNTER} (func (export "r") (param i32) (result i32)
              (call $add (local.get 0)) (i32.div_u (global.get $n) (local.get 0))))"""
        ],
        [(0, "r", (5,)), (0, "r", (0,)), (0, "r", (7,))],
    ),
    "a segment that is dropped by one invocation is missed by the next": Twin(
        [
            """(module (memory 1) (memory (export "memory") 1) (data $d "segment")
            (func (export "use") (param i32) (result i32)
              (memory.init 1 $d (local.get 0) (i32.const 0) (i32.const 7))
              (i32.load 1 (local.get 0)))
            (func (export "drop") (data.drop $d)))"""
        ],
        [(0, "use", (0,)), (0, "use", (50,)), (0, "drop", ()), (0, "use", (90,))],
    ),
}


# Wasmtime ----------------------------------------------------------------------------------------


def _theirs(twin: Twin, folder: Path) -> tuple[list[Any], bytes, list[str]]:
    config = wasmtime.Config()
    config.wasm_memory64 = config.wasm_multi_memory = config.wasm_tail_call = True
    engine = wasmtime.Engine(config)
    store, linker = wasmtime.Store(engine), wasmtime.Linker(engine)
    output = folder / "out"
    if twin.wasi:
        given = wasmtime.WasiConfig()
        given.argv = ["one", "three"]
        given.stdout_file = str(output)
        store.set_wasi(given)
        linker.define_wasi()
    i32 = wasmtime.ValType.i32()
    for name, (call, params, results) in HOSTS.items():

        def called(caller: Any, *values: int, call: Callable[..., Any] = call) -> Any:
            memory = caller["memory"]

            def access(at: int, what: bytes | int) -> bytes:
                if isinstance(what, int):
                    return bytes(memory.read(caller, at, at + what))
                memory.write(caller, what, at)
                return b""

            found = call(access, *values)
            return list(found) if isinstance(found, tuple) else found

        kind = wasmtime.FuncType([i32] * params, [i32] * results)
        linker.define(store, "host", name, wasmtime.Func(store, kind, called, access_caller=True))
    instances = []
    for number, text in enumerate(twin.modules):
        instance = linker.instantiate(store, wasmtime.Module(engine, text))
        linker.define_instance(store, f"m{number}", instance)
        instances.append(instance.exports(store))
    found: list[Any] = []
    for where, export, values in twin.calls:
        try:
            got = instances[where][export](store, *values)
        except wasmtime.Trap:
            got = [TRAP]
        found.append([] if got is None else got if isinstance(got, list) else [got])
    sizes = [(instances[where][name]) for where, name in twin.memories]
    held = [_digest(bytes(one.read(store, 0, one.data_len(store)))) for one in sizes]
    del store
    return found, output.read_bytes() if twin.wasi else b"", held


def _digest(data: bytes) -> str:
    return f"{len(data)} {hashlib.sha256(data).hexdigest()[:16]}"


# Ours --------------------------------------------------------------------------------------------


def _hosts() -> dict[str, HostFunction]:
    found = {}
    for name, (call, params, results) in HOSTS.items():

        def called(caller: Caller, *values: int, call: Callable[..., Any] = call) -> Any:
            def access(at: int, what: bytes | int) -> bytes:
                if isinstance(what, int):
                    return bytes(caller.memory[at : at + what])
                caller.memory[at : at + len(what)] = what
                return b""

            return call(access, *values)

        kind = FuncType((ValType.I32,) * params, (ValType.I32,) * results)
        found[name] = HostFunction(kind, called)
    return found


class Ours:
    """A run here; `step`: after how many instructions it is saved and restored, None for never."""

    def __init__(self, twin: Twin, step: int | None) -> None:
        self.twin, self.step, self.moves = twin, step, 0
        self.modules = [Module.from_text(text) for text in twin.modules]
        self.output = io.BytesIO()
        self.host: dict[str, Any] = {"host": _hosts()}
        self.store = Store()
        given: dict[str, Any] = dict(self.host)
        if twin.wasi:
            self.store.wasi = wasi = Wasi(args=["one", "three"], stdout=self.output)
            given |= wasi.imports
        for number, module in enumerate(self.modules):
            instance = self.store.instantiate(module, given, start=False)
            self._run()
            given[f"m{number}"] = self.store.instances[instance.index].exports
            if step is not None:  # handles are those of the store that is there now
                for known in range(number):
                    given[f"m{known}"] = self.store.instances[known].exports

    def _moved(self) -> None:
        snapshot = wasmsr.Snapshot(decode(b"".join(encode(wasmsr.Snapshot.of(self.store).state))))
        old = self.store
        self.store = snapshot.restore(modules=self.modules, imports=self.host, stdout=self.output)
        self.store.check()
        old.close()
        self.moves += 1

    def _run(self) -> list[Any]:
        while isinstance(outcome := self.store.run(fuel=self.step), Paused):
            self._moved()
        if isinstance(outcome, Trapped):
            return [TRAP]
        assert isinstance(outcome, Finished)
        return list(outcome.results)

    def run(self) -> tuple[list[Any], bytes, list[str]]:
        found = []
        for where, export, values in self.twin.calls:
            self.store.enqueue(self.store.instances[where].function(export), *values)
            if self.step is not None:  # between two invocations
                self._moved()
            found.append(self._run())
        memories = [self.store.instances[w].memory(n) for w, n in self.twin.memories]
        return found, self.output.getvalue(), [_digest(bytes(m.data)) for m in memories]


@pytest.mark.parametrize("name", TWINS)
def test_as_wasmtime(name: str, tmp_path: Path) -> None:
    twin = TWINS[name]
    theirs = _theirs(twin, tmp_path)
    assert any(result for result in theirs[0])
    straight = Ours(twin, None)
    assert straight.run() == theirs
    for step in (1, 2, 7):
        hopping = Ours(twin, step)
        assert hopping.run() == theirs
        assert hopping.moves >= len(twin.calls)


# Literals ----------------------------------------------------------------------------------------

LITERALS = {
    "f32": """1.00000005960464477539063 -1.000000059604644775390625 0x1.000001000000000000001p0
      0x1.0000010p0 -0x1.000003p0 1e-45 7.1e-46 7.0064923216240853e-46 0x1p-149 0x1.fffffep127
      3.4e38
      340282356779733661637539395458142568447 16777217 16777219 -0 nan -nan nan:0x1 -nan:0x3fffff
      nan:0x7fffff inf -inf 1_000.5 0x1_0.8p-2 1.17549435e-38 1.17549428e-38 0.1 1e-400""",
    "f64": """1.7976931348623157e308 1.7976931348623158e308 4.9e-324 2.4e-324 2.5e-324 0.1 1e23
      9007199254740993 9007199254740992.999999999999 0x1.00000000000008p0 0x1.000000000000080001p0
      nan nan:0x1 -nan:0xfffffffffffff nan:0x4000000000001 -inf 2.2250738585072011e-308 -0.0 1e-400
      0x0.0000000000001p-1022""",
    "i32": "0 -1 4294967295 -2147483648 0xffff_ffff -0x8000_0000 1_000 +7",
    "i64": "0 -1 18446744073709551615 -9223372036854775808 0xffff_ffff_ffff_ffff +0x7f",
}
WRONG = {
    "f32": "1e39 340282356779733661637539395458142568448 0x1.ffffffp127 nan:0x0 nan:0x800000 1__0",
    "f64": "1e309 1.797693134862315808e308 0x1p1024 nan:0x10000000000000 nan:canonical 0x",
    "i32": "4294967296 -2147483649 0x1_0000_0000 1.0 _1",
    "i64": "18446744073709551616 -9223372036854775809 1e3",
}


def _bits_of(kind: str, literal: str) -> int:
    """What Wasmtime makes of it, in the text format; ValueError where it is none."""
    size = kind[1:]
    get = f"(i{size}.reinterpret_f{size} ({kind}.const {literal}))"
    body = get if kind[0] == "f" else f"({kind}.const {literal})"
    engine = wasmtime.Engine()
    try:
        module = wasmtime.Module(engine, f'(module (func (export "f") (result i{size}) {body}))')
    except wasmtime.WasmtimeError as error:
        raise ValueError(str(error)) from error
    store = wasmtime.Store(engine)
    value: int = wasmtime.Instance(store, module, []).exports(store)["f"](store)
    return value & ((1 << int(size)) - 1)


@pytest.mark.parametrize("kind", LITERALS)
def test_literals_are_those_of_the_text_format(kind: str) -> None:
    for literal in LITERALS[kind].split():
        bits = parse_literal(ValType[kind.upper()], literal)
        assert bits == _bits_of(kind, literal), literal
        assert _bits_of(kind, format_literal(ValType[kind.upper()], bits)) == bits, literal


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_literal_there_is_none_here(kind: str) -> None:
    for literal in WRONG[kind].split():
        with pytest.raises(ValueError):
            _bits_of(kind, literal)
        with pytest.raises(ValueError):
            parse_literal(ValType[kind.upper()], literal)


@pytest.mark.parametrize("kind", ["f32", "f64"])
@pytest.mark.parametrize("step", [None, 1, 2])
def test_bits_go_through_calls_unchanged(kind: str, step: int | None) -> None:
    """Through parameters, locals, globals, memories and results, and through each save."""
    size = int(kind[1:]) // 8
    module = Module.from_text(f"""(module (memory 1) (memory 1) (global $g (mut {kind})
      ({kind}.const 0)) (func (export "f") (param {kind}) (result {kind}) (local {kind})
      (local.set 1 (local.get 0)) (global.set $g (local.get 1))
      ({kind}.store 1 (i32.const 8) (global.get $g)) ({kind}.load 1 (i32.const 8))))""")
    for literal in LITERALS[kind].split():
        bits = parse_literal(ValType[kind.upper()], literal)
        store = Store()
        store.enqueue_raw(store.instantiate(module).function("f").address, [bits])
        while isinstance(outcome := store.run(fuel=step), Paused):
            snapshot = wasmsr.Snapshot(decode(b"".join(encode(wasmsr.Snapshot.of(store).state))))
            store = snapshot.restore(modules=[module])
        assert isinstance(outcome, Finished)
        assert outcome.raw == (bits,) and bits < 1 << (8 * size), literal
