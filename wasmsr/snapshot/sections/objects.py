"""Sections *host objects* and *exception objects* of version 2. Format document, 13.5.

Each object has a number of its own, which it keeps from one snapshot to the next.
"""

from __future__ import annotations

from itertools import pairwise
from struct import Struct
from typing import Any

from wasmsr.errors import VersionError
from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import HEADS_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.encoding.slots import from_slots, to_slots
from wasmsr.snapshot.rules import V128
from wasmsr.snapshot.state import ExceptionState, SnapshotState

HEAD = Struct("<Q")
"""Number of exceptions."""
EXCEPTION = Struct("<QQ")
"""Number of the exception, address of its tag."""


class HostObjectsSection(Section):
    """Host objects behind externrefs, each with its number."""

    kind = 38
    name = "host objects"
    present = "there are host objects"
    versions = (2,)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a list of pairs; the error for what msgpack cannot hold has the number."""
        if not state.externs:
            return b""
        for number, value in enumerate(state.externs):
            pack(value, f"the host object behind externref {number} ({type(value).__name__})")
        pairs = [[number, value] for number, value in enumerate(state.externs)]
        return pack(pairs, "the host objects behind externrefs")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's host objects."""
        value = self.unpack(data, strict_keys=False)
        if type(value) is not list or not value:
            raise self.malformed("it is not a list of one or more")
        for pair in value:
            if type(pair) is not list or len(pair) != 2 or type(pair[0]) is not int:
                raise self.malformed("an entry is not a number and an object")
        _check_dense(self, [number for number, _ in value])
        draft.state.externs = [one for _, one in value]

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: the section *externs* describes the objects."""
        return {}


class ExceptionObjectsSection(Section):
    """Number, tag and fields of each exception."""

    kind = 39
    name = "exception objects"
    payload = "arrays"
    present = "there are exceptions"
    feature = "exceptions"
    versions = (2,)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return numbers and tags, then slots."""
        if not state.exceptions:
            return b""
        heads: list[bytes] = []
        slots: list[int] = []
        for number, exception in enumerate(state.exceptions):
            heads.append(EXCEPTION.pack(number, exception.tag))
            slots += to_slots(state.tags[exception.tag], exception.fields)
        return b"".join([HEAD.pack(len(heads)), *heads, Struct(f"<{len(slots)}Q").pack(*slots)])

    def limit(self, limits: ReadLimits) -> int:
        """Return 64 bytes for each element that a table may have."""
        return limits.store.table_elements * 64 + HEADS_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's exceptions."""
        tags = draft.state.tags
        if len(data) < HEAD.size:
            raise self.malformed("it is too short")
        (count,) = HEAD.unpack_from(data)
        slots_at = HEAD.size + count * EXCEPTION.size
        if not count or slots_at > len(data) or (len(data) - slots_at) % 8:
            raise self.malformed(f"its length is not that of {count} exceptions")
        slots = Struct(f"<{(len(data) - slots_at) // 8}Q").unpack(data[slots_at:])
        heads = list(EXCEPTION.iter_unpack(data[HEAD.size : slots_at]))
        _check_dense(self, [number for number, _ in heads])
        at = 0
        for _, tag in heads:
            if tag >= len(tags):
                raise self.malformed(f"an exception has tag {tag} of {len(tags)}")
            codes = tags[tag]
            taken = len(codes) + codes.count(V128)
            values = slots[at : at + taken]
            at += taken
            if len(values) < taken:
                raise self.malformed("it has not one value for each field")
            draft.state.exceptions.append(ExceptionState(tag, from_slots(codes, values)))
        if at != len(slots):
            raise self.malformed("it has not one value for each field")

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: the section *exceptions* describes the exceptions."""
        return {}


def _check_dense(section: Section, numbers: list[int]) -> None:
    """Refuse numbers that do not ascend, and those that leave some out.

    The format lets a writer leave numbers out. This engine gives objects new numbers when it saves,
    so it has no place for a gap yet.

    Raises:
        FormatError: The numbers do not ascend.
        VersionError: Some are left out.
    """
    if any(one >= other for one, other in pairwise(numbers)):
        raise section.malformed("its numbers do not ascend")
    if numbers and (numbers[0] < 0 or numbers[-1] >= len(numbers)):
        raise VersionError(
            f"the {section.name} section leaves numbers out, which this wasmsr does not read",
            hint="read it with the wasmsr that wrote it, or a newer one",
        )


SECTIONS = (HostObjectsSection(), ExceptionObjectsSection())
