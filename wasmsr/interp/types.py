"""The types of values and externs, as the specification names them (section 2.3, Types).

Between the module, which declares them, and the store, which checks imports against them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum


class ValType(IntEnum):
    """Value types by their codes in the binary format (section 5.3.1)."""

    I32 = 0x7F
    I64 = 0x7E
    F32 = 0x7D
    F64 = 0x7C
    V128 = 0x7B
    FUNCREF = 0x70
    EXTERNREF = 0x6F

    def __str__(self) -> str:
        return self.name.lower()


_TYPE_OF = {int(t): t for t in ValType}


def val_types(codes: bytes) -> tuple[ValType, ...]:
    """Value types from code bytes; KeyError for a code that is none."""
    return tuple(_TYPE_OF[code] for code in codes)


@dataclass(frozen=True)
class FuncType:
    """Types of parameters and results."""

    params: tuple[ValType, ...] = ()
    results: tuple[ValType, ...] = ()

    def __str__(self) -> str:
        params = " ".join(map(str, self.params))
        results = " ".join(map(str, self.results))
        return f"func({params})->({results})"


@dataclass(frozen=True)
class Bounds:
    """Size limits of a table (elements) or memory (pages of 64 KiB)."""

    minimum: int
    maximum: int | None = None

    def __str__(self) -> str:
        return f"{self.minimum}..{'' if self.maximum is None else self.maximum}"

    def admits(self, size: int, maximum: int | None) -> bool:
        """Whether something of that size and maximum may be imported here (section 3.2.5)."""
        if size < self.minimum:
            return False
        return self.maximum is None or (maximum is not None and maximum <= self.maximum)


@dataclass(frozen=True)
class TableType:
    """Element type and size limits of a table."""

    element: ValType
    bounds: Bounds

    def __str__(self) -> str:
        return f"table {self.element} {self.bounds}"


@dataclass(frozen=True)
class MemoryType:
    """Size limits of a memory, in pages of 64 KiB."""

    bounds: Bounds

    def __str__(self) -> str:
        return f"memory {self.bounds}"


@dataclass(frozen=True)
class GlobalType:
    """Value type and mutability of a global."""

    value: ValType
    mutable: bool = False

    def __str__(self) -> str:
        return f"global {'mut ' if self.mutable else ''}{self.value}"


ExternType = FuncType | TableType | MemoryType | GlobalType
