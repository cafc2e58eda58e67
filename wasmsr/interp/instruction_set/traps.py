"""The trap codes: one row each. `generate` makes an enumeration of it; errors are raised by it.

The messages are those of the official test scripts, so that a runner can compare them.
"""

from __future__ import annotations

NO_CODE = "the host has no memory left for the engine"
"""Why a function could not be compiled, unless its body is invalid."""

TRAPS: tuple[tuple[str, str], ...] = (
    ("NONE", "no trap"),
    ("UNREACHABLE", "unreachable"),
    ("DIVIDE_BY_ZERO", "integer divide by zero"),
    ("OVERFLOW", "integer overflow"),
    ("CONVERSION", "invalid conversion to integer"),
    ("MEMORY_BOUNDS", "out of bounds memory access"),
    ("UNALIGNED", "unaligned atomic"),
    ("NOT_SHARED", "expected shared memory"),
    ("TABLE_BOUNDS", "out of bounds table access"),
    ("UNDEFINED_ELEMENT", "undefined element"),
    ("UNINITIALIZED_ELEMENT", "uninitialized element"),
    ("INDIRECT_TYPE", "indirect call type mismatch"),
    ("NULL_FUNCTION", "null function reference"),
    ("NULL_REFERENCE", "null reference"),
    ("NULL_EXCEPTION", "null exception reference"),
    ("EXHAUSTION", "call stack exhausted"),
    ("NO_MEMORY", NO_CODE),
    ("EXCEPTIONS", "live exceptions take more than the limit of table elements allows"),
)
"""(name in C, message), in the order of the C codes."""

MESSAGES: tuple[str, ...] = tuple(message for _, message in TRAPS)
