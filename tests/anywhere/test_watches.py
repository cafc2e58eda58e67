"""What stops a program in a page: a position, a return, a write; forwards and backwards."""

from __future__ import annotations

import json
import random
import subprocess
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.anywhere.engines import HERE, NODE, needed
from tests.anywhere.test_machine import lay_out
from wasmsr import Module, Paused, Snapshot, Store
from wasmsr.snapshot.state import SnapshotState
from wasmsr.wasi.facade import Wasi

BEGIN, END = 32, 128
"""The bytes that are watched."""
# Each turn writes another value to each of these places, so that each write changes a byte.
WRITES = """(module
  (import "wasi_snapshot_preview1" "fd_write"
    (func $write (param i32 i32 i32 i32) (result i32)))
  (memory (export "memory") 1)
  (data $d "\\aa\\ab")
  (func $deep (param i32) (result i32)
    (if (result i32) (i32.eqz (local.get 0)) (then (i32.const 1))
      (else (i32.add (call $deep (i32.sub (local.get 0) (i32.const 1))) (i32.const 1)))))
  (func $every (param i32)
    (i32.store (i32.const 30) (i32.shl (local.get 0) (i32.const 16)))
    (i64.store offset=8 (i32.const 32) (i64.extend_i32_u (local.get 0)))
    (i32.store8 (i32.const 127) (local.get 0))
    (i64.store8 (i32.const 128) (i64.const 3))
    (f64.store (i32.const 120) (f64.convert_i32_u (local.get 0)))
    (i32.store16 (i32.const 48) (local.get 0))
    (memory.fill (i32.const 52) (local.get 0) (i32.const 4))
    (memory.copy (i32.const 56) (i32.const 40) (i32.const 4))
    (memory.init $d (i32.const 52) (i32.const 0) (i32.const 2))
    (memory.init $d (i32.const 200) (i32.const 0) (i32.const 2))
    (v128.store (i32.const 64) (i32x4.splat (local.get 0)))
    (v128.store8_lane 3 (i32.const 80) (i8x16.splat (local.get 0)))
    (drop (v128.load (i32.const 64)))
    (i32.atomic.store (i32.const 84) (local.get 0))
    (drop (i32.atomic.load (i32.const 84)))
    (drop (i64.atomic.rmw16.add_u (i32.const 88) (i64.const 1)))
    (i32.store (i32.const 96) (local.get 0))
    (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 96))))
  (func (export "_start") (local i32)
    (loop
      (local.set 0 (i32.add (local.get 0) (i32.const 1)))
      (drop (call $deep (i32.const 5)))
      (call $every (local.get 0))
      (br 0))))"""


class Moment(NamedTuple):
    """Where the program is after so many instructions."""

    function: int
    offset: int
    frames: int
    watched: bytes


def stepped(steps: int) -> tuple[list[Moment], SnapshotState, bytes]:
    """The moments of a run of our engine, and the state at the first of them."""
    module = Module.from_text(WRITES)
    with Wasi(deterministic=True) as wasi, Store() as store:
        instance = store.instantiate(module, wasi.imports)
        store.enqueue(instance.function("_start"))
        assert store.run(fuel=5) == Paused("fuel")
        state = Snapshot.of(store, wasi=wasi).state
        memory = instance.memory("memory")
        moments = []
        for _ in range(steps):
            frames = store.frames()
            top = frames[-1]
            watched = memory.read(BEGIN, END - BEGIN)
            moments.append(Moment(top.function, top.offset, len(frames), watched))
            assert store.run(fuel=1) == Paused("fuel")
    return moments, state, bytes(module.binary)


def _stops(moments: list[Moment], watch: dict[str, Any], count: int) -> bool:
    """Whether a run with this watch stops after so many instructions."""
    now = moments[count]
    if "position" in watch:
        place = watch["position"]
        return (now.function, now.offset) == (place["function"], place["offset"])
    if not count:
        return False
    before = moments[count - 1]
    if "frames" in watch:
        return before.frames > now.frames <= int(watch["frames"])
    return now.watched != before.watched


def _asks(moments: list[Moment], chosen: random.Random, number: int) -> list[dict[str, Any]]:
    asks = []
    for _ in range(number):
        place = chosen.choice(moments)
        watch: dict[str, Any] = chosen.choice(
            (
                {"position": {"function": place.function, "offset": place.offset}},
                {"frames": chosen.randint(1, 8)},
                {"memory": {"memory": 0, "begin": BEGIN, "end": END}},
            )
        )
        to = chosen.randrange(len(moments))
        back = chosen.random() < 0.5
        most = min(chosen.choice((3, 100, 2000)), len(moments) - 1 - to)
        depth = chosen.choice((1, 2, 3, 100))
        asks.append({"to": to, "watch": watch, "back": back, "most": most, "depth": depth})
    return asks


def _expected(moments: list[Moment], ask: dict[str, Any]) -> Any:
    to, watch, depth = ask["to"], ask["watch"], ask["depth"]
    if not ask["back"]:
        hit = {"position": "position", "frames": "return", "memory": "write"}[next(iter(watch))]
        for count in range(to + 1, to + ask["most"] + 1):
            # The end of the run comes first: a position is found by the next instruction.
            if _stops(moments, watch, count) and (hit != "position" or count < to + ask["most"]):
                return {"count": count, "hit": hit, "there": True}
        return {"count": to + ask["most"], "hit": "", "there": True}
    for count in range(to, -1, -1):
        if not _stops(moments, watch, count) or moments[count].frames > depth:
            continue
        if "memory" in watch:
            return {"count": count - 1}
        if count < to:
            return {"count": count}
    return {"count": None}


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.full)])
def test_watches_stop_where_our_engine_is_then(seed: int, tmp_path: Path) -> None:
    """Stops are those that stepping through the same program finds."""
    moments, state, binary = stepped(1_500 if seed == 1 else 4_000)
    asks = _asks(moments, random.Random(seed), 150 if seed == 1 else 2_000)
    lay_out(state, binary, tmp_path)
    (tmp_path / "asks.json").write_text(json.dumps(asks))
    words = [*needed(NODE).command[:-1], str(HERE / "watch_driver.mjs"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    expected = [_expected(moments, ask) for ask in asks]
    for ask, wanted, found in zip(asks, expected, json.loads(done.stdout), strict=True):
        assert found == wanted, ask
    kinds = {(next(iter(ask["watch"])), ask["back"]) for ask in asks}
    assert len(kinds) == 6, "each kind of watch, both ways"
    assert (
        sum(one["count"] is not None and one.get("hit") != "" for one in expected) > len(asks) / 3
    )


def test_writes_to_another_memory_do_not_stop(tmp_path: Path) -> None:
    """Also where the watched bytes go beyond the end of theirs."""
    module = Module.from_text("""(module (memory 1) (memory 1)
      (func (export "_start")
        (loop
          (i32.store (i32.const 8) (i32.const 1))
          (i32.store 1 (i32.const 8) (i32.const 1))
          (br 0))))""")
    with Store() as store:
        store.enqueue(store.instantiate(module).function("_start"))
        assert store.run(fuel=1) == Paused("fuel")
        lay_out(Snapshot.of(store).state, bytes(module.binary), tmp_path)
    asks = [
        {"to": 0, "watch": {"memory": {"memory": memory, "begin": 0, "end": 1 << 40}},
         "back": False, "most": 20, "depth": 1}
        for memory in (1, 0, 2)
    ]  # fmt: skip
    (tmp_path / "asks.json").write_text(json.dumps(asks))
    words = [*needed(NODE).command[:-1], str(HERE / "watch_driver.mjs"), str(tmp_path)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    found = [(one["count"], one["hit"]) for one in json.loads(done.stdout)]
    assert found == [(6, "write"), (3, "write"), (20, "")]
