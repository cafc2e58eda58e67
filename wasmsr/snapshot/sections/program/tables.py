"""Section *tables*: bounds and elements of all tables. Format document, section 5.7."""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.flags import bounds_flags, read_bounds
from wasmsr.snapshot.encoding.read_limits import HEADS_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.section import Draft, ReferenceNumbers, Section, WrittenPages
from wasmsr.snapshot.rules import (
    EXNREF,
    EXTERNREF,
    TYPE_NAMES,
    U32,
    U64,
    CheckScope,
    check_address_type,
    check_size,
    invalid,
    largest_slot,
)
from wasmsr.snapshot.state import SnapshotState, TableState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

HEAD = struct.Struct("<Q")
"""Number of tables."""
TABLE = struct.Struct("<QQQQQQ")
"""Flags, element type, minimum, maximum, size, stored elements."""
FULL_TABLES = 4
"""How many tables of the largest size, with all elements stored, a reader accepts."""
_KEYS = ("name", "type", "size", "minimum", "maximum", "address", "null")


class TablesSection(Section):
    """Bounds of each table, and its elements up to the last that is not null."""

    kind = 7
    name = "tables"
    payload = "arrays"
    present = "there are tables"
    place = 70
    numbering = 1

    def renumber(self, state: SnapshotState, numbers: ReferenceNumbers) -> None:
        """Replace the elements of tables of host objects and exceptions."""
        for table in state.tables:
            if table.type in (EXTERNREF, EXNREF):
                size = len(table.elements) // 8
                words = struct.unpack(f"<{size}Q", table.elements)
                saved = [numbers.saved(table.type, bits) for bits in words]
                table.elements = struct.pack(f"<{size}Q", *saved)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return heads, then elements."""
        if not state.tables:
            return b""
        pieces = [HEAD.pack(len(state.tables))]
        elements: list[bytes] = []
        for one in state.tables:
            used = bytes(one.elements).rstrip(b"\0")
            used += bytes(-len(used) % 8)
            elements.append(used)
            bounds = (one.minimum, one.maximum or 0)
            sizes = (len(one.elements) // 8, len(used) // 8)
            pieces.append(TABLE.pack(bounds_flags(one), one.type, *bounds, *sizes))
        return b"".join(pieces + elements)

    def limit(self, limits: ReadLimits) -> int:
        """Return the length of four tables of the largest size."""
        return FULL_TABLES * limits.store.table_elements * 8 + HEADS_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's tables, as far as the reader's limits allow."""
        if len(data) < HEAD.size:
            raise self.malformed("it is too short")
        (count,) = HEAD.unpack_from(data)
        position = HEAD.size + count * TABLE.size
        if count == 0 or position > len(data):
            raise self.malformed(f"it is too short for {count} tables")
        heads = list(TABLE.iter_unpack(data[HEAD.size : position]))
        draft.limits.take_tables([(size, min(stored, size)) for *_, size, stored in heads])
        for flags, code, minimum, maximum, size, stored in heads:
            bound, address64 = read_bounds(self, flags, maximum)
            end = position + stored * 8
            if stored > size or end > len(data):
                raise self.malformed("a table has more elements than it should")
            elements = bytearray(size * 8)
            elements[: stored * 8] = data[position:end]
            if stored and not any(elements[stored * 8 - 8 : stored * 8]):
                raise self.malformed("null elements are stored at the end of a table")
            draft.state.tables.append(TableState(code, minimum, bound, elements, address64))
            position = end
        if position != len(data):
            raise self.malformed("bytes follow the last element")

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check types, bounds and elements."""
        for number, table in enumerate(state.tables):
            check_address_type("table", number, table, state.limits.features)
            if table.type not in scope.references:
                raise invalid(f"table {number} has the unknown type {table.type:#x}")
            if len(table.elements) % 8:
                raise invalid(f"table {number} ends in the middle of an element")
            most = U64 - 1 if table.address64 else U32 - 1
            size = len(table.elements) // 8
            check_size("table", number, size, table, most, state.limits.table_elements)
            if largest_slot(table.elements) > scope.references[table.type]:
                name = TYPE_NAMES[table.type]
                raise invalid(f"an element of table {number} is no {name} of this store")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return type, size and bounds of each table, and how many elements are null."""
        tables = [
            {"name": names.tables.get(address), **_describe(one)}
            for address, one in enumerate(state.tables)
        ]
        return {"tables": tables}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the tables."""
        from wasmsr.snapshot.inspect.text_tables import text

        rows = [
            (str(n), *(text(one[key]) for key in _KEYS))
            for n, one in enumerate(description["tables"])
        ]
        yield "Tables", ("", *_KEYS), rows


def _describe(table: TableState) -> dict[str, Any]:
    size = len(table.elements) // 8
    elements = struct.unpack(f"<{size}Q", table.elements)
    return {
        "type": TYPE_NAMES[table.type],
        "size": size,
        "minimum": table.minimum,
        "maximum": table.maximum,
        "address": "i64" if table.address64 else "i32",
        "null": elements.count(0),
    }


SECTIONS = (TablesSection(),)
