"""Section *base* of version 2: what an incremental snapshot is made against. Document, 13.6."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from wasmsr.errors import FormatError, SnapshotError
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import INCREMENTAL, Buffer
from wasmsr.snapshot.encoding.section import Draft, FieldTypes, ReadBase, Section, WrittenPages
from wasmsr.snapshot.spaces.page_functions import PAGE_SIZE, page_runs
from wasmsr.snapshot.spaces.space_pages import SpacePages
from wasmsr.snapshot.state import SnapshotState

DEPTH_LIMIT = 1024
"""How many snapshots may be below an incremental one."""

_KEYS = ("root", "content", "depth")
_TYPES: FieldTypes = frozenset({(bytes, bytes, int)})


class BaseSection(Section):
    """Root digest, content digest and depth of the base.

    No digest covers the section: the digests of the content say whether the base was the right one,
    and a snapshot that is merged with its base keeps its root.
    """

    kind = 33
    name = "base"
    present = "the form is incremental"
    early = True
    place = 5
    versions = (2,)
    carrier = True

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a map, or nothing for a full snapshot."""
        assert isinstance(pages, SpacePages)
        base = pages.base
        if base is None:
            return b""
        values = (base.root, base.content, base.depth)
        return pack(dict(zip(_KEYS, values, strict=True)), "the base")

    def fields_of(self, data: Buffer) -> tuple[bytes, bytes, int]:
        """Return root, content digest and depth from a payload. Raises FormatError."""
        root, content, depth = self.fields(self.unpack(data), _KEYS, _TYPES)
        if len(root) != 32 or len(content) != 32:
            raise self.malformed("a digest has not 32 bytes")
        if not 0 <= depth < DEPTH_LIMIT:
            raise self.malformed(f"{depth} snapshots are below its base")
        return root, content, depth

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Ask for the base, and lay its memories below those of the draft."""
        if draft.form != INCREMENTAL:
            raise FormatError("a snapshot that is not incremental has a base section")
        root, _, depth = self.fields_of(data)
        base = draft.find_base(root)
        if base.root != root:
            raise SnapshotError("another snapshot was given as the base of an incremental one")
        if base.depth > depth:
            raise self.malformed(f"{base.depth} snapshots are below its base, not {depth}")
        _lay(base, draft)
        draft.base = base

    def absent(self, draft: Draft) -> None:
        """Refuse an incremental snapshot without a base."""
        if draft.form == INCREMENTAL:
            raise FormatError("the incremental snapshot has no base section")

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: the head of the file says what the base is."""
        return {}

    def blocks(self, description: Mapping[str, Any], *, values: bool) -> Iterator[Any]:
        """Yield nothing."""
        return iter(())


def _lay(base: ReadBase, draft: Draft) -> None:
    """Give the draft's memories the content of the base's, which the draft takes over."""
    ours, theirs = draft.state.memories, base.state.memories
    if len(theirs) > len(ours):
        raise FormatError(f"the base has {len(theirs)} memories, and the snapshot {len(ours)}")
    for number, (mine, old) in enumerate(zip(ours, theirs, strict=False)):
        size = len(old.data)
        if size > len(mine.data):
            raise FormatError(f"memory {number} is smaller than in the base")
        if base.sparse:
            continue
        if size == len(mine.data) and not memoryview(old.data).readonly:
            mine.data = old.data
        else:
            view, target = memoryview(old.data), memoryview(mine.data)
            for first, count in page_runs(view):  # zeros are left untouched
                part = slice(first * PAGE_SIZE, (first + count) * PAGE_SIZE)
                target[part] = view[part]
        draft.page_spaces[number] = memoryview(mine.data)


BASE = BaseSection()
SECTIONS = (BASE,)
