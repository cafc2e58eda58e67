"""Which pages are stored: zero pages are not, equal ones once, and all come back."""

from __future__ import annotations

import random
from collections.abc import Sequence

import pytest

from wasmsr.snapshot.encoding import pages
from wasmsr.snapshot.encoding.container import BATCH_SIZE, tree_digest
from wasmsr.snapshot.encoding.pages import PAGE_SIZE, Placement, PlainEqualPages, scan
from wasmsr.snapshot.memory import page_engine


def _memory(contents: dict[int, int], count: int = 16) -> bytearray:
    """A memory of `count` pages, in which these have this content, each kind all of a page."""
    data = bytearray(count * PAGE_SIZE)
    for page, kind in contents.items():
        data[page * PAGE_SIZE : (page + 1) * PAGE_SIZE] = random.Random(kind).randbytes(PAGE_SIZE)
    return data


def _restored(memories: list[bytearray]) -> list[bytearray]:
    plan = scan(memories)
    placement = Placement.parse(plan.index(), [len(memory) for memory in memories])
    assert placement.stored == plan.stored
    result = [bytearray(len(memory)) for memory in memories]
    views = [memoryview(memory) for memory in result]
    stream = b"".join(plan.batches())
    assert len(stream) == plan.stored * PAGE_SIZE
    assert plan.digest() == tree_digest(stream) or not stream
    for start in range(0, len(stream), BATCH_SIZE):
        placement.fill(start // PAGE_SIZE, stream[start : start + BATCH_SIZE], views)
    placement.repeat(views)
    return result


def _runs(numbers: Sequence[int]) -> list[tuple[int, ...]]:
    """The page index or the sources as tuples."""
    return [tuple(numbers[at : at + 4]) for at in range(0, len(numbers), 4)]


def test_zero_pages_are_absent_and_equal_pages_stored_once() -> None:
    plan = scan([_memory({1: 5, 2: 6, 3: 5, 9: 5}), _memory({0: 6, 1: 7})])
    assert plan.stored == 3
    assert _runs(plan.entries) == [(0, 1, 2, 0), (0, 3, 1, 0), (0, 9, 1, 0), (1, 0, 2, 1)]
    assert _runs(plan.sources) == [(0, 1, 2, 0), (1, 1, 1, 2)]


def test_an_entry_may_go_on_from_old_pages_to_new_ones() -> None:
    memories = [_memory({0: 1, 1: 2, 5: 2, 6: 3, 7: 4})]
    assert _runs(scan(memories).entries) == [(0, 0, 2, 0), (0, 5, 3, 1)]
    assert _restored(memories) == memories


def test_a_repeated_run_may_come_from_several_places() -> None:
    memories = [_memory({0: 1, 2: 2, 3: 3}), _memory({}), _memory({4: 1, 5: 2, 6: 3, 7: 4, 9: 1})]
    assert _runs(scan(memories).entries) == [(0, 0, 1, 0), (0, 2, 2, 1), (2, 4, 4, 0), (2, 9, 1, 0)]
    assert _restored(memories) == memories


@pytest.mark.parametrize("seed", range(30))
def test_memories_come_back(seed: int) -> None:
    source = random.Random(seed)
    memories = []
    for _ in range(source.randrange(4)):
        count = 16 * source.randrange(12)
        kinds = source.choice((2, 5, 1000))
        density = source.random()
        contents = {
            page: source.randrange(kinds) for page in range(count) if source.random() < density
        }
        memories.append(_memory(contents, count))
    assert _restored(memories) == memories


@pytest.mark.parametrize("seed", range(20))
def test_the_core_stores_the_same_pages_as_plain_python(seed: int) -> None:
    source = random.Random(seed)
    memories = []
    for _ in range(source.randrange(1, 4)):
        count = 16 * source.randrange(12)
        kinds = source.choice((2, 5, 1000))
        memories.append(
            memoryview(
                _memory({page: source.randrange(kinds) for page in range(0, count, 2)}, count)
            )
        )
    fast, plain = page_engine.EqualPages(memories), PlainEqualPages(memories)
    assert (list(fast.entries), list(fast.sources)) == (plain.entries, plain.sources)
    assert fast.stored == plain.stored
    for first in range(fast.stored):
        count = source.randrange(1, fast.stored - first + 1)
        copies = [bytearray(count * PAGE_SIZE) for _ in range(2)]
        fast.copy(first, count, copies[0])
        plain.copy(first, count, copies[1])
        assert copies[0] == copies[1]


def test_pages_of_equal_hash_are_told_apart() -> None:
    """With a key of zeros the hash of a page is 1 where every second word is zero."""
    data = bytearray(16 * PAGE_SIZE)
    for page, content in {1: 5, 2: 6, 3: 5, 4: 7, 9: 6}.items():
        data[page * PAGE_SIZE + 8 * content] = content
    found = page_engine.EqualPages([data], key=bytes(PAGE_SIZE))
    assert found.stored == 3
    assert _runs(found.entries) == [(0, 1, 2, 0), (0, 3, 1, 0), (0, 4, 1, 2), (0, 9, 1, 1)]


@pytest.mark.parametrize("scan_pages", [pages.page_map, pages._page_map])
def test_page_map(scan_pages: object) -> None:
    assert callable(scan_pages)
    data = bytearray(40 * PAGE_SIZE)
    expected = bytearray(40)
    for page, offset in ((0, 0), (1, 4095), (17, 2000), (31, 1), (32, 63), (39, 4095)):
        data[page * PAGE_SIZE + offset] = 0x80
        expected[page] = 1
    for source in (memoryview(data), memoryview(bytes(data))):
        assert scan_pages(source) == expected
    assert scan_pages(memoryview(b"")) == b""
    assert scan_pages(memoryview(bytes(65536))) == bytes(16)


def test_the_compiled_scan_is_used_where_it_is_built() -> None:
    from wasmsr import _ffi

    assert hasattr(_ffi.lib, "wsr_page_map")
    assert pages.page_map is page_engine.page_map
    assert isinstance(scan([_memory({1: 1})])._found, page_engine.EqualPages)
