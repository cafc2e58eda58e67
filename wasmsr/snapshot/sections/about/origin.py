"""Section *origin*: by what the host's files are known again. Format document, section 5.17."""

from __future__ import annotations

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import IGNORABLE, Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.state import SnapshotState

ORIGIN = "origin"
"""The key in WASI's state whose value is this section."""


class OriginSection(Section):
    """The host that WASI's state comes from, and marks of its open files."""

    kind = IGNORABLE | 16
    name = "origin"
    present = "files of the host are open that are not in the snapshot, or a folder is carried"

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return the map, or nothing where there is none."""
        found = (state.wasi or {}).get(ORIGIN)
        return pack(found, "the origin of the files") if found else b""

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Add the map to WASI's state; without WASI it has no meaning."""
        if draft.state.wasi is not None:
            draft.state.wasi[ORIGIN] = self.map_of(data)


SECTIONS = (OriginSection(),)
