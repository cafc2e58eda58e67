"""Wasmtime, from PyPI, asked about modules: for which features one may be skipped, and what it
imports. Test code only. `wasmtime_session` runs scripts in it.
"""

from __future__ import annotations

from functools import cache

import wasmtime

from .engine import FEATURES

# Features as `engine.FEATURES` names them, and what of Wasmtime's configuration each switches.
# A row ends with what builds on the feature, which must be off as well.
_SWITCHES: dict[str, tuple[str, ...]] = {
    "simd": ("wasm_simd", "wasm_relaxed_simd"),
    "relaxed-simd": ("wasm_relaxed_simd",),
    "multi-memory": ("wasm_multi_memory",),
    "memory64": ("wasm_memory64",),
    "exceptions": ("wasm_exceptions",),
    "legacy-exceptions": (),
    "function-references": ("wasm_function_references", "wasm_gc"),
    "gc": ("wasm_gc",),
    "threads": ("wasm_threads",),
    "shared-memory": ("wasm_threads",),
}
_ALL = (
    "wasm_simd",
    "wasm_relaxed_simd",
    "wasm_multi_memory",
    "wasm_memory64",
    "wasm_exceptions",
    "wasm_function_references",
    "wasm_gc",
    "wasm_threads",
    "wasm_tail_call",
)


@cache
def _engine(without: str | None = None) -> wasmtime.Engine:
    config = wasmtime.Config()
    off = _SWITCHES[without] if without is not None else ()
    for switch in _ALL:
        setattr(config, switch, switch not in off)
    # Many small stores in one process: reserve what a test needs, not 4 GiB for each memory.
    config.memory_reservation = 1 << 20
    config.memory_guard_size = 1 << 16
    config.memory_reservation_for_growth = 1 << 16
    return wasmtime.Engine(config)


def refusal(binary: bytes, *, without: str | None = None) -> str | None:
    """What Wasmtime has against a module with all features on, or with all but one; None where it
    accepts the module."""
    try:
        wasmtime.Module.validate(_engine(without), binary)
    except wasmtime.WasmtimeError as error:
        return str(error)
    return None


def needs(binary: bytes, feature: str) -> bool:
    """Whether a module's bytes show a feature: switching it off changes what Wasmtime says.

    Of a module that is invalid anyway, its first objection must become another; where no switch
    changes that, it stands before anything that would show, and the answer is yes."""
    anyway = refusal(binary)
    if anyway is not None and "legacy_exceptions" in anyway:
        # The old exception instructions, which this Wasmtime cannot switch on.
        return feature in ("exceptions", "legacy-exceptions")
    changing = [name for name in FEATURES if refusal(binary, without=name) != anyway]
    return feature in changing or (anyway is not None and not changing)


def imports_state(binary: bytes) -> set[str]:
    """The first names of a valid module's imports through which it could write another's state:
    memories, tables and mutable globals. Empty for a module that is not valid."""
    try:
        module = wasmtime.Module(_engine(), binary)
    except wasmtime.WasmtimeError:
        return set()
    return {
        wanted.module
        for wanted in module.imports
        if isinstance(wanted.type, (wasmtime.MemoryType, wasmtime.TableType))
        or (isinstance(wanted.type, wasmtime.GlobalType) and wanted.type.mutable)
    }
