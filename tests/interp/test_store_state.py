"""`Store.state`: the state of a store as plain data."""

from __future__ import annotations

from array import array

import pytest

from tests.interp.machines import text
from wasmsr import Limits, Store
from wasmsr.interp.store.state import (
    DATA,
    ELEMENTS,
    FUNCTION,
    GLOBAL,
    MEMORY,
    TABLE,
    TAG,
    StateRefused,
    StoreCounts,
)
from wasmsr.interp.types import Bounds, MemoryType, TableType, ValType

WAT = """(module
  (import "host" "f" (func $f))
  (memory 1 3) (memory i64 2)
  (table $t 4 9 funcref) (table 1 externref)
  (global (mut i32) (i32.const 7)) (global v128 (v128.const i64x2 1 2))
  (tag $e (param i32))
  (data $a "a") (data $b "b") (data (i32.const 0) "active")
  (elem $p func $g) (elem (table $t) (i32.const 1) func $g)
  (func $g) (func (export "drop") (data.drop $b)))"""


def nothing() -> None:
    """Do nothing."""


def test_what_a_store_says_of_itself() -> None:
    store = Store()
    instance = store.instantiate(text(WAT), {"host": {"f": nothing}})
    found = store.state
    assert found.counts == StoreCounts(3, 2, 2, 2, 1)
    for kind, count in ((FUNCTION, 3), (TABLE, 2), (MEMORY, 2), (GLOBAL, 2), (TAG, 1)):
        addresses = [instance.address(kind, index) for index in range(count)]
        assert found.addresses(0, kind, count) == addresses == [*range(count)]
        assert found.addresses(0, kind, count - 1, first=1) == addresses[1:]
        assert found.addresses(0, kind, 0) == []
    assert (found.dropped(0, ELEMENTS), found.dropped(0, DATA)) == ([1], [2])
    instance.function("drop")()
    assert found.dropped(0, DATA) == [1, 2]
    table, memory = found.table_size(0), found.memory_size(1)
    assert (table.minimum, table.maximum, table.address64, table.size) == (4, 9, False, 4)
    assert (memory.minimum, memory.maximum, memory.address64, memory.size) == (2, None, True, 2)
    assert list(found.table_elements(0)) == [0, 2, 0, 0]
    assert found.table_type(1) is ValType.EXTERNREF


def test_dropped_segments_are_exactly_those_that_are_given() -> None:
    store = Store()
    store.instantiate(text(WAT), {"host": {"f": nothing}})
    target = store.state
    for given in ([], [0], [0, 2], [0, 1, 2], [1]):
        target.set_dropped(0, DATA, given)
        assert target.dropped(0, DATA) == given
    assert target.dropped(0, ELEMENTS) == [1]
    for wrong in ([3], [-1], [-1, 2], [0, 1, 2, 3], [0, 2**40]):
        with pytest.raises(StateRefused, match="a segment that the module does not have"):
            target.set_dropped(0, DATA, wrong)
    assert target.dropped(0, DATA) == [1]


def test_memories_and_tables_take_what_fits() -> None:
    store = Store()
    target = store.state
    target.add_memory(MemoryType(Bounds(1, 2)))
    target.add_table(TableType(ValType.FUNCREF, Bounds(1, 2)))
    assert target.grow_memory(0, 1) and not target.grow_memory(0, 1)
    assert target.grow_table(0, 1) and not target.grow_table(0, 1)
    target.fill_memory(0, b"\x01" * 131072)
    assert bytes(store.memory_view(0)) == b"\x01" * 131072
    with pytest.raises(ValueError, match="smaller"):
        target.fill_memory(0, bytes(131073))
    with pytest.raises(ValueError, match="2 elements, not 1"):
        target.fill_table(0, array("Q", [0]))
    assert target.first_misfit(ValType.FUNCREF, array("Q", [0, 0, 1])) == 2
    assert target.first_misfit(ValType.FUNCREF, array("Q", [0])) is None
    assert target.fits(ValType.V128, 2**128 - 1) and not target.fits(ValType.FUNCREF, 1)


def test_a_memory_above_the_limit_is_refused() -> None:
    target = Store(limits=Limits(memory_pages=1)).state
    with pytest.raises(StateRefused, match="memory"):
        target.add_memory(MemoryType(Bounds(2)))
    assert target.counts.memories == 0
