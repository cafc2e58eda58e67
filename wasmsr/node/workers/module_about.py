"""What a warm parent tells of its module, so that nobody else has to decode it."""

from __future__ import annotations

from typing import Any

from wasmsr.interp.modules.module import Module
from wasmsr.interp.types import FuncType

MOST = 10_000
"""Imports and exports that are told at most; a message has a limit."""


def module_about(module: Module) -> dict[str, Any]:
    """Return what a module is, as plain data.

    Args:
        module: The module.

    Returns:
        "imports" (module and name of each), "exports" (names), "functions" (numbers of parameters
        and results of each function that is exported, by name), "memories" (pages with which each
        memory of its own begins), "named" (whether it has a section of names).
    """
    imported = sum(1 for one in module.imports if one.kind == MEMORY)
    return {
        "imports": [[one.module, one.name] for one in module.imports[:MOST]],
        "exports": [one.name for one in module.exports[:MOST]],
        "functions": {
            one.name: [len(one.type.params), len(one.type.results)]
            for one in module.exports[:MOST]
            if isinstance(one.type, FuncType)
        },
        "memories": [one.bounds.minimum for one in module.memory_types[imported:]],
        "named": module.custom_section("name") is not None,
    }


MEMORY = 2
"""The kind of a memory among imports (specification, section 5.5.5)."""


__all__ = ["module_about"]
