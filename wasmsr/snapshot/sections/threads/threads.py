"""Section *threads* of version 2: all threads with their own counters. Format document, 13.5."""

from __future__ import annotations

from struct import Struct
from typing import Any

from wasmsr.errors import VersionError
from wasmsr.snapshot.encoding.container import Buffer
from wasmsr.snapshot.encoding.read_limits import ReadLimits
from wasmsr.snapshot.encoding.section import Draft, ReferenceNumbers, Section, WrittenPages
from wasmsr.snapshot.rules import U64, CheckScope
from wasmsr.snapshot.sections.threads.thread import FRAME, QUEUE_LIMIT, pack_body, parse_body
from wasmsr.snapshot.state import SnapshotState

COUNT = Struct("<Q")
"""Number of threads."""
THREAD = Struct("<IIQQQQ")
"""Id, status, instructions executed, frames, invocations, slots of the status."""
RUNNABLE = 0
"""The one status so far: the thread goes on with its innermost frame, or its next invocation."""
UNKNOWN = U64 - 1
"""Instructions executed, where nobody counted them."""


class ThreadsSection(Section):
    """Threads, each with its frames, its invocations and its counter; today there is one."""

    kind = 32
    name = "threads"
    payload = "arrays"
    required = True
    place = 1000
    versions = (2,)

    def renumber(self, state: SnapshotState, numbers: ReferenceNumbers) -> None:
        """Do nothing: the section *thread* has numbered the same references."""

    def pack(self, state: SnapshotState, pages: WrittenPages) -> bytes:
        """Return the number of threads, then each one."""
        thread = state.thread
        executed = UNKNOWN if state.executed is None else min(state.executed, UNKNOWN - 1)
        head = (0, RUNNABLE, executed, len(thread.frames), len(thread.queue), 0)
        return COUNT.pack(1) + THREAD.pack(*head) + pack_body(thread)

    def limit(self, limits: ReadLimits) -> int:
        """Return the length for a full stack of the reader's limits."""
        store = limits.store
        return store.stack_frames * FRAME.size + store.stack_slots * 9 + QUEUE_LIMIT

    def parse(self, data: Buffer, draft: Draft) -> None:
        """Set the state's thread and its count of instructions."""
        if len(data) < COUNT.size:
            raise self.malformed("it is too short")
        (count,) = COUNT.unpack_from(data)
        if count != 1:
            raise VersionError(f"the snapshot has {count} threads, and this wasmsr runs one")
        if len(data) < COUNT.size + THREAD.size:
            raise self.malformed("it is too short")
        number, status, executed, frames, calls, waiting = THREAD.unpack_from(data, COUNT.size)
        if number or waiting:
            raise self.malformed("the id or the payload of a status is not zero")
        if status != RUNNABLE:
            raise VersionError(f"a thread has status {status}, which this wasmsr does not know")
        thread, end = parse_body(self, data, COUNT.size + THREAD.size, frames, calls)
        if end != len(data):
            raise self.malformed("its length is not that of its frames")
        thread.pushed = draft.state.thread.pushed  # the section *pushed calls* was read before
        draft.state.thread = thread
        draft.state.executed = None if executed == UNKNOWN else executed

    def check(self, state: SnapshotState, scope: CheckScope) -> None:
        """Do nothing: the sections *thread* and *counters* check the same values."""

    def describe(self, state: SnapshotState, names: Any) -> dict[str, Any]:
        """Return nothing: the section *thread* describes the thread."""
        return {}


SECTIONS = (ThreadsSection(),)
