"""The door to the engine: all that WASI knows of it.

A host function gets a `Caller` (the calling instance's memory, and what says that a pause is
wanted) and may raise `Retry`: nothing has happened yet, make this call again after the pause.
"""

from __future__ import annotations

from wasmsr.interp.store.externs import Caller, HostFunction, Retry
from wasmsr.interp.types import FuncType, ValType

__all__ = ["Caller", "FuncType", "HostFunction", "Retry", "ValType"]
