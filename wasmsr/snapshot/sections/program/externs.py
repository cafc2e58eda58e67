"""Sections *externs* and *host objects*: what externrefs name. Format document, 5.8 and 13.5.

In version 2 each object has a number of its own, which it keeps from one snapshot to the next.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from wasmsr.errors import VersionError
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
        _check_objects(state)
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


class HostObjectsSection(Section):
    """The same in version 2: pairs of a number and an object."""

    kind = 38
    name = "host objects"
    present = "there are host objects"
    versions = (2,)

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a list of pairs; the error for what msgpack cannot hold has the number."""
        if not state.externs:
            return b""
        _check_objects(state)
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
        check_dense(self, [number for number, _ in value])
        draft.state.externs = [one for _, one in value]

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return nothing: the section *externs* describes the objects."""
        return {}


def _check_objects(state: SnapshotState) -> None:
    """Refuse an object that msgpack cannot hold, by its number. Raises UnportableState."""
    for number, value in enumerate(state.externs):
        pack(value, f"the host object behind externref {number} ({type(value).__name__})")


def check_dense(section: Section, numbers: list[int]) -> None:
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


SECTIONS = (ExternsSection(), HostObjectsSection())
