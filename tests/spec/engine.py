"""What the runner asks of an engine, so that ours and a foreign one can be put in its place.

A session is one store: instances are numbered in it, so that a session may put the store away and
go on with a restored one (`restored`) and the runner never notices. Sessions raise the classes of
`wasmsr.errors`: MalformedError, InvalidError, UnsupportedError, LinkError and Trap.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from .values import Value

FEATURES = (
    "simd",
    "relaxed-simd",
    "multi-memory",
    "memory64",
    "exceptions",
    "legacy-exceptions",
    "function-references",
    "gc",
    "threads",
    "shared-memory",
)
"""Features for which a module may be skipped; the names are those of the proposals."""


class UncaughtException(Exception):
    """A WebAssembly exception left the outermost function."""


class NoSuchExport(Exception):
    """An action names an export that the instance does not have, or one of another kind."""


@dataclass
class Numbers:
    """What the modes with restores did.

    Attributes:
        invocations, restores, instructions: how many were run, made, executed in between.
        stops: stops at canonical points, in hopped mode; entered: those after which the restored
            program went on in fast code at once.
        states: the digests of all states that were restored in hopped mode, added up modulo 2**64.
    """

    invocations: int = 0
    restores: int = 0
    instructions: int = 0
    stops: int = 0
    entered: int = 0
    states: int = 0

    def add(self, other: Numbers) -> None:
        """Add what another session did."""
        self.invocations += other.invocations
        self.restores += other.restores
        self.instructions += other.instructions
        self.stops += other.stops
        self.entered += other.entered
        self.states = (self.states + other.states) % (1 << 64)


class Session(Protocol):
    """One store, into which the modules of one script are instantiated."""

    printed: list[tuple[Value, ...]]
    """The arguments of every call of a host function so far."""

    tells_malformed: bool
    """Whether MalformedError and InvalidError are told apart; a foreign engine may not."""

    @property
    def spectest(self) -> int:
        """The number of the instance of `spectest`, which is made when first asked for."""
        ...

    def decode(self, binary: bytes) -> Any:
        """Decode and validate; what comes back is only ever given to the other methods."""
        ...

    def import_names(self, module: Any) -> Sequence[str]:
        """The first names of the module's imports."""
        ...

    def instantiate(self, module: Any, registered: Mapping[str, int]) -> int:
        """Instantiate and run the start function; imports are answered from the instances in
        `registered`, by first name. Returns the new instance's number."""
        ...

    def invoke(self, instance: int, field: str, args: Sequence[Value]) -> list[Value]:
        """Call an exported function; its results, bit for bit."""
        ...

    def get(self, instance: int, field: str) -> Value:
        """The value of an exported global."""
        ...

    def is_trap(self, code: str, expected: str) -> bool:
        """Whether the trap that the engine calls `code` is what a script calls `expected`."""
        ...


def same_trap(code: str, expected: str) -> bool:
    """The reference interpreter's rule: a message begins with what the script expects; and where
    the script names an element ("uninitialized element 2"), the number may be missing in ours."""
    return code.startswith(expected) or re.sub(r" \d+$", "", expected) == code
