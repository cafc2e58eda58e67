"""How a run ends, what limits it, and what a frame looks like from outside: plain values."""

from __future__ import annotations

from wasmsr.errors import Trap
from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any, Literal


@record(frozen=True)
class Limits:
    """Limits of a store, in the model's units: they mean the same in every build.

    Attributes:
        memory_pages: Wasm pages (64 KiB) of each memory. More than 65,536 are of use to memories
        with
            64-bit addresses only.
        table_elements: Elements of each table. The live exceptions have a bound of eight slots for
        each
            of so many elements and 1 MiB; an exception takes five slots and those of its fields.
        stack_slots: 64-bit slots of the value stack.
        stack_frames: Frames; one more is the trap "call stack exhausted".
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
    """Every invocation has returned.

    Attributes:
        results: Results of the last invocation, as Python values.
        raw: Their bits.
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
        function: Address of the function.
        instance: Index of the instance.
        index: Index of the function in its module.
        offset: Byte offset of the next instruction in the module's binary; in a frame that waits
            for a callee, of the byte after the call.
        types: Type codes of locals, then operands.
        locals: Bits of the locals. A dead one, which no execution can read any more, has what is
            left there, or zero.
        operands: Bits of the operands, bottom first.
        live: 1 for each local that some execution can still read, 0 for a dead one. It is the
            liveness by which snapshots store dead locals as zero.
    """

    function: int
    instance: int
    index: int
    offset: int
    types: bytes
    locals: tuple[int, ...]
    operands: tuple[int, ...]
    live: bytes = b""

    @property
    def shown(self) -> tuple[int | None, ...]:
        """The locals as people should see them: bits, or None for a dead one."""
        return tuple(
            bits if is_live else None for bits, is_live in zip(self.locals, self.live, strict=True)
        )
