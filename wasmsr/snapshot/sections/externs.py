"""Section *externs*: the host objects that externrefs name. Format document, section 5.8."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames


class ExternsSection(Section):
    """Host objects as msgpack, in the order of their numbers."""

    kind = 8
    name = "externs"
    versions = (1,)
    present = "there are host objects"
    place = 90

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a list; the error for an object that msgpack cannot hold has its number."""
        if not state.externs:
            return b""
        for number, value in enumerate(state.externs):
            pack(value, f"the host object behind externref {number} ({type(value).__name__})")
        return pack(state.externs, "the host objects behind externrefs")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's host objects."""
        value = self.unpack(data, strict_keys=False)
        if type(value) is not list or not value:
            raise self.malformed("it is not a list of one or more")
        draft.state.externs = value

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the types of the host objects."""
        return {"host_objects": [type(value).__name__ for value in state.externs]}


SECTIONS = (ExternsSection(),)
