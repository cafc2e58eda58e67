"""Custom sections: the names of a module's things, and hints which way branches go.

`module` finds the sections; they are read when they are first asked for. A custom section never
changes what a program does, and a damaged one is no error: its content counts as absent
(specification, appendix "Custom Sections").

Source: appendix "Name Section", its extension for all index spaces
(github.com/WebAssembly/extended-name-section), and github.com/WebAssembly/branch-hinting.
"""

from __future__ import annotations

from functools import cached_property

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeVar

    from wasmsr.interp.modules.interface import ModuleInterface

    Content = TypeVar("Content")

Map = dict[int, str]
"""Names by index."""

_DAMAGED = (IndexError, ValueError)  # UnicodeDecodeError is a ValueError


def read_unsigned(data: bytes, at: int) -> tuple[int, int]:
    """Return the LEB128 number at `at`, of 32 bits, and where it ends.

    Raises:
        IndexError: The number is cut off.
        ValueError: The number is too long.
    """
    value = shift = 0
    while shift < 35:
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return value, at
    raise ValueError("a number has more than 32 bits")


def _name(data: bytes, at: int) -> tuple[str, int]:
    length, at = read_unsigned(data, at)
    if length > len(data) - at:
        raise IndexError("a name is cut off")
    return data[at : at + length].decode("utf-8"), at + length


def _direct(data: bytes, at: int = 0) -> tuple[Map, int]:
    found: Map = {}
    count, at = read_unsigned(data, at)
    for _ in range(count):
        index, at = read_unsigned(data, at)
        found[index], at = _name(data, at)
    return found, at


def _indirect(data: bytes) -> dict[int, Map]:
    found = {}
    count, at = read_unsigned(data, 0)
    for _ in range(count):
        index, at = read_unsigned(data, at)
        found[index], at = _direct(data, at)
    return found


class Names:
    """The names that a module gives its things; each kind is read when it is first asked for.

    Attributes:
        module: Of the module itself, or None.
        functions, types, tables, memories, globals, elements, data, tags: By index.
        locals: By function, then by index, parameters first.
        labels: By function, then in the order in which its blocks begin.
        fields: By type, then by index.
    """

    def __init__(self, section: bytes | None) -> None:
        self._parts: dict[int, bytes] = {}
        at = 0
        try:
            while section is not None and at < len(section):
                kind = section[at]
                size, at = read_unsigned(section, at + 1)
                if size > len(section) - at:
                    break
                self._parts.setdefault(kind, section[at : at + size])
                at += size
        except _DAMAGED:
            pass

    def _read(self, kind: int, read: Callable[[bytes], Content], nothing: Content) -> Content:
        part = self._parts.get(kind)
        if part is None:
            return nothing
        try:
            return read(part)
        except _DAMAGED:
            return nothing

    def _map(self, kind: int) -> Map:
        return self._read(kind, lambda part: _direct(part)[0], {})

    def _maps(self, kind: int) -> dict[int, Map]:
        return self._read(kind, _indirect, {})

    @cached_property
    def module(self) -> str | None:
        """The name of the module, or None."""
        return self._read(0, lambda part: _name(part, 0)[0], None)

    @cached_property
    def functions(self) -> Map:
        """Names of functions, by index."""
        return self._map(1)

    @cached_property
    def locals(self) -> dict[int, Map]:
        """Names of locals, by the indices of function and local."""
        return self._maps(2)

    @cached_property
    def labels(self) -> dict[int, Map]:
        """Names of labels, by the indices of function and label."""
        return self._maps(3)

    @cached_property
    def types(self) -> Map:
        """Names of types, by index."""
        return self._map(4)

    @cached_property
    def tables(self) -> Map:
        """Names of tables, by index."""
        return self._map(5)

    @cached_property
    def memories(self) -> Map:
        """Names of memories, by index."""
        return self._map(6)

    @cached_property
    def globals(self) -> Map:
        """Names of globals, by index."""
        return self._map(7)

    @cached_property
    def elements(self) -> Map:
        """Names of element segments, by index."""
        return self._map(8)

    @cached_property
    def data(self) -> Map:
        """Names of data segments, by index."""
        return self._map(9)

    @cached_property
    def fields(self) -> dict[int, Map]:
        """Names of fields of structures, by the indices of type and field."""
        return self._maps(10)

    @cached_property
    def tags(self) -> Map:
        """Names of tags, by index."""
        return self._map(11)


HINTS = "metadata.code.branch_hint"
"""The name of the custom section with hints."""


def branch_hints(module: ModuleInterface) -> dict[int, bool]:
    """Return which conditions of `if` and `br_if` are likely true, or likely false.

    Returns:
        By the instruction's byte offset in the module: whether its condition is likely true. It is
        empty without such a section, and for one that breaks the proposal's form: functions and
        offsets ascend, and each hint is one byte, 0 or 1, for such an instruction.

    Raises:
        ModuleError: The module was not validated before, and is not valid.
    """
    module.validate()
    section = module.custom_section(HINTS)
    try:
        return _hints(module, section) if section else {}
    except _DAMAGED:
        return {}


def _hints(module: ModuleInterface, data: bytes) -> dict[int, bool]:
    from wasmsr.interp.instruction_set.instructions import disassemble

    found: dict[int, bool] = {}
    functions, at = read_unsigned(data, 0)
    last_function = -1
    for _ in range(functions):
        function, at = read_unsigned(data, at)
        begin, end = module.body_range(function)  # IndexError where there is none
        if function <= last_function:
            raise ValueError("functions out of order")
        last_function, place, hints = function, _code_start(module.binary, begin), {}
        count, at = read_unsigned(data, at)
        for _ in range(count):
            offset, at = read_unsigned(data, at)
            size, at = read_unsigned(data, at)
            value, at = data[at], at + 1
            if size != 1 or value > 1 or begin + offset in hints:
                raise ValueError("no hint")
            hints[begin + offset] = value == 1
        if list(hints) != sorted(hints):
            raise ValueError("hints out of order")
        for wanted in hints:
            while place < min(wanted, end):
                place += disassemble(module.binary, place)[2]
            if place != wanted or module.binary[place] not in (0x04, 0x0D):
                raise ValueError("a hint at another instruction")
        found |= hints
    if at != len(data):
        raise ValueError("more than hints")
    return found


def _code_start(binary: bytes, at: int) -> int:
    """Return the offset of the first instruction of a body, after its locals."""
    groups, at = read_unsigned(binary, at)
    for _ in range(groups):
        _, at = read_unsigned(binary, at)
        at += 1
        if binary[at - 1] in (0x63, 0x64):  # (ref null? HEAP): its heap type follows
            while binary[at] >= 0x80:
                at += 1
            at += 1
    return at
