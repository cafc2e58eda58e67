"""The types of a module's variables, as data from which a page shows values."""

from __future__ import annotations

from typing import Any

from wasmsr.debug.limits import UnitTrees
from wasmsr.errors import printable

MOST_MEMBERS = 64
"""Members of a structure that are shown."""
MOST_VALUES = 4096
"""Values of an enumeration that have their names."""
DEEPEST = 32
"""How deep types are followed through one another."""
LONGEST = 200
"""Characters of a name; names of types are made of one another."""
GREATEST = 1 << 32
"""The greatest count and size: of more bytes than a memory has."""
_ENCODINGS = {
    1: "pointer",
    2: "bool",
    4: "float",
    5: "int",
    6: "char",
    7: "uint",
    8: "uchar",
    16: "uchar",
}
"""DW_ATE codes (DWARF 5, section 7.8)."""
_KINDS = {
    "DW_TAG_base_type": "base",
    "DW_TAG_pointer_type": "pointer",
    "DW_TAG_reference_type": "pointer",
    "DW_TAG_rvalue_reference_type": "pointer",
    "DW_TAG_structure_type": "struct",
    "DW_TAG_class_type": "struct",
    "DW_TAG_union_type": "struct",
    "DW_TAG_array_type": "array",
    "DW_TAG_enumeration_type": "enum",
}
_THROUGH = {
    "DW_TAG_typedef",
    "DW_TAG_const_type",
    "DW_TAG_volatile_type",
    "DW_TAG_restrict_type",
    "DW_TAG_atomic_type",
}


def text_of(die: Any, attribute: str = "DW_AT_name") -> str | None:
    """Return an attribute that is a text, or None."""
    found = die.attributes.get(attribute)
    if found is None or not isinstance(found.value, bytes):
        return None
    # A character has four bytes at most.
    return printable(found.value[: 4 * LONGEST].decode("utf-8", "replace"), LONGEST)


def number_of(die: Any, attribute: str) -> int | None:
    """Return an attribute that is a constant of at most 64 bits, or None."""
    found = die.attributes.get(attribute)
    if found is None or not isinstance(found.value, int):
        return None
    return int(found.value) if -(1 << 63) <= found.value < 1 << 64 else None


class TypeTable:
    """Types by number; each entry of DWARF is read once."""

    def __init__(self) -> None:
        self.trees: UnitTrees
        self.types: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def of(self, die: Any, depth: int = 0) -> int | None:
        """Return the number of the type of a variable or member; None without one."""
        if "DW_AT_type" not in die.attributes or depth > DEEPEST:
            return None
        return self._number(self.trees.follow(die, "DW_AT_type"), depth + 1)

    def _number(self, die: Any, depth: int) -> int:
        known = self._numbers.get(die.offset)
        if known is not None:
            return known
        number = self._numbers[die.offset] = len(self.types)
        made: dict[str, Any] = {"kind": "other", "name": text_of(die) or "?", "size": 0}
        self.types.append(made)
        self._fill(made, die, depth)
        made["name"] = self.trees.entries.take_text(made["name"][:LONGEST])
        return number

    def _fill(self, made: dict[str, Any], die: Any, depth: int) -> None:
        made["size"] = _within(number_of(die, "DW_AT_byte_size") or 0)
        if die.tag in _THROUGH:
            below = self.of(die, depth)
            if below is not None:
                name = text_of(die)
                made.update(self.types[below])
                parts = len(made.get("members", ())) + len(made.get("values", ()))
                self.trees.entries.take(parts)  # the page has them once more
                word = die.tag.removeprefix("DW_TAG_").removesuffix("_type")
                made["name"] = name or f"{word} {made['name']}"
            return
        kind = _KINDS.get(die.tag, "other")
        made["kind"] = kind
        if kind == "base":
            made["kind"] = _ENCODINGS.get(number_of(die, "DW_AT_encoding") or 0, "other")
        elif kind == "pointer":
            made["size"] = made["size"] or 4
            below = self.of(die, depth)
            made["of"] = below
            made["name"] = f"{self.types[below]['name'] if below is not None else 'void'} *"
        elif kind == "array":
            self._fill_array(made, die, depth)
        elif kind == "struct":
            made["members"] = self._members(die, depth)
        elif kind == "enum":
            made["values"] = self._values(die)

    def _fill_array(self, made: dict[str, Any], die: Any, depth: int) -> None:
        count = 1
        for child in self.trees.children(die):
            if child.tag == "DW_TAG_subrange_type":
                upper = number_of(child, "DW_AT_upper_bound")
                found = number_of(child, "DW_AT_count")
                count *= found if found is not None else 0 if upper is None else upper + 1
                count = _within(count)
        below = self.of(die, depth)
        one: dict[str, Any] = {"size": 0, "name": "?"} if below is None else self.types[below]
        size, name = _within(one["size"] * count), f"{one['name']}[{count}]"
        made.update(of=below, count=count, size=size, name=name)

    def _members(self, die: Any, depth: int) -> list[tuple[Any, ...]]:
        found: list[tuple[Any, ...]] = []
        for child in self.trees.children(die):
            if len(found) == MOST_MEMBERS:
                break
            if child.tag == "DW_TAG_member":
                place = _within(number_of(child, "DW_AT_data_member_location") or 0)
                more, field = _field(child)
                kind = self.of(child, depth)
                found.append((self._name(child), place + more, kind, *field))
        return found

    def _values(self, die: Any) -> dict[int, str]:
        found: dict[int, str] = {}
        for child in self.trees.children(die):
            value = number_of(child, "DW_AT_const_value")
            if child.tag == "DW_TAG_enumerator" and value is not None:
                found[value] = self._name(child)
                if len(found) == MOST_VALUES:
                    break
        return found

    def _name(self, die: Any) -> str:
        return self.trees.entries.take_text(text_of(die) or "?")


def _field(die: Any) -> tuple[int, tuple[tuple[int, int], ...]]:
    """Return where a field of bits is: bytes, and the first bit there with how many they are.

    Nothing but zero bytes for any other member. Source: DWARF 5, section 5.7.6; DWARF 3, 5.5.6.
    """
    count = number_of(die, "DW_AT_bit_size")
    if count is None or not 0 < count <= 64:
        return 0, ()
    first = number_of(die, "DW_AT_data_bit_offset")
    if first is None:  # the old way counts from the highest bit of a unit
        first = 8 * (number_of(die, "DW_AT_byte_size") or 4) - count
        first -= number_of(die, "DW_AT_bit_offset") or 0
    first = _within(first)
    return first // 8, ((first % 8, count),)


def _within(number: int) -> int:
    return max(0, min(number, GREATEST))


__all__ = ["TypeTable", "number_of", "text_of"]
