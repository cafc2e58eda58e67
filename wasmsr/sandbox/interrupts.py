"""How code in a guest is ended, or told that it is a fork, while it runs.

CPython has a function for this that is made to be called at any time: what `_thread.interrupt_main`
calls only sets flags, which the interpreter looks at between two of its instructions. The driver
tells where this function object is. Its entry in the function table is read from there and called
above the paused frames. What stands there is hostile input. It can only name a function of the
guest's own table; if this function traps or does not return soon, the caller undoes the call.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING, Any

from wasmsr.errors import WasmsrError
from wasmsr.interp.outcomes import Paused
from wasmsr.interp.store.externs import Function, Global, Table
from wasmsr.interp.types import FuncType, ValType

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wasmsr.interp.store.store import Store

TYPE = FuncType((ValType.I32, ValType.I32), (ValType.I32,))
RED_ZONE = 256
"""Bytes below the stack pointer that a function may use without moving it; LLVM uses 128."""
MOST = 100_000
"""Instructions that the pushed call may take; it takes about 400."""


def interrupt(store: Store, about: Mapping[str, Any], argument: str) -> bool:
    """Have a paused program raise its signal; return whether it was told.

    If not, the program may be in the middle of the pushed call, or at its end: it must not go on.

    Args:
        store: The program, which stands in the middle of a call.
        about: Addresses that the driver has told.
        argument: Which of them is the argument: "none" for an end, "forked" for new seeds.
    """
    try:
        function = _function(store, about)
        given = about[argument]
        pointer = Global(store, 0)
        before = pointer.value
        if function is None or type(before) is not int or before < RED_ZONE:
            return False
        depth = len(store.frames())
        store.push_call(function, 0, given)
        pointer.value = before - RED_ZONE
        for _ in range(MOST):
            outcome = store.run(fuel=1)
            if not isinstance(outcome, Paused):
                return False
            if len(store.frames()) <= depth:
                pointer.value = before
                if argument == "none" and store.wasi is not None:
                    store.wasi.end_wait()  # a sleep ends as by a signal, and does not go on
                return True
    except (LookupError, ArithmeticError, TypeError, ValueError, struct.error, WasmsrError):
        return False
    return False


def _function(store: Store, about: Mapping[str, Any]) -> Function | None:
    """Return the function behind the function object of the guest."""
    memory = store.instances[0].memory()
    entry = memory.read(about["interrupt"] + 8, 4)
    _, number = struct.unpack("<II", memory.read(struct.unpack("<I", entry)[0], 8))
    found = Table(store, 0)[number]
    return found if isinstance(found, Function) and found.type == TYPE else None
