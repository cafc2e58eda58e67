"""The types of values and externs, as the specification names them (section 2.3, Types).

Between the module, which declares them, and the store, which checks imports against them.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

from wasmsr.record import record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar

_NOT_NULL, _INDEXED, _INDEX_SHIFT = 0x100, 0x200, 10
_NAMES = {
    0x7F: "i32",
    0x7E: "i64",
    0x7D: "f32",
    0x7C: "f64",
    0x7B: "v128",
    0x70: "funcref",
    0x6F: "externref",
    0x69: "exnref",
    0x73: "nullfuncref",
    0x72: "nullexternref",
    0x74: "nullexnref",
}
_HEAPS = {
    0x70: "func",
    0x6F: "extern",
    0x69: "exn",
    0x73: "nofunc",
    0x72: "noextern",
    0x74: "noexn",
}
_TOPS = {0x73: 0x70, 0x72: 0x6F, 0x74: 0x69}


class _Named(type):
    """`ValType["I32"]`, as of an enumeration."""

    def __getitem__(cls, name: str) -> ValType:
        for code, text in _NAMES.items():
            if text.upper() == name:
                return ValType(code)
        raise KeyError(name)


class ValType(int, metaclass=_Named):
    """A value type: a number in which bits 0 to 7 are the binary format's code (section 5.3.1).

    A reference to a concrete function type is bit 9 with the type's number in bits 10 and up, in a
    module or a store; bit 8 says that it is never null. Equal types are the same object.
    """

    _known: ClassVar[dict[int, ValType]] = {}
    I32: ClassVar[ValType]
    I64: ClassVar[ValType]
    F32: ClassVar[ValType]
    F64: ClassVar[ValType]
    V128: ClassVar[ValType]
    FUNCREF: ClassVar[ValType]
    EXTERNREF: ClassVar[ValType]
    EXNREF: ClassVar[ValType]

    def __new__(cls, code: int) -> ValType:
        """ValueError for a number that is no value type."""
        known = cls._known.get(code)
        if known is None:
            base = code & 0xFF
            if base not in _NAMES or (code > 0xFF and base not in _HEAPS):
                raise ValueError(f"{code:#x} is no value type")
            known = cls._known[int(code)] = super().__new__(cls, code)
        return known

    @property
    def code(self) -> ValType:
        """The type in snapshots: of a reference, its nullable top type."""
        base = self & 0xFF
        return ValType(_TOPS.get(base, base))

    @property
    def reference(self) -> bool:
        """Whether its values are references."""
        return self & 0xFF in _HEAPS

    @property
    def nullable(self) -> bool:
        """Whether it is a reference that may be null."""
        return self.reference and not self & _NOT_NULL

    @property
    def slots(self) -> int:
        """How many 64-bit slots a value takes."""
        return 2 if self == 0x7B else 1

    def __str__(self) -> str:
        if self <= 0xFF:
            return _NAMES[int(self)]
        heap = str(self >> _INDEX_SHIFT) if self & _INDEXED else _HEAPS[self & 0xFF]
        return f"(ref {'' if self & _NOT_NULL else 'null '}{heap})"

    def __repr__(self) -> str:
        return f"<ValType {self}>"


for _code, _name in _NAMES.items():
    setattr(ValType, _name.upper(), ValType(_code))


def val_types(codes: Iterable[int]) -> tuple[ValType, ...]:
    """Return value types from their numbers. Raises ValueError for a number that is none."""
    return tuple(ValType(code) for code in codes)


@lru_cache(1024)
def codes_of(types: tuple[ValType, ...]) -> bytes:
    """Return the types' codes in snapshots, one byte each."""
    return bytes(type_.code for type_ in types)


@record(frozen=True)
class FuncType:
    """Types of parameters and results."""

    params: tuple[ValType, ...] = ()
    results: tuple[ValType, ...] = ()

    @property
    def concrete(self) -> bool:
        """Whether it refers to other types, which only its module or store knows."""
        return any(type_ & _INDEXED for type_ in (*self.params, *self.results))

    def __str__(self) -> str:
        params = " ".join(map(str, self.params))
        results = " ".join(map(str, self.results))
        return f"func({params})->({results})"


@record(frozen=True)
class Bounds:
    """Size limits of a table (elements) or memory (pages of 64 KiB)."""

    minimum: int
    maximum: int | None = None

    def __str__(self) -> str:
        return f"{self.minimum}..{'' if self.maximum is None else self.maximum}"

    def admits(self, size: int, maximum: int | None) -> bool:
        """Return whether something of that size and maximum can be imported (section 3.2.5)."""
        if size < self.minimum:
            return False
        return self.maximum is None or (maximum is not None and maximum <= self.maximum)


def _address(type_: ValType) -> str:
    """As the text format writes it: i32 is left out."""
    return "" if type_ is ValType.I32 else f"{type_} "


@record(frozen=True)
class TableType:
    """Element type and size limits of a table, and the type of indices into it: i32 or i64."""

    element: ValType
    bounds: Bounds
    address: ValType = ValType.I32

    def __str__(self) -> str:
        return f"table {_address(self.address)}{self.element} {self.bounds}"


@record(frozen=True)
class MemoryType:
    """Size limits of a memory, in pages of 64 KiB, and the type of addresses in it: i32 or i64."""

    bounds: Bounds
    address: ValType = ValType.I32

    def __str__(self) -> str:
        return f"memory {_address(self.address)}{self.bounds}"


@record(frozen=True)
class GlobalType:
    """Value type and mutability of a global."""

    value: ValType
    mutable: bool = False

    def __str__(self) -> str:
        return f"global {'mut ' if self.mutable else ''}{self.value}"


@record(frozen=True)
class TagType:
    """Types of the fields of the exceptions that have the tag."""

    params: tuple[ValType, ...] = ()

    def __str__(self) -> str:
        return f"tag({' '.join(map(str, self.params))})"


ExternType = FuncType | TableType | MemoryType | GlobalType | TagType
