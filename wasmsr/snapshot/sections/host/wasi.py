"""Section *WASI*: files, clocks, streams and random state. Format document, section 12."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from wasmsr.errors import UnportableState
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.sections.about.origin import ORIGIN
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames
    from wasmsr.snapshot.inspect.text_tables import Block


HOST_STATE = "host state"
"""The section of version 2 that has the state of other hosts."""


class WasiSection(Section):
    """What `wasmsr.wasi` captured, as one map."""

    kind = 10
    name = "wasi"
    versions = (1,)
    present = "the program has WASI"
    place = 110

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return the map without the key `origin`, which has a section of its own."""
        if HOST_STATE in state.extra:
            raise UnportableState(
                "version 1 of snapshots has no place for channels or remote memories of a program"
            )
        if state.wasi is None:
            return b""
        wasi = {key: value for key, value in state.wasi.items() if key != ORIGIN}
        return pack(wasi, "the state of WASI")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state of WASI."""
        value = self.map_of(data)
        if ORIGIN in value:
            raise self.malformed("it has what belongs into another section")
        draft.state.wasi = value

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the map as JSON can hold it."""
        from wasmsr.snapshot.inspect.plain import plain_data

        return {"wasi": plain_data(state.wasi)}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Block]:
        """Yield mounts, descriptors, clocks and streams."""
        from wasmsr.snapshot.inspect.wasi import blocks

        if description["wasi"] is not None:
            yield from blocks(description["wasi"])


SECTIONS = (WasiSection(),)
