"""Functions, inlined calls, blocks and variables of a module, from the units of its DWARF.

A page evaluates where a variable is, because that depends on the state. So an expression stays as
its bytes in hex.
"""

from __future__ import annotations

from typing import Any

from wasmsr.debug.data_types import TypeTable, number_of, text_of
from wasmsr.debug.limits import Allowance, UnitTrees
from wasmsr.debug.lines import FileNames
from wasmsr.debug.sections import CodeSpace

LONGEST_EXPRESSION = 256
"""Bytes of an expression that a page evaluates."""
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

    def __init__(self, code: CodeSpace, entries: Allowance) -> None:
        self._code = code
        self._entries = entries
        self.types = TypeTable()
        self.functions: list[dict[str, Any]] = []
        self.variables: list[tuple[str, int | None, Any]] = []

    def add(self, dwarf: Any, unit: Any, trees: UnitTrees, files: FileNames) -> None:
        """Read a unit, whose files have these names."""
        self._dwarf, self._unit, self._files = dwarf, unit, files
        self._trees = self.types.trees = trees
        top = unit.get_top_DIE()
        self._base = number_of(top, "DW_AT_low_pc") or 0
        self._read_outer(top, 0)

    def _read_outer(self, die: Any, depth: int) -> None:
        for child in self._trees.children(die):
            if child.tag == "DW_TAG_subprogram":
                found = self._scope(child, depth)
                if found is not None:
                    self.functions.append(found)
            elif child.tag == "DW_TAG_variable":
                self._add_variable(child, self.variables)
            elif child.tag in _OUTER and depth < DEEPEST:
                self._read_outer(child, depth + 1)

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
            made["base"] = _expression(base.value)
        if die.tag == "DW_TAG_inlined_subroutine":
            file = number_of(die, "DW_AT_call_file") or 0
            called = f"{self._files[file]}:{number_of(die, 'DW_AT_call_line') or 0}"
            made["called"] = self._entries.take_text(called)
        for child in self._trees.children(die):
            if child.tag in ("DW_TAG_variable", "DW_TAG_formal_parameter"):
                self._add_variable(child, made["variables"])
            elif child.tag in _SCOPES and depth < DEEPEST:
                found = self._scope(child, depth + 1)
                if found is not None:
                    made["inside"].append(found)
        return made

    def _origin(self, die: Any) -> Any:
        """Return the entry that has what `die` leaves out, or itself."""
        for attribute in ("DW_AT_abstract_origin", "DW_AT_specification"):
            if attribute in die.attributes:
                return self._trees.follow(die, attribute)
        return die

    def _name(self, die: Any) -> str:
        for _ in range(4):  # an inlined call, its function, and the declaration of that
            name = text_of(die)
            if name is not None:
                return self._entries.take_text(name)
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
        constant = number_of(die, "DW_AT_const_value")
        if constant is not None:
            return {"constant": str(constant)}  # a number of JavaScript would not have all 64 bits
        found = die.attributes.get("DW_AT_location")
        if found is None:
            return None
        from elftools.dwarf.locationlists import LocationExpr, LocationParser

        parser = LocationParser(self._dwarf.location_lists())
        parsed: Any = parser.parse_from_attribute(found, self._unit["version"], die)
        if isinstance(parsed, LocationExpr):
            return _expression(parsed.loc_expr)
        base, places = self._base, []
        for entry in parsed:
            self._entries.take()
            if hasattr(entry, "base_address"):
                base = entry.base_address
            elif hasattr(entry, "loc_expr"):
                more = 0 if getattr(entry, "is_absolute", False) else base
                span = self._code.span(entry.begin_offset + more, entry.end_offset + more)
                expression = _expression(entry.loc_expr)
                if span is not None and expression is not None:
                    places.append([*span, self._entries.take_text(expression)])
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
            self._entries.take()
            if hasattr(entry, "base_address"):
                base = entry.base_address
                continue
            more = 0 if getattr(entry, "is_absolute", False) else base
            span = self._code.span(entry.begin_offset + more, entry.end_offset + more)
            if span is not None:
                spans.append(span)
        return spans


def _expression(value: Any) -> str | None:
    """Return an expression in hex; None if it is too long for a place."""
    return bytes(value).hex() if len(value) <= LONGEST_EXPRESSION else None


__all__ = ["ScopeTable"]
