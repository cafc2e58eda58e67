"""Section *lineage*: where a snapshot comes from. Format document, section 5.1."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import LINEAGE, Buffer
from wasmsr.snapshot.encoding.section import Draft, FieldTypes, Section, WrittenPages
from wasmsr.snapshot.rules import U64, CheckScope, invalid
from wasmsr.snapshot.state import Lineage, SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

_KEYS = ("id", "parent", "created", "host", "engine")
_TYPES: FieldTypes = frozenset({(bytes, bytes, int, str, str), (bytes, type(None), int, str, str)})


class LineageSection(Section):
    """Id, parent, time, host and engine of a snapshot; no part of the content digest."""

    kind = LINEAGE
    name = "lineage"
    required = True
    place = 10

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a map."""
        one = state.lineage
        values = (one.id, one.parent, one.created, one.host, one.engine)
        return pack(dict(zip(_KEYS, values, strict=True)), "the lineage")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's lineage."""
        draft.state.lineage = Lineage(*self.fields(self.unpack(data), _KEYS, _TYPES))

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check ids and time."""
        one = state.lineage
        if not 0 <= one.created < U64:
            raise invalid("the time of creation is out of range")
        if len(one.id) != 16 or (one.parent is not None and len(one.parent) != 16):
            raise invalid("an id in the lineage has not 16 bytes")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the lineage."""
        from wasmsr.snapshot.inspect.text_tables import moment

        one = state.lineage
        lineage = {
            "id": one.id.hex(),
            "parent": None if one.parent is None else one.parent.hex(),
            "created": moment(one.created),
            "host": one.host,
            "engine": one.engine,
        }
        return {"lineage": lineage}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the lineage, and how many instructions were executed."""
        from wasmsr.snapshot.inspect.text_tables import text

        rows = [(key, text(value)) for key, value in description["lineage"].items()]
        yield "Lineage", (), [*rows, ("instructions executed", text(description["executed"]))]


SECTIONS = (LineageSection(),)
