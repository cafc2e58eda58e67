"""The gate: the one place that every host call of a store passes.

A store without a gate calls its host functions directly. `Store.gate = gate` puts the gate between
the store and all its host functions: calls of WASI and of `HostFunction`, enqueued calls and calls
inside a call-back. A recorder, a debugger or a counter is a subclass of `HostGate`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Protocol

    Perform = Callable[[Any, Any], None]
    """Call a host function with a caller and the slots of its arguments; results replace them."""

    class GateWay(Protocol):
        """What lets a call pass the gate of a store."""

        def host_call(self, call: HostCall) -> None:
            """Let the call pass."""

    Spans = list[tuple[int, int]]
    """Parts of a memory: (offset, size) each, in bytes."""
    Writes = Callable[[Any, Sequence[int]], Callable[[bool], Spans]]
    """Tell which memory a call may write. The function gets the caller and the arguments before
    the call, and returns a function. That one gets, after the call, whether the call succeeded."""


@record(frozen=True)
class HostEvent:
    """Something other than a host call that reaches a program from outside.

    Attributes:
        kind: "edit" (the host wrote a memory, table or global), "grow" (the host grew a memory or
            table), "growth failed", "enqueue", "push" (a call was pushed
            above paused frames) or "pause". A program's own growth is an event if
            the limits allow it and the host refuses it. The event comes before the next host call
            or at the end of the run, and has the count of such growths as "refused". A view of a
            memory (`Memory.data`) can be written without an event.
        instructions: Instructions executed so far in metered runs; None if the run counts none.
        detail: What else belongs to the kind, as plain data.
    """

    kind: str
    instructions: int | None
    detail: dict[str, Any]


class HostCall:
    """One call of a host function, as a gate sees it.

    Attributes:
        caller: First argument of the host function.
        function: The host function.
        module, name: The names of the import that the function answers.
        arguments: Bits of the arguments, one number for each slot.
        slots: The slots of the call; results replace the arguments.
    """

    __slots__ = (
        "_perform",
        "_written",
        "arguments",
        "caller",
        "function",
        "module",
        "name",
        "slots",
    )

    def __init__(self, known: tuple[Any, str, str], caller: Any, slots: Any, taken: int) -> None:
        self.function, self.module, self.name = known
        self.caller = caller
        self.slots = slots
        self.arguments: tuple[int, ...] = tuple(slots[i] for i in range(taken))
        self._perform: Perform = self.function.perform
        self._written: Callable[[bool], Spans] | None = None

    def perform(self) -> None:
        """Call the host function.

        Raises:
            Exit: The program ends.
            Trap: The call traps.
            Retry: A pause is requested. The store makes the call again after the resume.
            Exception: Whatever else the host function raises.
        """
        if self.function.writes is not None:
            self._written = self.function.writes(self.caller, self.arguments)
        self._perform(self.caller, self.slots)

    def results(self) -> tuple[int, ...]:
        """Return the bits of the results, after the call."""
        return tuple(self.slots[i] for i in range(self.function.result_slots))

    def answer(self, results: Sequence[int]) -> None:
        """Set the bits of the results without a call of the host function."""
        for index, bits in enumerate(results):
            self.slots[index] = bits

    def written(self, *, succeeded: bool = True) -> Spans | None:
        """Return which parts of the caller's memory the call may have written.

        Args:
            succeeded: Whether the call did what it was asked for. Of a call that failed or is to
                be made again, all that it might have written is in the result.

        Returns:
            Spans of the memory that `caller.memory` shows, empty for a call that writes none; None
            if the host function does not declare what it writes.
        """
        return None if self._written is None else self._written(succeeded)


class HostGate:
    """What every host call of a store passes. This one changes nothing and keeps nothing."""

    def host_call(self, call: HostCall) -> None:
        """Carry out a host call.

        A subclass can look before and after `call.perform()`, let exceptions through or raise its
        own, or set results by `call.answer` instead.
        """
        call.perform()

    def event(self, event: HostEvent) -> None:
        """Take note of an event. It has happened already."""


def gated_call(way: GateWay, known: tuple[Any, str, str]) -> Perform:
    """Return a function that calls a host function through a gate.

    Args:
        way: What lets a call pass the gate.
        known: The host function, and the module and name of the import that it answers.
    """
    taken = known[0].argument_slots

    def perform(caller: Any, slots: Any) -> None:
        way.host_call(HostCall(known, caller, slots, taken))

    return perform
