"""Section *counters*: how many instructions were executed. Format document, section 5.9."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, FieldTypes, Section, WrittenPages
from wasmsr.snapshot.rules import U64, CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames

_KEYS = ("executed",)
_TYPES: FieldTypes = frozenset({(int,)})


class CountersSection(Section):
    """The number of instructions since the program was created, where a run was metered."""

    kind = 9
    name = "counters"
    versions = (1,)
    present = "the run was metered"
    place = 20

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a map of one number."""
        if state.executed is None:
            return b""
        return pack({"executed": state.executed}, "the counters")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's count."""
        (draft.state.executed,) = self.fields(self.unpack(data), _KEYS, _TYPES)

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check that the count has 64 bits."""
        if not 0 <= (state.executed or 0) < U64:
            raise invalid("the instruction count is out of range")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the count."""
        return {"executed": state.executed}


SECTIONS = (CountersSection(),)
