"""A program of several modules moves: they share a memory and a table, and call each other."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tests.migrate.arriving import arrived
from tests.migrate.test_killing import free_ports
from wasmsr.errors import ModuleMismatch
from wasmsr.interp.modules.module import Module
from wasmsr.interp.store.store import Store
from wasmsr.migrate.events import Event
from wasmsr.migrate.handover.arrivals import EndLimits
from wasmsr.migrate.hosting.host import Hosting
from wasmsr.migrate.ports import MovableProgram
from wasmsr.migrate.protocol import Reason
from wasmsr.program.program import Program
from wasmsr.rpc.end import ServedPrograms
from wasmsr.runspec.address import Address
from wasmsr.runspec.grants import HostGrants
from wasmsr.wasi.facade import Wasi

LIBRARY = """
(module
  (memory (export "memory") 2)
  (table (export "table") 4 funcref)
  (global $calls (export "calls") (mut i64) (i64.const 0))
  (func (export "count") (param $n i64) (result i64)
    (global.set $calls (i64.add (global.get $calls) (i64.const 1)))
    (i64.store (i32.const 70000) (i64.add (i64.load (i32.const 70000)) (local.get $n)))
    (global.get $calls)))
"""

PROGRAM = """
(module
  (import "library" "memory" (memory 2))
  (import "library" "table" (table 4 funcref))
  (import "library" "calls" (global $calls (mut i64)))
  (import "library" "count" (func $count (param i64) (result i64)))
  (import "wasi_snapshot_preview1" "clock_time_get"
    (func $clock (param i32 i64 i32) (result i32)))
  (import "wasi_snapshot_preview1" "proc_exit" (func $exit (param i32)))
  (export "memory" (memory 0))
  (type $counts (func (param i64) (result i64)))
  (elem (i32.const 2) func $count)
  (func $now (result i64)
    (drop (call $clock (i32.const 0) (i64.const 1) (i32.const 32)))
    (i64.load (i32.const 32)))
  (func (export "_start") (local $end i64) (local $sum i64) (local $n i64)
    (local.set $end (i64.add (call $now) (i64.const LIFE)))
    (loop $again
      (local.set $n (i64.add (local.get $n) (i64.const 1)))
      (local.set $sum (i64.add (local.get $sum) (local.get $n)))
      (drop (call_indirect (type $counts) (local.get $n) (i32.const 2)))
      (br_if $again (i64.lt_s (call $now) (local.get $end))))
    (call $exit (i32.or
      (i64.ne (local.get $n) (global.get $calls))
      (i64.ne (local.get $sum) (i64.load (i32.const 70000)))))))
"""


def linked(grants: HostGrants, seconds: float) -> Program:
    """A program whose second instance imports from the first."""
    library = Module.from_text(LIBRARY, name="library")
    main = Module.from_text(PROGRAM.replace("LIFE", str(int(seconds * 1e9))), name="main")
    wasi = Wasi(args=["linked"], env={}, mounts=grants.mounts, stdin=grants.stdin)
    store = Store(features=main.allowed_features)
    shared = store.instantiate(library, {})
    instance = store.instantiate(main, {**wasi.imports, "library": shared.exports}, start=False)
    store.enqueue_raw(instance.function("_start").address, ())
    return Program(store, main, wasi, grants)


def host(folder: Path) -> Hosting:
    return Hosting(lambda: HostGrants(stdin=None), known={}, files=folder)


def test_the_modules_are_announced_and_checked(tmp_path: Path) -> None:
    one, two = host(tmp_path / "one"), host(tmp_path / "two")
    program = one.launch(lambda grants: linked(grants, 60))
    described = program.describe()
    assert [name.name for name in described.modules] == ["library", "main"]
    binaries = {name.digest: bytes(program.module(name.digest)) for name in described.modules}
    assert two.refuse(described) is None
    refusal = two.refuse(replace(described, modules=described.modules * 40))
    assert refusal is not None and refusal.reason is Reason.LIMIT
    program.start()
    time.sleep(0.05)
    assert program.pause(10)
    state = program.program.snapshot()
    for wrong in (dict(list(binaries.items())[:1]), dict(reversed(binaries.items())), {}):
        with pytest.raises(ModuleMismatch, match="other modules than were announced"):
            arrived(two, state).restore(program.id, wrong)
    came = arrived(two, state).restore(program.id, binaries)
    named = came.describe().modules
    assert [one.digest for one in named] == [one.digest for one in described.modules]
    came.start()
    time.sleep(0.05)
    assert came.pause(10)
    assert came.program.snapshot().globals[0] != state.globals[0], "it does not run on"
    for each in (program, came):
        each.close()


@pytest.fixture
def ends(tmp_path: Path) -> Iterator[tuple[list[ServedPrograms], list[Hosting], list[Event]]]:
    """Two ends of several programs in this process, over gRPC."""
    ports = free_ports()
    events: list[Event] = []
    hosts = [host(tmp_path / name) for name in "ab"]
    arrivals: list[MovableProgram] = []
    served = [
        ServedPrograms(
            listen=Address("127.0.0.1", ports[at]),
            peers=[Address("127.0.0.1", ports[1 - at])],
            state=tmp_path / f"state-{at}",
            host=hosts[at],
            announce=events.append,
            limits=EndLimits(2, 2),
            arrived=arrivals.append,
            software="test",
            key=b"the key of these tests",
        )
        for at in (0, 1)
    ]
    for one, hosting in zip(served, hosts, strict=True):
        hosting.node = one.end.journal.node
    yield served, hosts, events
    threads = [threading.Thread(target=one.close) for one in served]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


def test_a_linked_program_moves_there_and_back(
    ends: tuple[list[ServedPrograms], list[Hosting], list[Event]],
) -> None:
    (one, two), hosts, events = ends
    program = hosts[0].launch(lambda grants: linked(grants, 1.5))
    one.end.start(program)
    time.sleep(0.1)
    assert one.end.move(program.id), [event.text for event in events]
    assert two.end.move(program.id), [event.text for event in events]
    back = one.end.get(program.id)
    assert back is not None
    ending = back.wait(60)
    assert ending is not None and (ending.kind, ending.code) == ("exited", 0)
    one.end.finish(program.id, ending)
    assert one.end.programs() == two.end.programs() == []
    assert [event.kind for event in events].count("moved") == 2
