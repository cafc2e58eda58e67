"""Section *tags*: the types of exceptions' fields. Format document, section 5.14."""

from __future__ import annotations

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.rules import VALUE_TYPES, CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState


class TagsSection(Section):
    """The field types of each tag, and the tag addresses of each instance."""

    kind = 15
    name = "tags"
    present = "there are tags"
    feature = "exceptions"

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return two lists."""
        if not state.tags:
            return b""
        return pack([state.tags, [one.tags for one in state.instances]], "the tags")

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's tags and the instances' addresses."""
        instances = draft.state.instances
        value = self.unpack(data)
        if type(value) is not list or len(value) != 2 or {*map(type, value)} != {list}:
            raise self.malformed("it is not two lists")
        tags, spaces = value
        if not tags or len(spaces) != len(instances):
            raise self.malformed("it has no tag, or not one entry for each instance")
        for instance, addresses in zip(instances, spaces, strict=True):
            if type(addresses) is not list:
                raise self.malformed("an instance's tags are no list")
            instance.tags = self.list_of(addresses, int)
        draft.state.tags = self.list_of(tags, bytes)

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check the types; the section *store* checks the addresses."""
        for number, codes in enumerate(state.tags):
            if codes.translate(None, VALUE_TYPES):
                raise invalid(f"tag {number} has an unknown value type")


SECTIONS = (TagsSection(),)
