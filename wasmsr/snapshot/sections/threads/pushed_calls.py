"""Section *pushed calls*: calls that the host has pushed above paused frames.

Format document, section 5.18.
"""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

from wasmsr.snapshot.encoding.canonical import pack
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.section import Draft, Section, WrittenPages
from wasmsr.snapshot.rules import CheckScope, invalid
from wasmsr.snapshot.state import SnapshotState

if TYPE_CHECKING:
    from wasmsr.snapshot.inspect.names import SnapshotNames


class PushedCallsSection(Section):
    """The number of the outermost frame of each pushed call."""

    kind = 18
    name = "pushed calls"
    present = "a call was pushed above paused frames"
    place = 51

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return a list of numbers."""
        pushed = state.thread.pushed
        return pack(pushed, "the pushed calls") if pushed else b""

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the pushed calls of the thread."""
        value = self.unpack(data)
        if type(value) is not list or not value:
            raise self.malformed("it is not a list of one or more")
        draft.state.thread.pushed = self.list_of(value, int)

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Check that each call has frames, and that there are frames below all."""
        pushed = state.thread.pushed
        if any(first >= second for first, second in pairwise([0, *pushed])) or (
            pushed and pushed[-1] >= len(state.thread.frames)
        ):
            raise invalid(
                f"the pushed calls begin at the frames {pushed} of {len(state.thread.frames)}"
            )

    def describe(self, state: SnapshotState, names: SnapshotNames) -> dict[str, Any]:
        """Return the numbers."""
        return {"pushed_calls": state.thread.pushed} if state.thread.pushed else {}


SECTIONS = (PushedCallsSection(),)
