"""Section *binaries*: the embedded modules. Format document, section 5.11."""

from __future__ import annotations

from wasmsr.errors import UnportableState
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.pages import PageMap
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import BulkPayload, Draft, PieceList, Section
from wasmsr.snapshot.sections.store import STORE
from wasmsr.snapshot.state import SnapshotState

MODULE_LIMIT = 1 << 30
"""Bytes of all embedded modules together."""


class BinariesSection(Section):
    """The binaries of the embedded modules, one after the other."""

    kind = 11
    name = "binaries"
    payload = "bytes"
    present = "a module is embedded"
    compressible = True

    def pack(self, state: SnapshotState, pages: PageMap) -> bytes | BulkPayload:
        """Return the modules' bytes."""
        binaries = [module.binary for module in state.modules if module.binary]
        size = sum(map(len, binaries))
        if size > MODULE_LIMIT:
            raise UnportableState("the modules are too large to be embedded")
        return PieceList(size, lambda: binaries)

    def limit(self, limits: ReadLimits) -> int:
        """Return 1 GiB."""
        return MODULE_LIMIT

    def begin(self, draft: Draft, size: int) -> None:
        """Compare the length with the sizes in the section *store*."""
        store = draft.payloads.get(STORE.kind)
        self.expect_size(size, 0 if store is None else STORE.embedded_size(store))
        draft.limits.take(self.name, size)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Give each embedded module its binary."""
        binaries = memoryview(data)
        position = 0
        for module, inside in zip(draft.state.modules, draft.embedded, strict=True):
            if inside:
                module.binary = bytes(binaries[position : position + module.size])
                position += module.size


SECTIONS = (BinariesSection(),)
