"""Snapshots of real programs with changed values, all checksums right: what `restore` is given.

`test_snapshot` damages bytes and stops at the reader; here a snapshot is taken apart as a value
(`wasmsr.snapshot.state`), something in it is exchanged for another thing of its kind, often from
another place or moment, and it is written without the writer's check. Whatever comes of it, there
is a typed error or a store that passes its own check, runs on, and can be saved again, in little
time and memory. `python -m tests.fuzz.restoring SECONDS [SEED]` runs it for longer, and under
sanitizers with the environment that `make asan` sets.
"""

from __future__ import annotations

import copy
import dataclasses
import random
import resource
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import wasmsr.snapshot.encoding.writer
from tests.fuzz.generate import Choose
from tests.fuzz.throwing import FEATURES, source
from wasmsr import FuncType, HostError, HostFunction, Limits, Module, Paused, Store, ValType
from wasmsr.errors import ModuleError, SnapshotError
from wasmsr.snapshot.capture import capture
from wasmsr.snapshot.check import check
from wasmsr.snapshot.format import decode, encode
from wasmsr.snapshot.restore import restore
from wasmsr.snapshot.state import SnapshotState

GOLDEN = Path(__file__).parents[1] / "golden"
LIMIT = 64 << 20
"""Bytes that a reader may take for memories and tables."""
SLOW = 5.0
"""Seconds that no trial may take."""
NUMBERS: tuple[int, ...] = (
    *(0, 1, 2, 3, 7, 0x69, 0x6F, 0x70, 0x7B, 0x7F, 255, 65536, -1),
    *((1 << bits) + add for bits in (31, 32, 63, 64) for add in (-1, 0)),
    *(1 << 48, 1 << 127),
)

ODD: tuple[Any, ...] = (
    *(None, True, 3.0, float("nan"), -5, 1 << 200, "x", "\udc80", "", b"", b"x" * 16, bytearray(8)),
    *((), [], {}, [None], [[]], [1.5], ["x"], [1 << 70], object(), {"a": 1}),
    *(memoryview(b"12345678")[::2], memoryview(bytes(65536)).cast("Q"), bytes),
)
"""What a snapshot that somebody builds in Python may have in any place."""

HOST = """(module
  (import "host" "call" (func $call (param i32 externref exnref) (result i32)))
  (import "host" "other" (func (param i64 v128)))
  (tag $e (export "e") (param i32 externref))
  (table $x (export "x") 5 externref) (table $f (export "f") 3 8 funcref)
  (memory (export "m") i64 1 4) (global (export "g") (mut v128) (v128.const i64x2 1 2))
  (global $o (export "o") (mut externref) (ref.null extern))
  (elem (table $f) (i32.const 0) func $run $run) (data $d "data")
  (func $run (export "run") (param $n i32) (param $o externref) (result i32)
    (local $x exnref) (local $v v128) (local $f funcref)
    (local.set $f (ref.func $run))
    (loop $next
      (block $h (result i32 externref exnref)
        (try_table (catch_ref $e $h) (throw $e (local.get $n) (local.get $o))) unreachable)
      (local.set $x) (local.set $o) drop
      (table.set $x (i32.and (local.get $n) (i32.const 3)) (local.get $o))
      (local.set $v (i32x4.splat (call $call (local.get $n) (local.get $o) (local.get $x))))
      (local.set $v (i32x4.add (local.get $v) (v128.load (i64.const 8))))
      (v128.store (i64.const 24) (local.get $v))
      (global.set $o (table.get $x (i32.const 1)))
      (drop (select (result funcref) (local.get $f) (table.get $f (i32.const 0)) (local.get $n)))
      (local.set $n (i32.sub (local.get $n) (i32.const 1)))
      (br_if $next (local.get $n)))
    (i32x4.extract_lane 0 (local.get $v))))"""
USER = """(module
  (import "host" "e" (tag $e (param i32 externref))) (import "host" "x" (table $x 5 externref))
  (import "host" "f" (table $f 3 8 funcref)) (import "host" "m" (memory i64 1 4))
  (import "host" "g" (global $g (mut v128))) (import "host" "o" (global $o (mut externref)))
  (import "host" "run" (func $run (param i32 externref) (result i32)))
  (func (export "start") (param i64 v128 exnref) (result i32)
    (global.set $g (i64x2.add (local.get 1) (i64x2.splat (local.get 0))))
    (drop (table.grow $f (ref.func $again) (i32.const 2)))
    (block $h (result exnref)
      (try_table (result exnref) (catch_all_ref $h)
        (call_indirect $f (param i32 externref) (result i32) (i32.const 9) (global.get $o)
          (i32.const 1)) drop (local.get 2)))
    (local.set 2)
    (return_call $again (i32.const 5) (global.get $o)))
  (func $again (param i32 externref) (result i32)
    (i32.add (i32.const 2) (call $run (local.get 0) (local.get 1))))
  (elem declare func $again))"""


def _call(_: object, number: int, thing: object, thrown: object) -> int:
    return (number * 7 + (thing is None) + 2 * (thrown is None)) & 0xFFFF


def imports() -> dict[str, dict[str, Any]]:
    """What the programs take from their host."""
    types = (ValType.I32, ValType.EXTERNREF, ValType.EXNREF)
    return {
        "host": {
            "call": HostFunction(FuncType(types, (ValType.I32,)), _call),
            "other": HostFunction(FuncType((ValType.I64, ValType.V128), ()), lambda *_: None),
        }
    }


def _limits() -> Limits:
    return Limits(64, 5000, 20_000, 500)


def _hosted() -> Store:
    """Two instances that share everything, objects of the host, an invocation that waits."""
    store = Store(deterministic=True, limits=_limits())
    host = store.instantiate(Module.from_text(HOST, name="host"), imports())
    user = store.instantiate(Module.from_text(USER, name="user"), {"host": host.exports})
    store.enqueue(user.function("start"), 5, 1 << 100, None)
    store.enqueue(host.function("run"), 3, "an object")
    store.enqueue(user.function("start"), 7, 3, None)
    return store


def originals(draw: random.Random) -> list[SnapshotState]:
    """Snapshots of programs at random moments, with their modules."""
    found = [decode((GOLDEN / f"v1-{name}.bin").read_bytes()) for name in ("running",)]
    stores = [_hosted(), _hosted()]
    for _ in range(6):
        module = Module.from_text(source(draw.randrange), features=FEATURES)
        store = Store(deterministic=True, features=FEATURES, limits=_limits())
        instance = store.instantiate(module)
        store.enqueue(instance.function("run"))
        store.enqueue(instance.function("peek"))
        stores.append(store)
    for store in stores:
        for _ in range(4):
            if not isinstance(store.run(fuel=draw.randint(1, 60)), Paused):
                break
            found.append(copy.deepcopy(decode(b"".join(encode(capture(store, embed=True))))))
    return found


class Changes:
    """Changes to snapshots, drawn from a source of choices."""

    def __init__(self, choose: Choose, others: list[SnapshotState], *, odd: bool = False) -> None:
        """`odd`: values of wrong types too, which no bytes can have."""
        self.choose = choose
        self.others = others
        self.odd = odd

    def apply(self, snapshot: SnapshotState) -> SnapshotState:
        """A copy of it with one to three changes."""
        changed = copy.deepcopy(snapshot)
        for _ in range(1 + self.choose(3)):
            self._one(changed)
        return changed

    def _places(self, value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
        """Paths to all that is in a value, by attribute names and indices."""
        if dataclasses.is_dataclass(value):
            for field in dataclasses.fields(value):
                yield (*path, field.name)
                yield from self._places(getattr(value, field.name), (*path, field.name))
        elif isinstance(value, (list, tuple)):
            for i, item in enumerate(value):
                yield (*path, i)
                yield from self._places(item, (*path, i))

    def _one(self, snapshot: SnapshotState) -> None:
        left = () if self.odd else ("lineage", "wasi", "files")
        paths = [p for p in self._places(snapshot) if p[0] not in left]
        # A part with thousands of values is no more likely than another.
        parts = sorted({p[0] for p in paths})
        part = parts[self.choose(len(parts))]
        inner = [p for p in paths if p[0] == part]
        path = inner[self.choose(len(inner))]
        holder: Any = snapshot
        for step in path[:-1]:
            holder = holder[step] if isinstance(step, int) else getattr(holder, step)
        last = path[-1]
        if isinstance(holder, tuple):  # of an invocation: its address or its slots
            if last == 1:
                self._list(holder[1], path)
            return
        old = holder[last] if isinstance(last, int) else getattr(holder, last)
        if isinstance(old, list) and self.choose(4):
            self._list(old, path)
            return
        new = self._instead(old, path)
        if isinstance(last, int):
            holder[last] = new
        else:
            setattr(holder, last, new)

    def _same_place(self, path: tuple[Any, ...]) -> Any:
        """What another snapshot has at that place, or at one like it."""
        value: Any = self.others[self.choose(len(self.others))]
        for step in path:
            if isinstance(step, str):
                value = getattr(value, step, None)
            elif isinstance(value, (list, tuple)) and value:
                value = value[min(step, len(value) - 1)]
            else:
                return None
        return copy.deepcopy(value)

    def _list(self, items: list[Any], path: tuple[Any, ...]) -> None:
        kind = self.choose(5)
        if kind == 0 and items:
            del items[self.choose(len(items))]
        elif kind == 1 and items:
            items.insert(self.choose(len(items) + 1), copy.deepcopy(items[self.choose(len(items))]))
        elif kind == 2 and len(items) > 1:
            a, b = self.choose(len(items)), self.choose(len(items))
            items[a], items[b] = items[b], items[a]
        elif isinstance(other := self._same_place(path), list) and other:
            if kind == 3:
                items[:] = other
            else:
                items.insert(self.choose(len(items) + 1), other[self.choose(len(other))])

    def _instead(self, old: Any, path: tuple[Any, ...]) -> Any:
        if self.odd and self.choose(4) == 0:
            return ODD[self.choose(len(ODD))]
        if self.choose(3) == 0:
            other = self._same_place(path)
            if type(other) is type(old):
                return other
        if isinstance(old, bool):
            return not old
        if isinstance(old, int):
            if self.choose(2):
                return old + (1, -1, 2, -2, 8, 1 << 32)[self.choose(6)]
            return NUMBERS[self.choose(len(NUMBERS))]
        if isinstance(old, str):
            return ("", "call", "other", "exceptions", "memory64", old + "x")[self.choose(6)]
        if isinstance(old, (bytes, bytearray, memoryview)):
            return self._bytes(bytes(old))
        if old is None:
            return self.choose(1 << 20)
        return old

    def _bytes(self, old: bytes) -> bytes:
        data, kind = bytearray(old), self.choose(6)
        if kind == 0:
            return bytes(data[: self.choose(len(data) + 1)])
        if kind == 1:
            return bytes(data + bytes((0, 8, 65536)[self.choose(3)]))
        if data:
            at = self.choose(len(data))
            if kind == 2 and len(data) < 100:
                data[at] = (0x7F, 0x7E, 0x7D, 0x7C, 0x7B, 0x70, 0x6F, 0x69)[self.choose(8)]
            elif kind == 3:
                data[at] ^= 1 << self.choose(8)
            else:
                at -= at % 8
                number = NUMBERS[self.choose(len(NUMBERS))] & ((1 << 64) - 1)
                data[at : at + 8] = number.to_bytes(8, "little")[: len(data) - at]
        return bytes(data)


@contextmanager
def unchecked() -> Iterator[None]:
    """Let the writer write what it is given."""
    kept = wasmsr.snapshot.encoding.writer.check
    wasmsr.snapshot.encoding.writer.check = lambda state, earlier=None: None
    try:
        yield
    finally:
        wasmsr.snapshot.encoding.writer.check = kept


def written(snapshot: SnapshotState) -> bytes | None:
    """Its bytes; None where a value has no room in the format."""
    with unchecked():
        try:
            return b"".join(encode(snapshot, compress=False))
        except Exception:  # noqa: BLE001 (its check would have said what)
            return None


def trial(data: bytes) -> str:
    """Read, restore and run what was written: how far it came.

    Raises:
        AssertionError: an error is none of the typed ones, or what was restored is no machine.
    """
    began = time.perf_counter()
    try:
        stage = _stages(data)
    finally:
        seconds = time.perf_counter() - began
    assert seconds < SLOW, seconds
    return stage


def _restored(snapshot: SnapshotState) -> Store:
    """As a host does that takes what its programs have begun with."""
    return restore(snapshot, modules=_modules(snapshot), imports=imports())


def _modules(snapshot: SnapshotState) -> list[Module]:
    try:
        binaries = [reference.binary for reference in snapshot.modules]
    except (TypeError, AttributeError):  # something odd; whoever restores it is to say so
        return []
    return [Module(binary, features=FEATURES) for binary in binaries if type(binary) is bytes]


def _stages(data: bytes) -> str:
    try:
        snapshot = decode(data, limit=LIMIT)
    except SnapshotError as error:
        assert 10 < len(error.message) < 400
        return "not read"
    return run(snapshot)


def run(snapshot: SnapshotState) -> str:
    """Restore and run a value: how far it came."""
    try:
        store = _restored(snapshot)
    except (SnapshotError, ModuleError) as error:
        assert 10 < len(error.message) < 400
        return "not restored"
    store.check()
    check(capture(store))
    try:
        for _ in range(3):
            outcome = store.run(fuel=2000)
            store.check()
            if not isinstance(outcome, Paused):
                break
            again = decode(b"".join(encode(capture(store, embed=True))))
            store = _restored(again)
            store.check()
    except HostError:
        return "host error"
    return "run"


def main() -> None:
    """Run for as many seconds as the first argument says."""
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 60
    seed = int(sys.argv[2]) if len(sys.argv) > 2 else random.randrange(1 << 32)
    end, counts = time.monotonic() + seconds, dict.fromkeys(("not written",), 0)
    print(f"seed {seed}", flush=True)
    peak = 0
    last = Path("restoring-last.bin")  # a crash leaves it behind
    draw = random.Random(seed)
    found: list[SnapshotState] = []
    number = wrong = 0
    while time.monotonic() < end:
        if number % 500 == 0:
            found = originals(draw)
            peak = peak or resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        number += 1
        data = written(Changes(draw.randrange, found).apply(found[draw.randrange(len(found))]))
        if data is None:
            counts["not written"] += 1
            continue
        last.write_bytes(data)
        try:
            stage = trial(data)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is a finding)
            wrong += 1
            Path(f"restoring-{seed}-{number}.bin").write_bytes(data)
            print(f"{number}: {type(error).__name__}: {str(error)[:300]}", flush=True)
            continue
        counts[stage] = counts.get(stage, 0) + 1
    last.unlink(missing_ok=True)
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak) >> 10
    print(f"{number} changed snapshots: {counts}, {wrong} wrong; grown by {grown} MiB")
    raise SystemExit(wrong != 0)


if __name__ == "__main__":
    main()
