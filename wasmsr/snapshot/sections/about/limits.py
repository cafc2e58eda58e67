"""Section *limits*: what limits hold for the program. Format document, section 5.2."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import fields
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, FieldTypes, Section, WrittenPages
from wasmsr.snapshot.rules import U64, CheckScope, invalid
from wasmsr.snapshot.state import SavedLimits, SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block

_KEYS = tuple(one.name for one in fields(SavedLimits))
_TYPES: FieldTypes = frozenset(
    {(int, int, int, int, int, bool, list), (int, int, int, int, type(None), bool, list)}
)


class LimitsSection(Section):
    """Limits of memories, tables and the stack, fuel, determinism and features."""

    kind = 2
    name = "limits"
    required = True
    place = 30

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a map."""
        return pack({key: getattr(state.limits, key) for key in _KEYS}, "the limits")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's limits."""
        limits = SavedLimits(*self.fields(self.unpack(data), _KEYS, _TYPES))
        self.list_of(limits.features, str)
        draft.state.limits = limits

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check the numbers, and the order of the features."""
        limits = state.limits
        counts = (
            limits.memory_pages,
            limits.table_elements,
            limits.stack_slots,
            limits.stack_frames,
            limits.fuel or 0,
        )
        if min(counts) < 0 or max(counts) >= U64:
            raise invalid("a limit is out of range")
        if any(a >= b for a, b in pairwise(limits.features)):
            raise invalid("the features are not in ascending order")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the limits by name."""
        return {"limits": {key: getattr(state.limits, key) for key in _KEYS}}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield the limits."""
        from wasmsr.snapshot.inspect.text_tables import text

        rows = [(key.replace("_", " "), text(one)) for key, one in description["limits"].items()]
        yield "Limits", (), rows


SECTIONS = (LimitsSection(),)
