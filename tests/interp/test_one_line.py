"""What things show of themselves: one line, with what a person wants, and never an error."""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

import wasmsr
from wasmsr import FuncType, HostFunction, Module, Store, ValType
from wasmsr.snapshot.format import decode
from wasmsr.snapshot.state import SnapshotState

GOLDEN = Path(__file__).parents[1] / "golden"
FIB = Module.from_file(Path(__file__).parents[2] / "examples" / "snapshot" / "fib.wasm")
ALL = """(module $all (import "env" "print\\1b[2J" (func $p (param i32 f64) (result i32 i64)))
  (memory (export "m") i64 2 9) (table (export "t") 10 20 funcref) (memory (export "n") 1)
  (global (export "g") (mut f32) (f32.const -nan:0x1)) (tag (export "e") (param i32))
  (global (export "i") i64 (i64.const -1)) (export "p" (func $p)) (func $spin (export "spin")
    (loop (br 0))))"""


def every(value: object) -> list[object]:
    """A value, and what is in it."""
    found = [value]
    if isinstance(value, (list, tuple)):
        for item in value:
            found += every(item)
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            found += every(getattr(value, field.name))
    return found


def one_line(thing: object) -> str:
    text = repr(thing)
    assert "\n" not in text and "\x1b" not in text and len(text) < 300, text
    return text


def test_a_program_in_its_run() -> None:
    store = Store()
    assert one_line(store) == "<Store: 0 instances, idle>"
    instance = store.instantiate(FIB)
    fib = instance.function("fib")
    store.enqueue(fib, 20)
    assert one_line(store) == ("<Store: 1 instance, 1 invocation to come, 1 memory of 64 KiB>")
    store.run(fuel=5000)
    assert re.fullmatch(
        r"<Store: 1 instance, paused in fib at 0x\w+ \(15 frames\), 1 memory of 64 KiB, "
        r"5000 instructions>",
        one_line(store),
    )
    assert re.fullmatch(r"<Module fib: 266 bytes, 0 imports, 2 exports, \w{12}>", one_line(FIB))
    assert one_line(instance) == "<Instance 0 of fib: exports memory, fib>"
    assert one_line(fib) == "<Function 0: fib (i32) -> i32>"
    assert one_line(instance.memory()) == "<Memory 0: 1 page (64 KiB)>"
    assert re.fullmatch(
        r"<Snapshot of fib: 15 frames deep, 1 memory of 64 KiB, 5000 instructions, "
        r"taken 20\d\d-\d\d-\d\d \d\d:\d\d:\d\d UTC on .+>",
        one_line(wasmsr.Snapshot.of(store)),
    )


def linked() -> wasmsr.Instance:
    def tell(a: int, b: float) -> tuple[int, int]:
        return 1, 2

    return Store().instantiate(Module.from_text(ALL), {"env": {"print\x1b[2J": tell}})


def test_every_kind_of_extern() -> None:
    instance = linked()
    shown = {name: one_line(one) for name, one in instance.exports.items()}
    assert shown == {
        "m": "<Memory 0: 2 pages of at most 9 (128 KiB), 64-bit addresses>",
        "t": "<Table 0: 10 elements of at most 20, funcref>",
        "n": "<Memory 1: 1 page (64 KiB)>",
        "g": "<Global 0: mut f32 = -nan:0x1>",
        "e": "<Tag 0: (i32)>",
        "i": "<Global 1: i64 = -1>",
        "p": r"<Function 0: env.print\x1b[2J of the host (i32, f64) -> (i32, i64)>",
        "spin": "<Function 1: spin () -> ()>",
    }
    assert one_line(instance) == "<Instance 0 of all: exports m, t, n, g, e, ...>"
    ((host, _, _),) = instance.store.hosts.values()
    assert one_line(host) == ("<HostFunction linked.<locals>.tell (i32, f64) -> (i32, i64)>")
    known = HostFunction(FuncType((), (ValType.I32,)), print, raw=True, identity="it")
    assert one_line(known) == "<HostFunction print () -> i32, raw, known as it>"


def test_exceptions_and_callers() -> None:
    store = Store()
    tag = wasmsr.Tag.new(store, wasmsr.TagType((ValType.I32,)))
    with pytest.raises(wasmsr.UncaughtException) as caught:
        tag.throw(7)
    assert one_line(caught.value.exception) == "<ThrownException of tag 0: (7,)>"
    caller = wasmsr.Caller(store, None)
    assert one_line(caller) == "Caller(store=<Store: 0 instances, idle>, instance=None)"


def test_of_what_is_not_there() -> None:
    for kind in (wasmsr.Function, wasmsr.Memory, wasmsr.Table, wasmsr.Global, wasmsr.Tag):
        for address in (0, 5, -1, 1 << 40):
            shown = one_line(kind(Store(), address))
            assert shown == f"<{kind.__name__} {address}, which the store does not have>"


def test_of_a_closed_store() -> None:
    instance = linked()
    things = [*instance.exports.values(), instance]
    instance.store.close()
    assert one_line(instance.store) == "<Store, closed>"
    for thing in things:
        assert "closed store" in one_line(thing) or thing is instance


def test_of_a_store_that_runs() -> None:
    instance = linked()
    store = instance.store
    store.enqueue(instance.function("spin"))
    thread = threading.Thread(target=store.run)
    thread.start()
    while not store.running:
        time.sleep(0.001)
    assert one_line(store) == "<Store: 1 instance, running>"
    time.sleep(0.05)
    wasmsr.pause(store)
    thread.join()
    assert "paused in spin" in one_line(store)


@pytest.mark.parametrize("path", sorted(GOLDEN.glob("v1-*.bin")), ids=lambda path: path.stem)
def test_snapshots_and_all_in_them(path: Path) -> None:
    for part in every(decode(path.read_bytes())):
        if type(part).__module__ == "wasmsr.snapshot.state":
            one_line(part) if type(part).__name__ != "SavedLimits" else repr(part)


def _none(s: SnapshotState) -> None:
    s.thread = None  # type: ignore[assignment]


def _number(s: SnapshotState) -> None:
    s.memories = [5]  # type: ignore[list-item]


def _far(s: SnapshotState) -> None:
    s.lineage.created = 1 << 100


@pytest.mark.parametrize("change", [_none, _number, _far])
def test_a_value_of_anything_has_a_repr(change: Callable[[SnapshotState], None]) -> None:
    snapshot = decode((GOLDEN / "v1-everything.bin").read_bytes())
    change(snapshot)
    assert one_line(snapshot).startswith("<Snapshot")


def test_large_things_have_small_reprs() -> None:
    store = Store()
    memory = wasmsr.Memory.new(store, wasmsr.MemoryType(wasmsr.Bounds(200)))
    memory.write(0, b"secret" * 1000)
    wasmsr.Table.new(store, wasmsr.TableType(ValType.FUNCREF, wasmsr.Bounds(100_000)))
    snapshot = wasmsr.Snapshot.of(store).state
    assert "200 pages (12.5 MiB)" in one_line(snapshot.memories[0])
    assert "100000 elements" in one_line(snapshot.tables[0])
    assert "secret" not in one_line(snapshot)
