"""What a page needs of a module's DWARF: source lines, scopes, variables and types."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from wasmsr.debug.lines import MOST_LINES, LineTable
from wasmsr.debug.scopes import MOST_ENTRIES, ScopeTable
from wasmsr.debug.sections import code_space, has_debug_data, is_installed, open_dwarf
from wasmsr.interp.modules.module import Module


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
    code = code_space(bytes(module.binary))
    dwarf = open_dwarf(module)
    lines, scopes = LineTable(code), ScopeTable(dwarf, code)
    damaged = 0
    units = dwarf.iter_CUs()
    while len(lines) <= MOST_LINES and scopes.entries < MOST_ENTRIES:
        try:
            unit = next(units, None)
            if unit is None:
                break
        except Exception:  # noqa: BLE001 - pyelftools raises whatever damaged data leads it to
            damaged += 1
            break
        try:
            scopes.add(unit, lines.add(dwarf, unit))
        except Exception:  # noqa: BLE001 - as above
            damaged += 1
    if damaged:
        warn(f"the debug data of the module is damaged in {damaged} of its units")
    if len(lines) > MOST_LINES or scopes.entries >= MOST_ENTRIES:
        warn("the module has more debug data than a page shows; some of it is left out")
    if scopes.functions and not len(lines):
        warn("the line table of the module is empty; an old wasm-opt empties it")
    return {
        **lines.as_dict(),
        "scopes": scopes.functions,
        "variables": scopes.variables,
        "types": scopes.types.types,
    }


__all__ = ["debug_data"]
