"""Each method finds exactly what was written, in whatever way, for each consumer by itself."""

from __future__ import annotations

import errno
import mmap
import os
import platform
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.seccomp import run_without
from wasmsr import Module, SnapshotError, Store
from wasmsr._ffi import ffi
from wasmsr.interp.store.externs import Memory
from wasmsr.snapshot.memory import dirty_pages, page_calls, page_engine
from wasmsr.snapshot.memory.dirty_pages import (
    METHODS,
    DirtyConsumer,
    DirtyMethod,
    DirtyTracker,
    PageHashes,
    PrivatePages,
    WatchedWrites,
    method_of_host,
)
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE
from wasmsr.snapshot.memory.space_name import MEMORY_SPACE, SpaceName
from wasmsr.snapshot.snapshot import Snapshot
from wasmsr.wasi.facade import Wasi

PAGES = 16
"""Wasm pages at the start."""
MOST = 60
SPACE = SpaceName(MEMORY_SPACE, 0)

PROGRAM = Module.from_text(f"""(module
  (import "wasi_snapshot_preview1" "fd_read"
    (func $read (param i32 i32 i32 i32) (result i32)))
  (import "host" "write" (func $host (param i32 i32)))
  (memory (export "memory") {PAGES} {MOST})
  (data $passive "{"some bytes " * 1000}")
  (func (export "store8") (param i32 i32) (i32.store8 (local.get 0) (local.get 1)))
  (func (export "store64") (param i32 i64) (i64.store (local.get 0) (local.get 1)))
  (func (export "vector") (param i32 i64)
    (v128.store (local.get 0) (i64x2.splat (local.get 1))))
  (func (export "fill") (param i32 i32 i32)
    (memory.fill (local.get 0) (local.get 1) (local.get 2)))
  (func (export "copy") (param i32 i32 i32)
    (memory.copy (local.get 0) (local.get 1) (local.get 2)))
  (func (export "init") (param i32 i32)
    (memory.init $passive (local.get 0) (i32.const 0) (local.get 1)))
  (func (export "grow") (param i32) (result i32) (memory.grow (local.get 0)))
  (func (export "load") (param i32) (result i64) (i64.load (local.get 0)))
  (func (export "read") (param i32 i32) (result i32)
    (i32.store (i32.const 16) (local.get 0))
    (i32.store (i32.const 20) (local.get 1))
    (call $read (i32.const 0) (i32.const 16) (i32.const 1) (i32.const 24)))
  (func (export "host") (param i32 i32) (call $host (local.get 0) (local.get 1))))""")


def available(method: type[DirtyMethod]) -> type[DirtyMethod]:
    refusal = method.refusal()
    if refusal is not None:
        pytest.skip(f"this host cannot: {refusal}")
    return method


@pytest.fixture(params=METHODS, ids=lambda method: method.name)
def method(request: pytest.FixtureRequest) -> type[DirtyMethod]:
    found: type[DirtyMethod] = request.param
    return available(found)


class Machine:
    """A program whose memory is written in all ways; it notes which pages that touched."""

    def __init__(self) -> None:
        self.touched: set[int] = set()
        self.on_host_call: Callable[[], None] = lambda: None
        self.input = open("/dev/urandom", "rb", buffering=0)  # noqa: SIM115 (closed by `close`)
        self.wasi = Wasi(stdin=self.input)
        store = Store()
        store.wasi = self.wasi
        store.instantiate(PROGRAM, {"host": {"write": self._host}, **self.wasi.imports})
        self._use(store)

    def _use(self, store: Store) -> None:
        self.store = store
        self.instance = store.instances[0]
        self.memory = self.instance.memory("memory")

    def restore(self) -> None:
        """Go on in another store."""
        before = self.store
        state = Snapshot.of(before).state
        imports = {"host": {"write": self._host}}
        restored = Snapshot(state).restore(modules=[PROGRAM], imports=imports, stdin=self.input)
        assert isinstance(restored, Store)
        self._use(restored)
        before.close()

    def close(self) -> None:
        self.store.close()
        self.input.close()

    def _host(self, at: int, value: int) -> None:
        self.on_host_call()
        Memory(self.store, 0).data[at : at + 8] = value.to_bytes(8, "little")

    def touch(self, at: int, size: int) -> None:
        if size:
            self.touched.update(range(at // PAGE_SIZE, (at + size - 1) // PAGE_SIZE + 1))

    def step(self, source: random.Random) -> None:
        """Write, read or grow in a random way."""
        size = self.memory.pages * 65536
        length = source.choice((0, 1, 100, 5000, 9000))
        at = source.randrange(size - 10_000)
        if source.random() < 0.2:  # on the edge of a page
            at = at // PAGE_SIZE * PAGE_SIZE + source.choice((-8, -1, 0, 4088)) % PAGE_SIZE
        value = source.randrange(1 << 31)
        call = self.instance.function
        ways: dict[str, tuple[int, Callable[[], object]]] = {
            "store8": (1, lambda: call("store8")(at, value)),
            "same": (1, lambda: call("store8")(at, self.memory.data[at])),
            "store64": (8, lambda: call("store64")(at, value)),
            "vector": (16, lambda: call("vector")(at, value)),
            "fill": (length, lambda: call("fill")(at, value, length)),
            "zeros": (length, lambda: call("fill")(at, 0, length)),
            "copy": (length, lambda: call("copy")(at, source.randrange(size - 9000), length)),
            "init": (length, lambda: call("init")(at, length)),
            "host": (8, lambda: call("host")(at, value)),
            "data": (length, lambda: self.memory.write(at, source.randbytes(length))),
            "read": (length, lambda: call("read")(at, length)),
            "readv": (length, lambda: os.readv(self.input.fileno(), [self._view(at, length)])),
            "load": (0, lambda: call("load")(at)),
            "grow": (0, lambda: call("grow")(source.randrange(3))),
        }
        way = source.choice(list(ways))
        touched, act = ways[way]
        if way == "read":
            self.touch(16, 12)
        self.touch(at, touched)
        act()

    def _view(self, at: int, length: int) -> memoryview:
        return self.memory.data[at : at + length]


class Observer:
    """A consumer, and what it must get: the pages that differ from its own copy of the memory.

    Args:
        machine: The program.
        tracker: What finds its pages.
        before: Pages that were written before.
    """

    def __init__(self, machine: Machine, tracker: DirtyTracker, before: set[int]) -> None:
        self.machine = machine
        self.tracker = tracker
        self.consumer = tracker.consumer()
        self.copy = bytes(machine.memory.data)
        self.touched: set[int] = set()
        self.again = before if tracker.method is WatchedWrites else set()
        """Pages that the kernel may name once more: see `WatchedWrites`."""

    def check(self, observers: list[Observer]) -> None:
        machine = self.machine
        for one in observers:
            one.touched |= machine.touched
        machine.touched.clear()
        now = bytes(machine.memory.data)
        old = self.copy + bytes(len(now) - len(self.copy))
        changed = {page for page, flag in enumerate(page_engine.differences(old, now)) if flag}
        with self.tracker.changes(self.consumer) as changes:
            runs = changes[SPACE]
            found = {n for a, c in zip(runs[::2], runs[1::2], strict=True) for n in range(a, a + c)}
            assert changes.pages == len(found)
            assert changes.now(SPACE) == page_engine.gather(now, runs)
            before = changes.old(SPACE, changes.pairs(SPACE))
            assert before is None or before == page_engine.gather(old, runs)
        assert changed <= found, f"missed {sorted(changed - found)}"
        if self.tracker.method is PageHashes and len(observers) == 1:
            assert found == changed  # with more, a page may have changed and changed back
        if not huge_pages():
            assert found <= self.touched | self.again, sorted(found - self.touched)
        if self.tracker.method is WatchedWrites:
            self.again |= found
        self.touched.clear()
        self.copy = now
        assert bytes(machine.memory.data) == now


def huge_pages() -> bool:
    """Whether the kernel may make 512 pages of one that is written."""
    with suppress(OSError):
        text = Path("/sys/kernel/mm/transparent_hugepage/enabled").read_text()
        return "[always]" in text
    return False


def walk(method: type[DirtyMethod], steps: int, seed: int) -> None:
    source = random.Random(seed)
    machine = Machine()
    for _ in range(20):
        machine.step(source)
    tracker = DirtyTracker(machine.store, method=method)
    observers = [Observer(machine, tracker, machine.touched.copy())]
    machine.touched.clear()
    for step in range(steps):
        machine.step(source)
        if step % 7 == 3 and len(observers) < 3:
            for one in observers:
                one.touched |= machine.touched
            machine.touched.clear()
            before = set[int]().union(*(one.touched | one.again for one in observers))
            observers.append(Observer(machine, tracker, before))
        if source.random() < 0.15:
            source.choice(observers).check(observers)
        if source.random() < 0.003:  # the program goes on in another store
            tracker.close()
            machine.restore()
            tracker = DirtyTracker(machine.store, method=method)
            observers = [Observer(machine, tracker, set(range(MOST * 16)))]
            machine.touched.clear()
    for one in observers:
        one.check(observers)
    tracker.close()
    machine.close()


@pytest.mark.parametrize("seed", range(3))
def test_random_steps(method: type[DirtyMethod], seed: int) -> None:
    walk(method, 150, seed)


@pytest.mark.full
def test_ten_thousand_random_steps(method: type[DirtyMethod]) -> None:
    for seed in range(10):
        walk(method, 1000, 100 + seed)


@contextmanager
def tracked(method: type[DirtyMethod]) -> Iterator[tuple[Machine, DirtyTracker, DirtyConsumer]]:
    machine = Machine()
    tracker = DirtyTracker(machine.store, method=method)
    try:
        yield machine, tracker, tracker.consumer()
    finally:
        tracker.close()
        machine.close()


def found(tracker: DirtyTracker, consumer: DirtyConsumer) -> list[int]:
    with tracker.changes(consumer) as changes:
        return list(changes[SPACE])


def test_the_consumer_gets_the_pages_again_after_a_failure(method: type[DirtyMethod]) -> None:
    with tracked(method) as (machine, tracker, consumer):
        machine.memory.write(5 * PAGE_SIZE, b"five")
        with pytest.raises(LookupError), tracker.changes(consumer) as changes:
            assert list(changes[SPACE]) == [5, 1]
            raise LookupError
        machine.memory.write(9 * PAGE_SIZE, b"nine")
        assert found(tracker, consumer) == [5, 1, 9, 1]
        assert found(tracker, consumer) == []


def test_consumers_do_not_clear_each_others_pages(method: type[DirtyMethod]) -> None:
    with tracked(method) as (machine, tracker, first):
        machine.memory.write(5 * PAGE_SIZE, b"five")
        second = tracker.consumer()
        machine.memory.write(6 * PAGE_SIZE, b"six")
        assert found(tracker, second) == [6, 1]
        machine.memory.write(8 * PAGE_SIZE, b"eight")
        assert found(tracker, first) == [5, 2, 8, 1]
        assert found(tracker, second) == [8, 1]
        tracker.remove(second)
        assert found(tracker, first) == []


def test_a_memory_that_is_cleared_and_one_that_is_new(method: type[DirtyMethod]) -> None:
    with tracked(method) as (machine, tracker, consumer):
        machine.memory.write(5 * PAGE_SIZE, b"five")
        assert found(tracker, consumer) == [5, 1]
        machine.memory.grow(10)
        machine.store.state.clear_memory(0, PAGES)
        assert bytes(machine.memory.data) == bytes(PAGES * 65536)
        tracker.replaced(SPACE)
        machine.memory.grow(2)
        with tracker.changes(consumer) as changes:
            assert list(changes[SPACE])[:2] == [0, PAGES * 16]
        machine.memory.write((PAGES + 1) * 65536, b"grown")
        assert found(tracker, consumer) == [(PAGES + 1) * 16, 1]
        Memory.new(machine.store, machine.memory.type).write(7 * PAGE_SIZE, b"new")
        with tracker.changes(consumer) as changes:
            assert list(changes[SpaceName(MEMORY_SPACE, 1)]) == [7, 1]
            assert list(changes[SPACE]) == []


def test_pages_that_are_dropped_can_be_marked(method: type[DirtyMethod]) -> None:
    with tracked(method) as (machine, tracker, consumer):
        machine.memory.write(5 * PAGE_SIZE, b"five")
        runs = page_engine.runs_of(bytes([0, 0, 0, 0, 0, 1]))
        machine.store.state.drop_pages(0, runs)
        assert bytes(machine.memory.data) == bytes(PAGES * 65536)
        tracker.mark(SPACE, runs)
        assert found(tracker, consumer) == [5, 1]


def test_a_running_store_is_not_scanned(method: type[DirtyMethod]) -> None:
    with tracked(method) as (machine, tracker, consumer):
        failures: list[str] = []

        def scan() -> None:
            try:
                found(tracker, consumer)
            except RuntimeError as error:
                failures.append(str(error))

        machine.on_host_call = scan
        machine.instance.function("host")(5 * PAGE_SIZE, 1)
        assert failures == ["a thread runs the store"]
        assert found(tracker, consumer) == [5, 1]


def test_pages_under_migration_are_found(method: type[DirtyMethod]) -> None:
    """The kernel moves pages while they are scanned: then they are neither present nor gone."""
    place = Path("/proc/sys/vm/compact_memory")
    if method is PageHashes:
        pytest.skip("compaction does not concern bytes")
    if not os.access(place, os.W_OK):
        pytest.skip("needs root, to ask the kernel for compaction")
    over = threading.Event()

    def compact() -> None:
        while not over.is_set():
            with suppress(OSError):
                place.write_text("1")

    helper = threading.Thread(target=compact)
    helper.start()
    try:
        with tracked(method) as (machine, tracker, consumer):
            seen: set[int] = set()
            again = 0
            end = time.monotonic() + 2
            for turn in range(250):
                if turn > 5 and time.monotonic() > end:
                    break
                pages = range(turn % 5, PAGES * 16, 5)
                for page in pages:
                    machine.memory.data[page * PAGE_SIZE] = turn + 1
                with tracker.changes(consumer) as changes:
                    named = {
                        page
                        for first, count in changes.pairs(SPACE)
                        for page in range(first, first + count)
                    }
                assert named >= set(pages)
                if named != set(pages):
                    assert method is WatchedWrites
                    assert named - set(pages) <= seen
                    again += len(named - set(pages))
                seen |= named
            assert again <= turn, "more pages are named again than the kernel moves during a scan"
    finally:
        over.set()
        helper.join()


# ---- the choice ----


def test_the_best_method_is_taken_and_the_variable_forces_one(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv(dirty_pages.VARIABLE, raising=False)
    here = [one for one in METHODS if one.refusal() is None]
    assert method_of_host() is here[0]
    for one in here:
        monkeypatch.setenv(dirty_pages.VARIABLE, one.name)
        assert method_of_host() is one
    monkeypatch.setenv(dirty_pages.VARIABLE, "magic")
    with pytest.raises(SnapshotError, match="'magic', which is no method") as error:
        method_of_host()
    assert error.value.hint == "the methods are userfaultfd, private, hash"


def test_a_host_that_refuses_gets_the_next_method(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object) -> int:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.delenv(dirty_pages.VARIABLE, raising=False)
    monkeypatch.setattr(page_calls, "_probed", {})
    monkeypatch.setattr(page_calls, "watch_writes", refuse)
    assert WatchedWrites.refusal() == "Operation not permitted"
    assert method_of_host() in (PrivatePages, PageHashes)
    monkeypatch.setenv(dirty_pages.VARIABLE, "userfaultfd")
    with pytest.raises(SnapshotError, match="userfaultfd: Operation not permitted"):
        method_of_host()
    monkeypatch.setattr(page_calls, "_probed", {})
    monkeypatch.setattr(page_calls, "scan", refuse)
    monkeypatch.delenv(dirty_pages.VARIABLE)
    assert method_of_host() is PageHashes


USERFAULTFD = {"x86_64": 323, "aarch64": 282, "s390x": 355}
"""The number of the system call."""

WITHOUT = """
from tests.snapshot.memory.test_dirty_pages import walk
from wasmsr.snapshot.memory.dirty_pages import PrivatePages, WatchedWrites, method_of_host
method = method_of_host()
assert method is not WatchedWrites and WatchedWrites.refusal()
assert method is PrivatePages or PrivatePages.refusal()
walk(method, 60, 7)
"""


@pytest.mark.skipif(platform.machine() not in USERFAULTFD, reason="the call has another number")
@pytest.mark.parametrize("answer", [errno.ENOSYS, errno.EPERM])
def test_a_sandbox_without_userfaultfd(answer: int, root: Path) -> None:
    run_without(USERFAULTFD[platform.machine()], answer, WITHOUT, root)


def test_writes_by_numpy(method: type[DirtyMethod]) -> None:
    numpy = pytest.importorskip("numpy", reason="numpy is not installed")
    with tracked(method) as (machine, tracker, consumer):
        array = numpy.frombuffer(machine.memory.data, dtype=numpy.uint8)
        array[5 * PAGE_SIZE : 7 * PAGE_SIZE : 1000] += 3
        assert found(tracker, consumer) == [5, 2]
        del array


def test_a_kernel_that_names_other_pages_is_found_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(page_calls, "_probed", {})
    monkeypatch.setattr(page_calls, "scan", lambda start, how, flags, pages: 0)
    if PrivatePages.refusal() != "the kernel names other pages than were written":
        pytest.skip(f"this host cannot: {PrivatePages.refusal()}")


@pytest.mark.skipif(WatchedWrites.refusal() is not None, reason="the host lacks userfaultfd")
@pytest.mark.parametrize("seed", range(4))
def test_writes_are_found_among_pages_that_do_not_exist(seed: int) -> None:
    """Such pages are everywhere; some are read, which makes them exist and is no write."""
    numbers = random.Random(seed)
    pages = 3000
    with mmap.mmap(-1, pages * PAGE_SIZE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as area:
        start = ffi.cast("uintptr_t", ffi.from_buffer(area))
        for page in numbers.sample(range(pages), numbers.choice([0, 30, 1500, 2900])):
            area[page * PAGE_SIZE] = 1
        watch = page_calls.watch_writes(int(start), pages * PAGE_SIZE)
        try:
            page_calls.scan(int(start), page_calls.WRITTEN, bytearray(pages), pages)
            for _ in range(3):
                written = set(numbers.sample(range(pages), numbers.choice([1, 40, 700])))
                for page in numbers.sample(range(pages), 200):
                    assert area[page * PAGE_SIZE] in (0, 1, 2)
                for page in written:
                    area[page * PAGE_SIZE + 5] = 2
                flags = bytearray(pages)
                count = page_calls.scan(int(start), page_calls.WRITTEN, flags, pages)
                assert {page for page in range(pages) if flags[page]} == written
                assert count == len(written)
        finally:
            os.close(watch)
