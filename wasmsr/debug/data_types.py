"""The types of a module's variables, as data from which a page shows values."""

from __future__ import annotations

from typing import Any

from wasmsr.errors import printable

MOST_MEMBERS = 64
"""Members of a structure that are shown."""
DEEPEST = 32
"""How deep types are followed through one another."""
_ENCODINGS = {
    1: "pointer",
    2: "bool",
    4: "float",
    5: "int",
    6: "char",
    7: "uint",
    8: "char",
    16: "char",
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
    if found is None:
        return None
    value = found.value
    return printable(value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value))


def number_of(die: Any, attribute: str) -> int | None:
    """Return an attribute that is a constant, or None."""
    found = die.attributes.get(attribute)
    return found.value if found is not None and isinstance(found.value, int) else None


class TypeTable:
    """Types by number; each entry of DWARF is read once."""

    def __init__(self) -> None:
        self.types: list[dict[str, Any]] = []
        self._numbers: dict[int, int] = {}

    def of(self, die: Any, depth: int = 0) -> int | None:
        """Return the number of the type of a variable or member; None without one."""
        if "DW_AT_type" not in die.attributes or depth > DEEPEST:
            return None
        return self._number(die.get_DIE_from_attribute("DW_AT_type"), depth + 1)

    def _number(self, die: Any, depth: int) -> int:
        known = self._numbers.get(die.offset)
        if known is not None:
            return known
        number = self._numbers[die.offset] = len(self.types)
        made: dict[str, Any] = {"kind": "other", "name": text_of(die) or "?", "size": 0}
        self.types.append(made)
        self._fill(made, die, depth)
        return number

    def _fill(self, made: dict[str, Any], die: Any, depth: int) -> None:
        made["size"] = number_of(die, "DW_AT_byte_size") or 0
        if die.tag in _THROUGH:
            below = self.of(die, depth)
            if below is not None:
                name = text_of(die)
                made.update(self.types[below])
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
            made["values"] = {
                number_of(child, "DW_AT_const_value"): text_of(child)
                for child in die.iter_children()
                if child.tag == "DW_TAG_enumerator"
            }

    def _fill_array(self, made: dict[str, Any], die: Any, depth: int) -> None:
        count = 1
        for child in die.iter_children():
            if child.tag == "DW_TAG_subrange_type":
                upper = number_of(child, "DW_AT_upper_bound")
                found = number_of(child, "DW_AT_count")
                count *= found if found is not None else 0 if upper is None else upper + 1
        below = self.of(die, depth)
        one: dict[str, Any] = {"size": 0, "name": "?"} if below is None else self.types[below]
        made.update(of=below, count=count, size=one["size"] * count, name=f"{one['name']}[{count}]")

    def _members(self, die: Any, depth: int) -> list[tuple[str, int, int | None]]:
        found: list[tuple[str, int, int | None]] = []
        for child in die.iter_children():
            if child.tag != "DW_TAG_member" or len(found) == MOST_MEMBERS:
                continue
            place = number_of(child, "DW_AT_data_member_location") or 0
            found.append((text_of(child) or "?", place, self.of(child, depth)))
        return found


__all__ = ["TypeTable", "number_of", "text_of"]
