"""How a run ends, what limits it, and what a frame looks like from outside: plain values."""

from __future__ import annotations

from wasmsr.errors import Trap
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal


@record(frozen=True)
class Limits:
    """Limits of a store, in the model's units, so that they mean the same in every build.

    Attributes:
        memory_pages: pages of 64 KiB of each memory; more than 65,536 are of use to memories with
            64-bit addresses only.
        table_elements: elements of each table. The exceptions that are alive may take eight slots
            for each of so many too, and a mebibyte: five slots and those of its fields for each.
        stack_slots: 64-bit slots of the value stack.
        stack_frames: frames; one more is the trap "call stack exhausted".
    """

    memory_pages: int = 65536
    table_elements: int = 10_000_000
    stack_slots: int = 1 << 20
    stack_frames: int = 1 << 16

    def __post_init__(self) -> None:
        highest = {
            "memory_pages": 1 << 28,
            "table_elements": 1 << 28,
            "stack_slots": 1 << 28,
            "stack_frames": 1 << 26,
        }
        for name, most in highest.items():
            if not 0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} must lie between 0 and {most}")


@record(frozen=True)
class Finished:
    """Everything that was to be invoked has returned.

    Attributes:
        results: of the last invocation, as Python values; `raw` are their bits.
    """

    results: tuple[Any, ...] = ()
    raw: tuple[int, ...] = ()


@record(frozen=True)
class Trapped:
    """The program trapped; its frames are gone, the store remains."""

    trap: Trap


@record(frozen=True)
class Paused:
    """The program is before an instruction and can be captured or continued.

    Attributes:
        reason: "requested" or "fuel".
    """

    reason: Literal["requested", "fuel"]


@record(frozen=True)
class Exited:
    """A host function ended the program (WASI `proc_exit`)."""

    code: int


Outcome = Finished | Trapped | Paused | Exited


@record(frozen=True)
class FrameView:
    """An activation as `Store.frames` shows it.

    Attributes:
        function: address; `instance` and `index` say the same within a module.
        offset: of the next instruction, in the module's binary; of a frame that waits for a
            callee, the byte after its call.
        types: of locals, then operands.
        locals, operands: bits, bottom first.
    """

    function: int
    instance: int
    index: int
    offset: int
    types: bytes
    locals: tuple[int, ...]
    operands: tuple[int, ...]
