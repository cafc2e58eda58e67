"""Section *binaries*: the embedded modules. Format document, section 5.11."""

from __future__ import annotations

from collections.abc import Container

from wasmsr.errors import UnportableState
from wasmsr.snapshot.encoding.container import INCREMENTAL, Buffer
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import (
    BulkPayload,
    Draft,
    PieceList,
    ReadBase,
    Section,
    WrittenPages,
)
from wasmsr.snapshot.sections.program.store import STORE
from wasmsr.snapshot.state import SnapshotState

MODULE_LIMIT = 1 << 30
"""Bytes of all embedded modules together."""


class BinariesSection(Section):
    """The binaries of the embedded modules, one after the other."""

    kind = 11
    name = "binaries"
    carrier = True
    payload = "bytes"
    present = "a module is embedded"
    compressible = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes | BulkPayload:
        """Return the modules' bytes."""
        base = pages.base
        known: Container[bytes] = () if base is None else base.modules
        binaries = [
            module.binary
            for module in state.modules
            if module.binary and module.digest not in known
        ]
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
        whole = 0 if store is None else STORE.embedded_size(store)
        if draft.form != INCREMENTAL or size > whole:
            self.expect_size(size, whole)
        draft.limits.take(self.name, size)

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Give each embedded module its binary, but for those that the base has."""
        binaries = memoryview(data)
        position = 0
        known = {} if draft.base is None else _binaries(draft.base)
        for module, inside in zip(draft.state.modules, draft.embedded, strict=True):
            if inside and module.digest not in known:
                module.binary = bytes(binaries[position : position + module.size])
                position += module.size
        if position != len(binaries):
            self.expect_size(len(binaries), position)

    def inherit(self, draft: Draft, base: ReadBase) -> None:
        """Take the binaries of embedded modules that the base has."""
        known = _binaries(base)
        for module, inside in zip(draft.state.modules, draft.embedded, strict=True):
            if inside and module.digest in known:
                module.binary = known[module.digest]


def _binaries(base: ReadBase) -> dict[bytes, bytes]:
    return {module.digest: module.binary for module in base.state.modules if module.binary}


SECTIONS = (BinariesSection(),)
