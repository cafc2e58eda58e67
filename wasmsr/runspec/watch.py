"""Stop conditions that are checked after each instruction. Imported when a run has some."""

from __future__ import annotations

from collections.abc import Iterable

from wasmsr.interp.gate import HostEvent, HostGate
from wasmsr.interp.store.externs import Retry
from wasmsr.runspec.stop_conditions import StopConditions

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.interp.gate import HostCall
    from wasmsr.interp.store.store import Store


def memory_count(store: Store) -> int:
    """Return how many memories a store has; their addresses begin at 0."""
    return store.state.counts.memories


def check_ranges(store: Store, ranges: Iterable[tuple[int, int, int]]) -> None:
    """Check ranges of memories, each (address of a memory, offset, bytes).

    Raises:
        ValueError: A store has no such memory, or the memory is smaller.
    """
    for memory, offset, size in ranges:
        if not 0 <= memory < memory_count(store):
            raise ValueError(f"there is no memory {memory}")
        has = len(store.memory_view(memory))
        if not (0 <= offset <= has and 0 <= size <= has - offset):
            raise ValueError(f"memory {memory} has {has} bytes")


class CountingGate(HostGate):
    """Counts the host calls of a store, and hands each to the gate that was there before.

    Args:
        before: The gate to which calls and events go on, or None.

    Attributes:
        calls: Host calls that are done. One that is to be made again after a pause is not counted.
    """

    def __init__(self, before: HostGate | None) -> None:
        self.before = before
        self.calls = 0

    def host_call(self, call: HostCall) -> None:
        """Carry out a host call and count it."""
        try:
            if self.before is None:
                call.perform()
            else:
                self.before.host_call(call)
        except Retry:
            raise
        except BaseException:
            self.calls += 1
            raise
        self.calls += 1

    def event(self, event: HostEvent) -> None:
        """Hand an event on."""
        if self.before is not None:
            self.before.event(event)


class Watch:
    """Conditions that are checked after each instruction.

    Args:
        store: The store of the program.
        conditions: The conditions to check.

    Raises:
        ValueError: A watched range is not in the store.
    """

    def __init__(self, store: Store, conditions: StopConditions) -> None:
        self._breakpoints = frozenset(conditions.breakpoints)
        self._ranges = conditions.memory
        self._call = conditions.call
        self._gate: CountingGate | None = None
        self.attach(store)

    def attach(self, store: Store) -> None:
        """Check this store from now on."""
        check_ranges(store, self._ranges)
        self._store = store
        self._seen = self._bytes()
        if self._call is not None:
            done = 0 if self._gate is None else self._gate.calls
            self._gate = CountingGate(store.gate)
            self._gate.calls = done
            store.gate = self._gate

    def detach(self) -> None:
        """Take the gate away that counts host calls."""
        if self._gate is not None and self._store.gate is self._gate:
            self._store.gate = self._gate.before

    def _bytes(self) -> list[bytes]:
        """Return the bytes of the watched ranges."""
        views = [(self._store.memory_view(memory), at, size) for memory, at, size in self._ranges]
        return [bytes(view[at : at + size]) for view, at, size in views]

    def hit(self) -> bool:
        """Return whether a condition holds now."""
        if self._breakpoints:
            frames = self._store.frames()
            if frames and (frames[-1].function, frames[-1].offset) in self._breakpoints:
                return True
        if self._ranges and self._bytes() != self._seen:
            return True
        return self._gate is not None and self._gate.calls >= (self._call or 0)
