"""What a page needs of a module's DWARF: source lines, scopes, variables and types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wasmsr.debug.limits import MOST_READS, Allowance, TooMuch, UnitTrees
from wasmsr.debug.lines import LineTable
from wasmsr.debug.scopes import ScopeTable
from wasmsr.debug.sections import DebugSections, code_space, has_debug_data, is_installed
from wasmsr.interp.modules.module import Module

MOST_ENTRIES = 2_000_000
"""Entries of DWARF, with what they refer to, that are read; more would make the page too large."""
ANEW = 100_000
"""After so many entries the sections are opened anew, which gives up what was read."""
UNIT = 20
"""A unit counts as so many entries."""


def debug_data(module: Module, warn: Callable[[str], None]) -> dict[str, Any] | None:
    """Return the DWARF of a module as data for JSON; None if it has none that can be read.

    Args:
        module: The module. Its debug data is not trusted: what is damaged is left out.
        warn: Gets sentences about what is left out.
    """
    if not has_debug_data(module):
        return None
    if not is_installed():
        warn("the module has debug data, and pip install 'wasmsr[debug]' shows source lines")
        return None
    sections, entries = DebugSections(module), Allowance(MOST_ENTRIES)
    code = code_space(bytes(module.binary))
    lines, scopes = LineTable(code, sections, entries), ScopeTable(code, entries)
    damaged, complete = _read(sections, lines, scopes, entries)
    if damaged:
        warn(f"the debug data of the module is damaged in {damaged} of its units")
    if not complete:
        warn("the module has more debug data than a page shows; some of it is left out")
    if scopes.functions and not len(lines):
        warn("the line table of the module is empty; an old wasm-opt empties it")
    return {
        **lines.as_dict(),
        "scopes": scopes.functions,
        "variables": scopes.variables,
        "types": scopes.types.types,
    }


def _read(
    sections: DebugSections, lines: LineTable, scopes: ScopeTable, entries: Allowance
) -> tuple[int, bool]:
    """Read all units; return how many are damaged, and whether nothing was too much."""
    reads = Allowance(MOST_READS)
    damaged = at = 0
    opened_at = MOST_ENTRIES + ANEW  # not yet
    dwarf: Any = None
    trees = UnitTrees(entries)
    while at < sections.size:
        try:
            entries.take(UNIT)
            if opened_at - entries.left >= ANEW:
                dwarf, trees, opened_at = sections.open(reads), UnitTrees(entries), entries.left
            unit = dwarf.get_CU_at(at)
            at += unit.size
        except TooMuch:
            return damaged, False
        except Exception:  # noqa: BLE001 - pyelftools raises whatever damaged data leads it to
            return damaged + 1, True
        try:
            trees.damaged = False
            scopes.add(dwarf, unit, trees, lines.add(dwarf, unit))
            damaged += trees.damaged
        except TooMuch:
            return damaged, False
        except Exception:  # noqa: BLE001 - as above
            damaged += 1
    return damaged, True


__all__ = ["debug_data"]
