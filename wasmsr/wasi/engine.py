"""What WASI uses of the engine.

A host function gets a `Caller`: it has the memory of the calling instance and tells whether a pause
is wanted. A host function may raise `Retry`: nothing has happened yet, and the store makes the call
again after the pause.
"""

from __future__ import annotations

from wasmsr.interp.store.externs import Caller, HostFunction, Retry
from wasmsr.interp.types import FuncType, ValType

__all__ = ["Caller", "FuncType", "HostFunction", "Retry", "ValType"]
