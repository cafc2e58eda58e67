"""Sections *exceptions* and *exception objects*: exceptions that something refers to.

Format document, sections 5.14 and 13.5. In version 2 each has a number of its own.
"""

from __future__ import annotations

from struct import Struct
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import HEADS_LIMIT, ReadLimits
from wasmsr.snapshot.encoding.section import Draft, ReferenceNumbers, Section, WrittenPages
from wasmsr.snapshot.encoding.slots import from_slots, to_slots
from wasmsr.snapshot.rules import EXNREF, EXTERNREF, V128, CheckScope, invalid
from wasmsr.snapshot.sections.program.externs import check_dense
from wasmsr.snapshot.state import ExceptionState, SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames

HEAD = Struct("<Q")
"""Number of exceptions."""
EXCEPTION = Struct("<Q")
"""Address of the tag."""
NUMBERED = Struct("<QQ")
"""Number of the exception, address of its tag; in version 2."""


class _StoredExceptions(Section):
    """Exceptions as bytes: a head of each, then the slots of all fields.

    Attributes:
        head: What is stored of each besides its fields; the last part is the address of its tag.
    """

    payload = "arrays"
    present = "there are exceptions"
    feature = "exceptions"
    head = EXCEPTION

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return heads, then slots."""
        if not state.exceptions:
            return b""
        heads: list[bytes] = []
        slots: list[int] = []
        for number, exception in enumerate(state.exceptions):
            parts = (number, exception.tag) if self.head is NUMBERED else (exception.tag,)
            heads.append(self.head.pack(*parts))
            slots += to_slots(state.tags[exception.tag], exception.fields)
        count = HEAD.pack(len(heads))
        return b"".join([count, *heads, Struct(f"<{len(slots)}Q").pack(*slots)])

    def limit(self, limits: ReadLimits) -> int:
        """Return 64 bytes for each element that a table may have."""
        return limits.store.table_elements * 64 + HEADS_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's exceptions."""
        tags = draft.state.tags
        if len(data) < HEAD.size:
            raise self.malformed("it is too short")
        (count,) = HEAD.unpack_from(data)
        slots_at = HEAD.size + count * self.head.size
        if not count or slots_at > len(data) or (len(data) - slots_at) % 8:
            raise self.malformed(f"its length is not that of {count} exceptions")
        slots = Struct(f"<{(len(data) - slots_at) // 8}Q").unpack(data[slots_at:])
        heads = list(self.head.iter_unpack(data[HEAD.size : slots_at]))
        if self.head is NUMBERED:
            check_dense(self, [number for number, _ in heads])
        found: list[ExceptionState] = []
        at = 0
        for *_, tag in heads:
            if tag >= len(tags):
                raise self.malformed(f"an exception has tag {tag} of {len(tags)}")
            codes = tags[tag]
            taken = len(codes) + codes.count(V128)
            values = slots[at : at + taken]
            at += taken
            if len(values) < taken:
                break
            found.append(ExceptionState(tag, from_slots(codes, values)))
        if at != len(slots) or len(found) != count:
            raise self.malformed("it has not one value for each field")
        draft.state.exceptions = found


class ExceptionsSection(_StoredExceptions):
    """Tag and fields of each exception, in the order of their numbers."""

    kind = 16
    name = "exceptions"
    versions = (1,)
    place = 100
    numbering = 4

    def renumber(self, state: SnapshotState, numbers: ReferenceNumbers) -> None:
        """Replace host objects in fields; references to exceptions have their numbers already."""
        for exception in state.exceptions:
            for i, code in enumerate(state.tags[exception.tag]):
                if code == EXTERNREF:
                    exception.fields[i] = numbers.saved(code, exception.fields[i])

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check tags and fields."""
        for number, exception in enumerate(state.exceptions):
            if not 0 <= exception.tag < len(state.tags):
                raise invalid(f"exception {number} has tag {exception.tag} of {len(state.tags)}")
            codes = state.tags[exception.tag]
            if len(codes) != len(exception.fields):
                raise invalid(f"exception {number} has another number of fields than its tag")
            for code, value in zip(codes, exception.fields, strict=True):
                # A field refers to earlier exceptions only.
                most = number + 1 if code == EXNREF else scope.bounds[code]
                if not 0 <= value < most:
                    raise invalid(f"a field of exception {number} does not fit its type")

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return tag and fields of each exception."""
        exceptions = [
            {
                "tag": one.tag,
                "name": names.tags.get(one.tag),
                "fields": [
                    names.value(code, bits)
                    for code, bits in zip(state.tags[one.tag], one.fields, strict=True)
                ],
            }
            for one in state.exceptions
        ]
        return {"exceptions": exceptions}


class ExceptionObjectsSection(_StoredExceptions):
    """The same in version 2: number, tag and fields of each."""

    kind = 39
    name = "exception objects"
    versions = (2,)
    head = NUMBERED

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return nothing: the section *exceptions* describes the exceptions."""
        return {}


SECTIONS = (ExceptionsSection(), ExceptionObjectsSection())
