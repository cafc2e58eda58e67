"""Rules that the checks of several sections share: value types, bounds and references.

Value types have the codes of the binary format (WebAssembly specification, section 5.3).
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from struct import unpack

from wasmsr.errors import FormatError
from wasmsr.snapshot.state import MemoryState, SnapshotState, TableState

I32, I64, F32, F64, V128 = 0x7F, 0x7E, 0x7D, 0x7C, 0x7B
FUNCREF, EXTERNREF, EXNREF = 0x70, 0x6F, 0x69
VALUE_TYPES = bytes((I32, I64, F32, F64, V128, FUNCREF, EXTERNREF, EXNREF))
"""Codes of all value types of format version 1."""
REFERENCES = bytes((FUNCREF, EXTERNREF, EXNREF))
"""Codes of the reference types."""
TYPE_NAMES = {
    I32: "i32",
    I64: "i64",
    F32: "f32",
    F64: "f64",
    V128: "v128",
    FUNCREF: "funcref",
    EXTERNREF: "externref",
    EXNREF: "exnref",
}
"""Names of the value types in the text format."""
MAX_PAGES = 65536
"""Largest bounds and size of a memory with 32-bit addresses, in Wasm pages."""
MAX_PAGES64 = 1 << 48
"""Largest bounds of a memory with 64-bit addresses, in Wasm pages."""
MAX_SIZE64 = 1 << 28
"""Largest size of a memory with 64-bit addresses, in Wasm pages."""
MAX_FUNCTIONS = 1 << 24
"""Largest number of functions of a store, and of segments: a few bytes can declare thousands of
instances of one module."""
MEMORY64 = "memory64"
"""Name of the feature that memories and tables with 64-bit addresses need."""
U32 = 1 << 32
"""Number of values of 32 bits."""
U64 = 1 << 64
"""Number of values of 64 bits."""
LOW64 = U64 - 1
"""Mask of the low slot of a `v128`."""

_BOUNDS = {I32: U32, I64: U64, F32: U32, F64: U64, V128: 1 << 128}
_CHUNK = 65536


def invalid(message: str) -> FormatError:
    """Return the error for a snapshot that no machine can be in."""
    return FormatError(f"the snapshot is not valid: {message}")


class CheckScope:
    """Numbers of a state that the checks of several sections need.

    Args:
        state: The state that is checked. Its fields have values of the right types.
        checked: The ids of lists that were checked with an earlier state.
    """

    def __init__(self, state: SnapshotState, checked: frozenset[int] = frozenset()) -> None:
        self._state = state
        self.checked = checked

    @cached_property
    def functions(self) -> int:
        """The number of function instances.

        Their addresses are dense: a store gives them out in order and takes none back.

        Raises:
            FormatError: The addresses have a gap, overlap or are not in order.
        """
        state = self._state
        blocks = [(function.address, 1) for function in state.host_functions]
        if any(first >= second for first, second in pairwise(blocks)):
            raise invalid("the host functions are not in ascending order")
        blocks += [(i.function_base, i.defined) for i in state.instances if i.defined]
        blocks.sort()
        total = 0
        for address, count in blocks:
            if address != total or count < 0:
                raise invalid(
                    f"the function addresses overlap or have a gap at {min(address, total)}"
                )
            total += count
        if total > MAX_FUNCTIONS:
            raise invalid(f"it has {total} functions, and {MAX_FUNCTIONS} are the most")
        return total

    @cached_property
    def references(self) -> dict[int, int]:
        """How many things a reference of each reference type can name, by the type's code."""
        state = self._state
        return {
            FUNCREF: self.functions,
            EXTERNREF: len(state.externs),
            EXNREF: len(state.exceptions),
        }

    @cached_property
    def bounds(self) -> dict[int, int]:
        """One more than the largest bits of a value of each type, by the type's code."""
        return _BOUNDS | {code: count + 1 for code, count in self.references.items()}


def largest_slot(data: bytes | bytearray | memoryview) -> int:
    """Return the largest of the little-endian 64-bit numbers in `data`, or 0 if it is empty."""
    view = memoryview(data)
    largest = 0
    for start in range(0, len(view), _CHUNK):
        part = view[start : start + _CHUNK]
        largest = max(largest, *unpack(f"<{len(part) // 8}Q", part), 0)
    return largest


def check_address_type(
    what: str, number: int, part: TableState | MemoryState, features: list[str]
) -> None:
    """Refuse 64-bit addresses without the feature `memory64`. Raises FormatError."""
    if part.address64 and MEMORY64 not in features:
        raise invalid(f"{what} {number} has 64-bit addresses and the feature {MEMORY64} was off")


def check_size(
    what: str, number: int, size: int, part: TableState | MemoryState, most: int, limit: int
) -> None:
    """Check bounds and size of a table (elements) or memory (Wasm pages). Raises FormatError.

    Args:
        what: "table" or "memory".
        number: Its address.
        size: Its size.
        part: Its declared bounds.
        most: The largest bound that the type of its addresses allows.
        limit: The largest size that the program's limits allow.
    """
    minimum, maximum = part.minimum, part.maximum
    top = most if maximum is None else maximum
    if not 0 <= minimum <= top <= most:
        raise invalid(f"the bounds of {what} {number} are {minimum} and {maximum}")
    if not minimum <= size <= top:
        raise invalid(f"the size of {what} {number}, {size}, is outside its bounds")
    if size > limit:
        raise invalid(f"the size of {what} {number}, {size}, is above the limit of {limit}")
