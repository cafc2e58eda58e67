"""Section *segments*: which segments each instance has dropped. Format document, section 5.4."""

from __future__ import annotations

from operator import ge

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.rules import U32, CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState


class SegmentsSection(Section):
    """Indices of the dropped element and data segments of each instance."""

    kind = 4
    name = "segments"
    present = "any segment was dropped"

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a list with two lists for each instance."""
        dropped = [[one.dropped_elements, one.dropped_data] for one in state.instances]
        return pack(dropped, "segments") if any(a or b for a, b in dropped) else b""

    def same(self, state: SnapshotState, earlier: SnapshotState) -> bool:
        """Return whether the same segments are dropped."""
        return len(state.instances) == len(earlier.instances) and all(
            one.dropped_elements == old.dropped_elements and one.dropped_data == old.dropped_data
            for one, old in zip(state.instances, earlier.instances, strict=True)
        )

    def adopt(self, draft: Draft, earlier: SnapshotState) -> bool:
        """Take the earlier lists themselves: their ids tell that they were checked."""
        instances = draft.state.instances
        if len(instances) != len(earlier.instances):
            return False
        for one, old in zip(instances, earlier.instances, strict=True):
            one.dropped_elements, one.dropped_data = old.dropped_elements, old.dropped_data
        return True

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the dropped segments of the instances."""
        instances = draft.state.instances
        value = self.unpack(data)
        if type(value) is not list or len(value) != len(instances):
            raise self.malformed("it has not one entry for each instance")
        for instance, item in zip(instances, value, strict=True):
            if type(item) is not list or len(item) != 2 or {*map(type, item)} != {list}:
                raise self.malformed("an entry is not two lists")
            instance.dropped_elements = self.list_of(item[0], int)
            instance.dropped_data = self.list_of(item[1], int)
        if not any(one.dropped_elements or one.dropped_data for one in instances):
            raise self.malformed("it is empty and should be absent")

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check that the indices ascend."""
        for number, instance in enumerate(state.instances):
            for found in (instance.dropped_elements, instance.dropped_data):
                if id(found) in scope.checked:
                    continue
                if found and (found[0] < 0 or found[-1] >= U32 or any(map(ge, found, found[1:]))):
                    raise invalid(
                        f"the dropped segments of instance {number} are not in ascending order"
                    )


SECTIONS = (SegmentsSection(),)
