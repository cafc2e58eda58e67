"""Functions that were called, and code made before a call: for processes that fork, and for hosts
to which a program moves."""

from __future__ import annotations

from wasmsr._ffi import ffi, lib

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wasmsr.interp.modules.module import Module

Called = list[list[int]]
"""Indices of functions that have code, for each way in which code is made."""

WAYS = ((False, False), (False, True), (True, False), (True, True))
"""Whether NaN results have one form, and whether instructions are counted."""


def called(module: Module) -> Called:
    """Return the functions that have code: those that were called in this process.

    Stores can run the module meanwhile.
    """
    return [_called(module, *way) for way in WAYS]


def _called(module: Module, deterministic: bool, metered: bool) -> list[int]:
    count = lib.wsr_module_compiled(module.c, deterministic, metered, ffi.NULL, 0)
    found = ffi.new("uint32_t[]", count or 1)
    count = min(count, lib.wsr_module_compiled(module.c, deterministic, metered, found, count))
    return list(found[0:count])


def compile_ahead(module: Module, functions: Iterable[Sequence[int]]) -> None:
    """Make code of functions before they are called, as the interpreter runs it.

    It is advice and changes nothing that a program can observe: what is no function of the module
    is passed over.

    Args:
        module: The module.
        functions: As `called` returns it, of this process or another one.
    """
    for way, some in zip(WAYS, functions, strict=False):
        lib.wsr_module_compile(module.c, *way, ffi.new("uint32_t[]", list(some)), len(some))


__all__ = ["WAYS", "Called", "called", "compile_ahead"]
