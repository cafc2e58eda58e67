"""Where a program stops: counts of instructions, breakpoints, memory ranges, host calls."""

from __future__ import annotations

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from wasmsr.runspec.run_spec import RunSpec


@record
class StopConditions:
    """Where a program stops or hops. Instructions count from this start or resume; None is never.

    The run is metered only if a condition is set. The last three conditions execute one instruction
    at a time.

    Attributes:
        fuel: Instructions after which the fuel is used up.
        stop: Instructions after which the program stops once, to be saved there.
        hop: Instructions between two captures that are restored in place.
        breakpoints: Positions, each (address of a function, offset in the module): the program
            stops before the instruction there.
        memory: Ranges, each (address of a memory, offset, bytes): the program stops after an
            instruction that changes one.
        call: The program stops after so many host calls since the condition was set.
    """

    fuel: int | None = None
    stop: int | None = None
    hop: int | None = None
    breakpoints: tuple[tuple[int, int], ...] = ()
    memory: tuple[tuple[int, int, int], ...] = ()
    call: int | None = None

    @property
    def single(self) -> bool:
        """Whether the conditions need one instruction at a time."""
        return bool(self.breakpoints or self.memory or self.call is not None)

    @classmethod
    def of(cls, spec: RunSpec, fuel: int | None = None) -> StopConditions:
        """Return what a description of a run asks for; `fuel` is what a snapshot has left."""
        given = spec.limits.fuel
        policy = spec.snapshots
        return cls(fuel if given is None else given, stop=policy.at, hop=policy.hop)
