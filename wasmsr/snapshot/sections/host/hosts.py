"""Section *host state* of version 2: the state that hosts keep for a program. Document, 13.5.

Each owner has a name and a map of its own. WASI preview 1 is one owner.
"""

from __future__ import annotations

from typing import Any, Final

from wasmsr.errors import VersionError
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.sections.about.origin import ORIGIN
from wasmsr.snapshot.state import SnapshotState

PREVIEW1: Final = "wasi_snapshot_preview1"
"""The owner's name of WASI preview 1."""


class HostStateSection(Section):
    """A map from the owner's name to what it captured."""

    kind = 37
    name = "host state"
    present = "a host keeps state for the program, such as WASI"
    versions = (2,)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a map of the one owner so far."""
        if state.wasi is None:
            return b""
        wasi = {key: value for key, value in state.wasi.items() if key != ORIGIN}
        return pack({PREVIEW1: wasi}, "the state of WASI")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state of WASI."""
        owners = self.map_of(data)
        for name in owners.keys() - {PREVIEW1}:
            raise VersionError(f"the snapshot has state of the host {name!r}, which is not known")
        found = owners.get(PREVIEW1)
        if type(found) is not dict or any(type(key) is not str for key in found):
            raise self.malformed("the state of WASI is not a map with strings as keys")
        if ORIGIN in found:
            raise self.malformed("it has what belongs into another section")
        draft.state.wasi = found

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: the section *wasi* describes the state."""
        return {}


SECTIONS = (HostStateSection(),)
