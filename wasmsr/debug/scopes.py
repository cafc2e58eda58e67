"""Functions, inlined calls, blocks and variables of a module, from the units of its DWARF.

A page evaluates where a variable is, because that depends on the state. So an expression stays as
its bytes in hex.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from wasmsr.debug.data_types import TypeTable, number_of, text_of
from wasmsr.debug.sections import CodeSpace

MOST_ENTRIES = 2_000_000
"""Entries of DWARF that are read; more would make the page too large."""
DEEPEST = 64
"""How deep scopes are read inside each other."""
_SCOPES = {
    "DW_TAG_subprogram": "function",
    "DW_TAG_inlined_subroutine": "inlined",
    "DW_TAG_lexical_block": "block",
}
_OUTER = ("DW_TAG_namespace", "DW_TAG_structure_type", "DW_TAG_class_type", "DW_TAG_module")


class ScopeTable:
    """Scopes with code, which `add` collects unit by unit."""

    def __init__(self, dwarf: Any, code: CodeSpace) -> None:
        self._dwarf = dwarf
        self._code = code
        self.types = TypeTable()
        self.functions: list[dict[str, Any]] = []
        self.variables: list[tuple[str, int | None, Any]] = []
        self.entries = 0

    def add(self, unit: Any, files: Sequence[str]) -> None:
        """Read a unit, whose files have these names."""
        self._unit, self._files = unit, files
        top = unit.get_top_DIE()
        self._base = number_of(top, "DW_AT_low_pc") or 0
        self._read_outer(top, 0)

    def _read_outer(self, die: Any, depth: int) -> None:
        for child in die.iter_children():
            if not self._goes_on(depth):
                return
            if child.tag == "DW_TAG_subprogram":
                found = self._scope(child, depth)
                if found is not None:
                    self.functions.append(found)
            elif child.tag == "DW_TAG_variable":
                self._add_variable(child, self.variables)
            elif child.tag in _OUTER:
                self._read_outer(child, depth + 1)

    def _goes_on(self, depth: int) -> bool:
        self.entries += 1
        return depth < DEEPEST and self.entries < MOST_ENTRIES

    def _scope(self, die: Any, depth: int) -> dict[str, Any] | None:
        ranges = self._ranges(die)
        if not ranges:
            return None
        made: dict[str, Any] = {
            "kind": _SCOPES[die.tag],
            "name": self._name(die),
            "ranges": ranges,
            "variables": [],
            "inside": [],
        }
        base = die.attributes.get("DW_AT_frame_base")
        if base is not None and isinstance(base.value, list):
            made["base"] = bytes(base.value).hex()
        if die.tag == "DW_TAG_inlined_subroutine":
            file = number_of(die, "DW_AT_call_file") or 0
            name = self._files[file] if file < len(self._files) else "?"
            made["called"] = f"{name}:{number_of(die, 'DW_AT_call_line') or 0}"
        for child in die.iter_children():
            if not self._goes_on(depth):
                break
            if child.tag in ("DW_TAG_variable", "DW_TAG_formal_parameter"):
                self._add_variable(child, made["variables"])
            elif child.tag in _SCOPES:
                found = self._scope(child, depth + 1)
                if found is not None:
                    made["inside"].append(found)
        return made

    def _origin(self, die: Any) -> Any:
        """Return the entry that has what `die` leaves out, or itself."""
        for attribute in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if attribute in die.attributes:
                return die.get_DIE_from_attribute(attribute)
        return die

    def _name(self, die: Any) -> str:
        for _ in range(4):  # an inlined call, its function, and the declaration of that
            name = text_of(die)
            if name is not None:
                return name
            die = self._origin(die)
        return "?"

    def _add_variable(self, die: Any, found: list[Any]) -> None:
        origin = self._origin(die)
        place = self._place(die)
        if die.tag == "DW_TAG_variable" and "DW_AT_declaration" in die.attributes:
            return
        kind = self.types.of(die if "DW_AT_type" in die.attributes else origin)
        found.append((self._name(die), kind, place))

    def _place(self, die: Any) -> Any:
        """Return where a variable is: an expression, ranges with one each, a constant, or None."""
        constant = die.attributes.get("DW_AT_const_value")
        if constant is not None and isinstance(constant.value, int):
            return {"constant": constant.value}
        found = die.attributes.get("DW_AT_location")
        if found is None:
            return None
        from elftools.dwarf.locationlists import LocationExpr, LocationParser

        parser = LocationParser(self._dwarf.location_lists())
        parsed: Any = parser.parse_from_attribute(found, self._unit["version"], die)
        if isinstance(parsed, LocationExpr):
            return bytes(parsed.loc_expr).hex()
        base, places = self._base, []
        for entry in parsed:
            if hasattr(entry, "base_address"):
                base = entry.base_address
            elif hasattr(entry, "loc_expr"):
                more = 0 if getattr(entry, "is_absolute", False) else base
                span = self._code.span(entry.begin_offset + more, entry.end_offset + more)
                if span is not None:
                    places.append([*span, bytes(entry.loc_expr).hex()])
        return places

    def _ranges(self, die: Any) -> list[list[int]]:
        low, high = number_of(die, "DW_AT_low_pc"), die.attributes.get("DW_AT_high_pc")
        if low is not None and high is not None:
            end = high.value if high.form == "DW_FORM_addr" else low + high.value
            span = self._code.span(low, end)
            return [] if span is None else [span]
        found = die.attributes.get("DW_AT_ranges")
        lists = self._dwarf.range_lists() if found is not None else None
        if found is None or lists is None:
            return []
        base, spans = self._base, []
        for entry in lists.get_range_list_at_offset(found.value, cu=self._unit):
            if hasattr(entry, "base_address"):
                base = entry.base_address
                continue
            more = 0 if getattr(entry, "is_absolute", False) else base
            span = self._code.span(entry.begin_offset + more, entry.end_offset + more)
            if span is not None:
                spans.append(span)
        return spans


__all__ = ["MOST_ENTRIES", "ScopeTable"]
