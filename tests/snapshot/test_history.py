"""Moments of a running program: it goes back and forth in place, by all ways to find writes."""

from __future__ import annotations

import io
import os
import random
from pathlib import Path

import pytest

from tests.interp.machines import text
from tests.snapshot.memory.test_dirty_pages import SPACE, Machine, available
from wasmsr import (
    Finished,
    Module,
    Mount,
    Paused,
    Snapshot,
    SnapshotError,
    Store,
    Wasi,
    WasmsrError,
)
from wasmsr.snapshot.memory.dirty_pages import METHODS, DirtyMethod, DirtyTracker
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, pairs_of
from wasmsr.snapshot.moments.history import History
from wasmsr.snapshot.moments.images import MemoryImage
from wasmsr.snapshot.moments.moment import Moment


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> type[DirtyMethod]:
    found: type[DirtyMethod] = request.param
    return available(found)


def random_walk(method: type[DirtyMethod], seed: int, steps: int) -> None:
    """Take moments, drop some and go to others; memory is as it was, for the other consumer too."""
    source = random.Random(seed)
    machine = Machine()
    store = machine.store
    history = History(store, method=method)
    tracker = DirtyTracker.of(store)
    other = tracker.consumer()
    seen = bytes(store.memory_view(0))
    moments: list[tuple[Moment, bytes]] = []
    for _ in range(steps):
        for _ in range(source.randrange(4)):
            machine.step(source)
        choice = source.random()
        if choice < 0.4 or not moments:
            moments.append((history.take(), bytes(store.memory_view(0))))
        elif choice < 0.8:
            moment, wanted = source.choice(moments)
            history.go_to(moment)
            machine._use(store)
            assert bytes(store.memory_view(0)) == wanted
            store.check()
        elif choice < 0.9:
            moment, _ = moments.pop(source.randrange(len(moments)))
            history.drop(moment)
        else:
            now = bytes(store.memory_view(0))
            with tracker.changes(other) as changes:
                named = {
                    p for first, n in pairs_of(changes[SPACE]) for p in range(first, first + n)
                }
            for page in range(len(now) // PAGE_SIZE):
                part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
                before = seen[part] or bytes(PAGE_SIZE)
                assert page in named or now[part] == before, "another consumer's page was lost"
            seen = now
    for moment, wanted in moments:
        (fork,) = moment.fork(1, imports={"host": {"write": lambda a, b: None}}, stdin=b"")
        assert bytes(fork.memory_view(0)) == wanted
        fork.close()
    history.close()
    machine.close()


@pytest.mark.parametrize("seed", range(4))
def test_it_goes_to_any_moment(method: type[DirtyMethod], seed: int) -> None:
    random_walk(method, seed, 60)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 112))
def test_it_goes_to_any_moment_for_long(method: type[DirtyMethod], seed: int) -> None:
    random_walk(method, seed, 400)


def changed_walk(method: type[DirtyMethod], seed: int, steps: int) -> None:
    """What may differ from where a history began is named, over ways back and over forks."""
    source = random.Random(seed)
    machine = Machine()
    for _ in range(20):
        machine.step(source)
    with History(machine.store, method=method) as first:
        assert first.changed() is None
        begun = first.take()
    wanted = bytes(machine.store.memory_view(0))
    history: History | None = None
    moments: list[Moment] = []

    def fork(moment: Moment) -> History:
        (made,) = moment.fork(1, imports={"host": {"write": machine._host}}, stdin=machine.input)
        machine.store.close()
        machine._use(made)
        return History(made, method=method, begun=moment)

    for _ in range(steps):
        if history is None or source.random() < 0.1:
            last = begun if history is None else history.take()
            if history is not None:
                history.close()
            history, moments = fork(last), []
        for _ in range(source.randrange(4)):
            machine.step(source)
        choice = source.random()
        if choice < 0.4 or not moments:
            moments.append(history.take())
        elif choice < 0.7:
            history.go_to(source.choice(moments))
            machine._use(machine.store)
        elif choice < 0.8:
            history.drop(moments.pop(source.randrange(len(moments))))
        now = bytes(machine.store.memory_view(0))
        (runs,) = history.changed() or ()
        named = {p for first, n in pairs_of(runs) for p in range(first, first + n)}
        for page in range(len(now) // PAGE_SIZE):
            part = slice(page * PAGE_SIZE, (page + 1) * PAGE_SIZE)
            before = wanted[part] or bytes(PAGE_SIZE)
            assert page in named or now[part] == before, f"page {page} is not named"
    assert history is not None
    history.close()
    machine.close()


@pytest.mark.parametrize("seed", range(3))
def test_it_names_what_may_differ_from_its_beginning(method: type[DirtyMethod], seed: int) -> None:
    changed_walk(method, seed, 60)


@pytest.mark.full
@pytest.mark.parametrize("seed", range(100, 106))
def test_it_names_it_for_long(method: type[DirtyMethod], seed: int) -> None:
    changed_walk(method, seed, 400)


def test_what_was_not_written_is_not_named() -> None:
    store = Store()
    memory = store.instantiate(COUNTER).memory("memory")
    memory.data[5 * PAGE_SIZE] = 1
    moment = History(store).take()
    (fork,) = moment.fork(1)
    with fork:
        history = History(fork, begun=moment)
        data = fork.memory_view(0)
        data[7 * PAGE_SIZE] = 1
        kept = history.take()
        data[9 * PAGE_SIZE] = 1
        assert [list(one) for one in history.changed() or ()] == [[7, 1, 9, 1]]
        history.go_to(kept)
        assert [list(one) for one in history.changed() or ()] == [[7, 1]]
        over = [MemoryImage(len(data), before=one, written=one.written) for one in kept.images]
        history.close()
        assert [list(one) for one in History(fork, over=over).changed() or ()] == [[7, 1]]


COUNTER = text("""(module
  (memory (export "memory") 2 20) (global $g (export "g") (mut i32) (i32.const 0))
  (table (export "t") 1 10 funcref)
  (func (export "run") (param $n i32) (result i32)
    (loop $more
      (i32.store (i32.mul (global.get $g) (i32.const 64)) (global.get $g))
      (global.set $g (i32.add (global.get $g) (i32.const 1)))
      (if (i32.eqz (i32.rem_u (global.get $g) (i32.const 200)))
        (then (drop (memory.grow (i32.const 1)))
              (drop (table.grow (ref.func 0) (i32.const 1)))))
      (br_if $more (i32.lt_u (global.get $g) (local.get $n))))
    (i32.add (memory.size) (table.size)))
  (elem declare func 0))""")


def test_a_call_goes_on_from_each_moment(method: type[DirtyMethod]) -> None:
    store = Store()
    store.enqueue(store.instantiate(COUNTER).function("run"), 1000)
    history = History(store, method=method)
    moments = [history.take()]
    while isinstance(store.run(fuel=2000), Paused):
        moments.append(history.take())
    assert len(moments) > 3
    for moment in (*moments, *reversed(moments), moments[2], moments[2]):
        history.go_to(moment)
        store.check()
        end = store.run()
        assert isinstance(end, Finished) and end.results == (2 + 5 + 1 + 5,)
        assert store.instances[0].exports["g"].value == 1000  # type: ignore[union-attr]
    for moment in moments[1:-1]:
        history.drop(moment)
    history.go_to(moments[-1])
    assert isinstance(store.run(), Finished)
    history.go_to(moments[0])
    assert store.state.memory_size(0).size == 2
    assert isinstance(store.run(), Finished)


def test_merged_images_read_no_base(monkeypatch: pytest.MonkeyPatch) -> None:
    store = Store()
    memory = store.instantiate(COUNTER).memory("memory")
    history = History(store)
    moments = [history.take()]
    for page in range(6):
        memory.data[page * PAGE_SIZE] = memory.data[0] = page + 1
        moments.append(history.take())
    wanted = bytes(store.memory_view(0))

    def refused(*arguments: object) -> int:
        raise AssertionError("the base was read")

    with monkeypatch.context() as patch:
        patch.setattr(os, "preadv", refused)
        for moment in moments[1:-2]:
            history.drop(moment)
    (image,) = moments[-2].images
    assert len(image.chain) == 2
    history.go_to(moments[0])
    assert bytes(store.memory_view(0)) == bytes(2 * 65536)
    history.go_to(moments[-1])
    assert bytes(store.memory_view(0)) == wanted


def test_a_long_chain_gets_a_new_base() -> None:
    store = Store()
    memory = store.instantiate(COUNTER).memory("memory")
    history = History(store)
    lengths = []
    for turn in range(200):
        memory.data[turn * 640] = 1
        lengths.append(len(history.take().images[0].chain))
    assert 1 < max(lengths) <= 65
    assert lengths[-1] < 200


def test_what_wasi_has_goes_back(tmp_path: Path) -> None:
    (tmp_path / "in").write_text("abcdefgh")
    module = Module.from_text("""(module
      (import "wasi_snapshot_preview1" "fd_read" (func $read (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_write"
        (func $write (param i32 i32 i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "fd_close" (func $close (param i32) (result i32)))
      (import "wasi_snapshot_preview1" "random_get" (func $random (param i32 i32) (result i32)))
      (import "wasi_snapshot_preview1" "path_open" (func $open
        (param i32 i32 i32 i32 i32 i64 i64 i32 i32) (result i32)))
      (memory (export "memory") 1)
      (data (i32.const 0) "\\20\\00\\00\\00\\02\\00\\00\\00") (data (i32.const 64) "log")
      (func (export "open") (result i32) (call $open (i32.const 3) (i32.const 0) (i32.const 64)
        (i32.const 3) (i32.const 1) (i64.const 64) (i64.const 0) (i32.const 0) (i32.const 12)))
      (func (export "read") (result i32)
        (drop (call $read (i32.const 0) (i32.const 0) (i32.const 1) (i32.const 8)))
        (drop (call $write (i32.const 1) (i32.const 0) (i32.const 1) (i32.const 8)))
        (call $write (i32.load (i32.const 12)) (i32.const 0) (i32.const 1) (i32.const 8)))
      (func (export "draw") (result i64) (drop (call $random (i32.const 128) (i32.const 8)))
        (i64.load (i32.const 128)))
      (func (export "close") (param i32) (result i32) (call $close (local.get 0))))""")
    output = io.BytesIO()
    for mode in ("mem", "carry", "overlay"):
        folder = tmp_path / mode
        folder.mkdir()
        mount = Mount.memory("/d") if mode == "mem" else Mount(folder, "/d", mode)
        store = Store()
        store.wasi = Wasi(stdin=tmp_path / "in", stdout=output, mounts=[mount], deterministic=True)
        call = store.instantiate(module, store.wasi.imports).function
        history = History(store)
        start = history.take()
        assert call("open")() == 0
        assert call("read")() == 0
        middle = history.take()
        drawn = call("draw")()
        assert call("read")() == 0
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            history.go_to(middle)
            assert store.instances[0].function("draw")() == drawn
            assert store.instances[0].function("read")() == 0
            assert store.instances[0].function("close")(4) == 0
            assert store.instances[0].function("read")() == 8, "a closed descriptor"
        assert len(os.listdir("/proc/self/fd")) <= before
        if mode == "carry":
            assert (folder / "log").read_bytes() == b"abcd"
        history.go_to(start)
        assert store.instances[0].function("read")() == 8, "not open yet"
        if mode == "carry":
            assert not (folder / "log").exists()
        assert output.getvalue() == b"abcd" + 3 * b"cdef" + b"ab"
        output.seek(0)
        output.truncate()
        store.close()


def test_it_goes_to_a_state_from_a_file(method: type[DirtyMethod], tmp_path: Path) -> None:
    """A state in memory and one in a file have one interface."""
    store = Store()
    store.wasi = Wasi()
    store.enqueue(store.instantiate(COUNTER).function("run"), 1000)
    history = History(store, method=method)
    store.run(fuel=3000)
    Snapshot.of(store).save(tmp_path / "snapshot.bin")
    wanted = bytes(store.memory_view(0))
    store.run(fuel=5000)
    later = history.take()
    after = bytes(store.memory_view(0))
    with Snapshot.load(tmp_path / "snapshot.bin").moment(modules=[COUNTER]) as moment:
        for _ in range(2):
            history.go_to(moment)
            assert bytes(store.memory_view(0)) == wanted
            forked = [one.run() for one in moment.fork(2)]
            assert isinstance(end := store.run(), Finished)
            assert forked == [end, end]
            history.go_to(later)
            assert bytes(store.memory_view(0)) == after
            assert store.run() == end


def test_host_functions_belong_to_a_branch() -> None:
    """Two branches give one address to two functions."""
    asking = text('(module (import "h" "f" (func (result i32))) (export "f" (func 0)))')
    store = Store()
    store.instantiate(COUNTER)
    history = History(store)
    start = history.take()
    ends = []
    for number in (1, 2):
        history.go_to(start)
        store.instantiate(asking, {"h": {"f": lambda number=number: number}})
        ends.append(history.take())
    for number in (0, 1, 1, 0):
        history.go_to(ends[number])
        assert store.instances[1].function("f")() == number + 1


def test_what_cannot_be_is_refused() -> None:
    store, other = Store(), Store()
    store.instantiate(COUNTER)
    other.instantiate(text("(module (memory 1))"))
    history = History(store)
    moment = history.take()
    foreign = History(other).take()
    with pytest.raises(SnapshotError, match="of another program"):
        history.go_to(foreign)
    moment.close()
    with pytest.raises(SnapshotError, match="closed"):
        history.go_to(moment)
    with pytest.raises(WasmsrError, match="closed"):
        moment.fork(1)
    foreign.close()


def test_all_consumers_of_a_store_ask_one_service() -> None:
    store = Store()
    store.instantiate(COUNTER)
    first, second = History(store), History(store)
    assert store.bases.tracker is first._tracker is second._tracker
    wrong = next(one for one in METHODS if one is not first._tracker.method)
    with pytest.raises(SnapshotError, match="already"):
        History(store, method=wrong)
    first.close()
    assert store.bases.tracker is second._tracker
    second.close()
    assert store.bases.tracker is None


def test_an_image_of_an_empty_memory() -> None:
    image = MemoryImage.of_bytes(memoryview(b""))
    image.write(memoryview(bytearray()), b"")
    assert image.pages == 0


def test_another_consumer_learns_of_pages_that_were_gone(method: type[DirtyMethod]) -> None:
    """A memory shrinks by a way back and grows again: what was there is zero now."""
    store = Store()
    memory = store.instantiate(COUNTER).memory("memory")
    history = History(store, method=method)
    start = history.take()
    tracker = DirtyTracker.of(store)
    other = tracker.consumer()
    memory.grow(2)
    memory.data[3 * 65536] = 7
    with tracker.changes(other) as changes:
        assert changes.pages >= 1
    history.go_to(start)
    memory.grow(2)
    assert memory.data[3 * 65536] == 0
    with tracker.changes(other) as changes:
        assert any(first <= 48 < first + count for first, count in pairs_of(changes[SPACE]))
