"""Memories over bases: what is private, how a base is written, and that siblings never see it."""

from __future__ import annotations

import gc
import os
import random
import weakref
from array import array
from collections.abc import Iterator
from pathlib import Path

import pytest

from wasmsr import Bounds, Memory, MemoryType, SnapshotError, Store
from wasmsr.interp.outcomes import Limits
from wasmsr.interp.store.state import StateRefused
from wasmsr.snapshot.memory import bases as module
from wasmsr.snapshot.memory import page_calls
from wasmsr.snapshot.memory.bases import MemoryBase, MemoryBases
from wasmsr.snapshot.memory.page_engine import PAGE_SIZE, page_map, runs_of

WASM_PAGE = 65536


@pytest.fixture
def store() -> Iterator[Store]:
    with Store(limits=Limits(memory_pages=64)) as made:
        yield made


def memory_of(store: Store, pages: int = 8, seed: int = 1) -> Memory:
    """A memory with some pages of content."""
    memory = Memory.new(store, MemoryType(Bounds(pages, None)))
    source = random.Random(seed)
    for page in source.sample(range(pages * 16), pages * 8):
        memory.write(page * PAGE_SIZE, source.randbytes(100))
    return memory


def file_base(data: bytes, offset: int = 0) -> MemoryBase:
    fd = os.memfd_create("test")
    os.write(fd, bytes(offset) + data)
    return MemoryBase(fd, offset, len(data))


def test_a_memory_gets_a_base_of_its_own(store: Store) -> None:
    memory = memory_of(store)
    before = bytes(memory.data)
    bases = MemoryBases(store)
    base = bases.make_own(0)
    assert bases.make_own(0) is base and bases.get(0) is base
    assert bytes(memory.data) == before == bytes(base.view())
    assert store.state.memory_place(0).base == len(before)
    memory.write(3 * PAGE_SIZE, b"private")
    assert bytes(base.view()) == before
    bases.settle(0, array("Q", (3, 1)))
    assert bytes(base.view()) == bytes(memory.data) != before
    assert memory.read(3 * PAGE_SIZE, 7) == b"private"


def test_a_memory_moves_to_its_base_in_chunks(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "_CHUNK", 3 * WASM_PAGE)
    memory = memory_of(store, 11)
    before = bytes(memory.data)
    bases = MemoryBases(store)
    assert bytes(bases.make_own(0).view()) == before == bytes(memory.data)
    assert store.state.memory_place(0).base == len(before)


def test_a_memory_grows_over_its_base(store: Store) -> None:
    memory = memory_of(store, 2)
    bases = MemoryBases(store)
    base = bases.make_own(0)
    assert memory.grow(3) == 2
    place = store.state.memory_place(0)
    assert (place.size, place.base) == (5 * WASM_PAGE, 2 * WASM_PAGE)
    assert bytes(memory.data[2 * WASM_PAGE :]) == bytes(3 * WASM_PAGE)
    memory.write(4 * WASM_PAGE, b"grown")
    memory.write(PAGE_SIZE, b"old part")
    wanted = bytes(memory.data)
    bases.settle(0, array("Q", (1, 1, 4 * 16, 1)))
    assert bytes(memory.data) == wanted == bytes(base.view())
    assert store.state.memory_place(0).base == 5 * WASM_PAGE
    assert memory.grow(1) == 5


def test_dropped_pages_have_the_bytes_of_the_base(store: Store) -> None:
    memory = memory_of(store, 2)
    before = bytes(memory.data)
    MemoryBases(store).make_own(0)
    memory.grow(1)
    memory.write(0, b"changed" * 1000)
    memory.write(2 * WASM_PAGE, b"anonymous")
    store.state.drop_pages(0, array("Q", (0, 48)))
    assert bytes(memory.data) == before + bytes(WASM_PAGE)


@pytest.mark.parametrize("offset", [0, WASM_PAGE])
def test_siblings_over_one_base_do_not_see_each_other(offset: int) -> None:
    data = random.Random(2).randbytes(4 * WASM_PAGE)
    base = file_base(data, offset)
    stores = [Store() for _ in range(3)]
    memories = [Memory.new(store, MemoryType(Bounds(4, 9))) for store in stores]
    all_bases = [MemoryBases(store) for store in stores]
    for bases, memory in zip(all_bases, memories, strict=True):
        bases.lay(0, base)
        assert bytes(memory.data) == data
    memories[0].write(5, b"first")
    memories[1].write(9 * PAGE_SIZE, b"second")
    with pytest.raises(ValueError, match="cannot be written"):
        base.write(stores[0].state.memory_place(0).start, array("Q", (0, 1)))
    # To settle gives the first a base of its own; nothing of the siblings changes.
    all_bases[0].settle(0, array("Q", (0, 1)))
    own = all_bases[0].get(0)
    assert own is not None and own.own and own is not base
    assert bytes(own.view()) == bytes(memories[0].data) == data[:5] + b"first" + data[10:]
    assert bytes(memories[2].data) == data == bytes(base.view())
    assert memories[1].read(9 * PAGE_SIZE, 6) == b"second"
    base.close()
    base.close()
    assert bytes(memories[2].data) == data
    for store in stores:
        store.close()


def test_a_base_that_is_shared_is_sealed(store: Store) -> None:
    memory_of(store)
    bases = MemoryBases(store)
    base = bases.make_own(0)
    base.share()
    base.share()
    assert not base.own
    for change in (
        lambda: os.pwrite(base.fd, b"x", 0),
        lambda: os.ftruncate(base.fd, 0),
        lambda: os.ftruncate(base.fd, base.length + WASM_PAGE),
    ):
        with pytest.raises(PermissionError):
            change()
    with pytest.raises(ValueError, match="cannot be written"):
        base.resize(base.length)
    assert bases.make_own(0) is not base


def test_files_that_do_not_fit_are_refused(store: Store) -> None:
    memory = memory_of(store, 4)
    before = bytes(memory.data)
    bases = MemoryBases(store)
    short = file_base(bytes(2 * WASM_PAGE))
    short.length = 3 * WASM_PAGE
    with pytest.raises(SnapshotError, match="shorter than the memory's base"):
        bases.lay(0, short)
    with pytest.raises(SnapshotError, match="memory 0 cannot be laid"):
        bases.lay(0, file_base(bytes(5 * WASM_PAGE)))
    lay = store.state.lay_memory
    fd = file_base(bytes(6 * WASM_PAGE)).fd
    for offset, length, first in (
        (1, WASM_PAGE, 0),
        (PAGE_SIZE, WASM_PAGE, 0),
        (0, PAGE_SIZE, 0),
        (0, 2 * WASM_PAGE, WASM_PAGE),
        (2**63, WASM_PAGE, 0),
    ):
        with pytest.raises(StateRefused):
            lay(0, fd, offset, length, first=first)
    with pytest.raises(StateRefused):
        lay(0, 9999, 0, WASM_PAGE)
    assert bytes(memory.data) == before
    assert store.state.memory_place(0).base == 0
    bases.lay(0, file_base(bytes([7]) * 3 * WASM_PAGE))
    with pytest.raises(SnapshotError, match="cannot be laid"):  # it would leave a part behind
        bases.lay(0, file_base(bytes(2 * WASM_PAGE)))
    assert bytes(memory.data) == bytes([7]) * 3 * WASM_PAGE + before[3 * WASM_PAGE :]


def test_runs_out_of_bounds_are_not_dropped(store: Store) -> None:
    memory = memory_of(store, 2)
    before = bytes(memory.data)
    for runs in ((32, 1), (31, 2), (2**64 - 1, 2), (0, 2**64 - 1)):
        with pytest.raises(StateRefused, match="cannot be given up"):
            store.state.drop_pages(0, array("Q", runs))
    assert bytes(memory.data) == before


def test_a_memory_can_be_cleared_to_any_size_that_it_can_have(store: Store) -> None:
    memory = memory_of(store, 4)
    MemoryBases(store).make_own(0)
    memory.grow(3)
    for pages in (4, 9, 64, 5):
        memory.write(0, b"content")
        store.state.clear_memory(0, pages)
        assert bytes(memory.data) == bytes(pages * WASM_PAGE)
        place = store.state.memory_place(0)
        assert (place.size, place.base) == (pages * WASM_PAGE, 0)
    for pages in (3, 65, 2**48):
        with pytest.raises(StateRefused, match="memory 0 cannot have"):
            store.state.clear_memory(0, pages)
    assert memory.grow(1) == 5
    assert memory.grow(59) == -1


def test_a_full_host_leaves_the_memory_as_it_is(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(fd: int, offset: int, start: int, runs: object) -> None:
        if offset or len(calls) == 2:
            raise OSError(28, "No space left on device")
        calls.append(fd)
        write(fd, offset, start, runs)  # type: ignore[arg-type]

    calls: list[int] = []
    write = module.write_pages
    memory = memory_of(store, 12)
    before = bytes(memory.data)
    bases = MemoryBases(store)
    monkeypatch.setattr(module, "_CHUNK", 4 * WASM_PAGE)
    monkeypatch.setattr(module, "write_pages", full)
    with pytest.raises(SnapshotError, match="No space left"):
        bases.make_own(0)
    assert bytes(memory.data) == before
    assert bases.get(0) is None
    assert store.state.memory_place(0).base == 8 * WASM_PAGE
    monkeypatch.setattr(module, "write_pages", write)
    memory.write(0, b"later")
    assert bytes(bases.make_own(0).view()) == b"later" + before[5:] == bytes(memory.data)


def test_a_copy_does_not_make_pages_exist(store: Store) -> None:
    memory = Memory.new(store, MemoryType(Bounds(64, None)))
    memory.write(3 * WASM_PAGE, b"before")
    bases = MemoryBases(store)
    assert bases.copied(0) == memory.data
    base = bases.make_own(0)
    memory.write(40 * WASM_PAGE, b"private")
    runs = bases.existing(0)
    assert list(runs) == [48, 1, 640, 1] or not exact()
    blocks = os.fstat(base.fd).st_blocks
    copy = bases.copied(0)
    if exact():
        assert os.fstat(base.fd).st_blocks == blocks <= 2 * PAGE_SIZE // 512
    assert copy == memory.data
    memory.write(0, b"later")
    assert bytes(copy[:5]) == bytes(5)


def exact() -> bool:
    """Whether this host tells which pages exist."""
    return page_calls.refusal_of(page_calls.PRIVATE) is None


@pytest.mark.parametrize("offset", [0, WASM_PAGE])
def test_the_holes_of_a_file_are_no_pages(store: Store, offset: int, tmp_path: Path) -> None:
    """Whatever the file system calls a hole: all that is not zero is in the copy."""
    file = tmp_path / "file"
    data = bytearray(8 * WASM_PAGE)
    data[5 * PAGE_SIZE] = data[6 * WASM_PAGE - 1] = data[-1] = 9
    with file.open("wb") as stream:
        stream.truncate(offset + len(data) + WASM_PAGE)
        for at in (5 * PAGE_SIZE, 6 * WASM_PAGE - 1, len(data) - 1):
            stream.seek(offset + at)
            stream.write(b"\x09")
        stream.seek(offset + len(data))
        stream.write(b"after the base")
    memory = Memory.new(store, MemoryType(Bounds(8, None)))
    bases = MemoryBases(store)
    bases.lay(0, MemoryBase(os.open(file, os.O_RDONLY), offset, len(data)))
    memory.grow(1)
    memory.write(8 * WASM_PAGE + 5, b"grown")
    assert bytes(memory.data[: len(data)]) == data
    assert bases.copied(0) == memory.data


def test_zero_pages_take_no_room_in_a_base(store: Store) -> None:
    memory = Memory.new(store, MemoryType(Bounds(64, None)))
    memory.write(40 * WASM_PAGE, b"one page")
    base = MemoryBases(store).make_own(0)
    assert os.fstat(base.fd).st_blocks * 512 == PAGE_SIZE
    assert runs_of(page_map(base.view())) == array("Q", (640, 1))


def test_a_closed_store_closes_its_bases_at_once(store: Store) -> None:
    """A program that has left frees its memory then, not when Python collects its store."""
    memory_of(store)
    store.bases = MemoryBases(store)
    base = weakref.ref(store.bases.make_own(0))
    gc.disable()
    try:
        assert base() is not None
        store.close()
        assert base() is None
    finally:
        gc.enable()
